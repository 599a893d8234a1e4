"""The contents of a front's figure as plain values: the page and the PNG both draw them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from optuna.distributions import CategoricalDistribution

from search_spaces.param import Param
from trainables.offsets import Offsets
from tuner import escape
from tuner.report.format import fraction, per_class, short_label, value_text, with_std
from tuner.report.gain import gains_in
from tuner.report.html.page import BLUE, GREEN, GREY, ORANGE, VERMILLION
from tuner.report.reference import Reference, front_in, references_of, setting_name
from tuner.report.text import SPLIT, headline, offsets_text
from tuner.results.fronts import counts
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.results.references import paper_trial
from tuner.results.search_run import SearchRun
from tuner.results.summary import front_json
from tuner.results.trial_record import NO_SEARCH, TrialRecord
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
APART = (0.07, 0.05)  # labels stand beside points that are so far apart in x or in y, in units of the picture
DRAWN = 1000  # trials: with their offsets as many points as a page opens at once
ROOM = 0.6  # how far a picture reaches below what it is about (front, references), in units of that ...
MIN_ROOM = 0.1  # ... but at least so much


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
    "front": style("Pareto front: no other model of the search is better in both", BLUE, "circle", "o", 12),
    TrialState.FINISHED: style("other trained models", GREY, "circle", "o", 7, opacity=0.6),
    "curve": style("other offsets", GREY, "circle", "o", 3, opacity=0.5, legend=False),
    TrialState.PREVIEWED: style("previewed alone (a few epochs)", ORANGE, "circle-open", "o", 7),
    TrialState.STOPPED: style("stopped at chance (last epoch)", ORANGE, "triangle-down-open", "v", 8),
    TrialState.RUNNING: style("not finished (last epoch)", GREEN, "diamond-open", "D", 8),
    TrialState.FAILED: style("failed (last epoch)", VERMILLION, "x-thin-open", "x", 8),
    TrialState.SKIPPED: style("skipped (last epoch)", GREY, "x-thin-open", "x", 8),
    TrialState.WAITING: style("waiting", GREEN, "diamond-open", "D", 8),
}
WITHIN = "Pareto front: no other model that satisfies the constraints is better in both"  # others lie beyond it
CURVES = "one trained model under growing class offsets"
BAND = "90 % band of the front"
# How the references are drawn: colour, plotly's and matplotlib's symbol, dash.
REFERENCE_LOOKS = {"no_search": ("#444444", "square", "s", "dash"), "paper": (VERMILLION, "star", "*", "dot")}


def picture_data(run: SearchRun, most: int = DRAWN) -> dict:
    """All values that the page and the PNG of one search show. ``most``: of a search with more trials those on the
    front, the references, the open ones and so many others are drawn, the best."""
    spec, history, result = run.spec, run.history, front_json(run)
    front, references = front_in(result, spec.objectives), references_of(result)
    drawn_trials = _drawn(history, front, {reference.plain["trial"] for reference in references}, most)
    points = points_of(spec, history, front, plane(spec.objectives), records=drawn_trials)
    drawn = [_reference_data(spec, history, reference, points) for reference in references]
    band = result.get("band")
    title, line = headline(spec)
    previews = previews_of(spec, drawn_trials, plane(spec.objectives))
    data = frame_data(spec.objectives, points, drawn, band, effects=previews)
    if len(drawn_trials) < len(history.trials):
        note = f"{len(drawn_trials)} of {len(history.trials)} trials are drawn."
        data["note"] = " ".join(filter(None, [data["note"], note]))
    label_points(data, [row_label(row) for row in front.rows])
    corners = [(p["x"], p["y"]) for p in points if p["front"]] if data["two"] else []
    xs, ys = staircase(corners, data["range"])
    return {
        **data,
        "title": title,
        "line": f"{line} · {counts(history)}",
        "gain": gains_in(result, spec.objectives),
        "empty": not front.rows,
        "styles": {**STYLES, "front": {**STYLES["front"], "name": WITHIN}} if spec.constraint else STYLES,
        "curves": _curves(points, {reference.plain["trial"] for reference in references}),
        "references": drawn,
        "bands": [_band(band)] if band else [],
        "table": None,
        "stairs": [
            {"x": xs, "y": ys, "name": "front", "colour": BLUE, "dash": "solid", "group": "stairs", "legend": False}
        ],
        "picked": row_label(front.knee()) if front.rows else None,
        "members": [row_label(row) for row in front.rows],
        "methods": [{"name": lane.method, "searched": search_axes(lane, [history])} for lane in spec.lanes],
    }


def _drawn(history: History, front: Front, references: Collection[int], most: int) -> list[TrialRecord]:
    """The trials that `picture_data` draws, in their order."""
    trials = history.trials.values()
    if len(trials) <= most:
        return list(trials)
    first, last = plane(front.objectives)

    def reached(record: TrialRecord) -> float:
        """The sum of the two axes without offsets: those of all offsets take too long to compute."""
        metrics = record.last or (record.preview.metrics if record.preview else {})
        return (metrics.get(first) or 0.0) + (metrics.get(last) or 0.0)

    kept = {row["trial"] for row in front.rows} | {*references}
    kept |= {t.trial for t in trials if not t.state.ended}
    kept |= {t.trial for t in sorted(trials, key=reached, reverse=True)[:most]}
    return [t for t in trials if t.trial in kept]


def label_points(data: dict, members: Sequence[str]) -> None:
    """Give the points with the ids ``members`` a ``label``, where it does not cover another: the ends come first."""
    spans = [high - low for low, high in data["range"]]
    by_id = {point["id"]: point for point in data["points"]}
    for point in data["points"]:
        point["label"] = ""
    taken: list[dict] = []
    for name in dict.fromkeys([*members[:1], *members[-1:], *members]):
        point = by_id.get(name)
        if point and all(
            any(abs(point[a] - other[a]) >= least * span for a, least, span in zip("xy", APART, spans))
            for other in taken
        ):
            point["label"] = name
            taken.append(point)


def _reference_data(spec: SearchSpec, history: History, reference: Reference, points: list[dict]) -> dict:
    """A reference as a line through its points; ``shown`` is the point whose classes the bars show: without offsets
    the default setting, and no search at its best."""
    trial = reference.plain["trial"]
    own = [point for point in points if point["trial"] == trial] or _points_of(
        spec, history, history.record(trial), plane(spec.objectives)
    )
    colour, symbol, marker, dash = REFERENCE_LOOKS[reference.role]
    shown = reference.plain if reference.role == "paper" else reference.best(spec.objectives)
    for point in own:
        point["text"] = point["text"].replace("<b>", f"<b>{reference.name}: ", 1)
    return {
        "role": reference.role,
        "name": reference.name,
        "long": reference.long_name,
        "points": own,
        "about": [
            p for p in own if p["id"] in {row_label(r) for r in (reference.plain, reference.best(spec.objectives))}
        ],
        "shown": next((p for p in own if p["id"] == row_label(shown)), None),
        "shownName": reference.label(shown),
        "colour": colour,
        "symbol": symbol,
        "marker": marker,
        "dash": dash,
    }


def _curves(points: list[dict], references: set[int]) -> list[dict]:
    """The trials as lines through their points, those of ``references`` left out; ``front``: whether it has any."""
    curves: dict[int, list[dict]] = {}
    for point in points:
        curves.setdefault(point["trial"], []).append(point)
    return [
        {"trial": trial, "x": [p["x"] for p in own], "y": [p["y"] for p in own], "front": any(p["front"] for p in own)}
        for trial, own in curves.items()
        if len(own) > 1 and trial not in references
    ]


def _band(band: dict) -> dict:
    """The band of the attained front as a closed line."""
    return {
        "x": [*band["x"], *band["x"][::-1]],
        "y": [*band["high"], *band["low"][::-1]],
        "colour": BLUE,
        "group": "band",
        "name": BAND,
    }


def plane(objectives: tuple[str, ...]) -> tuple[str, str]:
    """The metrics on the two axes of the figure."""
    if len(objectives) > 1:
        return objectives[0], objectives[1]
    return objectives[0], "clean_acc" if objectives[0] == "worst_class_robust_acc" else "worst_class_robust_acc"


def points_of(
    spec: SearchSpec,
    history: History,
    front: Front,
    axes: tuple[str, str],
    search: str = "",
    records: Iterable[TrialRecord] | None = None,
) -> list[dict]:
    """The points of each trial that has reported finite values of ``axes``, at its last epoch or its preview's: one for
    each setting of its offsets. ``best``: the one of a trial with the largest sum of ``axes``; ``style``: of `STYLES`.

    ``search``: its name, where the figure shows several searches; ``records``: the trials, where not all are shown. A
    point has ``std`` where it is a mean over seeds. What ``front`` says of its rows, such as ``p_front``, holds for
    their points.
    """
    papers = {paper_trial(spec, history, method) for method in spec.methods}
    on_front = {row_label(row): row for row in front.rows}
    points = []
    for record in history.trials.values() if records is None else records:
        points += _points_of(spec, history, record, axes, search, on_front, record.trial in papers)
    for point in points:
        point["style"] = "front" if point["front"] else "curve" if point["tau"] else point["state"]
    return points


def previews_of(spec: SearchSpec, records: Iterable[TrialRecord], axes: tuple[str, str]) -> list[dict]:
    """Every preview of these trials with the offsets at which the sum of ``axes`` is largest: all at one fidelity,
    which the few that trained in full are not enough for."""
    found = []
    for record in records:
        pairs = [(m.get(axes[0]), m.get(axes[1])) for _, m in record.preview_points]
        known = [(x, y) for x, y in pairs if _finite(x) and _finite(y)]
        if not known:
            continue
        x, y = max(known, key=sum)
        values = [f"{short_label(name)}: {fraction(value)}" for name, value in zip(axes, (x, y))]
        text = "<br>".join([f"<b>trial {record.trial}</b> (preview)", *values])
        about = {"trial": record.trial, "id": str(record.trial), "params": record.params, "text": text}
        found.append({**about, "method": _method(spec, record), "x": x, "y": y, "front": record.full})
    return found


def _method(spec: SearchSpec, record: TrialRecord) -> int:
    """The number of a record's method among the search's; a reference's counts as the first."""
    return spec.methods.index(record.method) if record.method in spec.methods else 0


def _points_of(
    spec: SearchSpec,
    history: History,
    record: TrialRecord,
    axes: tuple[str, str],
    search: str = "",
    on_front: Mapping[str, Mapping] = MappingProxyType({}),
    is_paper: bool = False,
) -> list[dict]:
    """`points_of` of one trial, replicate or reference."""
    points, goal = [], spec.goal
    metrics_of = dict.fromkeys((*spec.objectives, *axes))
    for row, (offsets, metrics) in zip(history.rows_of(record.trial, metrics_of), history.points(record.trial)):
        x, y, std = row[axes[0]], row[axes[1]], row.get("std")
        row = {**row, **on_front.get(row_label(row), {}), "feasible": goal.feasible(metrics)}
        if _finite(x) and _finite(y):
            points.append(
                {
                    "id": f"{search} {row_label(row)}".strip(),
                    "search": search,
                    "trial": record.trial,
                    "tau": offsets.tau,
                    "method": _method(spec, record),
                    "x": x,
                    "y": y,
                    "std": std and [std[name] for name in axes],
                    "state": record.state,
                    "full": record.state == TrialState.FINISHED,
                    "front": row_label(row) in on_front,
                    "paper": is_paper and not offsets.tau,
                    "setting": setting_name(row) if is_paper else "",
                    "params": record.params,
                    "seed": record.seed if spec.stems > 1 and "seeds" not in row else None,
                    "values": {short_label(name): row.get(name) for name in shown_metrics(spec.objectives)},
                    "p_front": row.get("p_front"),
                    "offsets": _offsets_of(record, offsets),
                    "robust": {name: round(value, 4) for name, value in per_class(metrics).items()},
                    "text": _hover(spec, record, row, search, row_label(row) in on_front, is_paper),
                }
            )
    if points:
        best = max(points, key=lambda p: p["x"] + p["y"])
        for point in points:
            point["best"] = point is best
    return points


def _offsets_of(record: TrialRecord, offsets: Offsets) -> dict | None:
    """Kind, tau and the number that each class gets; None without offsets."""
    if not offsets.tau or record.curve is None:
        return None
    values = {name: round(value, 3) for name, value in zip(record.curve.classes, offsets.values)}
    return {"kind": offsets.kind, "tau": offsets.tau, "values": values}


def frame_data(
    objectives: tuple[str, ...],
    points: list[dict],
    references: Sequence[dict] = (),
    band: Mapping | None = None,
    effects: list[dict] | None = None,
) -> dict:
    """The axes and limits of a figure with these points, and a note on what it does not show. ``effects``: the points
    that show the effect of a parameter, of previews; without any, of trials of full budget."""
    x_name, y_name = plane(objectives)
    limits = [_limits(axis, points, references, band) for axis in "xy"]
    shown = effects or [p for p in points if p["full"] and p["best"]]
    return {
        "x": x_name,
        "y": y_name,
        "short": [short_label(x_name), short_label(y_name)],
        "axis": [AXIS.get(x_name, x_name), AXIS.get(y_name, y_name)],
        "points": points,
        "range": limits,
        "whole": [_range([p[a] for p in points]) for a in "xy"],
        "top": max((value for p in points for value in p["robust"].values()), default=1.0),
        "note": _not_shown(objectives, points, limits),
        "two": len(objectives) == 2,
        "curves": [],
        "references": [],
        "curveName": CURVES,
        "paperName": _papers_name([p["setting"] for p in points if p["paper"]]),
        "colours": {"x": BLUE, "y": VERMILLION, "grey": GREY, "ring": ORANGE},
        "effects": shown,
        "effectsOf": "previews" if effects else "trials of full budget",
        "paramRange": _range([p[a] for p in shown for a in "xy"]),
    }


def _not_shown(objectives: tuple[str, ...], points: list[dict], limits: list[list[float]]) -> str:
    """What a picture with these limits leaves out, in sentences: further objectives, and points outside."""
    notes = []
    if len(objectives) != 2:
        notes.append(
            f"The search has {len(objectives)} objectives ({', '.join(objectives)}); "
            f"the picture shows {' and '.join(plane(objectives))}, so a front member may look dominated here."
        )
    outside = sum(not all(low <= p[a] <= high for a, (low, high) in zip("xy", limits)) for p in points)
    if outside:
        notes.append(f"{outside} of {len(points)} points are worse than what the picture shows.")
    return " ".join(notes)


def _papers_name(labels: list[str]) -> str:
    """What a comparison's legend calls the methods' settings with these labels."""
    names = list(dict.fromkeys(labels))
    return f"{' or '.join(names)} of each method" if len(labels) > 1 else "".join(names)


def _limits(axis: str, points: list[dict], references: Sequence[dict], band: Mapping | None) -> list[float]:
    """Limits of an axis: all points and the band, but points that are much worse than the front and the references stay
    outside, so that one bad trial does not squeeze the picture into a corner."""
    about = [p[axis] for p in points if p["front"]] + [p[axis] for r in references for p in r["about"]]
    shown = [*about, *(_band(band)[axis] if band else [])]
    values = [p[axis] for p in points] + shown
    if not any(p["front"] for p in points):
        return _range(values)
    least = min(about) - max(ROOM * (max(about) - min(about)), MIN_ROOM)
    return _range([min([max(min(values), least), *shown]), max(values)])


def search_axes(spec: SearchSpec, histories: Iterable[History]) -> list[dict]:
    """One axis for each parameter that a lane searches, in order; it holds what the trials of ``histories`` have."""
    space = spec.shown_space()
    settings = [t.params for history in histories for t in history.trials.values() if t.method in spec.methods]
    return [_param_axis(space.params[name], [s[name] for s in settings if name in s]) for name in space.searched]


def _param_axis(param: Param, values: Sequence[Any]) -> dict:
    """The searched range as an axis, with the ``values`` of trials beyond it: the default setting may lie there, and
    what users add.

    ``range`` is what plotly expects: exponents of ten on a logarithmic axis, positions of categories for a choice.
    ``ticks`` are (value, text) pairs: one for each choice, else at most three.
    """
    dist = param.range
    if isinstance(dist, CategoricalDistribution):
        choices = [*dist.choices, *dict.fromkeys(v for v in values if v not in dist.choices)]
        return {
            "name": param.name,
            "choice": True,
            "log": False,
            "range": [-0.5, len(choices) - 0.5],
            "ticks": [[c, str(c)] for c in choices],
        }
    least, most = min([dist.low, *values]), max([dist.high, *values])
    log = dist.log and least > 0  # a value of 0 has no place on a logarithmic axis
    middle = math.sqrt(least * most) if log else (least + most) / 2
    low, high = (math.log10(least), math.log10(most)) if log else (least, most)
    pad = 0.05 * (high - low) or 0.5
    return {
        "name": param.name,
        "choice": False,
        "log": log,
        "range": [low - pad, high + pad],
        "ticks": [[v, value_text(float(v))] for v in dict.fromkeys((least, middle, most))],
    }


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _range(values: list[float]) -> list[float]:
    values = values or [0.0, 1.0]
    pad = max(0.08 * (max(values) - min(values)), 0.01)
    return [min(values) - pad, max(values) + pad]


def _hover(spec: SearchSpec, record: TrialRecord, row: dict, search: str, on_front: bool, is_paper: bool) -> str:
    state = "on the front" if on_front else _STATES[record.state]
    state += "" if row["feasible"] else ", violates the constraints"
    name = "no search" if record.trial == NO_SEARCH else f"{search} trial {row_label(row)}".strip()
    head = f"<b>{escape.plotly(name)}</b> "
    lines = [
        f"({state}{', ' + setting_name(row) if is_paper else ''})",
        f"{record.method}, epoch {row['epoch']} of {spec.max_epochs}",
        *(_value_line(row, metric) for metric in shown_metrics(spec.objectives)),
    ]
    lines += [f"offsets: {text}" for text in [offsets_text(row)] if text]
    lines += [f"on the front with probability {row['p_front']:.0%}"] if "p_front" in row else []
    lines += [f"seed {record.seed}"] if spec.stems > 1 and "seeds" not in row else []
    lines += [f"mean ± standard deviation of seeds {', '.join(map(str, row['seeds']))}"] if "seeds" in row else []
    lines += [f"{k} = {value_text(v)}" for k, v in record.params.items()]
    return head + "<br>".join(map(escape.plotly, lines))


_STATES = {
    TrialState.FINISHED: "full budget",
    TrialState.PREVIEWED: "preview",
    TrialState.STOPPED: "stopped at chance",
    TrialState.RUNNING: "not finished",
    TrialState.FAILED: "failed",
    TrialState.SKIPPED: "skipped",
    TrialState.WAITING: "waiting",
}


def _value_line(row: dict, metric: str) -> str:
    """``worst class: 0.143, 95 % interval 0.050 .. 0.240``"""
    interval = row.get("ci", {}).get(metric)
    between = f", 95 % interval {fraction(interval[0])} .. {fraction(interval[1])}" if interval else ""
    shrunk = row.get("shrunk", {}).get(metric)
    expected = "" if shrunk is None else f", expected on new images {fraction(shrunk)}"
    return f"{short_label(metric)}: {with_std(row, metric)}{between}{expected}"


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
