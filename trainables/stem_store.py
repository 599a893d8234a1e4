"""Where stems lie: one file per epoch under ``<storage>/stems/<hash>/``; and the lock: one process trains at a time.

The storage is the search's (the home, unless ``--storage`` names another); the lock is always a file in the home.
torch is imported on first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from trainables.files import locked
from trainables.reading import intact, parse_json
from trainables.storage import Storage, below

NAME = re.compile(r"epoch-(\d{4,})\.pt")
DIGEST = 32  # bytes of SHA-256 in front of the data


class StemStore:
    """One stem's files. A file is complete or absent and is checked when it is read."""

    def __init__(self, home: str, storage: str | None, name: str):
        self.all = Storage(below(storage or home, "stems"))
        self.files = Storage(below(storage or home, "stems", name))
        self.lock_file = Path(home) / "stems" / f".{name}.lock"
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)

    def describe(self, key: dict) -> None:
        """Write what the hash is taken of as ``key.json``, for people and for ``outdated``."""
        if self.files.read("key.json") is None:
            self.files.write("key.json", json.dumps(key, indent=1).encode())

    def outdated(self, key: dict) -> int:
        """How many stems of this storage would be ``key``'s, were they not of another code or torch version."""
        keys = (self.all.read(f"{folder}/key.json") for folder in self.all.folders())
        known = (found and intact(lambda: parse_json(found)) for found in keys)
        others = [{**found, "code": key["code"], "torch": key["torch"]} for found in known if isinstance(found, dict)]
        return max(0, others.count(json.loads(json.dumps(key))) - 1)  # itself

    def epochs(self) -> set[int]:
        """The epochs that have a file."""
        return {int(m[1]) for name, _ in self.files.files() if (m := NAME.fullmatch(name))}

    def read(self, epoch: int) -> dict | None:
        """The state after an epoch; None if it is not there or damaged, and a damaged file is removed."""
        data = self.files.read(_name(epoch))
        if data is None:
            return None
        import torch

        state = None
        if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
            state = intact(lambda: torch.load(io.BytesIO(data[DIGEST:]), map_location="cpu", weights_only=True))
        if state is None:
            self.remove(epoch)
        return state

    def write(self, epoch: int, state: dict) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        self.files.write(_name(epoch), hashlib.sha256(data).digest() + data)

    def remove(self, epoch: int) -> None:
        self.files.remove(_name(epoch))

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Try to take the lock without waiting; yields whether this process has it now.

        It works between the processes of a machine and over NFS. Where homes are not shared a stem may be trained
        twice, with the same result. A holder that is stopped (not killed) keeps the others waiting.
        """
        with contextlib.ExitStack() as stack:
            try:
                mine = stack.enter_context(locked(self.lock_file, patience=0))
            except OSError:  # no lock to be had here: training twice is wasteful but right
                mine = True
            yield mine


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.pt"
