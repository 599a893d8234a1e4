"""Which previews train in full: a quarter of them, those whose curves together enclose most. A function of the history
alone.

The trial whose curve has the largest hypervolume comes first, then always the one that adds most to those before it:
the greedy algorithm for a submodular function, within 1 - 1/e of the best set (Nemhauser et al., 1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from tuner.results.history import History
from tuner.results.pareto import outer, volume
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal
from tuner.spec.schedulers import Scheduler

WINDOW = 200  # latest previews that are compared
DIGITS = 12  # of a hypervolume: what differs beyond them is equal
Point = tuple[float, ...]


def curve_of(record: TrialRecord, goal: Goal) -> list[Point]:
    """The points of a trial's preview that satisfy the constraints; computed once."""
    if record.preview is None:
        return []
    known = record.preview.computed
    if goal not in known:
        points = [goal.point(metrics) for _, metrics in record.preview_points if goal.feasible(metrics)]
        known[goal] = [point for point in points if all(v == v for v in point)]
    return known[goal]


def promotable(scheduler: Scheduler, goal: Goal, history: History) -> int | None:
    """The preview that should train in full now and does not yet; None: there is none.

    While fewer than a quarter do, the one that adds most to those that do; beyond, only one that is better alone than
    each of them. Where no preview satisfies the constraints, the one that misses them least: trained on, it may. One
    that diverged or was skipped counts as a preview: else a search in which many do would train nothing in full. What a
    user added trains in full whatever its preview says, beside the quarter.
    """
    if (own := added_preview(history)) is not None:
        return own
    asked, latest = _added(history), _latest(history)
    waiting = {t.trial: curve_of(t, goal) for t in _waiting(latest)}
    most, taken = scheduler.most(len(latest)), _taken(latest, goal)
    if not waiting or not most:
        return None
    if len(taken) >= most:
        return _better_than_all(waiting, taken)
    if not any(waiting.values()):
        return min(waiting, key=lambda trial: (_violation(history.trials[trial], goal), trial))
    return adds_most(waiting, [point for curve in (*taken, *_taken(asked, goal)) for point in curve])


def added_preview(history: History) -> int | None:
    """The preview of a user's own setting that should train in full now and does not yet; None: there is none."""
    return next((t.trial for t in _waiting(_added(history))), None)


def _added(history: History) -> list[TrialRecord]:
    return [t for t in history.trials.values() if t.added and _previewed(t)] if history.added else []


def _latest(history: History) -> list[TrialRecord]:
    """The latest of the search's own previews that have ended; however many there are, only these are looked for."""
    newest_first = (t for t in reversed(history.trials.values()) if not t.added and _previewed(t))
    return list(islice(newest_first, WINDOW))[::-1]


def _previewed(record: TrialRecord) -> bool:
    """Whether the trial's preview has ended, or it diverged or was skipped before."""
    return record.preview is not None or (record.state in (TrialState.FAILED, TrialState.SKIPPED) and not record.full)


def _waiting(ended: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those previews that do not train in full yet."""
    return [t for t in ended if t.state == TrialState.PREVIEWED]


def _taken(ended: Iterable[TrialRecord], goal: Goal) -> list[list[Point]]:
    """The curves of those previews that train in full, or have."""
    return [curve_of(t, goal) for t in ended if t.preview and t.full]


def _better_than_all(curves: Mapping[int, Sequence[Point]], known: Iterable[Sequence[Point]]) -> int | None:
    own = {trial: _alone(tuple(curve)) for trial, curve in curves.items()}
    best = max(own, key=lambda trial: (round(own[trial], DIGITS), -trial))
    return best if all(round(own[best] - _alone(tuple(curve)), DIGITS) > 0 for curve in known) else None


@lru_cache(2 * WINDOW)
def _alone(curve: tuple[Point, ...]) -> float:
    """The hypervolume of one curve, which each preview's end asks for again."""
    return volume(curve)


def _violation(record: TrialRecord, goal: Goal) -> float:
    """By how much the best point of a preview misses the constraints, summed over them."""
    missed = (
        sum(max(0.0, violation) for violation in goal.violations(metrics).values())
        for _, metrics in record.preview_points
    )
    return min(missed, default=math.inf)


def adds_most(curves: Mapping[int, Sequence[Point]], known: Sequence[Point]) -> int:
    """The trial whose curve adds the most hypervolume above 0 to ``known``; of equal ones the one with the larger
    hypervolume of its own, then the lower number.

    None adds more than its own: the largest come first, and most need not be joined with ``known``.
    """
    own = {trial: round(_alone(tuple(curve)), DIGITS) for trial, curve in curves.items()}
    there = outer(known)
    so_far = volume(there)
    best, most = -1, -math.inf
    for trial in sorted(own, key=lambda trial: (-own[trial], trial)):
        if own[trial] <= most:
            break
        gain = round(volume([*there, *curves[trial]]) - so_far, DIGITS)
        if gain > most:
            best, most = trial, gain
    return best
