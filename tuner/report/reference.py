"""A front and what it is compared with (no search, and the paper's setting), as reports name and show them.

A result (`tuner.results.summary.front_json`) may have a key ``assessment``, which says what holds beyond the validation
images. All its parts may be missing:

    {"rows": {row_label: {"p_front": probability to be on the front, "ci": {metric: [low, high]},
                          "shrunk": {metric: value}}},
     "band": {"x": [...], "low": [...], "high": [...]},  # 90 % of the attained front: bounds of the second objective
     "against": {"no_search" | "paper": {"worst_class_gain": float, "ci": [low, high], "verdict": str}}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.results.pareto import Front, row_label
from tuner.results.trial_record import NO_SEARCH

NO_SEARCH_NAME, NO_SEARCH_NOTE = "no search", "plain AT with offsets"


def paper_label(method: str) -> str:
    """What reports call the setting of the method's first trial."""
    return "the paper's setting"


def short_name(method: str) -> str:
    """A `paper_label` for tables, legends and bars: without article and brackets."""
    return paper_label(method).partition(" (")[0].removeprefix("the ")


@dataclass(frozen=True)
class Reference:
    """``role``: ``no_search`` or ``paper``. ``rows``: its model over its offsets, as rows of a front; the first is
    without offsets."""

    role: str
    rows: tuple[dict[str, Any], ...]

    @property
    def plain(self) -> dict[str, Any]:
        """Without offsets."""
        return self.rows[0]

    @property
    def name(self) -> str:
        """For tables and bars: ``no search`` or ``paper's setting``."""
        return NO_SEARCH_NAME if self.role == "no_search" else short_name(self.plain.get("method", ""))

    @property
    def long_name(self) -> str:
        """For a legend: says what `no search` is."""
        return f"{self.name} ({NO_SEARCH_NOTE})" if self.role == "no_search" else self.name

    def best(self, objectives: Sequence[str]) -> dict[str, Any]:
        """The row with the largest product of objectives (its box below the front); of equals that with the largest
        sum, then the first: without offsets where they do not help."""
        values = [[row.get(name) or 0.0 for name in objectives] for row in self.rows]
        best = max(range(len(values)), key=lambda i: (math.prod(values[i]), sum(values[i])))
        return self.rows[best]

    def label(self, row: Mapping[str, Any]) -> str:
        """One of its rows, in a table: ``no search @0.75``, ``paper's setting (0@0.75)``."""
        if row["trial"] == NO_SEARCH:
            return f"{self.name} {_at(row)}".strip()
        return f"{self.name} ({row_label(dict(row))})"

    def sentence(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """One of its rows, in a sentence, and what to say of it in brackets."""
        number = _at(row) if row["trial"] == NO_SEARCH else f"trial {row_label(dict(row))}"
        if self.role == "no_search":
            return NO_SEARCH_NAME, ", ".join(filter(None, (NO_SEARCH_NOTE, number)))
        return paper_label(row.get("method", "")), number


def _at(row: Mapping[str, Any]) -> str:
    """``@0.75``; empty without offsets."""
    return "".join(row_label(dict(row)).partition("@")[1:])


def front_in(result: Mapping[str, Any], objectives: Sequence[str]) -> Front:
    """The front of a result, its rows with what the result's ``assessment`` says of them."""
    about = (result.get("assessment") or {}).get("rows") or {}
    return Front.of([{**row, **about.get(row_label(row), {})} for row in result["front"]], objectives)


def references_of(result: Mapping[str, Any]) -> list[Reference]:
    """The references of a result (`tuner.results.summary.front_json`) that have finished. Where the paper's setting is
    plain AT they are one."""
    paper = result.get("paper_curve") or ([result["paper"]] if result.get("paper") else [])
    found = {"no_search": result.get("no_search") or [], "paper": paper}
    if found["no_search"] and paper and paper[0]["trial"] == found["no_search"][0]["trial"]:
        del found["paper"]
    return [Reference(role, tuple(rows)) for role, rows in found.items() if rows]
