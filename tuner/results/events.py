"""The events of a history, one per line of its file. Each class states its fields and how it changes a trial's record.

To log something new, add a class and list it in ``EVENTS``. Older files stay readable, since fields that an event's
class does not have are ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

from trainables.curve import Curve
from tuner.results.trial_record import Note, Preview, TrialRecord
from tuner.results.trial_state import TrialState

Count = int
Setting = dict[str, Any]
Metrics = dict[str, Any]
Role = str | None
ROLES = (None, "no_search")
ROUNDING = 1e-9
FINAL = (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED)


@dataclass(frozen=True)
class Event:
    """``trial``: number of the trial or replicate that the event is about; ``time``: seconds since 1970."""

    name: ClassVar[str]
    trial: int
    time: float

    @property
    def trained(self) -> int:
        """How many epochs were trained, as the event tells."""
        return 0

    def change(self, record: TrialRecord) -> None:
        """Apply the event to the trial's ``record``."""

    def change_search(self, search: Steered) -> None:
        """Apply an event about the whole search, whose ``trial`` is ``WHOLE``."""


@dataclass
class Steered:
    """What users have changed of the whole search: ``trials``, to how many it is extended, and when it was ``extended``
    last; ``space``, from which ranges proposals come now, as in a space file."""

    trials: int | None = None
    extended: float = 0.0
    space: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asked for. ``by``: who; ``request``: its number among what they asked, which is done once."""

    by: str = ""
    request: str = ""


@dataclass(frozen=True)
class Started(Event):
    """The trial was proposed. A replicate repeats the setting of trial ``of`` under another seed. A reference, which is
    no proposal, has a ``role``. ``preview``: it is to be previewed before it trains in full."""

    name = "start"
    params: Setting
    method: str
    seed: int = 0
    of: int | None = None
    role: Role = None
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
        if record.state == TrialState.WAITING and not record.trained:
            record.started = self.time
        record.state = TrialState.RUNNING


@dataclass(frozen=True)
class EpochDone(Event):
    """The trial trained one more epoch and was evaluated. ``metrics`` contains the number ``epoch``, from 1."""

    name = "epoch"
    metrics: Metrics

    @property
    def trained(self) -> int:
        return 1

    def change(self, record: TrialRecord) -> None:
        if record.epochs and record.epochs[-1]["epoch"] >= self.metrics["epoch"]:  # trained again
            record.epochs = [e for e in record.epochs if e["epoch"] < self.metrics["epoch"]]
        record.epochs.append(self.metrics)


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
    epochs: Count
    metrics: Metrics
    curve: dict[str, Any] | None = None

    @property
    def trained(self) -> int:
        return self.epochs

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
    """The trial trained one epoch of a stem, for all trials that will fork from it. ``stem``: its name, if known;
    ``spare``: it is not the trial's own, but one under another seed."""

    name = "stem"
    stem_epoch: int | None = None
    stem: str | None = None
    spare: bool = False

    @property
    def trained(self) -> int:
        return 1

    def change(self, record: TrialRecord) -> None:
        record.stem_trained += 1
        if self.stem_epoch is not None and not self.spare:
            record.stem_reached.add(self.stem_epoch)


@dataclass(frozen=True)
class Forked(Event):
    """The trial left the stem. ``epochs``: the stem's metrics, with which the trial's curve begins; ``stem``: the
    stem's name, if known. Those of a preview are no epochs of the full training."""

    name = "fork"
    epochs: list[Metrics]
    stem: str | None = None

    def change(self, record: TrialRecord) -> None:
        record.epochs, record.stem_epochs = list(self.epochs), len(self.epochs)


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
class Printed(Event):
    """What the trial's process printed since its report before: a method of somebody's own, say."""

    name = "printed"
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


# ---- what users ask for ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Added(Started, Asked):
    """A trial with a user's own setting. It waits until it is its turn."""

    name = "add"

    def record(self) -> TrialRecord:
        record = super().record()
        record.state, record.added = TrialState.WAITING, self.by or "a user"
        return record


@dataclass(frozen=True)
class Skipped(Event, Asked):
    """The trial ends as it is."""

    name = "skip"

    def change(self, record: TrialRecord) -> None:
        record.state, record.ended = TrialState.SKIPPED, self.time
        record.reason = f"skipped by {self.by or 'a user'}"


@dataclass(frozen=True)
class Retried(Event, Asked):
    """The trial, which failed or was skipped, waits to be handed out again and to continue from its checkpoint. One
    whose preview had ended waits again for what becomes of it."""

    name = "retry"

    def change(self, record: TrialRecord) -> None:
        previewed = record.preview is not None and not record.full
        record.state, record.ended = (TrialState.PREVIEWED, self.time) if previewed else (TrialState.WAITING, 0.0)
        record.reason, record.errors = "", 0


@dataclass(frozen=True)
class Confirmed(Event, Asked):
    """The trial is to be trained with so many ``seeds`` in all."""

    name = "confirm"
    seeds: Count

    def change(self, record: TrialRecord) -> None:
        record.seeds = self.seeds


@dataclass(frozen=True)
class Noted(Event, Asked):
    """A user wrote a ``text`` on the trial, or put a ``star`` on it or took it away. The search goes on as it was."""

    name = "note"
    text: str = ""
    star: bool | None = None

    def change(self, record: TrialRecord) -> None:
        who = self.by or "a user"
        if self.text:
            record.notes = (*record.notes, Note(who, self.time, self.text))
        if self.star is not None:
            others = {name: when for name, when in record.stars.items() if name != who}
            record.stars = {**others, who: self.time} if self.star else others


@dataclass(frozen=True)
class Extended(Event, Asked):
    """The search has so many trials from now on, those that users add aside."""

    name = "extend"
    trials: Count

    def change_search(self, search: Steered) -> None:
        search.trials, search.extended = self.trials, self.time


@dataclass(frozen=True)
class Narrowed(Event, Asked):
    """New proposals come from these ranges, of a parameter the latest ones. ``space``: as in a space file."""

    name = "narrow"
    space: dict[str, Any]

    def change_search(self, search: Steered) -> None:
        search.space = {**search.space, **self.space}


KINDS = (
    Started,
    Resumed,
    EpochDone,
    Swept,
    Previewed,
    Promoted,
    StemTrained,
    Forked,
    ErrorRaised,
    Lost,
    Printed,
    Ended,
)
ASKED = (Added, Skipped, Retried, Confirmed, Noted, Extended, Narrowed)
EVENTS: dict[str, type[Event]] = {kind.name: kind for kind in (*KINDS, *ASKED)}
EVENTS |= {"trunk": StemTrained, "branch": Forked}  # their names in histories of earlier versions


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53


def is_time(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 2**37  # some thousand years


def _is_setting(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, (str, bool)) or v is None or _is_number(v) and math.isfinite(v) for v in value.values()
    )


@cache
def _is_rate(name: str) -> bool:
    return name.partition("/")[0].endswith("_acc")


def _is_metrics(value: Any) -> bool:
    """Numbers or null; rates within [0, 1] or NaN; the epoch, from 1."""
    if not isinstance(value, dict) or not (_is_whole(value.get("epoch")) and value["epoch"] > 0):
        return False
    for name, number in value.items():
        if type(number) is float and 0.0 <= number <= 1.0 or number is None:  # nearly all of them
            continue
        if not isinstance(number, (int, float)):
            return False
        if _is_rate(name) and (number < -ROUNDING or number > 1 + ROUNDING):
            return False
    return True


# What may stand in a field, by its type. A field of another type has a ``change`` that checks it.
_FITS: dict[str, Callable[[Any], bool]] = {
    "int": _is_whole,
    "Count": lambda value: _is_whole(value) and value >= 0,
    "float": is_time,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "Setting": _is_setting,
    "Metrics": _is_metrics,
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "list[Metrics]": lambda value: isinstance(value, list) and all(map(_is_metrics, value)),
    "Role": lambda value: value in ROLES,
    "TrialState": lambda value: value in FINAL,
}
_FITS |= {
    f"{kind} | None": partial(lambda fits, value: value is None or fits(value), _FITS[kind])
    for kind in ("int", "str", "bool")
}
_FIELDS = {
    name: [(field.name, _FITS.get(str(field.type), lambda value: True)) for field in dataclasses.fields(kind)]
    for name, kind in EVENTS.items()
}


def event_of(line: dict[str, Any]) -> Event:
    """The event that a line of a driver's own holds; ``KeyError`` or ``TypeError`` if it is none."""
    name = line["event"]
    return EVENTS[name](**{key: line[key] for key, _ in _FIELDS[name] if key in line})


def checked_event_of(line: dict[str, Any]) -> Event:
    """The same of a line from a file, whose values are checked: also ``ValueError``."""
    name = line["event"]
    known = {}
    for key, fits in _FIELDS[name]:
        if key in line:
            if not fits(line[key]):
                raise ValueError(f"{key} {str(line[key])[:40]!r} of event {name}")
            known[key] = line[key]
    return EVENTS[name](**known)
