"""The figures of a comparison: the data of the page (`tuner.report.html.front_page`), and the PNG."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from tuner.escape import one_line
from tuner.report.comparison import Comparison, Group, attained, cells, majority, sentences
from tuner.report.figures import frame_data, label_points, plane, points_of, search_axes, staircase, style
from tuner.report.format import judging, per_class, value_text
from tuner.report.html.page import BLACK, BLUE, GREEN, PURPLE, VERMILLION
from tuner.report.png import COLUMNS, DASHES, draw_front, draw_methods, grid_rows, png_bytes
from tuner.report.text import SPLIT
from tuner.results.pareto import Front, row_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour, shape and dash of each method. The cycles have different lengths, so no two of the first 60 methods look the
# same; without colour, no two of the first 12.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, BLACK)
SHAPES = (
    ("circle", "o"),
    ("triangle-up", "^"),
    ("square", "s"),
    ("diamond", "D"),
    ("triangle-down", "v"),
    ("hexagon", "h"),
)
IN_PNG = 6  # as many methods have their own parameters and bars in the PNG; the page shows all


def comparison_data(comparison: Comparison) -> dict:
    """All values that the page and the PNG show of these searches."""
    styles = {}
    for i, group in enumerate(comparison.groups):
        styles |= _styles(i, group)
    data = frame_data(comparison.objectives, _points(comparison))
    label_points(data, _members(comparison))
    surfaces = [_surface(i, g, data["range"]) for i, g in enumerate(comparison.groups)] if data["two"] else []
    combined = Front(comparison.objectives, tuple(comparison.combined))
    knee = combined.knee() if combined.rows else None
    title, line = _headline(comparison)
    return {
        **data,
        "title": title,
        "line": line,
        "gain": " ".join(sentences(comparison)),
        "table": cells(comparison),
        "empty": not comparison.combined,
        "styles": styles,
        "comparison": True,
        "bands": [band for _, bands in surfaces for band in bands],
        "stairs": [stair for stair, _ in surfaces],
        "picked": f"{knee['search']} {row_label(knee)}" if knee else None,
        "members": _members(comparison),
        "methods": [
            {"name": g.label, "searched": search_axes(g.searches[0].spec, [search.history for search in g.searches])}
            for g in comparison.groups
        ],
    }


def _points(comparison: Comparison) -> list[dict]:
    """The points of the trials of full budget of all groups."""
    axes = plane(comparison.objectives)
    points = []
    for i, group in enumerate(comparison.groups):
        for name, spec, history, front in group.searches:
            for point in points_of(spec, history, front, axes, search=name):
                if point["full"] and history.trials[point["trial"]].method == spec.method:
                    point["method"], point["style"] = i, f"{i} {'front' if point['front'] else 'rest'}"
                    points.append(point)
    return points


def _members(comparison: Comparison) -> list[str]:
    """The ids of the points of the combined front, in its order."""
    return [f"{row['search']} {row_label(row)}" for row in comparison.combined]


def _headline(comparison: Comparison) -> tuple[str, str]:
    """A title (methods and data) and the line below it (split, budget, attack)."""
    specs = [search.spec for g in comparison.groups for search in g.searches]
    first = specs[0]
    models, budgets = (
        ", ".join(dict.fromkeys(map(str, values)))
        for values in ([s.model for s in specs], [s.max_epochs for s in specs])
    )
    eps = value_text(judging(first, "eps"))
    groups = comparison.groups
    names = ", ".join(g.label + (f", {len(g.searches)} seeds" if len(g.searches) > 1 else "") for g in groups)
    return (
        f"{len(groups)} method{'s' if len(groups) > 1 else ''} on {first.dataset}, imbalance "
        f"{first.imbalance}, model {models}",
        f"{names} · split {SPLIT} · budget {budgets} epochs, trials of full budget only · "
        f"{first.threat_model.shown} attack, eps {eps} "
        f"of a pixel range of 1, {judging(first, 'eval_attack')} steps each of CE-PGD and margin-PGD",
    )


def _styles(i: int, group: Group) -> dict[str, dict]:
    colour, (symbol, marker) = COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]
    return {
        f"{i} front": style(f"{group.label}: front", colour, symbol, marker, 11, group=group.label),
        f"{i} rest": style(
            f"{group.label}: other trials", colour, symbol, marker, 6, group=group.label, opacity=0.35, legend=False
        ),
    }


def _surface(i: int, group: Group, limits: list[list[float]]) -> tuple[dict, list[dict]]:
    """The staircase that more than half of the group's seeds attain, and a band from that of one to that of all seeds.

    There is no band for a single seed.
    """
    fronts = [[tuple(row[n] for n in s.front.objectives) for row in s.front.rows] for s in group.searches]
    number, look = len(fronts), {"colour": COLOURS[i % len(COLOURS)], "group": group.label}
    name = group.label + (
        f": attained by {majority(number)} of {number} seeds (band: 1 to {number})" if number > 1 else ": attained"
    )
    xs, ys = staircase(attained(fronts, majority(number)), limits)
    stair = {"x": xs, "y": ys, "name": name, "dash": list(DASHES)[i % len(DASHES)], "legend": True, **look}
    if number == 1:
        return stair, []
    (left, _), (bottom, _) = limits
    outer = staircase(attained(fronts, 1), limits)
    inner = staircase(attained(fronts, number), limits)
    inner = inner if inner[0] else ([left], [bottom])  # a seed without any finished trial
    return stair, [{"x": outer[0] + inner[0][::-1], "y": outer[1] + inner[1][::-1], **look}] if outer[0] else []


def comparison_png(comparison: Comparison, data: dict) -> bytes:
    """Fronts and hypervolumes; accuracy of each class at each method's knee; effect of each method's first parameters.

    ``data`` is `comparison_data`'s.
    """
    from matplotlib.figure import Figure

    searched = [(i, m) for i, m in enumerate(data["methods"]) if m["searched"]][:IN_PNG]
    rows = sum(grid_rows(method, 1) for _, method in searched)
    figure = Figure(figsize=(12, 8.4 + 2.4 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, COLUMNS, height_ratios=[5.2, 2.4] + [2.2] * rows)
    draw_front(figure.add_subplot(grid[0, :3]), data)
    _draw_hypervolumes(figure.add_subplot(grid[0, 3]), comparison)
    _draw_classes(figure.add_subplot(grid[1, :]), comparison)
    draw_methods(figure, grid, data, [i for i, _ in searched], first_row=2, max_rows=1)
    return png_bytes(figure, data)


def _draw_hypervolumes(axes: Axes, comparison: Comparison) -> None:
    groups = comparison.groups
    for i, group in enumerate(groups):
        values = group.hypervolumes
        spread = statistics.stdev(values) if len(values) > 1 else None
        axes.barh(i, statistics.fmean(values), xerr=spread, capsize=4, color=COLOURS[i % len(COLOURS)], alpha=0.75)
    axes.set_yticks(range(len(groups)), [g.label for g in groups], fontsize=8)
    axes.invert_yaxis()
    seeds = "\n(error bar: standard deviation over seeds)" if any(len(g.searches) > 1 for g in groups) else ""
    axes.set_xlabel(f"hypervolume on {SPLIT} from ({', '.join('0' for _ in comparison.objectives)}){seeds}", fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _draw_classes(axes: Axes, comparison: Comparison) -> None:
    """One bar per class for the knee of each method's best search (by hypervolume), of at most `IN_PNG` methods."""
    bars = []
    for i, group in enumerate(comparison.groups):
        best = max(group.searches, key=lambda search: search.front.hypervolume)
        if best.front.rows:
            knee = best.front.knee()
            bars.append((i, f"{group.label}: {best.name} {row_label(knee)}", per_class(best.history.metrics_of(knee))))
    bars = bars[:IN_PNG]
    classes = list(dict.fromkeys(c for *_, accuracies in bars for c in accuracies))
    hatches = ("", "//", "..", "xx", "\\\\", "--")
    width = 0.8 / max(1, len(bars))
    for k, (i, label, accuracies) in enumerate(bars):
        axes.bar(
            [x + (k - (len(bars) - 1) / 2) * width for x in range(len(classes))],
            [accuracies.get(c, math.nan) for c in classes],
            width,
            label=label,
            color=COLOURS[i % len(COLOURS)],
            hatch=hatches[k],
            edgecolor="white",
            alpha=0.85,
        )
    axes.set_xticks(range(len(classes)), [one_line(name) for name in classes], fontsize=8)
    axes.set_xlabel("class, at each method's knee", fontsize=9)
    axes.set_ylabel(f"robust accuracy on {SPLIT}\n(fraction)", fontsize=9)
    if bars:
        axes.legend(fontsize=7, ncols=3)
