"""A search on a machine, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.home import Home
from tuner.results.assessment import Assessment, assess
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.references import no_search_rows, paper_rows
from tuner.spec.search_spec import SearchSpec


@dataclass(frozen=True)
class SearchRun:
    """A search's ``spec``, where it is stored (``home``, ``name``) and what has happened so far (``history``).

    ``name`` is also that of the search's folder in the home. While the search runs, its driver appends to ``history``;
    everything else is fixed.
    """

    spec: SearchSpec
    home: Home
    name: str
    history: History

    @property
    def folder(self) -> Path:
        return self.home.search(self.name)

    def place(self, *parts: object) -> str:
        """A path or URL below this search's folder that other nodes can also reach."""
        return self.home.place(self.spec.storage, "searches", self.name, *parts)

    def front(self) -> Front:
        """The current Pareto front: see `fronts.front_of`."""
        return front_of(self.spec, self.history)

    def assessed_front(self) -> Front:
        """The front with what the assessment says of each row, by which rows are picked; else as it is."""
        found = self.assessment()
        return found.front if found else self.front()

    def assessment(self) -> Assessment | None:
        """What may be said of the front: see `assessment.assess`. Takes seconds where there are many trials."""
        return assess(self.spec, self.history)

    def paper_rows(self, method: str | None = None) -> list[dict[str, Any]]:
        """A method's default setting over its offsets: see `references.paper_rows`."""
        return paper_rows(self.spec, self.history, method)

    def no_search_rows(self) -> list[dict[str, Any]]:
        """Plain AT over its offsets: see `references.no_search_rows`."""
        return no_search_rows(self.spec, self.history)
