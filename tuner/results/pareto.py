"""The Pareto front: non-dominated points, their hypervolume and their knee.

A point with a missing or NaN value is ignored everywhere. Exact duplicates do not dominate each other. A point that is
not strictly better than the reference in every objective adds no hypervolume (Zitzler and Thiele, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.results.trial_record import NO_SEARCH

Point = Sequence[float | None]


def _valid(points: Sequence[Point]) -> dict[int, list[float]]:
    """The points without a missing or NaN value, by their index."""
    numbers = {i: [v for v in row if v is not None and not math.isnan(v)] for i, row in enumerate(points)}
    return {i: row for i, row in numbers.items() if len(row) == len(points[i])}


def _dominates(a: Sequence[float], b: Sequence[float], maximise: Sequence[bool]) -> bool:
    pairs = [(x, y) if up else (-x, -y) for x, y, up in zip(a, b, maximise)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def nondominated(points: Sequence[Point], maximise: Sequence[bool]) -> list[int]:
    """The indices, ascending, of the points that no other dominates; every copy of a duplicate is kept.

    ``points``: (n, objectives); ``maximise``: for each objective, whether larger is better. The points are visited from
    best to worst (lexicographically), where none is dominated by a later one, so that each is compared only with the
    front found so far.
    """
    valid = _valid(points)
    costs = {i: [-v if up else v for v, up in zip(row, maximise)] for i, row in valid.items()}
    order = sorted(costs, key=costs.__getitem__)
    front: list[int] = []
    for i in order:
        if len(maximise) == 2 and front:  # of two objectives the last found is the best in the second: it decides
            free = costs[i][1] < costs[front[-1]][1] or costs[i] == costs[front[-1]]
        else:
            free = not any(_dominates(valid[j], valid[i], maximise) for j in front)
        if free:
            front.append(i)
    return sorted(front)


def hypervolume(points: Sequence[Point], reference: Sequence[float], maximise: Sequence[bool]) -> float:
    """The volume between the points and ``reference``; exact, for any number of objectives.

    ``points``: (n, objectives); ``reference``: (objectives,); the unit is the product of the objectives' units.
    """
    gains = [
        [(v - r) if up else (r - v) for v, r, up in zip(row, reference, maximise)] for row in _valid(points).values()
    ]
    return _volume([g for g in gains if min(g) > 0])


def _volume(gains: list[Sequence[float]]) -> float:
    """The volume of the union of the boxes [0, g]: slices along the last axis, each by recursion over the others."""
    if not gains:
        return 0.0
    if len(gains[0]) == 1:
        return max(g[0] for g in gains)
    total, upper, widest = 0.0, sorted(gains, key=lambda g: -g[-1]), 0.0
    for i, g in enumerate(upper):
        below = upper[i + 1][-1] if i + 1 < len(upper) else 0.0
        widest = max(widest, g[0])
        if g[-1] > below:
            across = widest if len(g) == 2 else _volume([h[:-1] for h in upper[: i + 1]])
            total += (g[-1] - below) * across
    return total


def outer(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The points that no other dominates, all objectives maximised."""
    return [points[i] for i in nondominated(points, [True] * len(points[0]))] if points else []


def volume(points: Sequence[Sequence[float]]) -> float:
    """`hypervolume` above 0 of points without a missing value, all objectives maximised; 0 without points."""
    return _volume([point for point in points if all(v > 0 for v in point)])


@dataclass(frozen=True)
class Front:
    """The non-dominated rows of trials that trained equally long, best first objective first. All objectives are
    maximised. A row is a dict with at least ``trial`` and the objectives (see `TrialRecord.row`)."""

    objectives: tuple[str, ...]
    rows: tuple[dict, ...]

    @classmethod
    def of(cls, rows: Sequence[dict], objectives: Sequence[str]) -> Front:
        """The front of ``rows``, which may include dominated ones."""
        points = [[row.get(name) for name in objectives] for row in rows]
        best = [rows[i] for i in nondominated(points, [True] * len(objectives))]
        return cls(tuple(objectives), tuple(sorted(best, key=lambda r: [-r[n] for n in objectives])))

    @property
    def reference(self) -> list[float]:
        """The reference point of the hypervolume: 0 in every objective (accuracies are fractions)."""
        return [0.0] * len(self.objectives)

    @property
    def hypervolume(self) -> float:
        """The hypervolume above ``reference``."""
        points = [[row[n] for n in self.objectives] for row in self.rows]
        return hypervolume(points, self.reference, [True] * len(self.objectives))

    def knee(self) -> dict:
        """The row with the largest sum of objectives, each scaled to [0, 1] over the front: the one farthest from the
        plane through the front's extremes. ``ValueError`` on an empty front."""
        low = {n: min(chosen_by(r, n) for r in self.rows) for n in self.objectives}
        span = {n: max(chosen_by(r, n) for r in self.rows) - low[n] or 1.0 for n in self.objectives}
        return max(self.rows, key=lambda r: sum((chosen_by(r, n) - low[n]) / span[n] for n in self.objectives))

    def pick(self, which: str | int) -> dict:
        """The row of ``knee``, ``average`` (best first objective), ``worst`` (best last objective) or of a label
        (`row_label`); a trial's number alone is enough where one row of it is on the front.

        ``ValueError`` if the front is empty or the row is not on it.
        """
        if not self.rows:
            raise ValueError("the front is empty: no trial has finished its full budget, or none satisfies constraints")
        if which == "knee":
            return self.knee()
        if which in ("average", "worst"):
            name = self.objectives[0] if which == "average" else self.objectives[-1]
            return max(self.rows, key=lambda r: chosen_by(r, name))
        named = [row for row in self.rows if str(which) in (row_label(row), str(row["trial"]))]
        exact = [row for row in named if str(which) == row_label(row)]
        if len(exact or named) == 1:
            return (exact or named)[0]
        on_front = ", ".join(row_label(r) for r in self.rows)
        problem = f"trial {which!r} is on the front {len(named)} times" if named else f"{which!r} is not on the front"
        raise ValueError(f"{problem}; choose knee, worst, average or one of: {on_front}")


def chosen_by(row: dict, objective: str) -> float:
    """The value by which rows are picked: drawn towards what similar settings have, where that is known, since the best
    of many measured values is best by luck too."""
    return row.get("shrunk", {}).get(objective, row[objective])


def row_label(row: dict) -> str:
    """A row's name: its trial's number, with offsets ``12@0.75``, where 0.75 is their tau."""
    name = "no_search" if row["trial"] == NO_SEARCH else str(row["trial"])
    tau = row.get("offsets", {}).get("tau", 0)
    return f"{name}@{tau:g}" if tau else name
