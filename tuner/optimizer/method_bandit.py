"""Which of several methods gets the next trial: a bandit whose reward is the growth of the front of all methods.

The share ``EVEN`` of the trials is spread evenly over the methods, so that none is written off. The others are drawn in
proportion to a method's reward: the hypervolume that the front of all methods would lose without its ``RECENT`` latest
trials (their exclusive hypervolume), per epoch that these trained. It does not depend on which method came first, and
it fades when a method finds nothing new.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from tuner.results.pareto import outer, volume

RECENT = 4
EVEN = 0.3
Point = tuple[float, ...]


class RewardWindow:
    """The points of a method's trials, or of their previews, those of the ``RECENT`` latest apart from the older ones.

    A trial without a point, one that diverged say, counts with the epochs that it trained.
    """

    def __init__(self) -> None:
        self.older: list[Point] = []  # non-dominated among themselves
        self.recent: deque[tuple[int, Sequence[Point]]] = deque()

    def add(self, epochs: int, points: Sequence[Point]) -> None:
        """A trial has ended after so many epochs; ``points``: its curve, empty where it has none for a front."""
        self.recent.append((epochs, points))
        if len(self.recent) > RECENT:
            _, left = self.recent.popleft()
            self.older = outer([*self.older, *left])

    @property
    def points(self) -> list[Point]:
        return [*self.older, *(point for _, points in self.recent for point in points)]

    @property
    def epochs(self) -> int:
        return max(1, sum(epochs for epochs, _ in self.recent))


def rates(methods: dict[str, RewardWindow]) -> dict[str, float]:
    """Method -> exclusive hypervolume of its latest trials, per epoch that they trained."""
    whole = volume([point for window in methods.values() for point in window.points])
    found = {}
    for name, window in methods.items():
        others = [point for other in methods.values() if other is not window for point in other.points]
        found[name] = max(0.0, whole - volume([*others, *window.older])) / window.epochs
    return found


def shares(methods: dict[str, RewardWindow]) -> dict[str, float]:
    """The probability of each method to get the next trial; they add up to 1."""
    rate, even = rates(methods), 1 / len(methods)
    total = sum(rate.values())
    return {name: EVEN * even + (1 - EVEN) * (value / total if total else even) for name, value in rate.items()}


def choose(methods: dict[str, RewardWindow], seed: int, number: int) -> str:
    """The method of trial ``number``: a draw that depends on the seed, the number and the results alone."""
    share = shares(methods)
    return random.Random(f"{seed} {number}").choices(list(share), list(share.values()))[0]
