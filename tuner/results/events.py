"""What a history records: one event a line, each a class that says what it holds and how it changes a trial.

To record something new, add a class and its name to ``EVENTS``; files of before stay readable, since a line is read by
its own event's fields alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """``trial``: the number of the trial or replicate; ``time``: seconds since 1970."""

    name: ClassVar[str]
    trial: int
    time: float

    def change(self, record: TrialRecord) -> None:
        """What the event does to the trial's record."""


@dataclass(frozen=True)
class Started(Event):
    """A trial was proposed. A replicate repeats the setting of trial ``of`` under another seed."""

    name = "start"
    params: dict[str, Any]
    method: str
    seed: int = 0
    of: int | None = None

    def record(self) -> TrialRecord:
        return TrialRecord(self.trial, self.params, self.method, seed=self.seed, started=self.time, of=self.of)


@dataclass(frozen=True)
class Resumed(Event):
    """It was handed out again, to go on from its checkpoint."""

    name = "resume"

    def change(self, record: TrialRecord) -> None:
        record.state = TrialState.RUNNING


@dataclass(frozen=True)
class EpochDone(Event):
    """It trained and was judged for one more epoch; ``metrics`` holds that ``epoch``."""

    name = "epoch"
    metrics: Metrics

    def change(self, record: TrialRecord) -> None:
        record.epochs = [e for e in record.epochs if e["epoch"] < self.metrics["epoch"]] + [self.metrics]


@dataclass(frozen=True)
class TrunkTrained(Event):
    """It trained an epoch of the trunk, for all that will branch from it."""

    name = "trunk"
    trunk_epoch: int | None = None

    def change(self, record: TrialRecord) -> None:
        record.trunk_trained += 1


@dataclass(frozen=True)
class Branched(Event):
    """It left the trunk: its curve is whole from the first epoch on. ``trunk``: the trunk's name, where it is known."""

    name = "branch"
    epochs: list[Metrics]
    trunk: str | None = None

    def change(self, record: TrialRecord) -> None:
        record.epochs, record.trunk_epochs = self.epochs, len(self.epochs)


@dataclass(frozen=True)
class Broke(Event):
    """It broke off by an error of its own; ``text`` is the whole of it."""

    name = "error"
    reason: str = ""
    text: str = field(default="", repr=False)

    def change(self, record: TrialRecord) -> None:
        record.errors += 1


@dataclass(frozen=True)
class Lost(Event):
    """It broke off by no fault of its own: its process, node or storage failed."""

    name = "lost"
    reason: str = ""
    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Ended(Event):
    """Its state is final; ``reason`` says why where there is something to say."""

    name = "end"
    state: TrialState
    reason: str = ""

    def change(self, record: TrialRecord) -> None:
        record.state = TrialState(self.state)
        record.reason, record.ended = self.reason, self.time


EVENTS: dict[str, type[Event]] = {
    kind.name: kind for kind in (Started, Resumed, EpochDone, TrunkTrained, Branched, Broke, Lost, Ended)
}
_FIELDS = {name: [field.name for field in dataclasses.fields(kind)] for name, kind in EVENTS.items()}


def event_of(line: dict[str, Any]) -> Event:
    """The event that a line of the log holds. ``KeyError``, ``TypeError`` or ``ValueError`` where it holds none."""
    kind = line["event"]
    return EVENTS[kind](**{key: line[key] for key in _FIELDS[kind] if key in line})
