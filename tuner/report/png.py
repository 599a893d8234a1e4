"""Figures of fronts as PNG: the same contents as the page, without interaction.

Drawn by matplotlib without pyplot, so any thread may draw and no display is needed.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner import escape
from tuner.report.html.page import BLUE, GREY, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}  # plotly's name -> matplotlib's
COLUMNS = 4  # of the grid of small figures, one for each parameter


def png(data: dict) -> bytes:
    """One search's front as the bytes of a PNG file; ``data`` is `tuner.report.figures.picture_data`'s.

    It has to be understood in five seconds at the size of a README; what each parameter does is on the page.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    draw_front(axes, data)
    if data["two"] and not data["empty"]:
        _draw_ends(axes, data)
    return png_bytes(figure, data)


def _draw_ends(axes: Axes, data: dict) -> None:
    """What the two ends of the front are best in."""
    members = [p for p in data["points"] if p["front"]]
    for key, name, at, place in (
        ("x", data["short"][0], "right", (0, -16)),
        ("y", data["short"][1], "right", (-10, 8)),
    ):
        end = max(members, key=lambda p: (p[key], p["x"] + p["y"]))
        axes.annotate(
            f"best {name}",
            (end["x"], end["y"]),
            xytext=place,
            textcoords="offset points",
            ha=at,
            fontsize=10,
            color=BLUE,
            fontweight="bold",
        )


def grid_rows(method: dict, max_rows: int) -> int:
    """Rows that a method takes in the grid: at most ``max_rows`` of single parameters, and the parallel coordinates."""
    return min(max_rows, math.ceil(len(method["searched"]) / COLUMNS)) + 1 if method["searched"] else 0


def draw_methods(
    figure: Figure, grid: GridSpec, data: dict, shown: Sequence[int], *, first_row: int, max_rows: int
) -> None:
    """The effect of the parameters of the methods number ``shown``, from ``first_row`` of the grid on."""
    for number in shown:
        method = data["methods"][number]
        for i, param in enumerate(method["searched"][: max_rows * COLUMNS]):
            axes = figure.add_subplot(grid[first_row + i // COLUMNS, i % COLUMNS])
            draw_param(axes, data, param, legend=i == 0, method=number)
            if i == 0 and len(data["methods"]) > 1:
                axes.set_ylabel(method["name"], fontsize=9)
        first_row += grid_rows(method, max_rows)
        if method["searched"]:
            draw_parallel(figure.add_subplot(grid[first_row - 1, :]), data, number)


def png_bytes(figure: Figure, data: dict) -> bytes:
    """Draw the figure under its title; returns the PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure.suptitle(wrapped(data["title"]), fontsize=12, fontweight="bold")
    figure.supxlabel(wrapped(f"{data['line']}\n{data['note']}"), fontsize=8, color="0.35")
    for item in figure.findobj(Text):  # a class may be named $x$, which is no formula, or with control characters
        item.set_parse_math(False)
        item.set_text(escape.printable(item.get_text()))
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def wrapped(text: str, width: int = 130) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width))


def draw_front(axes: Axes, data: dict) -> None:
    """The two objectives of every trial over its offsets, the references, and the region that the front attains."""
    _draw_attained(axes, data)
    _draw_curves(axes, data)
    for name, look in reversed(data["styles"].items()):
        _draw_trials(axes, [p for p in data["points"] if p["style"] == name], look)
    for p in data["points"]:
        axes.annotate(p["label"], (p["x"], p["y"]), xytext=(7, 6), textcoords="offset points", fontsize=9, zorder=5)
    _draw_references(axes, data)
    axes.set(xlim=data["range"][0], ylim=data["range"][1])
    axes.set_xlabel(data["axis"][0], fontsize=11)
    axes.set_ylabel(data["axis"][1], fontsize=11)
    axes.grid(alpha=0.25)
    if data["empty"]:
        axes.text(0.5, 0.5, data["gain"], transform=axes.transAxes, ha="center", va="center")
    if data["points"]:
        handles, labels = axes.get_legend_handles_labels()
        columns = 2 if max(map(len, labels)) > 40 else 4
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "borderaxespad": 0.3}
        axes.legend(handles[::-1], labels[::-1], fontsize=9, ncols=columns, **above)


def _draw_attained(axes: Axes, data: dict) -> None:
    for band in data["bands"]:
        axes.fill(band["x"], band["y"], color=band["colour"], alpha=0.15, linewidth=0, label=band.get("name"), zorder=0)
    for stair in data["stairs"]:
        axes.plot(
            stair["x"], stair["y"], color=stair["colour"], linestyle=DASHES[stair["dash"]], linewidth=2.2, zorder=3
        )


def _draw_curves(axes: Axes, data: dict) -> None:
    """The trials as thin lines over their offsets: those without a point of the front are faint."""
    best = [curve["front"] for curve in data["curves"]]
    named = best.index(max(best)) if best else -1  # a line of the front stands for all in the legend
    for i, curve in enumerate(data["curves"]):
        axes.plot(
            curve["x"],
            curve["y"],
            color=BLUE if curve["front"] else GREY,
            alpha=0.6 if curve["front"] else 0.3,
            linewidth=1,
            zorder=1,
            label=data["curveName"] if i == named else None,
        )


def _draw_references(axes: Axes, data: dict) -> None:
    """Lines over offsets, with a larger mark where there are none; in a comparison a star around each paper's."""
    for reference in data["references"]:
        points = reference["points"]
        axes.plot(
            [p["x"] for p in points],
            [p["y"] for p in points],
            color=reference["colour"],
            linestyle=DASHES[reference["dash"]],
            linewidth=1.8,
            marker=reference["marker"],
            markersize=4,
            zorder=4,
        )
        plain = [p for p in points if not p["tau"]]
        axes.plot(
            [p["x"] for p in plain],
            [p["y"] for p in plain],
            color=reference["colour"],
            linestyle=DASHES[reference["dash"]],
            marker=reference["marker"],
            markersize=14 if reference["marker"] == "*" else 9,
            zorder=6,
            label=reference["long"],
        )
    papers = [p for p in data["points"] if p["paper"]] if not data["references"] else []
    if papers:
        axes.scatter(
            [p["x"] for p in papers],
            [p["y"] for p in papers],
            s=320,
            marker="*",
            facecolors="none",
            edgecolors="black",
            linewidths=1.3,
            zorder=4,
            label=data["paperName"],
        )


def _draw_trials(axes: Axes, points: list[dict], look: dict) -> None:
    """The points of one style, with error bars where they are means over seeds."""
    if not points:
        return
    colour, marker, top = look["colour"], look["marker"], 5 if look["legend"] and look["opacity"] == 1 else 2
    hollow = look["symbol"].endswith("open") and marker != "x"
    axes.scatter(
        [p["x"] for p in points],
        [p["y"] for p in points],
        s=0.55 * look["size"] ** 2,
        marker=marker,
        zorder=top,
        label=look["name"] if look["legend"] else None,
        alpha=look["opacity"],
        facecolors="none" if hollow else colour,
        edgecolors=None if marker == "x" else colour,
    )
    _draw_error_bars(axes, [p for p in points if p["std"]], look)


def _draw_error_bars(axes: Axes, means: list[dict], look: dict) -> None:
    axes.errorbar(
        [p["x"] for p in means],
        [p["y"] for p in means],
        linestyle="none",
        xerr=[p["std"][0] for p in means],
        yerr=[p["std"][1] for p in means],
        ecolor=look["colour"],
        elinewidth=1,
        capsize=2,
        alpha=look["opacity"],
        zorder=1,
    )


def draw_param(axes: Axes, data: dict, param: dict, *, legend: bool, method: int = 0) -> None:
    """Both objectives of every preview, or trial of full budget, over one parameter."""
    some = [p for p in data["effects"] if p["method"] == method and param["name"] in p["params"]]
    values = [p["params"][param["name"]] for p in some]
    choices, texts = zip(*param["ticks"])
    xs = [choices.index(v) for v in values] if param["choice"] else values
    for key, colour, marker in (("x", BLUE, "o"), ("y", VERMILLION, "^")):
        axes.scatter(xs, [p[key] for p in some], s=16, color=colour, marker=marker, label=data[key])
    _set_param_axis(axes, param, texts)
    axes.set_ylim(data["paramRange"])
    axes.set_xlabel(param["name"], fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if legend and some:
        axes.legend(fontsize=7)


def _set_param_axis(axes: Axes, param: dict, texts: Sequence[str]) -> None:
    if param["choice"]:
        axes.set_xticks(range(len(texts)), texts)
    else:
        if param["log"]:
            axes.set_xscale("log")
        axes.set_xticks([value for value, _ in param["ticks"]], texts)
        axes.minorticks_off()
    axes.set_xlim([10**v for v in param["range"]] if param["log"] else param["range"])


def draw_parallel(axes: Axes, data: dict, method: int) -> None:
    """Parallel coordinates: one axis for each searched parameter, then one for each objective.

    The line of a trial without a parameter passes below that axis.
    """
    from matplotlib import colormaps

    searched, nowhere = data["methods"][method]["searched"], -0.15
    some = [p for p in data["effects"] if p["method"] == method]
    ends = [
        {"name": data[key], "range": limits, "ticks": [[v, f"{v:.2f}"] for v in limits], "choice": False, "log": False}
        for key, limits in zip("xy", data["whole"])
    ]
    low, high = data["whole"][1]
    thick = "trained in full" if data["effectsOf"] == "previews" else "is on the front"

    def height(param: dict, value: Any) -> float:
        if param["choice"]:
            value = [choice for choice, _ in param["ticks"]].index(value)
        bottom, top = param["range"]
        return ((math.log10(value) if param["log"] else value) - bottom) / (top - bottom)

    for p in sorted(some, key=lambda p: p["y"]):
        heights = [height(s, p["params"][s["name"]]) if s["name"] in p["params"] else nowhere for s in searched]
        heights += [height(end, p[key]) for end, key in zip(ends, "xy")]
        axes.plot(
            range(len(heights)),
            heights,
            color=colormaps["cividis"]((p["y"] - low) / (high - low)),
            linewidth=2 if p["front"] else 0.8,
        )
    for i, param in enumerate([*searched, *ends]):
        axes.axvline(i, color="0.6", linewidth=0.8, zorder=0)
        for value, text in param["ticks"]:
            axes.annotate(
                text,
                (i, height(param, value)),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=6,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )
    axes.set(ylim=(nowhere - 0.05, 1.05), xlim=(-0.2, len(searched) + len(ends) - 0.4), yticks=[])
    axes.set_xticks(range(len(searched) + len(ends)), [s["name"] for s in [*searched, *ends]], fontsize=7)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        f"{data['methods'][method]['name']}: lines are {data['effectsOf']}, brighter is a better "
        f"{data['y']}, thick {thick}, below an axis: no such parameter",
        fontsize=7,
    )
