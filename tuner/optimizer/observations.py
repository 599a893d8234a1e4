"""What a proposal model may know: values at ONE budget, which trials are still running, which ended below that budget.

As in BOHB (Falkner et al., 2018, arXiv:1807.01774) the budget is the highest one at which enough trials have a value. A
trial counts there with its values at exactly that epoch, never with those of another. A trial that ended below it has
no value, but the model may know that it did (see ``Observations.frozen``).
"""

from __future__ import annotations

import copy
import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tuner.optimizer.quiet import quiet_optuna
from tuner.optimizer.successive_halving import ranked
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal
from tuner.spec.samplers import MAX_OBSERVATIONS
from tuner.spec.space import Space

ELITE = 50  # of the trials that a model is shown, the best ones; the others are drawn at random from all the rest


@dataclass(frozen=True)
class Value:
    """A trial's objectives and constraint violations at one budget."""

    params: dict[str, Any]
    point: tuple[float, ...]
    violations: dict[str, float]


@dataclass
class Observations:
    """Every trial's values at every budget, kept up to date from the history; an update costs as much as has changed.

    ``levels``: the budgets in epochs, ascending, the full one last. ``start(params)``: the epoch (from 0) at which such
    a trial begins to reweight; before it, the trial has no value of its own.
    """

    levels: list[int]
    goal: Goal
    start: Callable[[dict[str, Any]], int]
    values: dict[int, dict[int, Value]] = field(default_factory=dict)  # budget -> trial -> value
    open: dict[int, TrialRecord] = field(default_factory=dict)  # trials that may still change
    ended_below: dict[int, dict[int, TrialRecord]] = field(default_factory=dict)  # budget -> trials that ended below it
    proposed: set[frozenset] = field(default_factory=set)  # the settings so far
    _known: int = 0  # trials of the history that were taken in
    _largest: dict[int, list[tuple[float, int]]] = field(default_factory=dict)  # budget -> heap of (product, -trial)
    _looked: dict[int, tuple[int, str]] = field(default_factory=dict)  # open trial -> epoch, state at the last look
    _cache: dict[tuple, FrozenTrial | None] = field(default_factory=dict)  # (trial, state, budget, value) -> for Optuna

    def __post_init__(self):
        self.values, self.ended_below = {n: {} for n in self.levels}, {n: {} for n in self.levels}
        self._largest = {n: [] for n in self.levels}

    def update(self, trials: dict[int, TrialRecord]) -> None:
        """Take in what has happened since the last call."""
        for record in islice(trials.values(), self._known, None):
            self.expect(record)
        self._known = len(trials)
        for number, record in list(self.open.items()):
            now = record.last.get("epoch", 0), record.state
            if self._looked.get(number) == now:
                continue
            self._looked[number] = now
            self._take(record)
            if record.state != TrialState.RUNNING:
                del self.open[number], self._looked[number]
                self._end(record)

    def add_past(self, records: Iterable[TrialRecord]) -> None:
        """Trials of an earlier search; their numbers are negative here."""
        for number, record in enumerate(records):
            self._take(replace(record, trial=-1 - number))

    def expect(self, record: TrialRecord) -> None:
        """A trial was proposed; the history need not have it yet."""
        self.open[record.trial] = record
        self.proposed.add(frozenset(record.params.items()))

    def _take(self, record: TrialRecord) -> None:
        """Note the values of a trial at the budgets that it has reached."""
        start = self.start(record.params)
        for metrics in reversed(record.epochs):
            level = metrics["epoch"]
            if level not in self.values or record.trial in self.values[level]:
                continue
            if level <= start and level != self.levels[-1]:
                continue  # up to there it was the same plain training as every other trial
            point = self.goal.point(metrics)
            if any(v != v for v in point):
                continue
            self.values[level][record.trial] = Value(record.params, point, self.goal.violations(metrics))
            largest = self._largest[level]
            heapq.heappush(largest, (_product(point), -record.trial))
            if len(largest) > 4 * ELITE:
                heapq.heappop(largest)

    def _end(self, record: TrialRecord) -> None:
        """Note the budgets that a trial will never reach."""
        if record.state in (TrialState.STOPPED, TrialState.FAILED):
            for level in self.levels:
                if record.last.get("epoch", 0) < level:
                    self.ended_below[level][record.trial] = record

    def budget(self, least: int, enough: int) -> int | None:
        """The highest budget with ``enough`` values; else the one with most values, if it has ``least``."""
        for level in reversed(self.levels):
            if len(self.values[level]) >= enough:
                return level
        return max(
            (level for level in self.levels if len(self.values[level]) >= least),
            key=lambda level: (len(self.values[level]), level),
            default=None,
        )

    def frozen(
        self, level: int, space: Space, waiting: Iterable[int], seed: int, *, reads_pruned: bool = True
    ) -> list[FrozenTrial]:
        """What a model at this budget is shown, in order of trial numbers: at most ``MAX_OBSERVATIONS`` ended trials
        and as many pending ones.

        A trial that ended below the budget, or waits at a rung (``waiting``), is PRUNED. To a model that does not read
        those (``reads_pruned=False``, Optuna's Gaussian process) a waiting trial is shown as running, and one that
        diverged with the worst values of this budget: otherwise it proposes again and again where trials diverge.
        Stopped trials stay unknown to it: any value for them would be made up.
        """
        valued, waiting = self.values[level], set(waiting)
        bad = self.ended_below[level] | {t: r for t, r in self.open.items() if t in waiting and t not in valued}
        pending = {t: r for t, r in self.open.items() if t not in valued and t not in waiting}
        shown = _at_most(sorted(pending), seed)
        known = valued if reads_pruned or not valued else self._diverged(level, bad) | valued
        running = pending.keys() if reads_pruned else pending.keys() | waiting
        made = []
        for trial in sorted({*self._sample(level, bad, seed), *shown}):
            params = (valued.get(trial) or pending.get(trial) or bad[trial]).params
            made.append(self._frozen_once(trial, level, space, params, known.get(trial), trial in running))
        return [trial for trial in made if trial is not None]

    def _frozen_once(
        self, trial: int, level: int, space: Space, params: dict, value: Value | None, running: bool
    ) -> FrozenTrial | None:
        """``_frozen_trial``, made once for a trial, a budget and what is known of it."""
        state = OptunaState.COMPLETE if value else OptunaState.RUNNING if running else OptunaState.PRUNED
        key = trial, state, level, value and (*value.point, *value.violations.values())
        if key not in self._cache:
            kept = dict.fromkeys(self.goal.violations({}), 0.0) if state == OptunaState.PRUNED else {}
            point, violations = (value.point, value.violations) if value else (None, kept)
            self._cache[key] = _frozen_trial(space, params, state, point, violations)
        return self._cache[key]

    def _diverged(self, level: int, bad: dict[int, TrialRecord]) -> dict[int, Value]:
        """The failed trials of ``bad``, each with the worst that is known at a budget, one by one of objectives and
        constraints."""
        values = self.values[level].values()
        worst = Value(
            {},
            tuple(map(min, zip(*(v.point for v in values)))),
            {name: max(v.violations[name] for v in values) for name in self.goal.violations({})},
        )
        return {trial: worst for trial, record in bad.items() if record.state == TrialState.FAILED}

    def _sample(self, level: int, bad: dict[int, TrialRecord], seed: int) -> list[int]:
        """All ended trials, or where there are too many the best ones and a random draw of the others."""
        valued = self.values[level]
        ended = sorted([*valued, *bad])
        if len(ended) <= MAX_OBSERVATIONS:
            return ended
        most = [-trial for _, trial in sorted(self._largest[level], reverse=True)]
        elite = [most[i] for i in ranked(np.array([valued[t].point for t in most]))[:ELITE]] if most else []
        rest = sorted(set(ended).difference(elite))
        return elite + random.Random(seed).sample(rest, MAX_OBSERVATIONS - len(elite))


def _product(point: tuple[float, ...]) -> float:
    return math.prod(max(v, 0.0) for v in point)


class _SharedTrial(FrozenTrial):
    """A trial that a study copies at the cost of one object: deep copies were half the cost of a proposal."""

    def __deepcopy__(self, memo) -> FrozenTrial:
        return copy.copy(self)


def _at_most(trials: list[int], seed: int) -> list[int]:
    """The trials, or ``MAX_OBSERVATIONS`` of them drawn at random."""
    return random.Random(seed).sample(trials, MAX_OBSERVATIONS) if len(trials) > MAX_OBSERVATIONS else trials


def _frozen_trial(
    space: Space, params: dict, state: OptunaState, point: tuple[float, ...] | None, violations: dict[str, float]
) -> FrozenTrial | None:
    """A trial as Optuna's samplers see it; None where it lies outside the searched ranges (the default setting may)."""
    if not space.contains(params):
        return None
    searched = {name: params[name] for name in space.searched if name in params}
    trial = create_trial(
        state=state,
        values=None if point is None else list(point),
        params=searched,
        distributions={name: space.params[name].range for name in searched},
        constraints=violations or None,
    )
    trial.__class__ = _SharedTrial
    return trial


@quiet_optuna()
def propose(space: Space, objectives: int, seen: list[FrozenTrial], sampler: BaseSampler) -> dict[str, Any]:
    """One setting, by a sampler that knows ``seen`` and nothing else."""
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
    study.add_trials(seen)
    return space.sample(study.ask())
