"""A trial's checkpoint: its whole state after the last finished epoch, in its folder, never half-written."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import torch

NAME = "checkpoint.pt"


class DamagedCheckpoint(ValueError):
    """One sentence that names the file."""


def save_checkpoint(folder: Path, trainer, metrics: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{NAME}.{os.getpid()}"
    torch.save({**trainer.state_dict(), "metrics": metrics, "config": trainer.config.to_dict()}, aside)
    os.replace(aside, folder / NAME)


def read_checkpoint(folder: Path) -> dict | None:
    """The state, or None where the folder has no checkpoint. Foreign code is never unpickled.

    ``DamagedCheckpoint`` where the file is not what was written: torch writes a CRC-32 of every tensor, but does not look.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            whole = file.testzip() is None
        if whole:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, pickle.UnpicklingError, RuntimeError):
        pass
    raise DamagedCheckpoint(f"checkpoint {str(path)!r} is cut or altered (its checksum does not fit)")


def load_checkpoint(folder: Path, trainer) -> dict | None:
    """Continue ``trainer`` from the folder's checkpoint; returns the metrics of its last epoch, None where there is none."""
    state = read_checkpoint(folder)
    if state is None:
        return None
    trainer.load_state_dict(state)
    return state["metrics"]
