"""What a proposal model may know: values of ONE budget, who is still running, who was given up. No Ray here.

As in BOHB (Falkner et al., 2018) that budget is the highest one at which enough trials have a value; a trial counts
there with its values at exactly that epoch, never with those of another. Who was given up below that budget has no
value, but the model may know that it was (see ``Observations.frozen``).
"""

from __future__ import annotations

import copy
import heapq
import logging
import math
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tuner.optimizer.successive_halving import ranked
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal
from tuner.spec.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
# where many values are equal, a worst class of 0 say, its fit may fail; it then goes on with a usual smoothness
logging.getLogger("optuna._gp.gp").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SEEN = 250  # most ended trials a model is shown, and most pending ones: TPE has at most 25 good ones, a GP costs n^3
ELITE = 50  # of those, the best ones; the others are drawn at random from all the rest


@dataclass(frozen=True)
class Value:
    """A trial's objectives and constraint violations at one budget."""

    params: dict[str, Any]
    point: tuple[float, ...]
    violations: dict[str, float]


@dataclass
class Observations:
    """Every trial's values at every budget, kept up to date from the history at a cost that follows what changed."""

    levels: list[int]  # the budgets in epochs, the full one last
    goal: Goal
    start: Any  # params -> the epoch (from 0) at which such a trial begins to reweight
    values: dict[int, dict[int, Value]] = field(default_factory=dict)  # budget -> trial -> value
    open: dict[int, TrialRecord] = field(default_factory=dict)  # trials that may still change
    given_up: dict[int, dict[int, TrialRecord]] = field(default_factory=dict)  # budget -> trials that ended below it
    _largest: dict[int, list] = field(default_factory=dict)  # budget -> heap of (box, -trial), the largest boxes
    taken: set[frozenset] = field(default_factory=set)  # settings that were proposed
    _known: int = 0
    _looked: dict[int, tuple[int, str]] = field(default_factory=dict)  # open trial -> epoch, state at the last look
    _made: dict[tuple, FrozenTrial | None] = field(default_factory=dict)  # (trial, state, budget, value) -> for a model

    def __post_init__(self):
        self.values, self.given_up = {n: {} for n in self.levels}, {n: {} for n in self.levels}
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
                for level in self.levels if record.state in (TrialState.STOPPED, TrialState.FAILED) else ():
                    if record.last.get("epoch", 0) < level:
                        self.given_up[level][number] = record

    def add_past(self, records: Iterable[TrialRecord]) -> None:
        """Trials of an earlier search; their numbers are negative here."""
        for number, record in enumerate(records):
            self._take(replace(record, trial=-1 - number))

    def expect(self, record: TrialRecord) -> None:
        """A trial that the history does not have yet is on its way."""
        self.open[record.trial] = record
        self.taken.add(frozenset(record.params.items()))

    def _take(self, record: TrialRecord) -> None:
        begun = self.start(record.params)
        for metrics in reversed(record.epochs):
            found = self.values.get(metrics["epoch"])
            if found is None or record.trial in found:
                continue
            full = metrics["epoch"] == self.levels[-1]
            if metrics["epoch"] > begun or full:  # before that it was every other trial's plain training
                point = self.goal.point(metrics)
                if all(v == v for v in point):
                    found[record.trial] = Value(record.params, point, self.goal.violations(metrics))
                    heapq.heappush(largest := self._largest[metrics["epoch"]], (_box(point), -record.trial))
                    if len(largest) > 4 * ELITE:
                        heapq.heappop(largest)

    def budget(self, least: int, enough: int) -> int | None:
        """The highest budget with ``enough`` values; else the lowest one, once it has ``least`` of them."""
        for level in reversed(self.levels):
            if len(self.values[level]) >= enough:
                return level
        return max(
            (level for level in self.levels if len(self.values[level]) >= least),
            key=lambda level: (len(self.values[level]), level),
            default=None,
        )

    def frozen(
        self, level: int, space: Space, waiting: Iterable[int], seed: int, kind: str = "tpe"
    ) -> list[FrozenTrial]:
        """What a model at this budget is shown, in order of trial numbers; at most ``SEEN`` ended, as many pending.

        Who was given up or waits at a rung is PRUNED. Optuna's Gaussian process reads complete and running trials only,
        so to it who waits runs, and who diverged has the worst values of this budget: else it proposes again and again
        where trials diverge. Of who was stopped it hears nothing: a value for them would be made up.
        """
        valued, waiting = self.values[level], set(waiting)
        bad = self.given_up[level] | {t: r for t, r in self.open.items() if t in waiting and t not in valued}
        pending = {t: r for t, r in self.open.items() if t not in valued and t not in waiting}
        running = sorted(pending)
        if len(running) > SEEN:
            running = random.Random(seed).sample(running, SEEN)
        kept = dict.fromkeys(self.goal.violations({}), 0.0)
        worst = self._worst(level) if kind == "gp" and valued else None
        made = []
        for trial in sorted({*self._sample(level, bad, seed), *running}):
            diverged = trial in bad and bad[trial].state == TrialState.FAILED
            value = valued.get(trial) or (worst if diverged else None)
            runs = trial in pending or (kind == "gp" and trial in waiting)
            state = OptunaState.COMPLETE if value else OptunaState.RUNNING if runs else OptunaState.PRUNED
            key = trial, state, level, value and (*value.point, *value.violations.values())
            if key not in self._made:
                params = (valued.get(trial) or pending.get(trial) or bad[trial]).params
                violations = value.violations if value else kept if state == OptunaState.PRUNED else {}
                self._made[key] = _frozen(space, params, state, value and value.point, violations)
            made.append(self._made[key])
        return [trial for trial in made if trial is not None]

    def _worst(self, level: int) -> Value:
        """The worst that is known at a budget, one by one of objectives and constraints."""
        values = self.values[level].values()
        return Value(
            {},
            tuple(map(min, zip(*(v.point for v in values)))),
            {name: max(v.violations[name] for v in values) for name in self.goal.violations({})},
        )

    def _sample(self, level: int, bad: dict[int, TrialRecord], seed: int) -> list[int]:
        """All ended trials, or where there are too many the best ones and a random draw of the others."""
        valued = self.values[level]
        ended = sorted([*valued, *bad])
        if len(ended) <= SEEN:
            return ended
        most = [-trial for _, trial in sorted(self._largest[level], reverse=True)]
        elite = [most[i] for i in ranked(np.array([valued[t].point for t in most]))[:ELITE]] if most else []
        rest = sorted(set(ended).difference(elite))
        return elite + random.Random(seed).sample(rest, SEEN - len(elite))


def _box(point: tuple[float, ...]) -> float:
    return math.prod(max(v, 0.0) for v in point)


class _Shown(FrozenTrial):
    """A trial that a study copies at the cost of one object: deep copies were half the price of a proposal."""

    def __deepcopy__(self, memo) -> FrozenTrial:
        return copy.copy(self)


def _frozen(space: Space, params: dict, state: TrialState, point, violations: dict) -> FrozenTrial | None:
    """A trial for a model; None where its setting lies outside the searched ranges (the paper's may)."""
    if not space.contains(params):
        return None
    searched = {name: params[name] for name in space.searched if name in params}
    distributions = {name: space.params[name].range for name in searched}
    trial = create_trial(
        state=state,
        values=None if point is None else list(point),
        params=searched,
        distributions=distributions,
        constraints=violations or None,
    )
    trial.__class__ = _Shown
    return trial


def propose(space: Space, objectives: int, seen: list[FrozenTrial], sampler) -> dict[str, Any]:
    """One setting, by a model that knows ``seen`` and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
        study.add_trials(seen)
        return space.sample(study.ask())
