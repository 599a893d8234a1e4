"""What a search costs, in epochs and in trainings' worth of them: before it starts, and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from search_spaces import METHODS, STEM_PARAMS, measures_val_losses, method_space
from tuner.results.history import History
from tuner.results.references import PLAIN, references
from tuner.results.replicates import total_trials
from tuner.results.tally import kind_of
from tuner.results.trial_record import TrialRecord
from tuner.spec.budget import Budget
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})
STOOD = 20  # a search stood still where no epoch ended for so many times as long as usual


@dataclass(frozen=True)
class Bill:
    """Epochs by what they were for, and how many previews and full trainings there are. ``stem``: those that are
    trained for the stem; the others are the trials' own. Replicates and references are full trainings."""

    max_epochs: int
    stem: float
    previews: int
    preview_epochs: float
    full: int
    full_epochs: float

    @property
    def epochs(self) -> float:
        return self.stem + self.preview_epochs + self.full_epochs

    @property
    def words(self) -> str:
        """``7.2 trainings' worth: 8 epochs of stems, 15 previews and 6 trainings in full``"""
        parts = [f"{self.stem:g} epoch{'s' * (self.stem != 1)} of stems"] if self.stem else []
        parts += [f"{self.previews} preview{'s' * (self.previews != 1)}"] if self.previews else []
        parts.append(f"{self.full} training{'s' * (self.full != 1)} in full")
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        return f"{self.epochs / self.max_epochs:.1f} trainings' worth: {listed}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "epochs": self.epochs}


def expected(spec: SearchSpec, added: int = 0) -> Bill:
    """What a search will cost about, with so many trials that users ``added``; how many replicates follow is not known
    before."""
    scheduler, beside, total = spec.scheduling, len(references(spec)), total_trials(spec)
    alone = total - spec.proposals  # default settings
    previews = spec.proposals if scheduler.previewing else 0
    promoted = (scheduler.most(previews) if scheduler.previewing else spec.proposals) + added
    previews += added if scheduler.previewing else 0
    _, latest = spec.forks
    plans = [lane.epoch_plan for lane in spec.lanes if lane.search_space().searched]
    own = fmean([plan.likely_own if SAMPLERS[spec.sampler].learns else plan.own for plan in plans] or [0.0])
    each = spec.lanes[0].epoch_plan.preview[1]
    # plain AT as a method takes all of the stem, as the reference does
    plain = spec.of(PLAIN).default_trials if PLAIN in spec.methods else 0
    full_epochs = (alone - plain) * spec.max_epochs + (plain + beside) * (spec.max_epochs - latest) + promoted * own
    stem = round(expected_stems(spec) * latest)
    return Bill(spec.max_epochs, stem, previews, previews * each, alone + beside + promoted, full_epochs)


def cost_words(spec: SearchSpec, added: int = 0) -> str:
    """What a search will cost about, and where its budget of epochs ends it before."""
    bill = expected(spec, added)
    within = epochs_within(spec, bill)
    ends = f"; --budget ends it at {within / spec.max_epochs:.1f}" if within < bill.epochs else ""
    return f"about {bill.words}{ends}"


def epochs_within(spec: SearchSpec, bill: Bill) -> float:
    """How many epochs of an expected ``bill`` are trained where there is a budget of epochs."""
    budget = Budget.of(spec.budget)
    return min(bill.epochs, budget.amount) if budget and budget.unit == "epochs" else bill.epochs


def epochs_left(spec: SearchSpec, history: History) -> float | None:
    """About how many epochs the search still trains, replicates aside; None once there are any: how many follow depends
    on the results of these. 0 where all trials have ended, some sooner than expected: at chance, failed, skipped."""
    if history.replicates:
        return None
    whole = expected(spec, history.added)
    if _ended(spec, history, whole):
        return 0.0
    return max(0.0, epochs_within(spec, whole) - history.epochs_trained())


def _ended(spec: SearchSpec, history: History, whole: Bill) -> bool:
    """Whether all that was expected to begin has, and has ended: by counts alone, which another thread may read."""
    tally = history.tally
    begun = tally.full + len(history.references) >= whole.full
    return begun and not tally.running and tally.ended >= total_trials(spec) + history.added


def seconds_left(spec: SearchSpec, history: History) -> float | None:
    """About how long the search still trains, at the pace of its latest epochs since it last stood still; None while
    that says nothing."""
    left, times = epochs_left(spec, history), [when for when, _ in history.pace]
    gaps = sorted(later - earlier for earlier, later in zip(times, times[1:]))
    if left is None or len(gaps) < 3 or times[-1] <= times[0]:
        return None
    still = STOOD * max(gaps[len(gaps) // 2], 1.0)
    since = max((i for i in range(1, len(times)) if times[i] - times[i - 1] > still), default=0)
    if since > len(times) - 4:  # it has only just begun again
        since = 0
    latest = list(history.pace)[since:]
    return left * (latest[-1][0] - latest[0][0]) / sum(epochs for _, epochs in latest[1:])


# Form of the loss, head, whether losses on `val` are measured, the seed, and as which of the methods it is trained.
StemKey = tuple[str, str, bool, int, str]


def expected_stems(spec: SearchSpec) -> float:
    """How many stems trials and the reference fork from, about: forms that are searched are proposed alike, so that few
    trials leave some of them out. fairfront's hedge, which measures losses on `val`, too, is not seen here."""
    unused = {(*stem_of(PLAIN), spec.seed, spec.trained_as(PLAIN)): 0.0}  # how probably no trial forks from it
    previews = spec.scheduling.previewing
    for lane in spec.lanes:
        forks = lane.search_space().searched and (lane.epoch_plan.forks[1] or previews)
        if not forks and lane.methods != (PLAIN,):
            continue
        form, head, val_losses = stem_of(lane.methods[0])
        forms = lane.search_space().choices_of("form") or (form,)
        trained_as = spec.trained_as(lane.methods[0])
        for turn in range(min(spec.stems, lane.most_trials)):  # seeds take turns; a default setting has no stem
            proposed = len(range(turn or spec.stems, lane.most_trials, spec.stems))
            for each in forms:
                key = (each, head, val_losses, spec.seed_of(turn), trained_as)
                unused[key] = unused.get(key, 1.0) * (1 - 1 / len(forms)) ** proposed
    return sum(1 - chance for chance in unused.values())


def stem_of(method: str, params: Mapping[str, Any] = NO_PARAMS) -> tuple[str, str, bool]:
    """Form, head and whether losses on `val` are measured, without torch for a built-in method. ``params``: those of
    `STEM_PARAMS` that a setting has."""
    if METHODS.source(method):
        from trainables.methods import method_class  # torch

        made = method_class(method)
        return made.form, made.head, made.needs_val_losses
    stem = getattr(method_space(method), "STEM", {})
    return stem.get("form", "at"), stem.get("head", "linear"), measures_val_losses(method, params)


def stem_key(spec: SearchSpec, record: TrialRecord) -> StemKey:
    """Whose stem a trial forks from, as far as that is told apart here."""
    return stem_key_of(spec, *kind_of(record))


def stem_key_of(spec: SearchSpec, method: str, choices: Sequence[Any], seed: int) -> StemKey:
    """The same of a method's trials with these values of `STEM_PARAMS`."""
    params = dict(zip(STEM_PARAMS, choices))
    own, head, val_losses = stem_of(method, params)
    return params["form"] or own, head, val_losses, seed, spec.trained_as(method)


def trained(spec: SearchSpec, history: History) -> Bill:
    """What a search has cost so far."""
    everything = history.everything()
    previews = [t.preview.epochs for t in everything if t.preview]
    full = [own for t in everything if t.full and (own := len(t.epochs) - t.stem_epochs)]
    return Bill(
        spec.max_epochs, sum(t.stem_trained for t in everything), len(previews), sum(previews), len(full), sum(full)
    )
