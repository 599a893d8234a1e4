"""A search on a machine, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.home import Home
from tuner.results.fronts import front_of, paper_row
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.spec.search_spec import SearchSpec


@dataclass(frozen=True)
class SearchRun:
    """What was asked for (``spec``), where it lies (``home``, ``name``) and what has happened so far (``history``).

    ``name`` is the search's folder in the home. While the search runs its driver appends to ``history``; nothing else
    here changes.
    """

    spec: SearchSpec
    home: Home
    name: str
    history: History

    @property
    def folder(self) -> Path:
        return self.home.search(self.name)

    def place(self, *parts: object) -> str:
        """A path or URL below this search that trials on other nodes see too."""
        return self.home.place(self.spec.storage, "searches", self.name, *parts)

    def front(self) -> Front:
        """The Pareto front of the trials of full budget, as the history stands now."""
        return front_of(self.spec, self.history)

    def paper_row(self) -> dict | None:
        """The finished trial that ran the (first) method's paper's setting, as a row of the front."""
        return paper_row(self.spec, self.history)
