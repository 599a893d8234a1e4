"""Several searches against each other: one combined front, one reference point, who holds which part of it.

A search of several methods counts once for each. Searches that differ in nothing but their seed are repetitions of
one method: hypervolumes become mean and standard deviation, and fronts become attainment surfaces (Fonseca and
Fleming, 1996): what so many of the repetitions reach.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.errors import UsageError
from tuner.home import Home
from tuner.report.format import SHORT, fraction, short
from tuner.results.history import History
from tuner.results.pareto import Front, hypervolume, nondominated
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.summary import SPLIT
from tuner.spec.search_spec import SearchSpec

Corner = tuple[float, float]
EPS_SEARCHED = "searched"


@dataclass
class Group:
    """One method: a search, or several that differ in their seed alone. ``label`` is the method's name; where two
    groups share that, the first search's name is added."""

    label: str
    searches: list[tuple[str, SearchSpec, History, Front]] = field(default_factory=list)
    on_front: list[tuple[str, dict]] = field(default_factory=list)  # its part of the combined front: (search, row)
    holds: list[Corner] = field(default_factory=list)  # from .. to of the first objective, where it has the best second
    exclusive_hypervolume: float = 0.0  # of the combined hypervolume, what no other group attains

    @property
    def hypervolumes(self) -> list[float]:
        return [front.hypervolume for *_, front in self.searches]


@dataclass
class Overlay:
    """``reference`` is the point that all hypervolumes are measured from; ``combined`` are rows with ``search``."""

    objectives: tuple[str, ...]
    groups: list[Group]
    combined: list[dict]
    reference: list[float]
    hypervolume: float
    split: str = SPLIT


def overlay(runs: Sequence[SearchRun]) -> Overlay:
    """Compare searches; ``UsageError`` where their values cannot be compared."""
    _check_comparable(runs)
    objectives = runs[0].spec.objectives
    groups = _grouped(runs)
    rows = [(g, name, row) for g in groups for name, _, _, front in g.searches for row in front.rows]
    points, reference = [[row[n] for n in objectives] for *_, row in rows], [0.0] * len(objectives)
    best, up = nondominated(points, [True] * len(objectives)), [True] * len(objectives)
    best.sort(key=lambda i: [-v for v in points[i]])
    total = hypervolume(points, reference, up)
    for i in best:
        group, name, row = rows[i]
        group.on_front.append((name, row))
    for group in groups:
        others = [point for point, (g, *_) in zip(points, rows) if g is not group]
        group.exclusive_hypervolume = total - hypervolume(others, reference, up)
    if len(objectives) == 2:
        _share_out([(tuple(points[i]), rows[i][0]) for i in best])
    combined = [{"search": rows[i][1], "method": rows[i][0].label, **rows[i][2]} for i in best]
    return Overlay(objectives, groups, combined, reference, total)


def compare(*names: str, home: Home | None = None) -> Overlay:
    """`overlay` of searches by name."""
    home = home or Home()
    return overlay([load_search(home, name) for name in dict.fromkeys(names)])


def _check_comparable(runs: Sequence[SearchRun]) -> None:
    """Same images, same attack, same objectives; otherwise a higher value would not mean a better method."""
    first, said = runs[0].name, _conditions(runs[0].spec)
    for other in runs[1:]:
        for what, value in _conditions(other.spec).items():
            if value != said[what]:
                raise UsageError(
                    f"searches {first!r} and {other.name!r} cannot be overlaid: {what} {said[what]!r} and {value!r}"
                )


def _conditions(spec: SearchSpec) -> dict[str, Any]:
    training, searched = spec.training(), spec.shown_space().searched
    return {
        "dataset": spec.dataset,
        "imbalance": spec.imbalance,
        "split": SPLIT,
        "objectives": ", ".join(spec.objectives),
        "attack radius eps": EPS_SEARCHED if "eps" in searched else training.eps,
        "attack steps of the evaluation": training.eval_attack,
    }


def _grouped(runs: Sequence[SearchRun]) -> list[Group]:
    groups: dict[str, Group] = {}
    for run in runs:
        spec, rows = run.spec, run.history.rows(run.spec.objectives, run.spec.goal)
        for lane in spec.lanes:
            key = repr({k: v for k, v in lane.identity().items() if k != "seed"})
            front = Front.of([row for row in rows if row["method"] == lane.method], spec.objectives)
            groups.setdefault(key, Group(lane.method)).searches.append((run.name, lane, run.history, front))
    methods = [g.label for g in groups.values()]
    for group in groups.values():
        if methods.count(group.label) > 1:
            group.label += f" ({group.searches[0][0]})"
    return list(groups.values())


def _share_out(best: list[tuple[Corner, Group]]) -> None:
    """Whoever asks for an average up to a corner's gets the best worst class there; equal corners share their part."""
    low = 0.0
    for corner in sorted({c for c, _ in best}):
        for group in {id(g): g for c, g in best if c == corner}.values():
            if group.holds and group.holds[-1][1] == low:
                group.holds[-1] = (group.holds[-1][0], corner[0])
            else:
                group.holds.append((low, corner[0]))
        low = corner[0]


def attained(fronts: Sequence[Sequence[Corner]], by: int) -> list[Corner]:
    """Corners of what at least ``by`` of the ``fronts`` attain, two objectives, both maximised."""
    corners, nothing = [], float("-inf")
    for x in sorted({x for front in fronts for x, _ in front}, reverse=True):
        heights = [max((v for u, v in front if u >= x), default=nothing) for front in fronts]
        y = sorted(heights, reverse=True)[by - 1]
        if y > (corners[-1][1] if corners else nothing):
            corners.append((x, y))
    return corners[::-1]


def most(number: int) -> int:
    """More than half of the repetitions."""
    return number // 2 + 1


# ---- for people and programs ---------------------------------------------------------------------------------------


def cells(found: Overlay) -> tuple[list[str], list[list[str]]]:
    """One row for each method."""
    asked, two = SHORT.get(found.objectives[0], found.objectives[0]), len(found.objectives) == 2
    header = ["method", "searches", "hypervolume", "adds", f"holds ({asked})", "trials on the combined front"]
    rows = []
    for group in found.groups:
        held = ", ".join(f"{low:.3f} .. {high:.3f}" if low else f"up to {high:.3f}" for low, high in group.holds)
        trials = ", ".join(f"{name} {row['trial']}" for name, row in group.on_front)
        rows.append(
            [
                group.label,
                ", ".join(name for name, *_ in group.searches),
                mean_std(group.hypervolumes),
                f"{group.exclusive_hypervolume:.4f}",
                held or "-",
                trials or "-",
            ]
        )
    shown = [i for i in range(len(header)) if two or i != 4]
    return [header[i] for i in shown], [[row[i] for i in shown] for row in rows]


def mean_std(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def sentences(found: Overlay) -> list[str]:
    """How to read the table, and what to beware of."""
    first, *rest = (SHORT.get(n, n) for n in found.objectives)
    lines = [
        f"Hypervolume from the common reference point ({', '.join('0' for _ in found.objectives)}); the combined "
        f'front has {found.hypervolume:.4f}. "Adds": what of it no other method attains.'
    ]
    if len(found.objectives) == 2:
        lines.append(f"A method holds the range of {first} for which its trial has the best {rest[0]}.")
    seeds = {tuple(sorted(spec.seed for _, spec, *_ in g.searches)) for g in found.groups}
    if max(map(len, seeds)) > 1:
        lines.append("± is the standard deviation over seeds.")
    if len(seeds) > 1:
        lines.append(
            "The methods ran with different seeds, so on different validation images, and more seeds are more "
            "chances to be on the combined front."
        )
    budgets = {spec.max_epochs for g in found.groups for _, spec, *_ in g.searches}
    if len(budgets) > 1:
        lines.append(f"Budgets differ ({', '.join(map(str, sorted(budgets)))} epochs): not an equal contest.")
    return lines + [
        f"All values are of split {SPLIT}, by which these trials were selected; `tuner verify` tests them "
        "on other images."
    ]


def combined_cells(found: Overlay) -> tuple[list[str], list[list[str]]]:
    """One row for each trial of the combined front."""
    names = list(dict.fromkeys([*found.objectives, "clean_acc"]))
    rows = [
        [
            row["method"],
            row["search"],
            str(row["trial"]),
            *(fraction(row.get(n)) for n in names),
            " ".join(f"{k}={short(v)}" for k, v in row["params"].items()),
        ]
        for row in found.combined
    ]
    return ["method", "search", "trial", *(SHORT.get(n, n) for n in names), "parameters"], rows


def as_json(found: Overlay) -> dict[str, dict[str, Any]]:
    """By search: what `tuner front --json` says of it as ``overlay`` where several are compared."""
    said: dict[str, dict[str, Any]] = {}
    for group in found.groups:
        for name, spec, _, front in group.searches:
            mine = said.setdefault(name, {"combined_hypervolume": found.hypervolume, "methods": []})
            mine["methods"].append(
                {
                    "method": group.label,
                    "seed": spec.seed,
                    "hypervolume": front.hypervolume,
                    "adds": group.exclusive_hypervolume,
                    "holds": [list(part) for part in group.holds],
                    "on_combined_front": [row["trial"] for where, row in group.on_front if where == name],
                }
            )
    return said
