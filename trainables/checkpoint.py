"""A trial's checkpoint: its whole state after the last finished epoch, in its folder (a path or URL); never half."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.reading import Damaged, intact, one_line, shaped
from trainables.storage import Storage, below

NAME = "checkpoint.pt"
_IDENTITY = ("method", "params", "seed")  # what tells one trial of a search from another


class DamagedCheckpoint(Damaged):
    """One sentence that names the file."""


def save_checkpoint(folder: str | Path, trainer, metrics: dict, past: Sequence[dict] = ()) -> None:
    """``metrics`` of the last epoch, ``past`` of those before it."""
    state = {**trainer.state_dict(), "metrics": metrics, "past": list(past), "config": trainer.config.to_dict()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    Storage(folder).write(NAME, buffer.getbuffer())


def checkpoint_bytes(folder: str | Path) -> bytes | None:
    return Storage(folder).read(NAME)


def read_checkpoint(folder: str | Path) -> dict | None:
    """The state, or None where the folder has no checkpoint. Foreign code is never unpickled.

    ``DamagedCheckpoint`` where the file is not what was written: torch writes a CRC-32 of every tensor, but does not
    look.
    """
    data = checkpoint_bytes(folder)
    if data is None:
        return None
    state = intact(lambda: _state(data))
    if state is None:
        raise DamagedCheckpoint(f"checkpoint {below(folder, NAME)!r} is cut or altered (its checksum does not fit)")
    return state


def _state(data: bytes) -> dict | None:
    state = numbers_in(data)
    fits = shaped(state, {"config": dict, "epoch": int, "metrics": dict, "model": dict})
    return state if fits and shaped(state.get("past", []), [dict]) else None


def numbers_in(data: bytes) -> Any:
    """What `torch.save` wrote, if it is tensors and plain values alone; an exception of any kind for all else.

    torch writes a CRC-32 of every tensor, but does not look, and packs nothing, so what is packed is a bomb.
    """
    if data.startswith(b"PK\x03\x04"):  # as torch tells it from the format before 1.6, which packs nothing
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
                raise ValueError("it is packed")
            if file.testzip() is not None:
                raise ValueError("its checksum does not fit")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def load_checkpoint(folder: str | Path, trainer) -> list[dict] | None:
    """Continue ``trainer`` from the folder's checkpoint; returns its metrics, the last epoch's last, None without one.

    A damaged one is none: its epochs can be trained again. ``DamagedCheckpoint`` where a whole one does not fit.
    Another trial's is none: a driver whose machine was lost may not have told the storage of its last proposal, and the
    number is then given to another one.
    """
    try:
        state = read_checkpoint(folder)
    except DamagedCheckpoint:
        return None
    if state is None or not _same_trial(state["config"], trainer.config.to_dict()):
        return None
    try:
        trainer.load_state_dict(state)
    except Exception as error:
        raise DamagedCheckpoint(
            f"checkpoint {below(folder, NAME)!r} does not fit this trial ({one_line(error)})"
        ) from error
    return [*state.get("past", []), state["metrics"]]


def _same_trial(stored: dict, own: dict) -> bool:
    """Training settings may be searched too; one that an earlier version did not know says nothing."""
    theirs, ours = stored.get("training"), own["training"]
    shared = theirs.keys() & ours.keys() if isinstance(theirs, dict) else ()
    return all(stored.get(key) == own[key] for key in _IDENTITY) and all(theirs[key] == ours[key] for key in shared)
