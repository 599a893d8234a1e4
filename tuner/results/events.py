"""The events of a history, one per line of its file. Each class states its fields and how it changes a trial's record.

To log something new, add a class and list it in ``EVENTS``. Older files stay readable, since fields that an event's
class does not have are ignored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trainables.curve import Curve
from tuner.results.trial_record import Preview, TrialRecord
from tuner.results.trial_state import TrialState

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """``trial``: number of the trial or replicate that the event is about; ``time``: seconds since 1970."""

    name: ClassVar[str]
    trial: int
    time: float

    def change(self, record: TrialRecord) -> None:
        """Apply the event to the trial's ``record``."""


@dataclass(frozen=True)
class Started(Event):
    """The trial was proposed. A replicate repeats the setting of trial ``of`` under another seed. A reference, which is
    no proposal, has a ``role``. ``preview``: it is to be previewed before it trains in full."""

    name = "start"
    params: dict[str, Any]
    method: str
    seed: int = 0
    of: int | None = None
    role: str | None = None
    preview: bool = False

    def record(self) -> TrialRecord:
        """The record of the new trial."""
        record = TrialRecord(self.trial, self.params, self.method, seed=self.seed, started=self.time)
        record.of, record.role, record.full = self.of, self.role, not self.preview
        return record


@dataclass(frozen=True)
class Resumed(Event):
    """The trial was handed out again, to continue from its checkpoint."""

    name = "resume"

    def change(self, record: TrialRecord) -> None:
        record.state = TrialState.RUNNING


@dataclass(frozen=True)
class EpochDone(Event):
    """The trial trained one more epoch and was evaluated. ``metrics`` contains the number ``epoch``, from 1."""

    name = "epoch"
    metrics: Metrics

    def change(self, record: TrialRecord) -> None:
        record.epochs = [e for e in record.epochs if e["epoch"] < self.metrics["epoch"]] + [self.metrics]


@dataclass(frozen=True)
class Swept(Event):
    """The trial's model, after its last epoch, was judged over post-hoc offsets. ``curve``: `Curve.to_dict`."""

    name = "curve"
    curve: dict[str, Any]

    def change(self, record: TrialRecord) -> None:
        record.curve = Curve.of(self.curve)


@dataclass(frozen=True)
class Previewed(Event):
    """The trial's preview has ended. ``epochs``: how many it trained after its fork; ``metrics``: at its end;
    ``curve``: `Curve.to_dict`."""

    name = "preview"
    epochs: int
    metrics: Metrics
    curve: dict[str, Any] | None = None

    def change(self, record: TrialRecord) -> None:
        curve = Curve.of(self.curve) if self.curve else None
        record.preview = Preview(self.epochs, self.metrics, curve, self.time)
        record.state, record.ended = TrialState.PREVIEWED, self.time


@dataclass(frozen=True)
class Promoted(Event):
    """The trial's preview is among the best: it trains in full, from a start of its own."""

    name = "promote"

    def change(self, record: TrialRecord) -> None:
        record.state, record.full = TrialState.RUNNING, True


@dataclass(frozen=True)
class StemTrained(Event):
    """The trial trained one epoch of the stem, for all trials that will fork from it."""

    name = "stem"
    stem_epoch: int | None = None

    def change(self, record: TrialRecord) -> None:
        record.stem_trained += 1


@dataclass(frozen=True)
class Forked(Event):
    """The trial left the stem. ``epochs``: the stem's metrics, with which the trial's curve begins; ``stem``: the
    stem's name, if known. Those of a preview are no epochs of the full training."""

    name = "fork"
    epochs: list[Metrics]
    stem: str | None = None

    def change(self, record: TrialRecord) -> None:
        record.epochs, record.stem_epochs = self.epochs, len(self.epochs)


@dataclass(frozen=True)
class ErrorRaised(Event):
    """The trial was interrupted by an error of its own. ``reason`` is one line of it, ``text`` the whole error."""

    name = "error"
    reason: str = ""
    text: str = field(default="", repr=False)

    def change(self, record: TrialRecord) -> None:
        record.errors += 1


@dataclass(frozen=True)
class Lost(Event):
    """The trial was interrupted through no fault of its own: its process, node or storage failed."""

    name = "lost"
    reason: str = ""
    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Ended(Event):
    """The trial reached its final ``state``. ``reason`` says why it failed, or holds notes on a finished one."""

    name = "end"
    state: TrialState
    reason: str = ""

    def change(self, record: TrialRecord) -> None:
        record.state = TrialState(self.state)
        record.reason, record.ended = self.reason, self.time


KINDS = (Started, Resumed, EpochDone, Swept, Previewed, Promoted, StemTrained, Forked, ErrorRaised, Lost, Ended)
EVENTS: dict[str, type[Event]] = {kind.name: kind for kind in KINDS}
EVENTS |= {"trunk": StemTrained, "branch": Forked}  # their names in histories of earlier versions
_FIELDS = {name: [field.name for field in dataclasses.fields(kind)] for name, kind in EVENTS.items()}


def event_of(line: dict[str, Any]) -> Event:
    """The event that a decoded line of the file holds; ``KeyError``, ``TypeError`` or ``ValueError`` if it is none."""
    name = line["event"]
    return EVENTS[name](**{key: line[key] for key in _FIELDS[name] if key in line})
