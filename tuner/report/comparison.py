"""Compare searches: one combined front, one reference point, and which method holds which part of the front.

A search of several methods counts once for each of them. Searches that differ only in their seed are repetitions of
one method: their hypervolumes become a mean and a standard deviation, and their fronts become attainment surfaces
(Fonseca and Fleming, 1996), i.e. the region that at least a given number of repetitions reaches. One of the same seed,
such as a clone, is no repetition: it stands for itself.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tuner.errors import UsageError
from tuner.home import Home
from tuner.report.format import fraction, judging, seed_text, short_label, value_text
from tuner.results.history import History
from tuner.results.pareto import Front, hypervolume, nondominated, row_label
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.summary import SPLIT
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import shown_metrics
from tuner.spec.search_spec import SearchSpec

Corner = tuple[float, float]


class ComparedSearch(NamedTuple):
    """One search, reduced to one of its methods: ``spec`` and ``front`` are that method's alone."""

    name: str
    spec: SearchSpec
    history: History
    front: Front


@dataclass
class Group:
    """One method: a search, or several that differ only in their seed.

    ``label`` is the method's name, with the first search's name added where two groups share a method.
    """

    label: str
    searches: list[ComparedSearch] = field(default_factory=list)
    on_front: list[tuple[str, dict]] = field(default_factory=list)  # its part of the combined front: (search, row)
    holds: list[Corner] = field(default_factory=list)  # (from, to) of the first objective, where its second is best
    exclusive_hypervolume: float = 0.0  # of the combined hypervolume, what no other group attains

    @property
    def hypervolumes(self) -> list[float]:
        return [search.front.hypervolume for search in self.searches]


@dataclass
class Comparison:
    """All hypervolumes are measured from ``reference``; ``combined`` has a front row, with ``search``, per member."""

    objectives: tuple[str, ...]
    groups: list[Group]
    combined: list[dict]
    reference: list[float]
    hypervolume: float
    split: str = SPLIT


def compare_runs(runs: Sequence[SearchRun]) -> Comparison:
    """Compare searches; ``UsageError`` where their values are not comparable."""
    _check_comparable(runs)
    objectives = runs[0].spec.objectives
    groups = _grouped(runs)
    rows = [(group, search.name, row) for group in groups for search in group.searches for row in search.front.rows]
    points, reference = [[row[n] for n in objectives] for *_, row in rows], [0.0] * len(objectives)
    maximise = [True] * len(objectives)
    best = sorted(nondominated(points, maximise), key=lambda i: [-v for v in points[i]])
    total = hypervolume(points, reference, maximise)
    for i in best:
        group, name, row = rows[i]
        group.on_front.append((name, row))
    for group in groups:
        others = [point for point, (g, *_) in zip(points, rows) if g is not group]
        group.exclusive_hypervolume = total - hypervolume(others, reference, maximise)
    if len(objectives) == 2:
        _assign_held_ranges([(tuple(points[i]), rows[i][0]) for i in best])
    combined = [{"search": rows[i][1], "method": rows[i][0].label, **rows[i][2]} for i in best]
    return Comparison(objectives, groups, combined, reference, total)


def compare(*names: str, home: Home | None = None) -> Comparison:
    """`compare_runs` of the searches with these names; ``UsageError`` also for a name that does not exist."""
    home = home or Home()
    return compare_runs([load_search(home, name) for name in dict.fromkeys(names)])


def _check_comparable(runs: Sequence[SearchRun]) -> None:
    """Same images, same attack, same objectives; otherwise a higher value would not mean a better method."""
    own = next((run for run in runs if run.spec.own_attacks and len(runs) > 1), None)
    if own:
        raise UsageError(
            f"search {own.name!r} cannot be overlaid: it varies {' and '.join(own.spec.own_attacks)}, so each of its "
            "trials is judged by an attack of its own"
        )
    first, expected = runs[0].name, _conditions(runs[0].spec)
    for other in runs[1:]:
        for what, value in _conditions(other.spec).items():
            if value != expected[what]:
                raise UsageError(
                    f"searches {first!r} and {other.name!r} cannot be overlaid: {what} {expected[what]!r} and {value!r}"
                )


def _conditions(spec: SearchSpec) -> dict[str, Any]:
    return {
        "dataset": spec.dataset,
        "image size": spec.image_size,
        "groups": spec.groups,
        "imbalance": spec.imbalance,
        "split": SPLIT,
        "val_per_class": spec.val_per_class,
        "val_fraction": spec.val_fraction,
        "objectives": ", ".join(spec.objectives),
        "threat model": spec.threat_model.name,
        "attack radius eps": judging(spec, "eps"),
        "attack steps of the evaluation": judging(spec, "eval_attack"),
    }


def _grouped(runs: Sequence[SearchRun]) -> list[Group]:
    groups: dict[tuple[str, int], Group] = {}
    known = Counter[tuple[str, int]]()
    for run in runs:
        spec, rows = run.spec, run.history.rows(run.spec.objectives, run.spec.goal)
        for lane in spec.lanes:
            same = repr({k: v for k, v in lane.identity().items() if k != "seed"})
            key = same, known[same, lane.seed]
            known[same, lane.seed] += 1
            own = [row for row in rows if row["method"] == lane.method]
            # whose knee is the one that `--pick knee` takes; of one of several methods nothing is assessed
            front = run.assessed_front() if spec.lanes == (lane,) else Front.of(own, spec.objectives)
            search = ComparedSearch(run.name, lane, run.history, front)
            groups.setdefault(key, Group(lane.method)).searches.append(search)
    methods = [g.label for g in groups.values()]
    for group in groups.values():
        if methods.count(group.label) > 1:
            group.label += f" ({group.searches[0].name})"
    return list(groups.values())


def _assign_held_ranges(best: list[tuple[Corner, Group]]) -> None:
    """Split the axis of the first objective at the corners of the front; each range goes to the group best there.

    Where at least so much of the first objective is required, the best second objective is that of the corner at the
    upper end of the range. Groups with equal corners hold the range together.
    """
    low = 0.0
    for corner in sorted({c for c, _ in best}):
        for group in {id(g): g for c, g in best if c == corner}.values():
            if group.holds and group.holds[-1][1] == low:
                group.holds[-1] = (group.holds[-1][0], corner[0])
            else:
                group.holds.append((low, corner[0]))
        low = corner[0]


def attained(fronts: Sequence[Sequence[Corner]], at_least: int) -> list[Corner]:
    """Corners of the region that ``at_least`` so many of the ``fronts`` attain: two objectives, both maximised."""
    corners, nothing = [], float("-inf")
    for x in sorted({x for front in fronts for x, _ in front}, reverse=True):
        heights = [max((v for u, v in front if u >= x), default=nothing) for front in fronts]
        y = sorted(heights, reverse=True)[at_least - 1]
        if y > (corners[-1][1] if corners else nothing):
            corners.append((x, y))
    return corners[::-1]


def majority(number: int) -> int:
    """The smallest count that is more than half of ``number``."""
    return number // 2 + 1


# ---- as tables, sentences and JSON -----------------------------------------------------------------------------------


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row for each method; the held range only where there are two objectives."""
    two = len(comparison.objectives) == 2
    first = short_label(comparison.objectives[0])
    header = ["method", "searches", "hypervolume", "adds", f"holds ({first})", "trials on the combined front"]
    rows = []
    for group in comparison.groups:
        held = ", ".join(f"{low:.3f} .. {high:.3f}" if low else f"up to {high:.3f}" for low, high in group.holds)
        trials = ", ".join(f"{name} {row_label(row)}" for name, row in group.on_front)
        rows.append(
            [
                group.label,
                ", ".join(search.name for search in group.searches),
                mean_std(group.hypervolumes),
                f"{group.exclusive_hypervolume:.4f}",
                held or "-",
                trials or "-",
            ]
        )
    shown = [i for i in range(len(header)) if two or i != 4]
    return [header[i] for i in shown], [[row[i] for i in shown] for row in rows]


def mean_std(values: list[float]) -> str:
    """``0.1720 ± 0.0028``; without the sample standard deviation where there is one value."""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def sentences(comparison: Comparison) -> list[str]:
    """How to read the table, and what limits the comparison."""
    first, *rest = (short_label(n) for n in comparison.objectives)
    lines = [
        f"Hypervolume from the common reference point ({', '.join('0' for _ in comparison.objectives)}); the combined "
        f'front has {comparison.hypervolume:.4f}. "Adds": the part of it that no other method attains.'
    ]
    if len(comparison.objectives) == 2:
        lines.append(f"A method holds the range of {first} for which its trial has the best {rest[0]}.")
    seeds = {tuple(sorted(search.spec.seed for search in g.searches)) for g in comparison.groups}
    if max(map(len, seeds)) > 1:
        lines.append("± is the standard deviation over seeds.")
    if len(seeds) > 1:
        lines.append(
            "The methods ran with different seeds, so on different validation images; a method with more seeds has "
            "more chances to be on the combined front."
        )
    judged = sorted({n for g in comparison.groups for search in g.searches for n in _images_of(search)})
    if len(judged) > 1:
        lines.append(
            f"The methods were judged on {' and '.join(map(str, judged))} images of {SPLIT}: where offsets of single "
            "classes are fitted, half of them fit these."
        )
    budgets = {search.spec.max_epochs for g in comparison.groups for search in g.searches}
    if len(budgets) > 1:
        lines.append(f"Budgets differ ({', '.join(map(str, sorted(budgets)))} epochs), so the comparison is not equal.")
    return [
        *lines,
        *_bounded(comparison),
        f"All values are of split {SPLIT}, on which these trials were selected; `tuner verify` tests them "
        "on other images.",
    ]


def _bounded(comparison: Comparison) -> list[str]:
    """Which models alone may be on a search's front, where it has constraints."""
    searches = [search for group in comparison.groups for search in group.searches if search.spec.constraint]
    bounds = {search.name: ", ".join(search.spec.constraint) for search in searches}
    return [f"Of {name} only models with {bound} are on a front." for name, bound in bounds.items()]


def _images_of(search: ComparedSearch) -> set[int]:
    """On how many images the trials of a search that trained in full were judged."""
    finished = search.history.with_state(TrialState.FINISHED)
    return {sum(trial.curve.points[0].count) for trial in finished if trial.curve}


def combined_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row for each row of the combined front."""
    names = shown_metrics(comparison.objectives)
    several = len({row.get("seed") for row in comparison.combined}) > 1  # settings of one may differ in it alone
    rows = [
        [
            row["method"],
            row["search"],
            row_label(row),
            *([seed_text(row)] if several else []),
            *(fraction(row.get(n)) for n in names),
            " ".join(f"{k}={value_text(v)}" for k, v in row["params"].items()),
        ]
        for row in comparison.combined
    ]
    seed = ["seed"] if several else []
    return ["method", "search", "trial", *seed, *(short_label(n) for n in names), "parameters"], rows


def as_json(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Search name -> what `tuner front --json` adds to it as ``overlay`` where several searches are compared."""
    by_search: dict[str, dict[str, Any]] = {}
    for group in comparison.groups:
        for search in group.searches:
            own = [row for name, row in group.on_front if name == search.name]
            entry = by_search.setdefault(search.name, {"combined_hypervolume": comparison.hypervolume, "methods": []})
            entry["methods"].append(
                {
                    "method": group.label,
                    "seed": search.spec.seed,
                    "hypervolume": search.front.hypervolume,
                    "adds": group.exclusive_hypervolume,
                    "holds": [list(part) for part in group.holds],
                    "on_combined_front": list(dict.fromkeys(row["trial"] for row in own)),
                    "rows_on_combined_front": [row_label(row) for row in own],
                }
            )
    return by_search
