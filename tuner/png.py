"""The pictures of fronts as PNG: the same content as the page, without interaction.

Matplotlib without pyplot, so it is safe on any thread and needs no display.
"""

from __future__ import annotations

import io
import math
import textwrap

from tuner.page import BLUE, VERMILLION

DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
COLUMNS = 4


def png(data: dict) -> bytes:
    """One search: its front above, what each searched parameter buys below."""
    from matplotlib.figure import Figure

    searched = data["methods"][0]["searched"][:2 * COLUMNS]
    rows = 1 + math.ceil(len(searched) / COLUMNS)
    figure = Figure(figsize=(11, 5.6 + 2.5 * (rows - 1)), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS, height_ratios=[5] + [2.2] * (rows - 1))
    draw_front(figure.add_subplot(grid[0, :]), data)
    for i, param in enumerate(searched):
        draw_param(figure.add_subplot(grid[1 + i // COLUMNS, i % COLUMNS]), data, param, legend=i == 0)
    return finished(figure, data)


def finished(figure, data: dict) -> bytes:
    """The figure under its title, as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.suptitle(wrapped(f"{data['title']}\n{data['line']}"), fontsize=10)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def wrapped(text: str, width: int = 130) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width))


def draw_front(axes, data: dict) -> None:
    for band in data["bands"]:
        axes.fill(band["x"], band["y"], color=band["colour"], alpha=0.15, linewidth=0)
    for stair in data["stairs"]:
        axes.plot(stair["x"], stair["y"], color=stair["colour"], linestyle=DASHES[stair["dash"]], linewidth=1.5,
                  zorder=1)
    for name, look in reversed(data["styles"].items()):
        some = [p for p in data["points"] if p["style"] == name]
        if some:
            colour, marker = look["colour"], look["marker"]
            hollow = look["symbol"].endswith("open") and marker != "x"
            axes.scatter([p["x"] for p in some], [p["y"] for p in some], s=look["size"] * 5, marker=marker, zorder=2,
                         label=look["name"] if look["legend"] else None, alpha=look["opacity"],
                         facecolors="none" if hollow else colour, edgecolors=None if marker == "x" else colour)
            axes.errorbar([p["x"] for p in some if p["std"]], [p["y"] for p in some if p["std"]], linestyle="none",
                          xerr=[p["std"][0] for p in some if p["std"]], yerr=[p["std"][1] for p in some if p["std"]],
                          ecolor=colour, elinewidth=1, capsize=2, zorder=1)
    for p in data["points"]:
        axes.annotate(p["label"], (p["x"], p["y"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
    papers = [p for p in data["points"] if p["paper"]]
    if papers:
        axes.scatter([p["x"] for p in papers], [p["y"] for p in papers], marker="*", s=260, facecolors="none",
                     edgecolors="black", linewidths=1.3, zorder=3,
                     label="the papers' settings" if len(papers) > 1 else "the paper's setting")
    axes.set(xlabel=data["axis"][0], ylabel=data["axis"][1], xlim=data["range"][0], ylim=data["range"][1])
    axes.grid(alpha=0.3)
    if data["empty"]:
        axes.text(0.5, 0.5, data["gain"], transform=axes.transAxes, ha="center", va="center")
    if data["points"]:
        axes.legend(fontsize=8, loc="best")
    if data["note"]:
        axes.set_title(wrapped(data["note"], 110), fontsize=8)


def draw_param(axes, data: dict, param: dict, *, legend: bool, method: int = 0) -> None:
    some = [p for p in data["points"] if p["full"] and p["method"] == method and param["name"] in p["params"]]
    at = {text: i for i, (_, text) in enumerate(param["ticks"])}
    xs = [at[str(p["params"][param["name"]])] if param["choice"] else p["params"][param["name"]] for p in some]
    for key, colour, marker in (("x", BLUE, "o"), ("y", VERMILLION, "^")):
        axes.scatter(xs, [p[key] for p in some], s=16, color=colour, marker=marker, label=data[key])
    if param["choice"]:
        axes.set_xticks(range(len(at)), list(at))
    else:
        if param["log"]:
            axes.set_xscale("log")
        axes.set_xticks([v for v, _ in param["ticks"]], [t for _, t in param["ticks"]])
        axes.minorticks_off()
    axes.set(xlim=[10 ** v for v in param["range"]] if param["log"] else param["range"], ylim=data["paramRange"])
    axes.set_xlabel(param["name"], fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if legend and some:
        axes.legend(fontsize=7)
