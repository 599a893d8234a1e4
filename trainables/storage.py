"""Files that several machines share, in a folder given by path or URL (``s3://``, ``gs://``, see ``SCHEMES``).

A file is read and written whole, by name; it is complete or absent.

Credentials never stand in the URL: each process has them in its environment (AWS_ACCESS_KEY_ID, a cloud's sign-in).
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from trainables.files import aside_of, is_full, is_name, remove_abandoned
from trainables.reading import Damaged, is_text, open_regular
from trainables.urls import SIGN_IN, check_public, masked

# What a URL may begin with. Others, and chains such as ``zip::file://``, are refused: a URL can come with a search from
# another source, and each further protocol is one more way to reach a place that the user did not choose.
SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
OBJECTS = ("s3", "gcs", "abfs")  # here a file appears when it is whole, and moving one is a copy
NO_ROOM = "make room there"  # part of the sentence of `explain`, by which a driver knows that waiting does not help
ANSWER_S = 20  # seconds after which a storage counts as one that does not answer
_LOGIN = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED|HTTP status 40[13]"
    r"|Forbidden|credentials|PermissionDenied|Unauthenticated",
    re.IGNORECASE,
)
_SILENT = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|timed? ?out|resolve|curlCode|Connection refused", re.IGNORECASE
)


def absolute_storage(where: str | None) -> str | None:
    """The same place for a process in another folder; ``ValueError`` where the URL carries a password or its name is no
    text."""
    if not where:
        return where
    found = where.rstrip("/") if "://" in where else os.path.abspath(os.path.expanduser(where))
    if not is_text(found):
        raise ValueError(f"{where!r} has a name that is no text in UTF-8; choose another")
    if "://" in where:
        check_public("storage", where, SIGN_IN)
    return found


def below(where: str | Path, *parts: object) -> str:
    """The folder or file ``parts`` under ``where``; a URL's options (``?region=...``) stay at its end. ``ValueError``
    for a part that is no name: a history, for one, can call a trial ``../x``."""
    for part in parts:
        if not is_name(part):
            raise ValueError(f"{str(part)!r} is no name of a file or folder in {str(where)!r}")
    base, mark, options = str(where).partition("?") if "://" in str(where) else (str(where), "", "")
    return "/".join([base.rstrip("/"), *map(str, parts)]) + mark + options


@lru_cache(maxsize=64)
def open_storage(where: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path of a folder or URL; ``ValueError`` if nothing here opens it."""
    if "://" not in where:
        return fs.LocalFileSystem(), os.path.abspath(where)
    if where.partition("://")[0] not in SCHEMES or "::" in where:
        raise ValueError(
            f"storage {masked(where)!r} cannot be opened; it takes a folder, or a URL that begins with one of: "
            + ", ".join(f"{scheme}://" for scheme in SCHEMES)
        )
    check_public("storage", where, SIGN_IN)
    try:
        return fs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"storage {where!r} cannot be opened: {' '.join(str(error).split())}") from None


def open_source(where: str) -> Storage:
    """The files below a URL of data, which are only read: a storage's, or the Hugging Face hub's (``hf://``).

    ``ValueError`` where nothing here opens it.
    """
    if not where.startswith("hf://") or "::" in where:
        return Storage(where)
    try:
        from huggingface_hub import HfFileSystem

        return Storage(where, (fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem())), where.removeprefix("hf://")))
    except ImportError:
        raise ValueError(
            f"{where!r} is on the Hugging Face hub, whose client is not installed here; install it (pip install "
            "huggingface_hub), or download the data and name their folder"
        ) from None


class Storage:
    """The files under one folder or URL. Creating it contacts no server; its methods raise ``OSError``."""

    def __init__(self, where: str | Path, opened: tuple[fs.FileSystem, str] | None = None):
        self.where = str(where)
        self.fs, root = opened or open_storage(self.where)
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The file's bytes, None where there is none."""
        path = f"{self.root}/{name}"
        try:
            if self.fs.type_name == "local":
                with open_regular(path) as file:
                    return file.read()
            with self.fs.open_input_stream(path) as file:
                return file.read()
        except Damaged as error:
            raise OSError(str(error)) from None
        except FileNotFoundError:
            return None

    def write(self, name: str, data) -> None:
        """``data``: anything with a buffer. A reader meanwhile sees the old file or the new one, whole."""
        path = f"{self.root}/{name}"
        folder, _, last = path.rpartition("/")
        if self.fs.type_name in OBJECTS:
            with self.fs.open_output_stream(path) as file:
                file.write(data)
            return
        self.fs.create_dir(folder, recursive=True)
        aside = f"{folder}/{aside_of(last)}"
        try:
            with self.fs.open_output_stream(aside) as file:
                file.write(data)
            self.fs.move(aside, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self.fs.delete_file(aside)
            if isinstance(error, OSError):
                error.filename = error.filename or path
            raise

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(f"{self.root}/{name}")

    def written(self, name: str) -> float | None:
        """When the file was written, in seconds since 1970 by the storage's clock; None where there is none."""
        info = self.fs.get_file_info(f"{self.root}/{name}")
        return (info.mtime_ns or 0) / 1e9 if info.type == fs.FileType.File else None

    def remove_abandoned(self, folder: str = "", **how: Any) -> None:
        """`trainables.files.remove_abandoned` in a folder, where files are written aside at all."""
        if self.fs.type_name == "local":
            remove_abandoned(f"{self.root}/{folder}", **how)

    def files(self, folder: str = "", recursive: bool = False) -> Iterator[tuple[str, int]]:
        """(name, bytes) of the files in a folder; names are relative to it. Half-written ones are left out."""
        base = f"{self.root}/{folder}".rstrip("/")
        for info in self.fs.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=recursive)):
            name = info.path.rpartition(base.lstrip("/") + "/")[2]
            if info.type == fs.FileType.File and not info.base_name.startswith("."):
                yield name, info.size

    def listed(self) -> list[tuple[str, int, int]]:
        """(name, bytes, time in ns) of all files below, sorted: changed files make another list."""
        found = self.fs.get_file_info(fs.FileSelector(self.root, allow_not_found=True, recursive=True))
        files = [info for info in found if info.type == fs.FileType.File]
        above = len(self.root.strip("/")) + 1
        return sorted((info.path.lstrip("/")[above:], info.size, info.mtime_ns or 0) for info in files)

    def folders(self, folder: str = "") -> list[str]:
        if self.fs.type_name == "gcs":  # pyarrow lists a folder there only where an object stands for it
            return sorted({name.partition("/")[0] for name, _ in self.files(folder, recursive=True) if "/" in name})
        found = self.fs.get_file_info(fs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def storage_problem(where: str) -> str | None:
    """None: a small file can be written there, read and removed from here. Else what is wrong, in one sentence."""
    found: list[str | None] = [
        f"storage {where!r} does not answer in {ANSWER_S} s; is its address right, and the way open?"
    ]

    def probe() -> None:
        name = aside_of("probe")
        try:
            store = Storage(where)
            store.write(name, b"tuner")
            right = store.read(name) == b"tuner"
            store.remove(name)
            found[0] = None if right else f"storage {where!r} does not give back what is written to it"
        except Exception as error:  # of any kind: an exception in a thread would be lost
            found[0] = explain(where, error)

    thread = threading.Thread(target=probe, daemon=True)  # some clients try for a quarter of an hour
    thread.start()
    thread.join(ANSWER_S)
    return found[0]


def explain(where: str, error: Exception) -> str:
    """What an error of a storage means and what to do, in one sentence."""
    if is_full(error):
        file = f", while writing {error.filename}" if getattr(error, "filename", None) else ""
        return f"storage {where!r} cannot be used ({os.strerror(error.errno)}{file}); {NO_ROOM}"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, ValueError) and where in text:
        return text
    if "NO_SUCH_BUCKET" in text or "bucket does not exist" in text.lower():
        return f"storage {where!r} names a bucket that does not exist; make it first, or correct the name"
    if "://" in where and _LOGIN.search(text):
        return (
            f"storage {where!r} refuses the sign-in from here; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or "
            "the cloud's own sign-in) in this environment, and on a cluster where Ray starts on every node"
        )
    if "://" in where and _SILENT.search(text):
        return (
            f"storage {where!r} does not answer; is its address right (AWS_ENDPOINT_URL or ?endpoint_override=), "
            "and up?"
        )
    return f"storage {where!r} cannot be used ({text[:200]})"
