"""Where trunks lie: one file per epoch under ``<storage>/<hash>/``, and the lock that lets one process train at a time.

``storage`` is a folder or any URL that pyarrow or fsspec opens (default ``<home>/trunks``); the lock is always a file in the home.
torch is imported on first use: the driver checks a storage before Ray starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

NAME = re.compile(r"epoch-(\d{4,})\.pt")
DIGEST = 32  # bytes of SHA-256 in front of the data


def open_storage(where: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path of a folder or URL; ``ValueError`` if nothing here opens it."""
    if "://" not in where:
        return fs.LocalFileSystem(), os.path.abspath(where)
    try:
        return fs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(where)
        except Exception as error:  # every protocol has errors of its own
            raise ValueError(f"trunk storage {where!r} cannot be opened: {' '.join(str(error).split())}") from None
        return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def absolute_storage(where: str | None) -> str | None:
    """The same place for a process in another folder."""
    return where if where is None or "://" in where else os.path.abspath(os.path.expanduser(where))


class TrunkStore:
    """One trunk's files. A file is complete or absent (written aside, then moved) and is checked when it is read."""

    def __init__(self, home: str, storage: str | None, name: str):
        trunks = Path(home) / "trunks"
        self.fs, root = open_storage(storage or str(trunks))
        self.folder = f"{root.rstrip('/')}/{name}"
        self.lock_file = trunks / f".{name}.lock"
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        self.fs.create_dir(self.folder, recursive=True)

    def describe(self, key: dict) -> None:
        """What the hash is taken of, for people."""
        path = f"{self.folder}/key.json"
        if self.fs.get_file_info(path).type == fs.FileType.NotFound:
            self._put(path, json.dumps(key, indent=1).encode())

    def epochs(self) -> set[int]:
        """The epochs that have a file."""
        found = self.fs.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return {int(m[1]) for info in found if (m := NAME.fullmatch(info.base_name))}

    def read(self, epoch: int) -> dict | None:
        """The state after an epoch; None if it is not there or damaged, and a damaged file is removed."""
        try:
            with self.fs.open_input_stream(self._path(epoch)) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            self.remove(epoch)
            return None
        import torch

        return torch.load(io.BytesIO(data[DIGEST:]), map_location="cpu", weights_only=True)

    def write(self, epoch: int, state: dict) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        self._put(self._path(epoch), hashlib.sha256(data).digest() + data)

    def remove(self, epoch: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self._path(epoch))

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Try the lock: True if it is ours now.

        ``flock``: the kernel lets go when the holder dies, however it dies, so there is no lease to outwait. It works between
        processes of a machine and over NFS, not where homes are not shared; there a trunk may be trained twice, to the same end.
        A holder that is stopped (not killed) keeps the others waiting.
        """
        with open(self.lock_file, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # this file system has no locks: training twice is wasteful but right
                pass
            yield True

    def _path(self, epoch: int) -> str:
        return f"{self.folder}/epoch-{epoch:04d}.pt"

    def _put(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        aside = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(aside) as file:
            file.write(data)
        self.fs.move(aside, path)
