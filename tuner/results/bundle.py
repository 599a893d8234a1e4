"""A bundle: what somebody else needs to look at a search and to train a pick of it again, as one ZIP file.

It holds what a search cannot be made again from (`FILES`), a lock file of the packages that were installed where it was
made, and ``bundle.json``, which says with which data, code and kind of machine. It holds no checkpoints and no data.

A received bundle is untrusted: it is read within bounds, its names are compared with those that a bundle has, and
nothing in it is a link, a pickle or code.
"""

from __future__ import annotations

import io
import json
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.reading import LOG_BYTES, MIB, TEXT_BYTES, one_line, parse_json, read_bytes, shaped
from tuner.errors import UsageError
from tuner.sync.initial import INIT
from tuner.sync.mirror import HISTORY
from tuner.sync.shared_dataset import IMAGES

KIND = "tuner bundle"
FORMAT = 1
ABOUT, LOCK = "bundle.json", "lock.txt"
SPEC = "spec.yaml"
# Of a search's folder, with the bytes that each may have: what it is made of, what tells its training images from other
# ones, and the certificate of its verification.
FILES = {
    SPEC: MIB,
    HISTORY: LOG_BYTES,
    INIT: TEXT_BYTES,
    IMAGES: MIB,
    "warm-start/history.jsonl": LOG_BYTES,
    "warm-start/points.json": MIB,
    "verified.json": 256 * MIB,
}
LARGEST = 1024 * MIB  # of a bundle
RATIO, SMALL = 500, 64 * MIB  # it unpacks into at most so many times its bytes, or into so many
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BEGINNING_OF_ZIP = (1980, 1, 1, 0, 0, 0)  # the same search makes the same bundle, whenever
_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*")
_SHAPE = {
    "search": str,
    "python": str,
    "code": str,  # the version of this package, with the commit where there was one
    "training": dict,  # method -> hash of the source files that its training depends on
    "data": str,  # of the decoded images (`trainables.data.store.content`)
    "machine": {"device": str, "processor": str},
}


@dataclass(frozen=True)
class Bundle:
    """``about``: the content of ``bundle.json``; ``versions``: of every package; ``files``: the bytes of
    those of ``FILES`` that the search had."""

    about: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, bytes]


def packed_bundle(about: dict[str, Any], versions: dict[str, str], files: dict[str, bytes]) -> bytes:
    """The bytes of a bundle."""
    lines = "".join(sorted(f"{name}=={version}\n" for name, version in versions.items()))
    said = json.dumps({"kind": KIND, "format": FORMAT, **about}, indent=1)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in {ABOUT: said.encode(), LOCK: lines.encode(), **files}.items():
            entry = zipfile.ZipInfo(name, BEGINNING_OF_ZIP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, data)
    return sink.getvalue()


def read_bundle(path: Path) -> Bundle:
    """``UsageError``, one sentence, where the file cannot be read or is no bundle."""
    try:
        data = read_bytes(path, LARGEST)
    except OSError as error:
        raise UsageError(f"bundle {str(path)!r} cannot be read ({error.strerror})") from None
    except ValueError as error:  # `Damaged`, or no name of a file
        raise UsageError(f"no bundle: {error}") from None
    try:
        return _bundle(_unpacked(data))
    except Exception as error:  # zipfile, zlib, struct: each has classes of its own for damage
        raise UsageError(f"{str(path)!r} is no bundle of tuner bundle ({one_line(error)})") from None


def _unpacked(data: bytes) -> dict[str, bytes]:
    bounds = {ABOUT: TEXT_BYTES, LOCK: MIB, **FILES}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {entry.filename: entry for entry in file.infolist()}
        if len(entries) < len(file.infolist()):
            raise ValueError("a name twice")
        if sum(entry.file_size for entry in entries.values()) > max(SMALL, RATIO * len(data)):
            raise ValueError("it is packed more than any bundle is")
        for name, entry in entries.items():
            if name not in bounds or entry.compress_type not in PACKED or stat.S_ISLNK(entry.external_attr >> 16):
                raise ValueError(f"it holds {name[:80]!r}, which no bundle does")
            if entry.file_size > bounds[name]:
                raise ValueError(f"{name} is larger than it may be")
        return {name: file.read(entry) for name, entry in entries.items()}  # checks length and CRC-32


def _bundle(files: dict[str, bytes]) -> Bundle:
    about = parse_json(files.pop(ABOUT))
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise ValueError(f"{ABOUT} is of something else")
    if about.get("format") != FORMAT:
        raise ValueError(f"it has format {str(about.get('format'))[:20]}; this version reads {FORMAT}")
    if not shaped(about, _SHAPE) or not {SPEC, HISTORY} <= files.keys():
        raise ValueError(f"something is missing in {ABOUT}, or beside it")
    lines = files.pop(LOCK).decode().splitlines()
    if not all(map(_LINE.fullmatch, lines)):
        raise ValueError(f"{LOCK} holds more than name==version")
    return Bundle(about, dict(line.split("==") for line in lines), files)
