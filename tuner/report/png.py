"""Figures of fronts as PNG: the same contents as the page, without interaction.

Drawn by matplotlib without pyplot, so any thread may draw and no display is needed.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.report.html.page import BLUE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}  # plotly's name -> matplotlib's
COLUMNS = 4  # of the grid of small figures, one for each parameter


def png(data: dict) -> bytes:
    """One search as the bytes of a PNG file; ``data`` is `tuner.report.figures.picture_data`'s.

    The front is above; below are, for each method, the effect of each parameter and the parallel coordinates.
    """
    from matplotlib.figure import Figure

    rows = sum(grid_rows(method, 2) for method in data["methods"])
    figure = Figure(figsize=(11, 5.6 + 2.5 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[5] + [2.2] * rows)
    draw_front(figure.add_subplot(grid[0, :]), data)
    draw_methods(figure, grid, data, range(len(data["methods"])), first_row=1, max_rows=2)
    return png_bytes(figure, data)


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

    figure.suptitle(wrapped(f"{data['title']}\n{data['line']}"), fontsize=10)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def wrapped(text: str, width: int = 130) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width))


def draw_front(axes: Axes, data: dict) -> None:
    """The two objectives of every trial, with the region that the front attains."""
    _draw_attained(axes, data)
    for name, look in reversed(data["styles"].items()):
        _draw_trials(axes, [p for p in data["points"] if p["style"] == name], look)
    for p in data["points"]:
        axes.annotate(p["label"], (p["x"], p["y"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
    _draw_papers(axes, [p for p in data["points"] if p["paper"]], data["settings"])
    axes.set(xlabel=data["axis"][0], ylabel=data["axis"][1], xlim=data["range"][0], ylim=data["range"][1])
    axes.grid(alpha=0.3)
    if data["empty"]:
        axes.text(0.5, 0.5, data["gain"], transform=axes.transAxes, ha="center", va="center")
    if data["points"]:
        axes.legend(fontsize=8, loc="best")
    if data["note"]:
        axes.set_title(wrapped(data["note"], 110), fontsize=8)


def _draw_attained(axes: Axes, data: dict) -> None:
    for band in data["bands"]:
        axes.fill(band["x"], band["y"], color=band["colour"], alpha=0.15, linewidth=0)
    for stair in data["stairs"]:
        axes.plot(
            stair["x"], stair["y"], color=stair["colour"], linestyle=DASHES[stair["dash"]], linewidth=1.5, zorder=1
        )


def _draw_trials(axes: Axes, points: list[dict], look: dict) -> None:
    """The points of one style, with error bars where they are means over seeds."""
    if not points:
        return
    colour, marker = look["colour"], look["marker"]
    hollow = look["symbol"].endswith("open") and marker != "x"
    axes.scatter(
        [p["x"] for p in points],
        [p["y"] for p in points],
        s=look["size"] * 5,
        marker=marker,
        zorder=2,
        label=look["name"] if look["legend"] else None,
        alpha=look["opacity"],
        facecolors="none" if hollow else colour,
        edgecolors=None if marker == "x" else colour,
    )
    means = [p for p in points if p["std"]]
    axes.errorbar(
        [p["x"] for p in means],
        [p["y"] for p in means],
        linestyle="none",
        xerr=[p["std"][0] for p in means],
        yerr=[p["std"][1] for p in means],
        ecolor=colour,
        elinewidth=1,
        capsize=2,
        zorder=1,
    )


def _draw_papers(axes: Axes, points: list[dict], name: str) -> None:
    """A star around each method's default setting."""
    if not points:
        return
    axes.scatter(
        [p["x"] for p in points],
        [p["y"] for p in points],
        marker="*",
        s=260,
        facecolors="none",
        edgecolors="black",
        linewidths=1.3,
        zorder=3,
        label=name,
    )


def draw_param(axes: Axes, data: dict, param: dict, *, legend: bool, method: int = 0) -> None:
    """Both objectives of every trial of full budget over one parameter."""
    some = [p for p in data["points"] if p["full"] and p["method"] == method and param["name"] in p["params"]]
    values = [p["params"][param["name"]] for p in some]
    texts = [text for _, text in param["ticks"]]
    xs = [texts.index(str(v)) for v in values] if param["choice"] else values
    for key, colour, marker in (("x", BLUE, "o"), ("y", VERMILLION, "^")):
        axes.scatter(xs, [p[key] for p in some], s=16, color=colour, marker=marker, label=data[key])
    _set_param_axis(axes, param, texts)
    axes.set_ylim(data["paramRange"])
    axes.set_xlabel(param["name"], fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if legend and some:
        axes.legend(fontsize=7)


def _set_param_axis(axes: Axes, param: dict, texts: list[str]) -> None:
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
    some = [p for p in data["points"] if p["full"] and p["method"] == method]
    ends = [
        {"name": data[key], "range": limits, "ticks": [[v, f"{v:.2f}"] for v in limits], "choice": False, "log": False}
        for key, limits in zip("xy", data["range"])
    ]
    low, high = data["range"][1]

    def height(param: dict, value: Any) -> float:
        if param["choice"]:
            value = [text for _, text in param["ticks"]].index(str(value))
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
        f"{data['methods'][method]['name']}: a line is a trial of full budget, brighter is a better "
        f"{data['y']}, thick is on the front, below an axis: no such parameter",
        fontsize=7,
    )
