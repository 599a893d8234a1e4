"""The pictures of a search: one interactive page that needs no network, and the same content as a PNG."""

from __future__ import annotations

import html
import io
import json
import math
import re

from optuna.distributions import CategoricalDistribution

from tuner.history import FAILED, FULL, RUNNING, STOPPED, History, TrialRecord
from tuner.page import TEMPLATE
from tuner.report import SPLIT, counts, fraction, front_of, gain, headline, paper_row, per_class, short
from tuner.spec import SearchSpec

# Okabe and Ito's palette: told apart with any kind of colour vision. Shape differs too.
BLUE, VERMILLION, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#8A8A8A"
AXIS = {
    "robust_acc": f"mean over classes of robust accuracy on {SPLIT} (fraction)",
    "worst_class_robust_acc": f"worst-class robust accuracy on {SPLIT} (fraction)",
    "tail_robust_acc": f"robust accuracy of the worst 30 % of classes on {SPLIT} (fraction)",
    "clean_acc": f"clean accuracy on {SPLIT} (fraction)",
    "worst_class_clean_acc": f"worst-class clean accuracy on {SPLIT} (fraction)",
}
# group: (legend, colour, plotly symbol, matplotlib marker, size)
GROUPS = {
    "front": ("Pareto front", BLUE, "circle", "o", 12),
    FULL: ("full budget", GREY, "circle", "o", 8),
    STOPPED: ("stopped early (last epoch)", ORANGE, "triangle-down-open", "v", 8),
    RUNNING: ("not finished (last epoch)", GREEN, "diamond-open", "D", 8),
    FAILED: ("failed (last epoch)", VERMILLION, "x-thin-open", "x", 8),
}


def picture_data(history: History, spec: SearchSpec) -> dict:
    """All that the pictures show, as plain values: what is drawn twice is worked out once."""
    front, paper, space = front_of(history, spec), paper_row(history, spec), spec.search_space()
    on_front = {r["trial"] for r in front.rows}
    axes = list(spec.objectives[:2])
    x_name, y_name = axes[0], axes[-1] if len(axes) > 1 else "worst_class_robust_acc"
    if len(axes) == 1 and x_name == y_name:
        y_name = "clean_acc"
    points = []
    for record in history.trials.values():
        x, y = record.last.get(x_name), record.last.get(y_name)
        if _finite(x) and _finite(y):
            group = "front" if record.trial in on_front else record.state
            points.append({"trial": record.trial, "x": x, "y": y, "group": group, "params": record.params,
                           "clean": record.last.get("clean_acc"), "epoch": record.last.get("epoch", 0),
                           "text": _hover(record, spec, group, paper),
                           "robust": per_class(record), "clean_per_class": per_class(record, "clean_acc")})
    title, line = headline(spec)
    note = "" if len(spec.objectives) == 2 else (
        f"The search has {len(spec.objectives)} objectives ({', '.join(spec.objectives)}); "
        f"the picture shows {x_name} and {y_name}, so a front member may look dominated here.")
    return {"title": title, "line": f"{line} · {counts(history)}", "gain": gain(front, paper), "note": note,
            "x": x_name, "y": y_name, "points": points, "range": [_range(points, "x"), _range(points, "y")],
            "stairs": len(spec.objectives) == 2, "empty": not front.rows,
            "paper": paper["trial"] if paper else None, "picked": front.knee()["trial"] if front.rows else None,
            "searched": [_param_axis(space.params[n]) for n in space.searched],
            "paramRange": _range([{"v": p[a]} for p in points for a in "xy" if p["group"] in ("front", FULL)], "v")}


def _param_axis(param) -> dict:
    """The searched range as an axis: limits as plotly takes them, three ticks, or one for each choice."""
    dist = param.range
    if isinstance(dist, CategoricalDistribution):
        return {"name": param.name, "choice": True, "log": False, "ticks": [[str(c), str(c)] for c in dist.choices]}
    middle = math.sqrt(dist.low * dist.high) if dist.log else (dist.low + dist.high) / 2
    low, high = (math.log10(dist.low), math.log10(dist.high)) if dist.log else (dist.low, dist.high)
    pad = 0.05 * (high - low) or 0.5
    return {"name": param.name, "choice": False, "log": dist.log, "range": [low - pad, high + pad],
            "ticks": [[v, short(float(v))] for v in dict.fromkeys((dist.low, middle, dist.high))]}


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _range(points: list[dict], axis: str) -> list[float]:
    values = [p[axis] for p in points] or [0.0, 1.0]
    pad = max(0.08 * (max(values) - min(values)), 0.01)
    return [min(values) - pad, max(values) + pad]


def _hover(record: TrialRecord, spec: SearchSpec, group: str, paper: dict | None) -> str:
    is_paper = paper is not None and paper["trial"] == record.trial
    state = "on the front" if group == "front" else GROUPS[group][0]
    lines = [f"<b>trial {record.trial}</b> ({state}{', the paper’s setting' if is_paper else ''})",
             f"epoch {record.last.get('epoch', '-')} of {spec.max_epochs}"]
    names = dict.fromkeys([*spec.objectives, "clean_acc"])
    lines += [f"{name}: {fraction(record.last.get(name))}" for name in names]
    lines += [f"{html.escape(str(k))} = {html.escape(short(v))}" for k, v in record.params.items()]
    return "<br>".join(lines)


def staircase(data: dict) -> tuple[list[float], list[float]]:
    """Corners of the attained region: each front point reaches down and left to the edges of the picture."""
    best = sorted((p["x"], p["y"]) for p in data["points"] if p["group"] == "front")
    if not best or not data["stairs"]:
        return [], []
    (left, _), (bottom, _) = data["range"]
    xs, ys = [left], [best[0][1]]
    for i, (x, y) in enumerate(best):
        xs.append(x)
        ys.append(y)
        xs.append(x)
        ys.append(best[i + 1][1] if i + 1 < len(best) else bottom)
    return xs, ys


def page(data: dict) -> str:
    """A whole HTML page with plotly inside: it opens from a disk, in MLflow's sandboxed frame, without a network."""
    from plotly.offline import get_plotlyjs

    shown = {**data, "axis": [_axis(data["x"]), _axis(data["y"])],
             "groups": {k: v[:3] + v[4:] for k, v in GROUPS.items()},
             "staircase": staircase(data), "colours": {"x": BLUE, "y": VERMILLION, "grey": GREY}}
    # "</" would end the script element, whatever a class or a parameter is called
    values = json.dumps(_plain(shown)).replace("</", "<\\/")
    fields = {"TITLE": html.escape(data["title"]), "LINE": html.escape(data["line"]), "GAIN": html.escape(data["gain"]),
              "NOTE": html.escape(data["note"]), "DATA": values, "PLOTLY": get_plotlyjs()}
    return re.sub("@@([A-Z]+)@@", lambda found: fields[found[1]], TEMPLATE)  # one pass: a value may hold anything


def _axis(name: str) -> str:
    return AXIS.get(name, name)


def _plain(value):
    """The same with NaN and infinity as null: they are not JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def png(data: dict) -> bytes:
    """The same picture without interaction; no pyplot, so it is safe on any thread and needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    searched = data["searched"][:8]
    rows = 1 + math.ceil(len(searched) / 4)
    figure = Figure(figsize=(11, 5.6 + 2.5 * (rows - 1)), layout="constrained")
    grid = figure.add_gridspec(rows, 4, height_ratios=[5] + [2.2] * (rows - 1))
    _draw_front(figure.add_subplot(grid[0, :]), data)
    for i, param in enumerate(searched):
        _draw_param(figure.add_subplot(grid[1 + i // 4, i % 4]), data, param, first=i == 0)
    figure.suptitle(_wrapped(f"{data['title']}\n{data['line']}"), fontsize=10)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def _wrapped(text: str, width: int = 130) -> str:
    import textwrap

    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width))


def _draw_front(axes, data: dict) -> None:
    axes.plot(*staircase(data), color=BLUE, linewidth=1.5, zorder=1)
    for name, (label, colour, _, marker, size) in reversed(GROUPS.items()):
        some = [p for p in data["points"] if p["group"] == name]
        if some:
            hollow = name in (STOPPED, RUNNING)
            axes.scatter([p["x"] for p in some], [p["y"] for p in some], s=size * 5, marker=marker, zorder=2,
                         label=label, facecolors="none" if hollow else colour, edgecolors=None if marker == "x" else colour)
    for p in data["points"]:
        if p["group"] == "front":
            axes.annotate(str(p["trial"]), (p["x"], p["y"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
        if p["trial"] == data["paper"]:
            axes.scatter(p["x"], p["y"], marker="*", s=260, facecolors="none", edgecolors="black", linewidths=1.3,
                         zorder=3, label="the paper's setting")
    axes.set(xlabel=_axis(data["x"]), ylabel=_axis(data["y"]), xlim=data["range"][0], ylim=data["range"][1])
    axes.grid(alpha=0.3)
    if data["empty"]:
        axes.text(0.5, 0.5, data["gain"], transform=axes.transAxes, ha="center", va="center")
    if data["points"]:
        axes.legend(fontsize=8, loc="best")
    if data["note"]:
        axes.set_title(_wrapped(data["note"], 110), fontsize=8)


def _draw_param(axes, data: dict, param: dict, first: bool) -> None:
    some = [p for p in data["points"] if p["group"] in ("front", FULL) and param["name"] in p["params"]]
    at = {text: i for i, (_, text) in enumerate(param["ticks"])}
    xs = [at[str(p["params"][param["name"]])] if param["choice"] else p["params"][param["name"]] for p in some]
    for key, colour, marker in (("x", BLUE, "o"), ("y", VERMILLION, "^")):
        axes.scatter(xs, [p[key] for p in some], s=16, color=colour, marker=marker, label=data[key])
    if param["choice"]:
        axes.set(xlim=(-0.5, len(at) - 0.5))
        axes.set_xticks(range(len(at)), list(at))
    else:
        if param["log"]:
            axes.set_xscale("log")
        axes.set(xlim=[10 ** v for v in param["range"]] if param["log"] else param["range"])
        axes.set_xticks([v for v, _ in param["ticks"]], [t for _, t in param["ticks"]])
        axes.minorticks_off()
    axes.set_ylim(data["paramRange"])
    axes.set_xlabel(param["name"], fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if first and some:
        axes.legend(fontsize=7)
