"""Which of several methods gets the next trial: the one whose trials make the front of all methods grow.

Three trials in ten go evenly to all methods, so that none is written off. The others are drawn in proportion to what a
method's ``RECENT`` latest trials add to the front of all, in hypervolume per epoch that they trained: what the front
would lose without them. That is a method's own doing, whoever came first, and it fades when a method finds no more.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from tuner.results.pareto import hypervolume, nondominated

RECENT = 4
EVEN = 0.3
Point = tuple[float, ...]


class RewardWindow:
    """A method's finished points, the latest trials apart from the others. A trial without a point cost its epochs."""

    def __init__(self):
        self.older: list[Point] = []  # non-dominated among themselves
        self.recent: deque[tuple[int, Point | None]] = deque()
        self.trials = 0

    def add(self, epochs: int, point: Point | None) -> None:
        self.trials += 1
        self.recent.append((epochs, point))
        if len(self.recent) > RECENT:
            _, left = self.recent.popleft()
            self.older = pareto_points([*self.older, *([left] if left else [])])

    @property
    def latest(self) -> list[Point]:
        return [point for _, point in self.recent if point]

    @property
    def epochs(self) -> int:
        return max(1, sum(epochs for epochs, _ in self.recent))


def pareto_points(points: Sequence[Point]) -> list[Point]:
    return [points[i] for i in nondominated(points, [True] * len(points[0]))] if points else []


def volume(points: Sequence[Point]) -> float:
    """Down to 0 in every objective."""
    return hypervolume(pareto_points(points), [0.0] * len(points[0]), [True] * len(points[0])) if points else 0.0


def rates(methods: dict[str, RewardWindow]) -> dict[str, float]:
    """Hypervolume that the front of all would lose without a method's latest trials, per epoch that they trained."""
    points = {name: [*growth.older, *growth.latest] for name, growth in methods.items()}
    whole = volume([p for of_one in points.values() for p in of_one])
    found = {}
    for name, growth in methods.items():
        others = [p for other, of_one in points.items() if other != name for p in of_one]
        found[name] = max(0.0, whole - volume([*others, *growth.older])) / growth.epochs
    return found


def shares(methods: dict[str, RewardWindow]) -> dict[str, float]:
    """The chance of each method to get the next trial."""
    rate, even = rates(methods), 1 / len(methods)
    total = sum(rate.values())
    return {name: EVEN * even + (1 - EVEN) * (value / total if total else even) for name, value in rate.items()}


def choose(methods: dict[str, RewardWindow], seed: int, number: int) -> str:
    """The method of trial ``number``; the same whenever it is asked with the same results."""
    share = shares(methods)
    return random.Random(f"{seed} {number}").choices(list(share), list(share.values()))[0]
