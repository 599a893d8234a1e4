"""What a front gains over its references, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.report.format import LABELS, short_label
from tuner.report.reference import Reference, front_in, references_of
from tuner.results.pareto import Front, hypervolume, row_label
from tuner.results.summary import SPLIT

EMPTY = "The front is empty: no trial has finished its full budget."
INFEASIBLE = "The front is empty: no trial that has finished its full budget satisfies the constraints"
VERDICTS = {
    "gain": "the search adds to it",
    "loss": "the search is worse",
    "not distinguishable": "the search is not distinguishable from it",
}


def gains_in(result: Mapping[str, Any], objectives: Sequence[str]) -> str:
    """`gains` of a result, or why nothing is compared with its references."""
    front = front_in(result, objectives)
    if not front.rows:
        return why_empty(result)
    if own := result.get("own_attacks"):
        return (
            f"Nothing is compared with the references: the search varies {' and '.join(own)}, so each trial is judged "
            "by an attack of its own."
        )
    return gains(front, references_of(result), assessed_in(result))


def why_empty(result: Mapping[str, Any]) -> str:
    """What is said of a result whose front has no rows."""
    return f"{INFEASIBLE} ({', '.join(result['constraint'])})." if result.get("infeasible") else EMPTY


def gains(front: Front, references: Sequence[Reference], assessed: Mapping[str, Any] | None = None) -> str:
    """What the front gains over each reference, in a line for each.

    ``assessed``: `assessed_in` of the result. Where it is known, the line says what holds on images that no search saw;
    else only what was measured: then a reference counts with the offsets at which it is best (`Reference.best`), since
    offsets cost no search, and its hypervolume is that of its whole curve.
    """
    if not front.rows:
        return EMPTY
    known = [r for r in references if not any(_missing(r.best(front.objectives).get(n)) for n in front.objectives)]
    if not known:
        return "No reference has finished its full budget, so there is nothing to compare the front with."
    lines = []
    for reference in known:
        if not reference.feasible:
            name = reference.sentence(reference.plain)
            lines.append(f"Nothing is compared with {name}: it violates the constraints with all its offsets.")
            continue
        gain = (assessed or {}).get("gain", {}).get(f"over_{reference.role}")
        lines.append(_assessed(front, reference, gain, assessed) if gain and assessed else _measured(front, reference))
    return "\n".join(lines)


def assessed_in(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a result says of its front beyond the images it was chosen on; None if it says nothing."""
    return result if result.get("gain") else None


def _assessed(front: Front, reference: Reference, gain: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """``Over no search (plain AT with offsets), on 989 images of val: not distinguishable. ...``"""
    tracks = f" (of {result['tracks']} tracks, each of which counts as one)" if result.get("tracks") else ""
    what = reference.sentence(reference.plain)
    volume, last = gain["hypervolume"], gain["last"]
    said = f"Over {what}, on {result['images']} images of {SPLIT}{tracks}: {VERDICTS[volume['verdict']]}. "
    others = " or ".join(short_label(n) for n in front.objectives[:-1])
    if last is None:
        said += f"No point of the search has its {others}; hypervolume {_difference(volume)}."
        return said
    at = f" at no lower {others}" if others else ""
    if last["by"] == last["of"]:
        said += f"No other point has a better {short_label(front.objectives[-1])}{at} than {_named(last['of'])}; "
        return f"{said}hypervolume {_difference(volume)}."
    rows = f"({_named(last['by'])} against {_named(last['of'])})"
    return (
        f"{said}{short_label(front.objectives[-1]).capitalize()} {_difference(last)}{at} {rows}; "
        f"hypervolume {_difference(volume)}."
    )


def _named(label: str) -> str:
    return label.replace("_", " ") if label.startswith("no_search") else f"trial {label}"


def _difference(found: Mapping[str, Any]) -> str:
    """``+0.093 (95 %: -0.152 .. +0.336)``"""
    return f"{found['value']:+.3f} (95 %: {found['ci'][0]:+.3f} .. {found['ci'][1]:+.3f})"


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _measured(front: Front, reference: Reference) -> str:
    best = reference.best(front.objectives)
    where = ", ".join(f"{short_label(n)} {best[n]:.3f}" for n in front.objectives)
    found = [text for name in front.objectives if (text := _gain_in(front, best, name))]
    ours, up = front.hypervolume, [True] * len(front.objectives)
    theirs = hypervolume([[r.get(n) for n in front.objectives] for r in reference.feasible], front.reference, up)
    volume = f"hypervolume {ours:.4f} against {theirs:.4f}" + (f" (x{ours / theirs:.2f})" if theirs else "")
    seeds = f"mean of {len(best['seeds'])} seeds" if "seeds" in best else "one seed"
    start = f"Against {reference.sentence(best)} ({where}; {SPLIT}, {seeds}), the front "
    if found:
        said = f"gains {' and '.join(found)}. {volume.capitalize()}."
    elif ours > theirs:
        said = f"gains nothing without a loss elsewhere, but offers other trade-offs{_trade(front, best)}; {volume}."
    else:
        said = f"gains nothing: no finished trial is better in any objective; {volume}."
    return start + said


def _gain_in(front: Front, other: dict, name: str) -> str:
    """``+0.050 worst-class robust accuracy at no loss of average (3@0.5)``; empty where there is no such row."""
    others = [n for n in front.objectives if n != name]
    rows = [r for r in front.rows if all(r[n] >= other[n] for n in others) and r[name] > other[name]]
    if not rows:
        return ""
    best = max(rows, key=lambda r: r[name])
    loss = " at no loss of " + " or ".join(short_label(n) for n in others) if others else ""
    return f"+{best[name] - other[name]:.3f} {LABELS.get(name, name)}{loss} ({row_name(best)})"


def _trade(front: Front, other: dict) -> str:
    """The largest gain in the last objective and its cost in the first; empty where there is none."""
    first, last = front.objectives[0], front.objectives[-1]
    best = max(front.rows, key=lambda r: r[last])
    if first == last or best[last] <= other[last]:
        return ""
    return (
        f", such as {best[last] - other[last]:+.3f} {short_label(last)} for {best[first] - other[first]:+.3f} "
        f"{short_label(first)} ({row_name(best)})"
    )


def row_name(row: dict) -> str:
    """``trial 3``, ``trial 3@0.75``."""
    return f"trial {row_label(row)}"
