"""Listeners are notified of what happens in a search: the terminal, the pages, MLflow, and those that a user adds.

To add one, derive from `Listener`, override the methods for the events that it needs, and pass it to
`tuner.search(spec, home, listeners=[...])`. One that shall hear every search is offered by an installed package, by an
entry point of the group ``tuner.listeners``, ``NAME = "package.module:Class"``; it is made without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from search_spaces.plug_ins import Table, Unusable
from trainables.reading import named_line
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord


class Listener:
    """Methods do nothing unless overridden. Only the driver calls them: what concerns trials and the front on the
    thread that also schedules trials, where slow work belongs on a thread of the listener's own; ``search_started``,
    ``search_ended`` and ``result`` on the thread that started the search.

    At each call the history already holds what happened. A listener that raises is reported once and is still notified
    of everything after; the search goes on.
    """

    name = "a listener"

    def search_started(self, run: SearchRun) -> None:
        """The search is about to start or resume."""

    def trial_started(self, record: TrialRecord) -> None:
        """A trial or replicate starts or continues; ``record`` holds the epochs that it has trained before."""

    def training_began(self) -> None:
        """Called once, when the first trial trains: the time for slow preparations that would have delayed it."""

    def epoch_ended(self, record: TrialRecord, metrics: dict[str, Any]) -> None:
        """A trial trained one more epoch and was evaluated, or took the epoch from the stem."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial or its preview has ended: see ``record.state`` and ``record.reason``."""

    def front_changed(self, front: Front, finished: int) -> None:
        """The front after ``finished`` trainings have ended at full length, of trials, replicates and references; its
        members may be the same."""

    def trouble(self, text: str) -> None:
        """Something was lost that is not the trials' fault, in words: a node, the storage, Ray, room on a disk."""

    def search_ended(self, run: SearchRun, state: str) -> None:
        """The search ended with ``state`` finished, stopped or failed. The pages come before MLflow and a user's own
        listeners, so the pictures are in the search's folder."""

    def result(self) -> dict[str, Any]:
        """Keys to add to the search's result (what `--json` prints). Called last, after ``search_ended``."""
        return {}


class Listeners(Listener):
    """Several listeners as one. ``say`` prints the first error of each."""

    def __init__(self, listeners: Sequence[Listener], say: Callable[[str], None]):
        self.listeners, self.say = listeners, say
        self._reported: set[int] = set()  # ids of listeners whose error has been printed

    def _notify(self, method: str, *args: Any) -> list[Any]:
        return [self._call(listener, method, *args) for listener in self.listeners]

    def _call(self, listener: Listener, method: str, *args: Any) -> Any:
        try:
            return getattr(listener, method)(*args)
        except Exception as error:  # a failed report must not end the search
            if id(listener) not in self._reported:
                self._reported.add(id(listener))
                self.say(f"{listener.name}: {type(error).__name__}: {error}; the search goes on")
            return None

    def search_started(self, run: SearchRun) -> None:
        self._notify("search_started", run)

    def trial_started(self, record: TrialRecord) -> None:
        self._notify("trial_started", record)

    def training_began(self) -> None:
        self._notify("training_began")

    def epoch_ended(self, record: TrialRecord, metrics: dict[str, Any]) -> None:
        self._notify("epoch_ended", record, metrics)

    def trial_ended(self, record: TrialRecord) -> None:
        self._notify("trial_ended", record)

    def front_changed(self, front: Front, finished: int) -> None:
        self._notify("front_changed", front, finished)

    def trouble(self, text: str) -> None:
        self._notify("trouble", text)

    def search_ended(self, run: SearchRun, state: str) -> None:
        self._notify("search_ended", run, state)

    def result(self) -> dict[str, Any]:
        return {key: value for added in self._notify("result") for key, value in (added or {}).items()}


def _check_class(cls: Any) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Listener)):
        raise Unusable("it must be a subclass of tuner.results.listener.Listener")


LISTENERS: Table[type[Listener]] = Table("listener", "tuner.listeners", {}, _check_class)


def installed_listeners(say: Callable[[str], None]) -> list[Listener]:
    """One of each listener that installed packages offer. ``say``: prints why one is left out."""
    made = []
    for problem in LISTENERS.problems.values():
        say(problem)
    for name, cls in LISTENERS.items():
        try:
            made.append(cls())
        except (Exception, SystemExit) as error:
            say(f"listener {name!r} of {LISTENERS.source(name)} is not used: {named_line(error)}")
    return made
