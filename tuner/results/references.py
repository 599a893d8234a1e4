"""What a search is compared with: the default setting, and plain AT, which is what one training gives without a search.

Plain AT is trained once by every search, as a reference of its own; where it is a method of the search, its first trial
is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tuner.results.history import History
from tuner.results.trial_record import NO_SEARCH, TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

PLAIN = "at"  # the method


def references(spec: SearchSpec) -> list[TrialRecord]:
    """The references that the search trains beside its trials."""
    if PLAIN in spec.methods:
        return []
    return [TrialRecord(NO_SEARCH, {}, PLAIN, seed=spec.seed, role="no_search")]


def no_search_trial(spec: SearchSpec, history: History) -> int | None:
    """The number of the reference, or None as long as it has not finished."""
    started = history.numbers.get(PLAIN, [])[:1] if PLAIN in spec.methods else list(history.references)
    return next((n for n in started if history.record(n).state == TrialState.FINISHED), None)


def no_search_rows(spec: SearchSpec, history: History) -> list[dict[str, Any]]:
    """Plain AT over its offsets, as rows of a front; empty as long as it has not finished."""
    trial = no_search_trial(spec, history)
    return [] if trial is None else history.rows_of(trial, spec.objectives)


def _has(default: dict[str, Any], record: TrialRecord) -> bool:
    """Whether a trial has these values; one that it lacks had its default when there was no such parameter yet."""
    return all(record.params.get(name, value) == value for name, value in default.items())


def paper_trial(spec: SearchSpec, history: History, method: str | None = None) -> int | None:
    """The number of the trial that has a method's default setting, or None as long as it has not finished.

    ``method``: one of the search's; None is its first, plain AT aside where there are others: that is no search.
    """
    others = [lane for lane in spec.lanes if lane.method != PLAIN]
    lane = (others or spec.lanes)[0] if method is None else spec.of(method)
    default = lane.search_space().default()
    for record in sorted(history.with_state(TrialState.FINISHED), key=lambda t: t.trial):
        if record.method == lane.method and _has(default, record):
            return record.trial
    return None


def paper_rows(spec: SearchSpec, history: History, method: str | None = None) -> list[dict[str, Any]]:
    """A method's default setting over its offsets, as rows of a front; empty as long as it has not finished."""
    trial = paper_trial(spec, history, method)
    return [] if trial is None else history.rows_of(trial, spec.objectives)


def best_row(rows: Sequence[dict[str, Any]], objectives: Sequence[str]) -> dict[str, Any]:
    """The row of a reference with the largest product of objectives (its box below the front), of those that satisfy
    the constraints (``feasible``, where it is said) if there are any; of equals that with the largest sum, then the
    first: without offsets where they do not help."""
    kept = [row for row in rows if row.get("feasible", True)] or list(rows)
    values = [[row.get(name) or 0.0 for name in objectives] for row in kept]
    return kept[max(range(len(kept)), key=lambda i: (math.prod(values[i]), sum(values[i])))]


def role_of(spec: SearchSpec, history: History, record: TrialRecord) -> str:
    """``no_search``, ``paper`` or ``trial``: what a trial or reference is compared as; a replicate is what it repeats.

    ``paper`` is the first trial of each method where it has the default setting.
    """
    if record.of is not None:
        return role_of(spec, history, history.record(record.of))
    first = record.trial == next(iter(history.numbers.get(record.method, [])), None)
    if record.role == "no_search" or (first and record.method == PLAIN):
        return "no_search"
    default = spec.of(record.method).search_space().default() if first else {}
    return "paper" if first and _has(default, record) else "trial"


def unvaried(spec: SearchSpec, record: TrialRecord) -> bool:
    """Whether a trial has the one setting of a method that varies nothing: such trials differ in their seed alone."""
    space = spec.of(record.method).search_space()
    return record.method in spec.methods and not space.searched and _has(space.default(), record)


def fork_of(spec: SearchSpec, history: History, record: TrialRecord) -> int:
    """After how many epochs of the stem a trial begins its own, a preview where it is one. Plain AT is the stem, and
    leaves it where nobody needs it any more; a default setting is trained as its paper does, alone."""
    plan = spec.of(record.method).epoch_plan
    if not record.full:
        return plan.preview[0]
    role = role_of(spec, history, record)
    if unvaried(spec, record):  # under whichever of the seeds
        role = "no_search" if record.method == PLAIN else "paper"
    if role == "no_search":
        return spec.forks[1]
    return 0 if role == "paper" else plan.fork_of(record.params)
