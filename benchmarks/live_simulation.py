"""One run of an arm in simulated time: what it has spent, and what its front is worth on `test`, whenever that changes.

Durations are the costs of the problem, in training epochs; they depend on no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from benchmarks.live_arms import OBJECTIVES, Arm, Model, Row
from benchmarks.live_problem import Costs
from benchmarks.live_stages import Result, Stage
from tuner.results.pareto import volume

Run = Callable[[Stage], Result]
OnTest = Callable[[Row], dict[str, float]]  # a row -> its metrics on `test`


class Simulation:
    """``workers`` that do what the arm says. ``run`` gives a stage's result; ``trace``: the front's value over time;
    ``models``: all that were judged, previews too."""

    def __init__(self, arm: Arm, run: Run, on_test: OnTest, costs: Costs, workers: int):
        self.arm, self.run_stage, self.on_test, self.costs, self.workers = arm, run, on_test, costs, workers
        self.now = self.cost = 0.0
        self.epochs = self.judged = 0
        self.trace: list[dict[str, Any]] = []
        self.models: list[Model] = []
        self._queue: list[tuple[float, int, Stage]] = []  # when it ends, its number, the stage
        self._started = 0
        self._rows: list[tuple[int, int, int]] = []  # of the front shown last

    def run(self) -> list[dict[str, Any]]:
        """Until nothing runs and the arm has nothing more to do; the trace."""
        self._fill()
        while self._queue:
            ends = self._queue[0][0]
            self.cost += (ends - self.now) * len(self._queue)  # what the others have done of theirs is spent too
            self.now, _, stage = heapq.heappop(self._queue)
            result = self.run_stage(stage)
            if result.curve is not None:
                self.models.append(Model(stage.line, stage.until, result.curve))
            self.arm.told(stage, result)
            self._show()
            self._fill()
        return self.trace

    def _fill(self) -> None:
        while len(self._queue) < self.workers:
            stage = self.arm.next(self.workers - len(self._queue))
            if stage is None:
                return
            self.epochs += stage.until - stage.since
            self.judged += stage.judge is not None
            self._started += 1
            heapq.heappush(self._queue, (self.now + self.costs.of(stage), self._started, stage))

    def _show(self) -> None:
        rows = self.arm.front()
        named = [(id(row.model.line), row.model.epoch, row.point) for row in rows]
        if named == self._rows:
            return
        self._rows = named
        held_out = [[metrics[name] for name in OBJECTIVES] for metrics in map(self.on_test, rows)]
        self.trace.append(
            {
                "cost": round(self.cost, 4),
                "time": round(self.now, 4),
                "held_out": round(volume(held_out), 6),
                "claimed": round(volume([row.values for row in rows]), 6),
                "points": len(rows),
            }
        )
