"""What a search has running where, as its driver last heard: a small file beside the history, for whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.gpu_use import FIELDS
from trainables.reading import intact, read_json, shaped
from tuner.files import write_atomically

FILE = "running.json"
MOST_GPUS = 64  # of a machine
_SHAPE = {"host": str, "epoch": int, "stem": bool, "heard": float}


@dataclass(frozen=True)
class Place:
    """``host``: the name of the machine; ``epoch``: the last that it reported, its own or, of the ``stem``, one that it
    trained for that; ``heard``: when, in seconds since 1970; ``gpus``: those of the machine, as rows of
    `trainables.gpu_use.Gpus`, where it trains on one."""

    host: str
    epoch: int
    stem: bool
    heard: float
    gpus: Sequence[Mapping[str, Any]] = ()


class Running:
    """The driver's side: it notes every report, and writes the file when it is asked to and something has changed."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._places: dict[int, Place] = {}
        self._written: dict[int, Place] = {}

    def heard(
        self, trial: int, host: str, epoch: int, stem: bool = False, gpus: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._places[trial] = Place(host, epoch, stem, round(time.time(), 3), gpus)

    def gone(self, trial: int) -> None:
        self._places.pop(trial, None)

    def write(self) -> None:
        """A file that cannot be written is missed by nobody but those who watch."""
        if self._places == self._written:
            return
        self._written = dict(self._places)
        with suppress(OSError):
            write_atomically(self.path, json.dumps({trial: vars(place) for trial, place in self._places.items()}))


def read_running(folder: Path) -> dict[int, Place]:
    """Trial -> where it is; empty where the file is missing or damaged. Trials that have ended since may be among
    them."""
    found = intact(lambda: read_json(folder / FILE)) or {}
    if not isinstance(found, dict):
        return {}
    return {
        int(trial): Place(place["host"][:255], place["epoch"], place["stem"], float(place["heard"]), _gpus(place))
        for trial, place in found.items()
        if trial.removeprefix("-").isdecimal() and shaped(place, _SHAPE)
    }


def _gpus(place: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Empty where somebody wrote something else there."""
    rows = place.get("gpus", [])
    fits = shaped(rows, [dict]) and all(
        name in row and (row[name] is None or shaped(row[name], kind)) for row in rows for name, kind in FIELDS.items()
    )
    return rows[:MOST_GPUS] if fits else ()


def gpus_by_host(places: Mapping[int, Place]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Machine -> its GPUs, as the trial that was heard of last there said."""
    by_time = sorted(places.values(), key=lambda place: place.heard)
    return {place.host: place.gpus for place in by_time if place.gpus}
