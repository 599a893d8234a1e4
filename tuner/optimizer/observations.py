"""What a proposal model may know: what each trial was worth at ONE fidelity, and which are still running.

Where proposals are previewed, a trial counts with its preview, else with its full training; never with both as if they
were one. Where a model is swept over offsets a trial is worth the hypervolume of its curve, one number; else its
objectives.
"""

from __future__ import annotations

import copy
import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tuner.optimizer.quiet import quiet_optuna
from tuner.results.pareto import volume
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal
from tuner.spec.samplers import MAX_OBSERVATIONS
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

ELITE = 50  # of the trials that a model is shown, the best ones; the others are drawn at random from all the rest


@dataclass(frozen=True)
class Worth:
    """How a search measures its trials. ``previews``: by their previews; else by trials that trained in full.
    ``swept``: by the hypervolume of a curve over offsets; else by the objectives."""

    goal: Goal
    swept: bool
    previews: bool

    @classmethod
    def of(cls, spec: SearchSpec) -> Worth:
        return cls(spec.goal, spec.offsets != "none", spec.scheduling.previewing)

    @property
    def values(self) -> int:
        """How many numbers a trial is worth."""
        return 1 if self.swept else len(self.goal.objectives)

    def __call__(self, record: TrialRecord) -> Value | None:
        """None: it has no value at this fidelity (yet)."""
        points = self._points(record)
        if not points:
            return None
        values = [self.goal.point(metrics) for metrics in points]
        if any(v != v for point in values for v in point):
            return None
        broken = [self.goal.violations(metrics) for metrics in points]
        least = min(broken, key=lambda found: sum(max(v, 0.0) for v in found.values()))
        if not self.swept:
            return Value(record.params, values[0], least)
        kept = [point for point, metrics in zip(values, points) if self.goal.feasible(metrics)]
        return Value(record.params, (volume(kept),), least)

    def _points(self, record: TrialRecord) -> list[dict[str, Any]]:
        found = record.preview_points if self.previews else record.points
        if not self.previews and record.state != TrialState.FINISHED:
            return []
        return [metrics for _, metrics in (found if self.swept else found[:1])]


@dataclass(frozen=True)
class Value:
    """What a trial is worth (all maximised), and by how much it violates the constraints."""

    params: dict[str, Any]
    point: tuple[float, ...]
    violations: dict[str, float]

    @property
    def product(self) -> float:
        return math.prod(max(value, 0.0) for value in self.point)


@dataclass
class Observations:
    """What every trial is worth, kept up to date from the history; an update costs as much as has changed."""

    worth: Worth
    values: dict[int, Value] = field(default_factory=dict)
    open: dict[int, TrialRecord] = field(default_factory=dict)  # trials that may get a value
    bad: dict[int, TrialRecord] = field(default_factory=dict)  # ended without one: diverged, or stayed at chance
    proposed: set[frozenset] = field(default_factory=set)  # the settings so far
    added: set[int] = field(default_factory=set)  # trials that a user added, perhaps with what is not searched
    _ended: list[int] = field(default_factory=list)  # those with a value and the bad ones, by their numbers
    _ranked: list[tuple[float, int]] = field(default_factory=list)  # (-product, trial) of those with a value
    _known: int = 0  # trials of the history that were taken in
    # (trial, whether it runs, value) -> for Optuna
    _cache: dict[tuple, FrozenTrial | None] = field(default_factory=dict)

    def update(self, trials: dict[int, TrialRecord]) -> None:
        """Take in what has happened since the last call."""
        for record in islice(trials.values(), self._known, None):
            self.expect(record)
        self._known = len(trials)
        for number, record in list(self.open.items()):
            value = self.worth(record)
            if value is not None:
                self._take(number, value)
            elif record.state in (TrialState.FAILED, TrialState.STOPPED):
                self.bad[number] = record
                insort(self._ended, number)
            elif not record.state.ended:
                continue
            del self.open[number]

    def add_past(self, records: Iterable[TrialRecord]) -> None:
        """Trials of an earlier search; their numbers are negative here."""
        for number, record in enumerate(records):
            if (value := self.worth(record)) is not None:
                self._take(-1 - number, value)
                if record.added:
                    self.added.add(-1 - number)

    def _take(self, trial: int, value: Value) -> None:
        self.values[trial] = value
        insort(self._ended, trial)
        insort(self._ranked, (-value.product, trial))

    def expect(self, record: TrialRecord) -> None:
        """A trial was proposed; the history need not have it yet."""
        self.open[record.trial] = record
        if record.added:
            self.added.add(record.trial)
        self.proposed.add(frozenset(record.params.items()))

    def frozen(
        self, space: Space, seed: int, *, reads_pruned: bool = True, whole: Space | None = None
    ) -> list[FrozenTrial]:
        """What a model is shown, in order of trial numbers: at most ``MAX_OBSERVATIONS`` ended trials and as many
        pending ones.

        A trial that diverged or stayed at chance is PRUNED. To a model that does not read those
        (``reads_pruned=False``, Optuna's Gaussian process) it is shown with the worst values of all: otherwise it
        proposes again and again where trials diverge. ``whole``: the space before it was narrowed to ``space``: numbers
        beyond its ranges stay known.
        """
        known = self.values
        if not reads_pruned and known:
            known = {trial: self._worst(record) for trial, record in self.bad.items()} | known
        made, whole = [], whole or space
        for trial in sorted({*self._sample(seed), *_at_most(sorted(self.open), seed)}):
            record = self.open.get(trial) or self.bad.get(trial)
            params = record.params if record else self.values[trial].params
            if trial in self.added and not whole.expresses(params):
                continue
            value, running = known.get(trial), trial in self.open
            key = trial, running, value and (*value.point, *value.violations.values())
            if key not in self._cache:
                self._cache[key] = self._frozen(space, whole, params, value, running)
            made.append(self._cache[key])
        return [trial for trial in made if trial is not None]

    def _frozen(
        self, space: Space, whole: Space, params: dict, value: Value | None, running: bool
    ) -> FrozenTrial | None:
        """A trial as Optuna's samplers see it; None where it lies outside the ``whole`` ranges (the default setting
        may) or has no place in the narrowed ``space``."""
        if not whole.contains(params) or (space is not whole and not space.has_place_for(params)):
            return None
        state = OptunaState.COMPLETE if value else OptunaState.RUNNING if running else OptunaState.PRUNED
        kept = dict.fromkeys(self.worth.goal.violations({}), 0.0) if state == OptunaState.PRUNED else {}
        setting = searched(space, params)
        trial = create_trial(
            state=state,
            values=list(value.point) if value else None,
            params=setting["params"],
            distributions={name: whole.params[name].range for name in setting["params"]},
            constraints=(value.violations if value else kept) or None,
        )
        trial.__class__ = _SharedTrial
        trial.distributions = setting["distributions"]
        return trial

    def _worst(self, record: TrialRecord) -> Value:
        """The worst that is known, one by one of values and constraints."""
        values = self.values.values()
        worst = tuple(map(min, zip(*(v.point for v in values))))
        return Value(
            record.params, worst, {n: max(v.violations[n] for v in values) for n in self.worth.goal.violations({})}
        )

    def _sample(self, seed: int) -> list[int]:
        """All ended trials, or where there are too many the best ones and a random draw of the others."""
        if len(self._ended) <= MAX_OBSERVATIONS:
            return self._ended
        elite = [trial for _, trial in self._ranked[:ELITE]]
        places = sorted(bisect_left(self._ended, trial) for trial in elite)
        before = [place - number for number, place in enumerate(places)]  # of the others, how many precede each
        drawn = random.Random(seed).sample(range(len(self._ended) - len(elite)), MAX_OBSERVATIONS - len(elite))
        return elite + [self._ended[other + bisect_right(before, other)] for other in drawn]


class _SharedTrial(FrozenTrial):
    """A trial that a study copies at the cost of one object: deep copies were half the cost of a proposal. Its values
    may lie beyond ranges that were narrowed since, which Optuna's samplers take."""

    def _validate(self) -> None:
        pass

    def __deepcopy__(self, memo) -> FrozenTrial:
        return copy.copy(self)


def _at_most(trials: list[int], seed: int) -> list[int]:
    """The trials, or ``MAX_OBSERVATIONS`` of them drawn at random."""
    return random.Random(seed).sample(trials, MAX_OBSERVATIONS) if len(trials) > MAX_OBSERVATIONS else trials


def searched(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """What of a setting is searched, as Optuna's ``create_trial`` takes it: ``params`` and their ``distributions``."""
    found = {name: params[name] for name in space.searched if name in params}
    return {"params": found, "distributions": {name: space.params[name].range for name in found}}


@quiet_optuna()
def propose(space: Space, values: int, seen: list[FrozenTrial], sampler: BaseSampler) -> dict[str, Any]:
    """One setting, by a sampler that knows ``seen``, trials of so many values, and nothing else."""
    study = optuna.create_study(directions=["maximize"] * values, sampler=sampler)
    study.add_trials(seen)
    return space.sample(study.ask())
