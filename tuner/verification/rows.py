"""What `tuner verify` tests: points of the front and, on the same images, what the front is compared with.

A row is one of the front's (trial and offsets) with its ``role``: ``front``, ``paper`` (the default setting) or
``no_search`` (plain AT). A point of the front that is a reference too has role ``front``; ``also`` holds its others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tuner.errors import UsageError
from tuner.results.pareto import Front, row_label
from tuner.results.references import best_row
from tuner.results.search_run import SearchRun
from tuner.results.trial_state import TrialState
from tuner.sync.named_places import resume_command

ALL = "all"  # the pick
ROLES = ("front", "paper", "no_search")


def chosen(run: SearchRun, pick: str | None, most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows to test, those of the front first, and the labels of those of the front that are left out.

    Without a ``pick`` at most ``most`` of the front are tested: see `spread`. ``UsageError`` where the front is empty
    or has no such row.
    """
    front = assessed(run)
    if pick is None or pick == ALL:
        some = list(front.rows) if pick else spread(front, most)
        left = [row_label(row) for row in front.rows if row not in some]
    else:
        some, left = [picked(front, pick)], []
    rows: dict[str, dict[str, Any]] = {}
    for role, row in [*(("front", row) for row in some), *references(run)]:
        known = rows.setdefault(row_label(row), {**row, "role": role, "also": []})
        if known["role"] != role and role not in known["also"]:
            known["also"].append(role)
    return list(rows.values()), left


def assessed(run: SearchRun) -> Front:
    """The front with the values by which its rows are picked; ``UsageError`` where it is empty."""
    front, name = run.assessed_front(), run.name
    if not front.rows and run.spec.constraint and run.history.with_state(TrialState.FINISHED):
        raise UsageError(f"no trial of search {name!r} that has finished its full budget satisfies the constraints")
    if not front.rows:
        raise UsageError(
            f"search {name!r} has no finished full-budget trial yet; `{resume_command(run.spec, run.home, name)}` "
            "continues it"
        )
    return front


def picked(front: Front, pick: str) -> dict[str, Any]:
    """The row of the front that ``pick`` names (`Front.pick`); ``UsageError`` where there is none."""
    try:
        return front.pick(pick)
    except ValueError as error:
        raise UsageError(f"--pick: {error}") from None


def row_named(run: SearchRun, pick: str) -> dict[str, Any]:
    """A row of the front, or of ``paper`` or ``no_search`` without offsets, or with those of ``paper@TAU``.

    ``UsageError`` where there is none.
    """
    role, at, tau = pick.partition("@")
    if role not in ROLES[1:]:
        return picked(assessed(run), pick)
    rows = run.paper_rows() if role == "paper" else run.no_search_rows()
    if not rows:
        raise UsageError(f"--pick: {role!r} has not finished in search {run.name!r}")
    taus = {f"{row['offsets']['tau']:g}": row for row in rows}
    if not at:
        return rows[0]
    if tau not in taus:
        raise UsageError(f"--pick: {pick!r} is not allowed; after {role}@ it takes one of: {', '.join(taus)}")
    return taus[tau]


def references(run: SearchRun) -> list[tuple[str, dict[str, Any]]]:
    """(role, row) of each method's default setting and of plain AT: without offsets, and with those that are best on
    val (`best_row`). Empty for those that have not finished. Where plain AT is a method, its default setting is no
    search, and has that role alone."""
    plain = run.no_search_rows()
    curves = [("paper", run.paper_rows(method)) for method in run.spec.methods]
    found = []
    for role, rows in [*curves, ("no_search", plain)]:
        if rows and not (role == "paper" and plain and rows[0]["trial"] == plain[0]["trial"]):
            best = rows[best_of(run, rows)]
            found += [(role, row) for row in (rows[:1] if best is rows[0] else [rows[0], best])]
    return found


def best_of(run: SearchRun, rows: Sequence[dict[str, Any]]) -> int:
    """The place of the `best_row` of a reference's ``rows``, as the search itself compares with it: of those that
    satisfy its constraints, if any do, by means over seeds."""
    judged = [{**row, "feasible": feasible(run, row)} for row in rows]
    return judged.index(best_row(judged, run.spec.objectives))


def feasible(run: SearchRun, row: dict[str, Any]) -> bool:
    """Whether a row of the search satisfies its constraints."""
    return run.spec.goal.feasible(run.history.metrics_of(row))


def spread(front: Front, most: int) -> list[dict[str, Any]]:
    """At most ``most`` of the front's rows, in its order: the knee and the ends, then whichever row is farthest from
    those chosen, each objective scaled to the front's range."""
    ends = [max(front.rows, key=lambda row: row[name]) for name in front.objectives]
    picked: list[dict[str, Any]] = []
    for row in [front.knee(), *ends]:
        if row not in picked:
            picked.append(row)
    place = _places(front)

    def distance(row: dict[str, Any]) -> float:
        return min(math.dist(place[row_label(row)], place[row_label(other)]) for other in picked)

    while len(picked) < min(most, len(front.rows)):
        picked.append(max((row for row in front.rows if row not in picked), key=distance))
    return [row for row in front.rows if row in picked[:most]]


def _places(front: Front) -> dict[str, list[float]]:
    """Label -> where the row lies, each objective scaled to the front's range."""
    low = [min(row[n] for row in front.rows) for n in front.objectives]
    span = [max(row[n] for row in front.rows) - least or 1.0 for n, least in zip(front.objectives, low)]
    return {row_label(r): [(r[n] - a) / s for n, a, s in zip(front.objectives, low, span)] for r in front.rows}
