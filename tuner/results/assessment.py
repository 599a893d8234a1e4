"""What may be said of a search's front: intervals, the hypervolume that it may claim, and its gain over the references.

The statistics are in `tuner.results.uncertainty`; here they are asked about a search.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tuner.results.history import History
from tuner.results.pareto import Front, nondominated, row_label
from tuner.results.references import no_search_trial, paper_trial
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import METRICS, Constraint
from tuner.spec.search_spec import SearchSpec

MOST = 64  # trials that are assessed: time and memory grow with their square and more


@dataclass(frozen=True)
class Assessment:
    """``front``: the search's, whose rows also have

    - ``p_front``: the probability that no other row dominates it,
    - ``shrunk``: metric -> the value drawn towards what similar settings have, by which rows are chosen,
    - ``ci``: metric -> 95 % interval.

    ``hypervolume``: what the front may claim on images that no search saw (``claimed``, with ``ci``) beside the
    ``measured`` one. ``band``: of the attained front, 90 %: lists ``x``, ``lower``, ``middle``, ``upper``; None unless
    there are two objectives. ``gain``: over ``no_search`` and ``paper``, those that have finished and satisfy the
    constraints with some offsets, which alone count:

    - ``hypervolume``: the difference to the reference's whole curve,
    - ``last``: of the last objective (the worst class) at no lower others: from the reference's row ``of`` to the row
      ``by``; None where no row has that.

    Each with ``value``, ``ci`` (95 %) and ``verdict``: ``gain``, ``loss`` or ``not distinguishable``. ``images``: how
    many they rest on, and of how many ``tracks`` these are (None where each is its own).
    """

    front: Front
    hypervolume: dict[str, Any]
    band: dict[str, list[float]] | None
    gain: dict[str, dict[str, Any]]
    images: int
    tracks: int | None = None


def assess(spec: SearchSpec, history: History) -> Assessment | None:
    """The assessment of a search's finished trials; None where one of them has no counts of images, as in searches that
    an earlier version began, or where no row satisfies the constraints. Computed once for each state of the history."""
    known = _known.get(history)
    if known is None or known[0] != history.changes or known[1] != spec:
        known = _known[history] = history.changes, spec, _assess(spec, history)
    return known[2]


_known: WeakKeyDictionary[History, tuple[int, SearchSpec, Assessment | None]] = WeakKeyDictionary()


def _assess(spec: SearchSpec, history: History) -> Assessment | None:
    from tuner.results.uncertainty import judge  # scipy takes half a second

    every = history.rows(spec.objectives, spec.goal)
    if not every or any(trial.curve is None for trial in history.with_state(TrialState.FINISHED)):
        return None
    finished = nearest(every, spec.objectives, MOST)
    curve = history.record(finished[0]).curve
    assert curve is not None
    places = {trial: _place(spec, history, trial) for trial in finished}
    points = [p for trial in finished for p in _kept(spec, history, trial, places[trial])]
    curves = _reference_curves(spec, history, places)
    found = judge(points, curve.train_counts, spec.objectives, curves, curve.classes)
    notes = dict(zip((_label(p) for p in points), found.rows))
    front = Front.of(every, spec.objectives)
    named = [*(_label(p) for p in points), *_outside(points, curves)]
    return Assessment(
        Front(front.objectives, tuple({**row, **notes.get(row_label(row), {})} for row in front.rows)),
        found.front["hypervolume"],
        found.front["band"],
        {name: _gain(gain, named) for name, gain in found.front["gain"].items()},
        sum(curve.points[0].count),
        sum(curve.points[0].independent) if curve.points[0].tracks else None,
    )


def _reference_curves(
    spec: SearchSpec, history: History, places: Mapping[int, Sequence[float] | None]
) -> dict[str, list[Any]]:
    """``no_search`` and ``paper`` -> the points of its curve that satisfy the constraints, of those that have any."""
    references = {"no_search": no_search_trial(spec, history), "paper": paper_trial(spec, history)}
    return {
        name: kept
        for name, trial in references.items()
        if trial is not None
        and history.record(trial).curve is not None
        and (kept := _kept(spec, history, trial, places.get(trial)))
    }


def probability(spec: SearchSpec, history: History, row: Mapping[str, Any], bound: Constraint) -> float | None:
    """The probability that ``bound`` holds for a row of the search on images that no search saw. None where there are
    no counts of images, or the metric is none of them."""
    from tuner.results.uncertainty import judge

    every = history.rows(spec.objectives, spec.goal)
    if bound.metric not in METRICS or any(t.curve is None for t in history.with_state(TrialState.FINISHED)):
        return None
    trials = dict.fromkeys([*nearest(every, spec.objectives, MOST), row["trial"]])
    points = [p for trial in trials for p in _judged(history, trial, _place(spec, history, trial))]
    curve = history.record(row["trial"]).curve
    assert curve is not None
    found = judge(points, curve.train_counts, spec.objectives, {}, curve.classes, bound=bound)
    return next(note["p_holds"] for point, note in zip(points, found.rows) if _label(point) == row_label(dict(row)))


def flat(spec: SearchSpec, history: History) -> bool:
    """Whether the last ``spec.until_flat`` proposals that were trained in full have not moved the front beyond its
    interval; since the search was extended, if it was. Replicates, which begin once that is so, have no say in it.
    Computed once for each of them."""
    if not spec.until_flat:
        return False
    ended = sorted(history.with_state(TrialState.FINISHED), key=lambda t: t.ended)
    latest = _proposals(history, ended, history.steered.extended)[-spec.until_flat :]
    before = [t.trial for t in ended if t.trial not in latest]
    if len(latest) < spec.until_flat or not before or any(t.curve is None for t in ended):
        return False
    known = _flat.get(history)
    if known is None or known[0] != (before, latest):
        alone = copy(history)
        alone.replicates = {}
        known = _flat[history] = (before, latest), _adds_nothing(spec, alone, before, latest)
    return known[1]


def _proposals(history: History, ended: Sequence[TrialRecord], since: float) -> list[int]:
    """Those that have ended since then, default settings aside."""
    defaults = {numbers[0] for numbers in history.numbers.values()}
    return [t.trial for t in ended if t.trial not in defaults and t.ended >= since]


_flat: WeakKeyDictionary[History, tuple[tuple[list[int], list[int]], bool]] = WeakKeyDictionary()


def _adds_nothing(spec: SearchSpec, history: History, before: Sequence[int], latest: Sequence[int]) -> bool:
    """Whether the front with the ``latest`` trials is not distinguishable from that of those ``before``."""
    from tuner.results.uncertainty import judge

    kept = nearest([r for r in history.rows(spec.objectives, spec.goal) if r["trial"] in before], spec.objectives, MOST)
    old, new = (
        [p for trial in some for p in _kept(spec, history, trial, _place(spec, history, trial))]
        for some in (kept, latest)
    )
    curve = history.record(before[0]).curve
    if not old or curve is None:
        return False
    points = [*old, *new]
    found = judge(points, curve.train_counts, spec.objectives, {"before": old}, curve.classes)
    return found.front["gain"]["before"]["hypervolume"]["verdict"] != "gain"


def nearest(rows: Sequence[dict[str, Any]], objectives: Sequence[str], most: int) -> list[int]:
    """The trials of ``rows``, ascending; where there are more than ``most``, those that are on the front, then those on
    the front of the others, and so on."""
    left, kept = _within(rows, objectives, most), list[int]()
    while left and len(kept) < most:
        points = [[row.get(name) for name in objectives] for row in left]
        best = {left[i]["trial"] for i in nondominated(points, [True] * len(objectives))}
        kept += sorted(best or {row["trial"] for row in left})
        left = [row for row in left if row["trial"] not in kept]
    return sorted(kept[:most])


def _within(rows: Sequence[dict[str, Any]], objectives: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Those of ``rows`` that `nearest` may still reach: of two objectives without those that rows of ``most`` other
    trials dominate, which come first. So each of its fronts costs little, however many trials there are."""
    if len(objectives) != 2:
        return list(rows)
    first, last = objectives
    enough = most * max(Counter(row["trial"] for row in rows).values(), default=1)  # rows, of so many trials at least
    better: list[float] = []  # the last objective of those that are no worse in the first
    compared, kept = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in rows:
        (kept if any(row[n] is None or math.isnan(row[n]) for n in objectives) else compared).append(row)
    for row in sorted(compared, key=lambda row: -row[first]):
        if len(better) - bisect_right(better, row[last]) < enough:
            kept.append(row)
        insort(better, row[last])
    return kept


def _kept(spec: SearchSpec, history: History, trial: int, setting: Sequence[float] | None) -> list[Any]:
    """The points of `_judged` that satisfy the search's constraints."""
    wanted = {row_label(row) for row in history.rows_of(trial, spec.objectives, spec.goal)}
    return [point for point in _judged(history, trial, setting) if _label(point) in wanted]


def _judged(history: History, trial: int, setting: Sequence[float] | None) -> list[Any]:
    """The points of a trial's curve; with replicates their counts are means over its seeds.

    A track counts as one image: its frames are mostly right or wrong together, so that more of them say little more of
    signs that no search saw. (On GTSRB, every eighth frame, their correlation within a class is 0.6.)"""
    from tuner.results.uncertainty import Judged

    first, *others = [record for record in history.seeds_of(trial) if record.curve is not None]
    found = []
    for point in first.curve.points if first.curve else ():
        same = [point, *(p for record in others if (p := record.point(point.offsets.tau)))]
        clean, robust = (
            [sum(counts) / len(same) for counts in zip(*(getattr(p, name) for p in same))]
            for name in ("clean", "robust")
        )
        if point.tracks:
            share = [own / max(n, 1) for own, n in zip(point.tracks, point.count)]
            clean, robust = ([k * s for k, s in zip(counts, share)] for counts in (clean, robust))
        found.append(Judged(trial, point.offsets.tau, point.independent, clean, robust, setting))
    return found


def _place(spec: SearchSpec, history: History, trial: int) -> Sequence[float] | None:
    """Where the trial lies in the search space; None where there are several spaces, or nothing is searched."""
    if len(spec.methods) > 1 or not spec.search_space().searched:
        return None
    return spec.search_space().coordinates(history.record(trial).params)


def _label(point: Any) -> str:
    return row_label({"trial": point.trial, "offsets": {"tau": point.position}})


def _outside(points: list[Any], curves: dict[str, list[Any]]) -> list[str]:
    """The labels of the references' points that are not the search's own, in the order in which `judge` counts them."""
    known = {p.key for p in points}
    return [_label(p) for p in {p.key: p for curve in curves.values() for p in curve if p.key not in known}.values()]


def _gain(gain: dict[str, Any], named: list[str]) -> dict[str, Any]:
    last = gain["last"]
    if last is None:
        return gain
    of, by = (named[i] for i in last["rows"])
    return {**gain, "last": {**{k: v for k, v in last.items() if k != "rows"}, "of": of, "by": by}}
