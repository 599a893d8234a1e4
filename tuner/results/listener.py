"""Who hears what happens in a search: the terminal, the pages, MLflow, and what a user adds.

To add a listener, derive from `Listener`, override what it wants to hear, and hand it to `tuner.search(spec, home,
listeners=[...])`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord


class Listener:
    """Every method does nothing unless overridden. The driver alone calls them, in this order and on one thread, on
    which trials are scheduled too: what takes long belongs on a thread of the listener's own.

    By the time of a call the history holds what happened. A listener that raises is named once, hears the rest all the
    same, and changes nothing for the search.
    """

    name = "a listener"

    def search_started(self, run: SearchRun) -> None:
        """Before the first trial, and before a resumed search goes on."""

    def trial_started(self, record: TrialRecord) -> None:
        """A trial or replicate was handed out, for the first time or to go on; what it has trained is in its record."""

    def training_began(self) -> None:
        """Once: a trial trains by now. For what takes seconds and need not come before."""

    def epoch_ended(self, record: TrialRecord, metrics: dict[str, Any]) -> None:
        """A trial was trained and judged for one more epoch, or got it from the trunk."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial finished, was stopped or failed: see ``record.state`` and ``record.reason``."""

    def front_changed(self, front: Front, finished: int) -> None:
        """``front`` after ``finished`` trials and replicates of full budget; it may have the same members as before."""

    def search_ended(self, run: SearchRun, state: str) -> None:
        """The last call, however the search ended: finished, stopped or failed. Its pictures are written by then."""

    def result(self) -> dict[str, Any]:
        """What a listener adds to the result of the search, for example where to find it."""
        return {}


class Listeners(Listener):
    """Several listeners as one. ``say`` is told of the first error of each."""

    def __init__(self, listeners: Sequence[Listener], say: Callable[[str], None]):
        self.listeners, self.say = listeners, say
        self._named: set[int] = set()

    def _tell(self, what: str, *args: Any) -> list[Any]:
        return [self._call(listener, what, *args) for listener in self.listeners]

    def _call(self, listener: Listener, what: str, *args: Any) -> Any:
        try:
            return getattr(listener, what)(*args)
        except Exception as error:  # a report is not worth a search
            if id(listener) not in self._named:
                self._named.add(id(listener))
                self.say(f"{listener.name}: {type(error).__name__}: {error}; the search goes on")
            return None

    def search_started(self, run: SearchRun) -> None:
        self._tell("search_started", run)

    def trial_started(self, record: TrialRecord) -> None:
        self._tell("trial_started", record)

    def training_began(self) -> None:
        self._tell("training_began")

    def epoch_ended(self, record: TrialRecord, metrics: dict[str, Any]) -> None:
        self._tell("epoch_ended", record, metrics)

    def trial_ended(self, record: TrialRecord) -> None:
        self._tell("trial_ended", record)

    def front_changed(self, front: Front, finished: int) -> None:
        self._tell("front_changed", front, finished)

    def search_ended(self, run: SearchRun, state: str) -> None:
        self._tell("search_ended", run, state)

    def result(self) -> dict[str, Any]:
        return {key: value for found in self._tell("result") for key, value in (found or {}).items()}
