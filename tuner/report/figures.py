"""The contents of a front's figure as plain values: the page and the PNG both draw them."""

from __future__ import annotations

import html
import math
from typing import Any

from optuna.distributions import CategoricalDistribution

from search_spaces.param import Param
from search_spaces.provenance import PAPER, legend_label, paper_label
from tuner.report.format import fraction, per_class, value_text
from tuner.report.html.page import BLUE, GREEN, GREY, ORANGE, VERMILLION
from tuner.report.text import SPLIT, gain, headline
from tuner.results.fronts import counts
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.references import paper_row
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import NATURAL, shown_metrics
from tuner.spec.search_spec import SearchSpec

AXIS = {
    NATURAL: f"natural average of robust accuracy on {SPLIT} (fraction)",
    "robust_acc": f"mean over classes of robust accuracy on {SPLIT} (fraction)",
    "worst_class_robust_acc": f"worst-class robust accuracy on {SPLIT} (fraction)",
    "tail_robust_acc": f"robust accuracy of the worst 30 % of classes on {SPLIT} (fraction)",
    "clean_acc": f"clean accuracy on {SPLIT} (fraction)",
    "worst_class_clean_acc": f"worst-class clean accuracy on {SPLIT} (fraction)",
}


def style(
    name: str,
    colour: str,
    symbol: str,
    marker: str,
    size: int,
    *,
    group: str = "",
    opacity: float = 1.0,
    legend: bool = True,
) -> dict:
    """How a group of points is drawn.

    ``symbol`` is plotly's name of the shape, ``marker`` matplotlib's; ``size`` is the diameter in pixels on the page.
    """
    return {
        "name": name,
        "colour": colour,
        "symbol": symbol,
        "marker": marker,
        "size": size,
        "group": group or name,
        "opacity": opacity,
        "legend": legend,
    }


STYLES = {
    "front": style("Pareto front", BLUE, "circle", "o", 12),
    TrialState.FINISHED: style("full budget", GREY, "circle", "o", 8),
    TrialState.STOPPED: style("stopped early (last epoch)", ORANGE, "triangle-down-open", "v", 8),
    TrialState.RUNNING: style("not finished (last epoch)", GREEN, "diamond-open", "D", 8),
    TrialState.FAILED: style("failed (last epoch)", VERMILLION, "x-thin-open", "x", 8),
}


def picture_data(run: SearchRun) -> dict:
    """All values that the page and the PNG of one search show."""
    spec, history, front = run.spec, run.history, run.front()
    points = points_of(spec, history, front, plane(spec.objectives))
    for point in points:
        point["style"] = "front" if point["front"] else point["state"]
        point["label"] = str(point["trial"]) if point["front"] else ""
    title, line = headline(spec)
    data = frame_data(spec.objectives, points)
    corners = [(p["x"], p["y"]) for p in points if p["front"]] if data["two"] else []
    xs, ys = staircase(corners, data["range"])
    return {
        **data,
        "title": title,
        "line": f"{line} · {counts(history)}",
        "gain": gain(front, next(iter(run.paper_rows()), None)),
        "empty": not front.rows,
        "styles": STYLES,
        "bands": [],
        "table": None,
        "stairs": [
            {
                "x": xs,
                "y": ys,
                "name": "attained by the front",
                "colour": BLUE,
                "dash": "solid",
                "group": "stairs",
                "legend": True,
            }
        ],
        "picked": str(front.knee()["trial"]) if front.rows else None,
        "methods": [{"name": lane.method, "searched": search_axes(lane)} for lane in spec.lanes],
    }


def plane(objectives: tuple[str, ...]) -> tuple[str, str]:
    """The metrics on the two axes of the figure."""
    if len(objectives) > 1:
        return objectives[0], objectives[1]
    return objectives[0], "clean_acc" if objectives[0] == "worst_class_robust_acc" else "worst_class_robust_acc"


def points_of(spec: SearchSpec, history: History, front: Front, axes: tuple[str, str], search: str = "") -> list[dict]:
    """One point for each trial that has reported finite values of ``axes``, at its last epoch.

    ``paper`` says whether it has the default setting, ``setting`` what that is called.

    ``search``: its name, where the figure shows several searches. A point has ``std`` where it is a mean over seeds.
    """
    papers = {row["trial"] for lane in spec.lanes if (row := paper_row(lane, history))}
    on_front, points = {r["trial"] for r in front.rows}, []
    for record in history.trials.values():
        metrics, std = history.judged(record.trial), history.row(record.trial, axes).get("std")
        x, y = (metrics.get(name) for name in axes)
        if _finite(x) and _finite(y):
            setting = paper_label(record.method, record.params) if record.trial in papers else ""
            points.append(
                {
                    "id": f"{search} {record.trial}".strip(),
                    "search": search,
                    "trial": record.trial,
                    "method": spec.methods.index(record.method) if record.method in spec.methods else 0,
                    "x": x,
                    "y": y,
                    "std": std and [std[name] for name in axes],
                    "state": record.state,
                    "full": record.state == TrialState.FINISHED,
                    "front": record.trial in on_front,
                    "paper": bool(setting),
                    "setting": setting,
                    "params": record.params,
                    "robust": per_class(metrics),
                    "text": _hover(spec, history, record, search, record.trial in on_front, setting),
                }
            )
    return points


def frame_data(objectives: tuple[str, ...], points: list[dict]) -> dict:
    """The axes and limits of a figure with these points, and a note where it shows only two of the objectives."""
    x_name, y_name = plane(objectives)
    note = (
        ""
        if len(objectives) == 2
        else (
            f"The search has {len(objectives)} objectives ({', '.join(objectives)}); "
            f"the picture shows {x_name} and {y_name}, so a front member may look dominated here."
        )
    )
    return {
        "x": x_name,
        "y": y_name,
        "axis": [AXIS.get(x_name, x_name), AXIS.get(y_name, y_name)],
        "points": points,
        "settings": _settings_name([p["setting"] for p in points if p["paper"]]),
        "range": [_range([p["x"] for p in points]), _range([p["y"] for p in points])],
        "note": note,
        "two": len(objectives) == 2,
        "colours": {"x": BLUE, "y": VERMILLION, "grey": GREY},
        "paramRange": _range([p[a] for p in points for a in "xy" if p["full"]]),
    }


def _settings_name(labels: list[str]) -> str:
    """What the legend calls the default settings with these labels; empty where there are none."""
    if len(labels) > 1:
        return "the papers' settings" if set(labels) == {PAPER} else "the default settings"
    return legend_label("".join(labels))


def search_axes(spec: SearchSpec) -> list[dict]:
    """One axis for each searched parameter, in order."""
    space = spec.shown_space()
    return [_param_axis(space.params[name]) for name in space.searched]


def _param_axis(param: Param) -> dict:
    """The searched range as an axis.

    ``range`` is what plotly expects: exponents of ten on a logarithmic axis, positions of categories for a choice.
    ``ticks`` are (value, text) pairs: one for each choice, else at most three.
    """
    dist = param.range
    if isinstance(dist, CategoricalDistribution):
        return {
            "name": param.name,
            "choice": True,
            "log": False,
            "range": [-0.5, len(dist.choices) - 0.5],
            "ticks": [[str(c), str(c)] for c in dist.choices],
        }
    middle = math.sqrt(dist.low * dist.high) if dist.log else (dist.low + dist.high) / 2
    low, high = (math.log10(dist.low), math.log10(dist.high)) if dist.log else (dist.low, dist.high)
    pad = 0.05 * (high - low) or 0.5
    return {
        "name": param.name,
        "choice": False,
        "log": dist.log,
        "range": [low - pad, high + pad],
        "ticks": [[v, value_text(float(v))] for v in dict.fromkeys((dist.low, middle, dist.high))],
    }


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _range(values: list[float]) -> list[float]:
    values = values or [0.0, 1.0]
    pad = max(0.08 * (max(values) - min(values)), 0.01)
    return [min(values) - pad, max(values) + pad]


def _hover(spec: SearchSpec, history: History, record: TrialRecord, search: str, on_front: bool, setting: str) -> str:
    state = "on the front" if on_front else STYLES[record.state]["name"]
    name = html.escape(f"{search} trial {record.trial}".strip())
    lines = [
        f"<b>{name}</b> ({', '.join(filter(None, (state, setting)))})",
        f"{record.method}, epoch {record.last.get('epoch', '-')} of {spec.max_epochs}",
    ]
    row, names = history.row(record.trial, spec.objectives), shown_metrics(spec.objectives)
    std = row.get("std", {})
    lines += [f"{n}: {fraction(row[n])}" + (f" ± {fraction(std[n])}" if n in std else "") for n in names]
    lines += [f"mean ± standard deviation of seeds {', '.join(map(str, row['seeds']))}"] if "seeds" in row else []
    lines += [f"{html.escape(str(k))} = {html.escape(value_text(v))}" for k, v in record.params.items()]
    return "<br>".join(lines)


def staircase(corners: list[tuple[float, float]], limits: list[list[float]]) -> tuple[list[float], list[float]]:
    """The border of the region that non-dominated ``corners`` dominate, as x and y of a line.

    It ends at the left and bottom edges of the figure; ``limits`` are [x, y], each (low, high).
    """
    if not corners:
        return [], []
    best = sorted(corners)
    (left, _), (bottom, _) = limits
    xs, ys = [left], [best[0][1]]
    for i, (x, y) in enumerate(best):
        xs += [x, x]
        ys += [y, best[i + 1][1] if i + 1 < len(best) else bottom]
    return xs, ys
