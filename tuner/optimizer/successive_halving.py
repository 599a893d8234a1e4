"""Asynchronous successive halving over epochs, on all objectives at once. Ray knows nothing of this file.

A rung is a number of epochs. Who reaches it is compared with everybody who reached it before, at that same number of
epochs, and goes on if it is among the best 1/reduction (Li et al., 2020, ASHA; they take 3 or 4, we 2: over recorded
curves more and gentler rungs needed fewer epochs, docs/decisions.md). "Best" with several objectives is that of
Schmucker et al., 2021 (MO-ASHA, arXiv:2106.12639): first the non-dominated points, then those that are non-dominated
once the first are gone, and so on; within one such front an epsilon-net order, which starts at one end of the front and
then always takes the point farthest from all taken so far, so that whatever part of a front survives, it is spread out.

Three things differ from the papers, each for a reason:
- A trial stands at a rung with its best epoch so far (see ``best``), because adversarial training dips and recovers.
- A rung compares with its ``WINDOW`` trials of the highest numbers, whoever arrives or waits. Measured on one core, a
  decision then costs at most 5 ms however many trials there were (20 ms for who waits since before those), and a
  sampler that improves does not make the bar ever easier to pass.
- The trial 0, the paper's setting, is what a front is compared with: it is never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tuner.spec.epoch_plan import CONTINUE, PAUSE, STOP, rung_levels, scheduler_name

WINDOW = 400
MEDIAN_NEEDS = 5  # trials at a rung before a median means anything
Point = tuple[float, ...]


def best(points: Sequence[Point]) -> Point:
    """The epoch a trial is judged by: the one whose box down to 0 is largest, the latest of equals.

    A point that was really reached (a component-wise best would promise a mix of epochs that no checkpoint holds), one
    of the trial's own non-dominated ones, and independent of the other trials, so that rungs can be rebuilt in any
    order.
    """
    return max(enumerate(points), key=lambda item: (math.prod(max(v, 0.0) for v in item[1]), sum(item[1]), item[0]))[1]


def ranks(points: np.ndarray) -> np.ndarray:
    """(n,) the non-dominated front each row of ``points`` (n, objectives), all maximised, lies on; 0 is best."""
    at_least = np.ones((len(points), len(points)), dtype=bool)
    for column in points.T:
        at_least &= column[:, None] >= column[None, :]
    dominates = at_least & ~at_least.T
    left = dominates.sum(axis=0)  # by how many points, not yet on a front, each is dominated
    rank = np.full(len(points), -1)
    for number in range(len(points)):
        front = np.flatnonzero((left == 0) & (rank < 0))
        if not len(front):
            break
        rank[front] = number
        left -= dominates[front].sum(axis=0)
    return rank


def net_order(points: np.ndarray) -> list[int]:
    """Epsilon-net order of the rows of one front: best first objective first, then the farthest from those taken.

    Objectives are scaled by the front's range; equals go by their row number.
    """
    span = points.max(axis=0) - points.min(axis=0)
    scaled = points / np.where(span > 0, span, 1.0)
    order = [int(np.argmax(points[:, 0]))]
    distance = np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
    return order


def ranked(points: np.ndarray) -> list[int]:
    """All rows from best to worst: by front, within a front by epsilon-net."""
    if points.shape[1] == 1:
        return [int(i) for i in np.argsort(-points[:, 0], kind="stable")]
    rank = ranks(points)
    fronts = (np.flatnonzero(rank == number) for number in range(rank.max() + 1))
    return [int(front[i]) for front in fronts for i in net_order(points[front])]


@dataclass
class Rung:
    """Who reached this many epochs, with which point; the order is worked out when it is asked for."""

    level: int
    points: dict[int, Point] = field(default_factory=dict)
    _window: list[int] = field(default_factory=list)  # empty: not worked out yet
    _orders: dict[tuple[int, ...], list[int]] = field(default_factory=dict)  # by the older ones ranked with it

    def add(self, trial: int, point: Point) -> None:
        self.points[trial] = point
        self._window, self._orders = [], {}

    def best(self, reduction: int, also: Iterable[int]) -> list[int]:
        """Who of the latest ``WINDOW`` trials (by number) and ``also`` takes one of the window's best 1/reduction
        places, the best first.

        Who of ``also`` is older, as a slow trial is by the time it arrives, is ranked with the window but brings no
        place along: those who wait were not among the best, and many of them would lower the bar.
        """
        if not self._window:
            self._window = sorted(self.points)[-WINDOW:]
        older = tuple(sorted(t for t in also if t < self._window[0])[-WINDOW:])
        if older not in self._orders:
            trials = [*older, *self._window]
            self._orders[older] = [trials[i] for i in ranked(np.array([self.points[t] for t in trials], dtype=float))]
        return self._orders[older][: len(self._window) // reduction]


class Rungs:
    """``feed`` it every epoch of every trial; it answers CONTINUE, STOP or PAUSE.

    ``on_rung="pause"``: who is not among the best waits (``paused``) and goes on when ``promotable`` names it, because
    the rung has grown. ``rule="median"``: every level stops whoever is below the median of the others (one objective).
    """

    def __init__(
        self,
        at: Iterable[int],
        reduction: int = 3,
        on_rung: str = STOP,
        *,
        rule: str = "asha",
        protected: Iterable[int] = (0,),
    ):
        self.rungs = {level: Rung(level) for level in sorted(at)}
        self.reduction, self.on_rung, self.rule, self.protected = reduction, on_rung, rule, set(protected)
        self.paused: dict[int, int] = {}  # trial -> the level where it waits
        self._promoted: dict[int, int] = {}  # trial -> the highest level it may pass
        self._curves: dict[int, dict[int, Point]] = {}

    @property
    def levels(self) -> list[int]:
        return list(self.rungs)

    def feed(self, trial: int, epoch: int, point: Point, start: int = 0) -> str:
        """What becomes of ``trial`` after ``epoch`` finished epochs with objectives ``point``.

        ``start``: the epoch (from 0) at which this trial began to reweight; it is never judged by what it was before.
        """
        self.note(trial, epoch, point, start)
        if epoch not in self.rungs or trial in self.protected or epoch <= self._promoted.get(trial, 0):
            return CONTINUE
        if self._passes(trial, self.rungs[epoch]):
            self._promoted[trial] = epoch
            return CONTINUE
        if self.on_rung == PAUSE:
            self.paused[trial] = epoch
        return self.on_rung

    def note(self, trial: int, epoch: int, point: Point, start: int = 0) -> None:
        """Remember an epoch without deciding anything."""
        if epoch <= start or any(v != v for v in point):
            return
        curve = self._curves.setdefault(trial, {})
        curve[epoch] = point
        if epoch in self.rungs and trial not in self.rungs[epoch].points:  # after a restart it is reported again
            self.rungs[epoch].add(trial, best([curve[e] for e in sorted(curve) if e <= epoch]))
        if epoch >= max(self.rungs, default=0):
            del self._curves[trial]  # there is nothing left to judge

    def _passes(self, trial: int, rung: Rung) -> bool:
        if trial not in rung.points:
            return True  # nothing is known of it: not started yet, or NaN
        if self.rule == "median":
            others = [rung.points[t][0] for t in sorted(rung.points) if t != trial]
            return len(others) < MEDIAN_NEEDS or rung.points[trial][0] >= float(np.median(others[-WINDOW:]))
        if self.on_rung == STOP and len(rung.points) < self.reduction:
            return True  # too few to compare with, and a stop cannot be taken back
        return trial in rung.best(self.reduction, (trial,))

    def promotable(self) -> int | None:
        """The paused trial that should go on now: the best of the highest rung that has grown enough."""
        for level in reversed(self.levels):
            waiting = [trial for trial, at in self.paused.items() if at == level]
            for trial in self.rungs[level].best(self.reduction, waiting) if waiting else ():
                if self.paused.get(trial) == level:
                    return trial
        return None

    def promote(self, trial: int) -> None:
        """A paused trial goes on."""
        self._promoted[trial] = self.paused.pop(trial)

    def forget(self, trial: int) -> None:
        """A trial has ended: it waits no longer; what it reached stays."""
        self.paused.pop(trial, None)
        self._curves.pop(trial, None)

    def replay(self, history, point: Callable[[dict], Point], start: Callable[[dict], int]) -> Rungs:
        """Rebuild the state from a history. ``point(metrics)``: the objectives; ``start(params)``: see ``feed``."""
        for record in history.trials.values():
            for metrics in record.epochs:
                self.note(record.trial, metrics["epoch"], point(metrics), start(record.params))
            passed = [level for level in self.levels if level < record.last.get("epoch", 0)]
            self._promoted[record.trial] = max(passed, default=0)
            if record.state.ended:
                self.forget(record.trial)
        return self


def rungs_for(spec) -> Rungs | None:
    """The rungs of a search, or None where nothing is stopped early."""
    name = scheduler_name(spec)
    if name == "none":
        return None
    return Rungs(rung_levels(spec), spec.reduction, spec.on_rung, rule="median" if name == "median" else "asha")
