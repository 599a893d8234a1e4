"""A front and what it is compared with (no search, and the default setting), as reports name and show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.provenance import legend_label, paper_label
from tuner.results.pareto import Front, row_label
from tuner.results.references import best_row
from tuner.results.trial_record import NO_SEARCH

NO_SEARCH_NAME = "no search"


def setting_name(row: Mapping[str, Any]) -> str:
    """What to call the setting of a row in tables, legends and bars: `paper_label` without article and brackets."""
    return legend_label(paper_label(row["method"], row["params"])).removeprefix("the ")


@dataclass(frozen=True)
class Reference:
    """``role``: ``no_search`` or ``paper``. ``rows``: its model over its offsets, as rows of a front; the first is
    without offsets. Those that violate the search's constraints have ``feasible`` false."""

    role: str
    rows: tuple[dict[str, Any], ...]

    @property
    def plain(self) -> dict[str, Any]:
        """Without offsets."""
        return self.rows[0]

    @property
    def name(self) -> str:
        """For tables and bars: ``no search`` or ``default setting``."""
        return NO_SEARCH_NAME if self.role == "no_search" else setting_name(self.plain)

    @property
    def long_name(self) -> str:
        """For a legend: says what `no search` is."""
        offsets = " with offsets" if len(self.rows) > 1 else ""
        return f"{self.name} (plain AT{offsets})" if self.role == "no_search" else self.name

    @property
    def feasible(self) -> tuple[dict[str, Any], ...]:
        """The rows that satisfy the search's constraints."""
        return tuple(row for row in self.rows if row.get("feasible", True))

    def best(self, objectives: Sequence[str]) -> dict[str, Any]:
        """See `best_row`."""
        return best_row(self.rows, objectives)

    def label(self, row: Mapping[str, Any]) -> str:
        """One of its rows, in a table: ``no search @0.75``, ``default setting (0@0.75)``."""
        if row["trial"] == NO_SEARCH:
            return f"{self.name} {_at(row)}".strip()
        return f"{self.name} ({row_label(dict(row))})"

    def sentence(self, row: Mapping[str, Any]) -> str:
        """One of its rows in a sentence: ``no search (plain AT with offsets), @0.5``."""
        number = _at(row) if row["trial"] == NO_SEARCH else f"trial {row_label(dict(row))}"
        name = self.long_name if self.role == "no_search" else paper_label(row["method"], row["params"])
        return ", ".join(filter(None, (name, number)))


def _at(row: Mapping[str, Any]) -> str:
    """``@0.75``; empty without offsets."""
    return "".join(row_label(dict(row)).partition("@")[1:])


def front_in(result: Mapping[str, Any], objectives: Sequence[str]) -> Front:
    """The front of a result."""
    return Front.of(result["front"], objectives)


def references_of(result: Mapping[str, Any]) -> list[Reference]:
    """The references of a result (`tuner.results.summary.front_json`) that have finished. Where the default setting is
    plain AT they are one."""
    paper = result.get("paper_curve") or ([result["paper"]] if result.get("paper") else [])
    found = {"no_search": result.get("no_search") or [], "paper": paper}
    if found["no_search"] and paper and paper[0]["trial"] == found["no_search"][0]["trial"]:
        del found["paper"]
    return [Reference(role, tuple(rows)) for role, rows in found.items() if rows]
