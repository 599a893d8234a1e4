"""Extra images that train beside a data set's own, generated ones for example: Parquet files in a folder, each read as
`train`'s are.

    home/datasets/extra-NAME-HASH/extra.arrow   image, label as in train.arrow, whose size and classes they have

HASH covers path, size and time of the files, and of the data set what they are fitted to. They never judge anything:
`val` and `test` are of the data set alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from trainables.data.encoded import Encoded, check_labels, in_metrics, matched
from trainables.data.files import CHUNK, File, decode, listed, probe
from trainables.data.layout import is_hidden, some
from trainables.data.limits import check_expansion
from trainables.data.parquet import read_parquet
from trainables.data.spec import DataError, DataSpec, decoded_start
from trainables.data.store import FORMAT, Mapped, mapped, place_folder, prepare, write_images

NAME = "extra.arrow"


def prepare_extra(extra: str, home: Path, own: Mapped) -> Path:
    """The decoded images of ``extra`` (``parquet:DIR``) for the data set whose training set is ``own``, made now if
    they are not there yet. ``DataError`` as `prepare` has them, and where a class is not among the data set's."""
    folder, files = Path(extra.partition(":")[2]).expanduser(), extra_files(extra)
    classes, shape = own.meta["classes"], own.images.shape[1:]
    told = (FORMAT, str(folder.resolve()), sorted(files), classes, shape)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    key = decoded_start("extra", str(folder.resolve())) + digest

    def write(aside: Path) -> None:
        images, labels, note = _read(folder, files, classes, shape)
        content = hashlib.sha256(images)
        content.update(labels)
        meta = {"classes": classes, "note": note, "content": content.hexdigest()[:32]}
        write_images(aside / NAME, images, labels, None, meta)

    return place_folder(home, key, write) / NAME


def extra_files(extra: str) -> list[File]:
    """The files of ``parquet:DIR`` that are read. `DataError`."""
    kind, _, where = extra.partition(":")
    files = [f for f in listed(kind, where) if f.name.lower().endswith(".parquet") and not is_hidden(f.name)]
    if not files:
        raise DataError(f"extra data {extra!r} hold no .parquet files")
    return files


def extra_content(spec: DataSpec, home: Path) -> str | None:
    """32 hex digits of the SHA-256 of the extra images and labels of ``spec``, whatever their files are called; None
    where it has none."""
    if spec.extra == "none":
        return None
    own = mapped(prepare(spec.dataset, home, spec.reading) / "train.arrow")
    return mapped(prepare_extra(spec.extra, home, own)).meta["content"]


def _read(
    folder: Path, files: list[File], classes: list[str], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, str]:
    """(N, C, H, W) uint8, (N,) int64, and what a user may not expect."""
    parts = [read_parquet(folder / file.name, CHUNK) for file in sorted(files)]
    channels, height, width = shape
    stored, size = sum(file.size for file in files), (width, height)
    check_expansion(sum(part.rows for part in parts), channels, size, stored, str(folder))
    found = [_labelled(part, classes) for part in parts]
    images = [decode(p.chunks(), p.rows, p.place, size, channels == 1, resize=True) for p in parts]
    notes = [f"labels without names, taken as they are: {some(unnamed)}"] if (unnamed := _unnamed(parts)) else []
    if any(probe(next(part.chunks())[0], part.place(0))[0] != size for part in parts):
        notes.append(f"images resized to {width}x{height}")
    return np.concatenate(images), np.concatenate(found), "; ".join(notes)


def _unnamed(parts: list[Encoded]) -> list[str]:
    return [Path(part.file).name for part in parts if part.classes is None]


def _labelled(part: Encoded, classes: list[str]) -> np.ndarray:
    """(N,) the part's labels as the data set counts its ``classes``: by name, or as they are where it names none."""
    if part.classes is not None:
        part.classes = in_metrics(part.classes)  # as the data set's own
        part = matched(part, classes, [part])
    check_labels(part, len(classes))
    return part.labels
