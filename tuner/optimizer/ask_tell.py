"""What runs next: trials of one method or of several and the references, then replicates. Ray knows nothing of this
file.

Every method is searched as it would be alone: it has a `Proposer`, with a space and a history of its own, in which its
trials are numbered from 0. Methods take turns. Which previews train in full is decided over all of them
(`tuner.results.promotion`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path

from search_spaces import STEM_PARAMS
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.warm_start import FirstPoints
from tuner.results import replicates
from tuner.results.assessment import flat
from tuner.results.bill import StemKey, stem_key, stem_key_of
from tuner.results.history import History
from tuner.results.promotion import added_preview, promotable
from tuner.results.references import PLAIN, fork_of, unvaried
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.budget import Budget
from tuner.spec.search_spec import SearchSpec

PACE = 20  # latest epochs whose median duration is the estimate for the next ones
# A full training that is at chance for so long, as a share of its epochs, stays there: with LDAM's scale above 6.9
# every trial of digits did. Two epochs at least, since some losses begin with one class.
DEAD_AFTER, DEAD_AT_LEAST = 0.15, 2
CHANCE = 1.05  # of 1 / classes: a model that names one class has exactly that


Stems = defaultdict[StemKey, set[int]]  # the epochs at which each can be left


def _before(stem: set[int], fork: int) -> int:
    """The latest epoch up to a fork that is there of a stem; 0: it is trained from the beginning."""
    return max((epoch for epoch in stem if epoch <= fork), default=0)


def at_chance(metrics: dict) -> bool:
    """Whether a model does not classify better than one that always names the same class."""
    classes = sum(name.startswith("clean_acc/") for name in metrics)
    return bool(classes) and metrics["clean_acc"] <= CHANCE / classes


class AskTell:
    """Hands out trials and replicates in turn, and says which are stopped. Trials go by the history's numbers.

    ``references``: trained beside the search's trials, once the first of them has started: they are what it is compared
    with, so a short time budget must not leave them out. ``until``: no trial starts that cannot end by then, in
    ``time.monotonic()``, nor one that would exceed the budget. ``late``: set once that is the case; ``spent``: because
    of the budget. ``first``: by method, what it tries first. ``gpus_per_trial``: what a trial uses, for a budget in GPU
    hours. ``out``: the trials that are with a worker.
    """

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        folder: Path | None = None,
        warm: Iterable[TrialRecord] = (),
        *,
        first: Mapping[str, FirstPoints] | None = None,
        references: Iterable[TrialRecord] = (),
        until: float | None = None,
    ):
        self.history, self.until, self.folder = history, until, folder
        self.late = self.spent = False
        self.first = first or {}
        self.warm, self.references, self.out = list(warm), list(references), set[int]()
        self.methods: dict[str, Proposer] = {}
        self.budget = Budget.of(spec.budget)
        self.gpus_per_trial = 1.0 if isinstance(spec.gpus_per_trial, str) else spec.gpus_per_trial
        self.take_over(spec)

    def take_over(self, spec: SearchSpec) -> None:
        """Go on from what the history says now, as a new process would; trials that are ``out`` stay there. For a
        search that a user has changed meanwhile, to ``spec``."""
        self.spec, history = spec, self.history
        self.total = replicates.total_trials(spec)
        self.methods = {own.methods[0]: self._open(own) for own in spec.lanes}
        unsearched = [*history.references.values(), *history.replicates.values()]
        self._again = [r for r in unsearched if not r.state.ended and r.trial not in self.out]
        self._again.sort(key=lambda r: r.state == TrialState.WAITING)  # those that had begun go first
        self._references = [r for r in self.references if r.trial not in history.references]
        # how many trials had been previewed, and how many were full, when this was the next to train in full
        self._promotion: tuple[tuple[int, int], int | None] = (-1, -1), None

    def _open(self, spec: SearchSpec) -> Proposer:
        """What proposes one method's trials, as far as the history has them. ``spec``: of that method alone."""
        (method,), alone = spec.methods, len(self.spec.methods) == 1
        history, places = self.history.lane(method), map(self.history.number_in_lane, self.out & {*self.history.trials})
        return Proposer(
            spec,
            history,
            self.folder,
            [t for t in self.warm if t.method == method],
            first=self.first[method].settings if method in self.first else (),
            most=self.total,
            study=None if alone else f"{spec.search_name}/{method}",
            out={place for of, place in places if of == method},
            space=self.history.narrowed(self.spec).of(method).search_space(),
        )

    # ---- what runs next ----------------------------------------------------------------------------------------------

    @property
    def descriptions(self) -> list[str]:
        """How the search proposes, for every method, and what trains in full; a line each."""
        lines = []
        for method, proposer in self.methods.items():
            name = f"{method}: " if len(self.methods) > 1 else ""
            lines.append(name + proposer.description)
            if method in self.first:
                lines.append(f"{name}{self.first[method]}")
        lines.append(self.spec.scheduling.describe())
        if len(self.methods) > 1:
            lines.append(f"methods {', '.join(self.methods)} take turns at {self.total} trials")
        if self.spec.stems > 1:
            forking = any(p.whole.searched or method == PLAIN for method, p in self.methods.items())
            stem = ", each with its own stem" if forking and self.spec.forks[1] else ""
            lines.append(f"stems: trials are trained under {self.spec.stems} seeds in turn{stem}")
        if self.spec.seeds > 1:
            lines.append(f"seeds: at the end every front member is trained with {self.spec.seeds} seeds in all")
        return lines

    @property
    def ready(self) -> bool:
        """Whether nothing that is running can change what ``next`` answers."""
        references = bool(self._references) and bool(self.history.trials)
        if self._again or self.late or references or self.promotable is not None or not self.exhausted:
            return True
        if self.spec.seeds == 1 or replicates.wanted(self.spec, self.history):
            return True
        return replicates.trials_ended(self.spec, self.history) and not replicates.running(self.history)

    @property
    def exhausted(self) -> bool:
        """Whether every trial asked for has been handed out."""
        return self.history.proposed >= self.total and not self._interrupted

    @property
    def _cut_off(self) -> bool:
        """Whether trials that an earlier process had begun are still to be handed out."""
        return any(proposer.begun for proposer in self.methods.values())

    @property
    def _interrupted(self) -> bool:
        return any(proposer.interrupted for proposer in self.methods.values())

    def next(self) -> TrialRecord | None:
        """The next trial, reference or replicate to run; None when there is none, or no time for it (then ``late`` is
        set).

        The caller appends its "start" to the history, unless it is there, before it asks again.
        """
        record = self._next_record()
        if record:
            self.out.add(record.trial)
        return record

    def back(self, number: int) -> None:
        """A worker is done with a trial. If that has not ended, it will be handed out again by whoever noticed."""
        if self.history.record(number).state.ended:
            self.out.discard(number)

    def skipped(self, number: int) -> bool:
        """Whether a user has ended the trial."""
        return self.history.record(number).state == TrialState.SKIPPED

    def _next_record(self) -> TrialRecord | None:
        if self.late:
            return None
        cut_off = self._cut_off
        if self._again and (not cut_off or self._again[0].state == TrialState.RUNNING):
            return self._if_time_left(self._again.pop(0))
        ended = flat(self.spec, self.history)  # what has begun, or a user added, is trained to its end
        if cut_off or (ended and self._interrupted):  # else the budget might end with something new before
            return self._trial()
        if self._references and self.history.trials and not ended:
            return self._if_in_time(self._references.pop(0))
        if promoted := self._promoted(ended):
            return self._if_in_time(replace(promoted, full=True)) and promoted
        return self._replicate() if ended or self.exhausted else self._trial()

    def _promoted(self, ended: bool) -> TrialRecord | None:
        """The preview that trains in full next; once the search has ``ended``, one of a user's own."""
        number = added_preview(self.history) if ended else self.promotable
        return None if number is None else self.history.trials[number]

    @property
    def promotable(self) -> int | None:
        """The preview that trains in full next."""
        if not self.spec.scheduling.previewing:
            return None
        tally = self.history.tally
        before, found = self._promotion
        if before != (now := (tally.previewed, tally.full)):  # Ray Tune asks several times for each result
            found = promotable(self.spec.scheduling, self.spec.goal, self.history)
            self._promotion = now, found
        return found

    def _trial(self) -> TrialRecord | None:
        method, proposer = self._turn()
        varied = len(proposer.history.trials) > 0 and bool(proposer.whole.searched)
        preview = self.spec.scheduling.previewing and varied  # a default setting is full
        if not proposer.interrupted and not self._in_time(method, partial(self._most, proposer, varied, preview)):
            return None  # before the proposal is recorded
        proposal, known = proposer.next(), self.history.numbers.get(method, [])
        if proposal is None:
            return None
        if proposal.trial >= len(known):
            seed = self.spec.seed_of(proposer.history.proposed)
            return TrialRecord(self._number, proposal.params, method, seed=seed, full=not preview)
        record = self.history.trials[known[proposal.trial]]
        return self._if_time_left(record)

    def _if_time_left(self, record: TrialRecord) -> TrialRecord | None:
        """A trial that the history has; one that waits, as users have added it or want it tried again, has to be in
        time as a new one."""
        return self._if_in_time(record, begun=record.state == TrialState.RUNNING)

    def _replicate(self) -> TrialRecord | None:
        wanted = replicates.wanted(self.spec, self.history)
        if not wanted:
            return None
        trial, seed = wanted[0]
        record = self.history.record(trial)
        return self._if_in_time(TrialRecord(self._number, record.params, record.method, seed=seed, of=trial))

    @property
    def _number(self) -> int:
        return len(self.history.trials) + len(self.history.replicates)

    def _turn(self) -> tuple[str, Proposer]:
        """The method of the next trial: one with trials that had begun, or that wait, else the one that has had the
        fewest."""
        open_ = [(method, proposer) for method, proposer in self.methods.items() if not proposer.exhausted]
        return min(open_, key=lambda found: (not found[1].begun, not found[1].interrupted, found[1].history.proposed))

    # ---- time --------------------------------------------------------------------------------------------------------

    def _if_in_time(self, record: TrialRecord, *, begun: bool = False) -> TrialRecord | None:
        return record if self._in_time(record.method, partial(self._still, record), begun=begun) else None

    def _in_time(self, method: str, needs: Callable[[Stems], int], *, begun: bool = False) -> bool:
        """Whether the epochs that a trial of a method ``needs``, with stems as far as they are, are within the budget
        and can end by ``until`` at the pace of its latest ones; else the search is ``late``. ``begun``: the history has
        the trial as running, and what has begun goes on, as it would have uninterrupted: in runs that are shorter than
        a training, too."""
        if begun or (self.until is None and self.budget is None):
            return True
        promised, stems = self._promised()
        epochs = needs(stems)
        self.late = self.spent = not self._affordable(promised + epochs)
        if self.until is None or self.late:
            return not self.late
        seconds = list(islice(self._durations(method), PACE))
        self.late = time.monotonic() + (statistics.median(seconds) * epochs if seconds else 0.0) > self.until
        return not self.late

    def _affordable(self, epochs: int) -> bool:
        """Whether a budget of epochs or of GPU hours allows so many more epochs than have been trained."""
        if self.budget is None or self.budget.seconds is not None:
            return True
        each = 1.0
        if self.budget.unit == "gpu-h":
            each = statistics.fmean([*self._durations()] or [0.0]) / 3600 * self.gpus_per_trial
        return (self.history.epochs_trained() + epochs) * each <= self.budget.amount

    # ---- epochs to come ----------------------------------------------------------------------------------------------

    def _promised(self) -> tuple[int, Stems]:
        """How many epochs the trials that run still train, and at which epochs each stem can be left then, as far as
        this search knows: where it was left before, and where it was trained and is kept."""
        tally, stems, epochs = self.history.tally, Stems(set), 0
        kept = max(1, self.spec.forks[0])  # earlier files go, but for that from which the stem is trained on
        for kind, trained in tally.for_stem.items():
            key, plan = stem_key_of(self.spec, *kind), self.spec.of(kind[0]).epoch_plan
            stems[key] |= {epoch for epoch in trained if epoch >= kept or epoch == max(trained)} | tally.left[kind]
            stems[key] |= {plan.preview[0]} if kind in tally.previewed_on else set()
        for record in self.history.tally.running.values():
            epochs += self._still(record, stems)
            if not record.epochs:
                fork, stem = fork_of(self.spec, self.history, record), stems[stem_key(self.spec, record)]
                before = _before(stem, fork)
                stem |= {epoch for epoch in range(before + 1, fork + 1) if epoch >= kept or epoch == fork}
                if before < min(kept, fork):
                    stem.discard(before)
        return epochs, stems

    def _still(self, record: TrialRecord, stems: Stems) -> int:
        """How many epochs a trial still trains, with those that its stem lacks."""
        fork = fork_of(self.spec, self.history, record)
        lacks = 0 if record.epochs else fork - _before(stems[stem_key(self.spec, record)], fork)
        if not record.full:
            return lacks + self.spec.of(record.method).epoch_plan.preview[1]
        return lacks + self.spec.max_epochs - max(len(record.epochs), fork)

    def _most(self, proposer: Proposer, varied: bool, preview: bool, stems: Stems) -> int:
        """The same, at most, of a method's next trial, whose setting is not known yet."""
        plan, default, method = proposer.spec.epoch_plan, proposer.whole.default(), proposer.spec.methods[0]
        seed = self.spec.seed_of(proposer.history.proposed)
        possible = product(*(proposer.whole.choices_of(name) or (default.get(name),) for name in STEM_PARAMS))
        keys = [stem_key_of(self.spec, method, choices, seed) for choices in possible]

        def there(fork: int) -> int:
            return min(_before(stems[key], fork) for key in keys)

        if preview:
            return plan.preview[1] + plan.preview[0] - there(plan.preview[0])
        if method == PLAIN and not plan.space.searched:
            return self.spec.max_epochs - there(self.spec.forks[1])
        # from whichever fork: what it does not train itself the stem may lack
        return self.spec.max_epochs - (there(plan.forks[0]) if varied else 0)

    def _durations(self, *methods: str) -> Iterator[float]:
        """Seconds of each epoch that trials, or those of some methods, trained themselves; the latest first."""
        for record in self.history.latest():
            if not methods or record.method in methods:
                own = (m for m in reversed(record.epochs) if not m.get("stem"))
                yield from ((m.get("train_s") or 0.0) + (m.get("eval_s") or 0.0) for m in own)

    # ---- what became of it -------------------------------------------------------------------------------------------

    def tell(self, number: int) -> None:
        """A trial has ended, or its preview; its history knows already."""
        if number not in self.history.trials:
            return
        method, place = self.history.number_in_lane(number)
        self.methods[method].tell(place)

    def dead(self, number: int, metrics: dict) -> bool:
        """Whether a trial that trains in full is to be stopped after an epoch with these metrics: it stays at chance.

        Default settings, references and replicates always go on: others are compared with them.
        """
        record = self.history.trials.get(number)
        if record is None or not record.full:
            return False
        if self.history.number_in_lane(number)[1] == 0 or unvaried(self.spec, record):
            return False
        own = metrics["epoch"] - record.stem_epochs
        if own < max(DEAD_AT_LEAST, math.ceil(DEAD_AFTER * self.spec.max_epochs)):
            return False
        before = next((m for m in record.epochs if m["epoch"] == metrics["epoch"] - 1), {})
        return at_chance(metrics) and at_chance(before)
