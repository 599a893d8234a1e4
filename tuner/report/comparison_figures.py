"""The pictures of an overlay: the data of `tuner.report.html.front_template`'s page, and a PNG."""

from __future__ import annotations

import math
import statistics

from tuner.report.comparison import EPS_SEARCHED, Group, Overlay, attained, cells, most, sentences
from tuner.report.figures import frame_data, plane, points_of, search_axes, staircase, style
from tuner.report.format import per_class
from tuner.report.html.page import BLACK, BLUE, GREEN, PURPLE, VERMILLION
from tuner.report.png import COLUMNS, DASHES, draw_front, draw_methods, finished, rows_of
from tuner.report.text import SPLIT
from tuner.results.pareto import Front

# One look for each method. The cycles have different lengths: 60 methods before two look the same, without colour 12.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, BLACK)
SHAPES = (
    ("circle", "o"),
    ("triangle-up", "^"),
    ("square", "s"),
    ("diamond", "D"),
    ("triangle-down", "v"),
    ("hexagon", "h"),
)
IN_PNG = 6  # methods with parameters and bars of their own in the PNG; the page has all


def picture_data(found: Overlay) -> dict:
    """All that the page and the PNG show of these searches."""
    axes, best = plane(found.objectives), {(row["search"], row["trial"]) for row in found.combined}
    points, styles = [], {}
    for i, group in enumerate(found.groups):
        styles |= _styles(i, group)
        for name, spec, history, front in group.searches:
            for point in points_of(spec, history, front, axes, search=name):
                if point["full"] and history.trials[point["trial"]].method == spec.method:
                    point["method"], point["style"] = i, f"{i} {'front' if point['front'] else 'rest'}"
                    point["label"] = point["id"] if (name, point["trial"]) in best else ""
                    points.append(point)
    data = frame_data(found.objectives, points)
    surfaces = [_surface(i, g, data["range"]) for i, g in enumerate(found.groups)] if data["two"] else []
    every = Front(found.objectives, tuple(found.combined))
    knee = every.knee() if every.rows else None
    title, line = _headline(found)
    return {
        **data,
        "title": title,
        "line": line,
        "gain": " ".join(sentences(found)),
        "table": cells(found),
        "empty": not found.combined,
        "styles": styles,
        "overlay": True,
        "bands": [band for _, bands in surfaces for band in bands],
        "stairs": [stair for stair, _ in surfaces],
        "picked": f"{knee['search']} {knee['trial']}" if knee else None,
        "methods": [{"name": g.label, "searched": search_axes(g.searches[0][1])} for g in found.groups],
    }


def _headline(found: Overlay) -> tuple[str, str]:
    """Methods and data; split, budget, attack."""
    specs = [spec for g in found.groups for _, spec, *_ in g.searches]
    first, training = specs[0], specs[0].training()
    models, budgets = (
        ", ".join(dict.fromkeys(map(str, values)))
        for values in ([s.model for s in specs], [s.max_epochs for s in specs])
    )
    eps = EPS_SEARCHED if "eps" in first.shown_space().searched else f"{training.eps:.3g}"
    names = ", ".join(g.label + (f", {len(g.searches)} seeds" if len(g.searches) > 1 else "") for g in found.groups)
    return (
        f"{len(found.groups)} method{'s' if len(found.groups) > 1 else ''} on {first.dataset}, imbalance "
        f"{first.imbalance}, model {models}",
        f"{names} · split {SPLIT} · budget {budgets} epochs, trials of full budget alone · L-inf attack, eps {eps} "
        f"of a pixel range of 1, {training.eval_attack} steps each of CE-PGD and margin-PGD",
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
    """The stairs that most of the group's seeds attain; between those that one and those that all attain, a band."""
    fronts = [[tuple(row[n] for n in front.objectives) for row in front.rows] for *_, front in group.searches]
    number, look = len(fronts), {"colour": COLOURS[i % len(COLOURS)], "group": group.label}
    name = group.label + (
        f": attained by {most(number)} of {number} seeds (band: 1 to {number})" if number > 1 else ": attained"
    )
    xs, ys = staircase(attained(fronts, most(number)), limits)
    stair = {"x": xs, "y": ys, "name": name, "dash": list(DASHES)[i % len(DASHES)], "legend": True, **look}
    if number == 1:
        return stair, []
    (left, _), (bottom, _) = limits
    outer = staircase(attained(fronts, 1), limits)
    inner = staircase(attained(fronts, number), limits)
    inner = inner if inner[0] else ([left], [bottom])  # a seed without any finished trial
    return stair, [{"x": outer[0] + inner[0][::-1], "y": outer[1] + inner[1][::-1], **look}] if outer[0] else []


def overlay_png(found: Overlay, data: dict) -> bytes:
    """Fronts and hypervolumes; each class at each method's knee; what each method's first parameters buy."""
    from matplotlib.figure import Figure

    searched = [(i, m) for i, m in enumerate(data["methods"]) if m["searched"]][:IN_PNG]
    rows = sum(rows_of(method, 1) for _, method in searched)
    figure = Figure(figsize=(12, 8.4 + 2.4 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, COLUMNS, height_ratios=[5.2, 2.4] + [2.2] * rows)
    draw_front(figure.add_subplot(grid[0, :3]), data)
    _draw_volumes(figure.add_subplot(grid[0, 3]), found)
    _draw_classes(figure.add_subplot(grid[1, :]), found)
    draw_methods(figure, grid, data, [i for i, _ in searched], first=2, most=1)
    return finished(figure, data)


def _draw_volumes(axes, found: Overlay) -> None:
    for i, group in enumerate(found.groups):
        values = group.hypervolumes
        spread = statistics.stdev(values) if len(values) > 1 else None
        axes.barh(i, statistics.fmean(values), xerr=spread, capsize=4, color=COLOURS[i % len(COLOURS)], alpha=0.75)
    axes.set_yticks(range(len(found.groups)), [g.label for g in found.groups], fontsize=8)
    axes.invert_yaxis()
    seeds = "\n(error bar: standard deviation over seeds)" if any(len(g.searches) > 1 for g in found.groups) else ""
    axes.set_xlabel(f"hypervolume on {SPLIT} from ({', '.join('0' for _ in found.objectives)}){seeds}", fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _draw_classes(axes, found: Overlay) -> None:
    """Bars of the knee of each method's best search."""
    shown = []
    for i, group in enumerate(found.groups):
        name, _, history, front = max(group.searches, key=lambda s: s[3].hypervolume)
        if front.rows:
            trial = front.knee()["trial"]
            shown.append((i, f"{group.label}: {name} {trial}", per_class(history.judged(trial))))
    classes = list(dict.fromkeys(c for *_, found_in in shown[:IN_PNG] for c in found_in))
    hatches = ("", "//", "..", "xx", "\\\\", "--")
    width = 0.8 / max(1, len(shown[:IN_PNG]))
    for k, (i, label, values) in enumerate(shown[:IN_PNG]):
        axes.bar(
            [x + (k - (len(shown[:IN_PNG]) - 1) / 2) * width for x in range(len(classes))],
            [values.get(c, math.nan) for c in classes],
            width,
            label=label,
            color=COLOURS[i % len(COLOURS)],
            hatch=hatches[k],
            edgecolor="white",
            alpha=0.85,
        )
    axes.set_xticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("class, at each method's knee", fontsize=9)
    axes.set_ylabel(f"robust accuracy on {SPLIT}\n(fraction)", fontsize=9)
    if shown:
        axes.legend(fontsize=7, ncols=3)
