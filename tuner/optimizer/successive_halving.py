"""Asynchronous successive halving over epochs, on all objectives at once: the rungs, and how trials are ranked at them.

A rung is a number of epochs. A trial that reaches it is compared with all that reached it before, at the same number of
epochs, and goes on where the scheduler (`tuner.spec.schedulers`) says so: with ASHA if it is among the best 1/eta (Li
et al., 2020, arXiv:1810.05934; they take eta = 3 or 4, our default is 2: over recorded curves more and gentler rungs
needed fewer epochs). With several objectives "best" is that of MO-ASHA (Schmucker et al., 2021, arXiv:2106.12639):
fronts are peeled off by non-dominated sorting; within one front the order is an epsilon-net, which starts at one end of
the front and always takes the point farthest from those taken before, so that what survives of a front is spread out.

Three things differ from the papers:
- A trial stands at a rung with its best epoch so far (see ``best_epoch``), because adversarial training dips and
  recovers.
- A rung compares with a window, its ``WINDOW`` trials of the highest numbers, whichever trial arrives or waits. A
  decision then costs at most 5 ms on one core however many trials there were (20 ms for a waiting trial from before the
  window), and a sampler that improves does not make the bar ever easier to pass.
- Trial 0, the default setting, is never stopped: fronts are compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tuner.results.history import History
from tuner.spec.schedulers import Decision, Point, Scheduler

WINDOW = 400


def best_epoch(points: Sequence[Point]) -> Point:
    """The epoch a trial is judged by: the one with the largest product of objectives; ties go to the larger sum, then
    to the latest.

    A component-wise maximum would promise a mix of epochs that no checkpoint holds. The product takes one of the
    trial's own non-dominated epochs and does not depend on other trials, so rungs can be rebuilt in any order.
    """
    return max(enumerate(points), key=lambda item: (math.prod(max(v, 0.0) for v in item[1]), sum(item[1]), item[0]))[1]


def ranks(points: np.ndarray) -> np.ndarray:
    """(n,) the non-dominated front each row of ``points`` (n, objectives), all maximised, lies on; 0 is best."""
    at_least: np.ndarray = np.ones((len(points), len(points)), dtype=bool)
    for column in points.T:
        at_least &= column[:, None] >= column[None, :]
    dominates = at_least & ~at_least.T
    dominators = dominates.sum(axis=0)  # of each point, among those not yet on a front
    rank = np.full(len(points), -1)
    for number in range(len(points)):
        front = np.flatnonzero((dominators == 0) & (rank < 0))
        if not len(front):
            break
        rank[front] = number
        dominators -= dominates[front].sum(axis=0)
    return rank


def net_order(points: np.ndarray) -> list[int]:
    """Epsilon-net order of the rows of one front: best first objective first, then the farthest from those taken.

    Objectives are scaled by the front's range; ties go to the lower row number.
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
    """All rows of ``points`` (n, objectives) from best to worst: by front, within a front by epsilon-net."""
    if points.shape[1] == 1:
        return [int(i) for i in np.argsort(-points[:, 0], kind="stable")]
    rank = ranks(points)
    fronts = (np.flatnonzero(rank == number) for number in range(rank.max() + 1))
    return [int(front[i]) for front in fronts for i in net_order(points[front])]


@dataclass
class Rung:
    """The trials that have reached one number of epochs. Ranks are computed when they are asked for."""

    level: int
    points: dict[int, Point] = field(default_factory=dict)  # trial -> its best epoch so far
    _window: list[int] = field(default_factory=list)  # empty: not computed yet
    _orders: dict[tuple[int, ...], list[int]] = field(default_factory=dict)  # by the older trials ranked with it

    def add(self, trial: int, point: Point) -> None:
        self.points[trial] = point
        self._window, self._orders = [], {}

    def others(self, trial: int) -> list[Point]:
        """The points of the latest ``WINDOW`` trials (by number) without ``trial``."""
        return [self.points[t] for t in sorted(self.points) if t != trial][-WINDOW:]

    def best(self, reduction: int, also: Iterable[int]) -> list[int]:
        """The best 1/``reduction`` of the latest ``WINDOW`` trials (by number), best first.

        A trial of ``also`` that is older than the window, as a slow one is by the time it arrives, is ranked with the
        window but does not raise the quota: waiting trials were not among the best, and many of them would lower the
        bar.
        """
        if not self._window:
            self._window = sorted(self.points)[-WINDOW:]
        older = tuple(sorted(t for t in also if t < self._window[0])[-WINDOW:])
        if older not in self._orders:
            trials = [*older, *self._window]
            self._orders[older] = [trials[i] for i in ranked(np.array([self.points[t] for t in trials], dtype=float))]
        return self._orders[older][: len(self._window) // reduction]


class Rungs:
    """The rungs of one method's search: ``feed`` takes every epoch of every trial and answers with a ``Decision``.

    Where ``scheduler`` pauses, a trial that is not promoted waits (``paused``) until ``promotable`` names it, because
    its rung has grown. Trials in ``protected`` are never stopped.
    """

    def __init__(self, scheduler: Scheduler, *, protected: Iterable[int] = (0,)):
        self.scheduler, self.protected = scheduler, set(protected)
        self.rungs = {level: Rung(level) for level in scheduler.levels}
        self.paused: dict[int, int] = {}  # trial -> the level where it waits
        self._promoted: dict[int, int] = {}  # trial -> the highest level it may pass
        self._curves: dict[int, dict[int, Point]] = {}  # trial -> epoch -> objectives

    @property
    def levels(self) -> list[int]:
        return list(self.rungs)

    def feed(self, trial: int, epoch: int, point: Point, start: int = 0) -> Decision:
        """What becomes of ``trial`` after ``epoch`` finished epochs with objectives ``point``.

        ``start``: the epoch (from 0) at which this trial began to reweight; earlier epochs are never judged.
        """
        self.note(trial, epoch, point, start)
        rung = self.rungs.get(epoch)
        if rung is None or trial in self.protected or epoch <= self._promoted.get(trial, 0):
            return Decision.CONTINUE
        # without a point it has not started yet, or its objectives are NaN
        decision = self.scheduler.decide(rung, trial) if trial in rung.points else Decision.CONTINUE
        if decision == Decision.CONTINUE:
            self._promoted[trial] = epoch
        elif decision == Decision.PAUSE:
            self.paused[trial] = epoch
        return decision

    def note(self, trial: int, epoch: int, point: Point, start: int = 0) -> None:
        """Remember an epoch without deciding anything."""
        if epoch <= start or any(v != v for v in point):
            return
        curve = self._curves.setdefault(trial, {})
        curve[epoch] = point
        if epoch in self.rungs and trial not in self.rungs[epoch].points:  # after a restart it is reported again
            self.rungs[epoch].add(trial, best_epoch([curve[e] for e in sorted(curve) if e <= epoch]))
        if epoch >= max(self.rungs, default=0):
            del self._curves[trial]  # no rung is left that it could reach

    def promotable(self) -> int | None:
        """The paused trial that should go on now, the one at the highest rung first; None: all wait on."""
        for level in reversed(self.levels):
            waiting = {trial for trial, at in self.paused.items() if at == level}
            trial = self.scheduler.promote(self.rungs[level], waiting) if waiting else None
            if trial is not None:
                return trial
        return None

    def promote(self, trial: int) -> None:
        """A paused trial goes on."""
        self._promoted[trial] = self.paused.pop(trial)

    def forget(self, trial: int) -> None:
        """A trial has ended: it waits no longer; its points at rungs stay."""
        self.paused.pop(trial, None)
        self._curves.pop(trial, None)

    def replay(self, history: History, point: Callable[[dict], Point], start: Callable[[dict], int]) -> Rungs:
        """Rebuild the state from a history. ``point(metrics)``: the objectives; ``start(params)``: see ``feed``."""
        for record in history.trials.values():
            for metrics in record.epochs:
                self.note(record.trial, metrics["epoch"], point(metrics), start(record.params))
            passed = [level for level in self.levels if level < record.last.get("epoch", 0)]
            self._promoted[record.trial] = max(passed, default=0)
            if record.state.ended:
                self.forget(record.trial)
        return self
