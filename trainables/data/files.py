"""The user's own files, Parquet with encoded images and folders of images, decoded in threads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainables.data.decoded import Decoded
from trainables.data.encoded import Encoded, class_names, matched
from trainables.data.layout import IMAGES, Layout, class_of, some
from trainables.data.limits import check_expansion, open_image
from trainables.data.parquet import read_parquet
from trainables.data.spec import DataError, Reading
from trainables.reading import Damaged, read_text

CHUNK = 64  # images one thread decodes at a time
SEVERAL = (32, 32)  # (W, H) to which images of several sizes are resized where the user names no size
# class/track_frame.ext: the frames of a track show one physical object (GTSRB)
_TRACK = re.compile(r"(?:^|/)(\d+)/(\d+)_\d+\.\w+$")


class File(NamedTuple):
    """A file below a folder or URL. ``name`` is relative and ends in "/" where it is a folder; ``time`` in ns."""

    name: str
    size: int
    time: int


def absolute(dataset: str) -> str:
    """``dataset`` with the folder of ``parquet:DIR`` or ``folder:DIR`` made absolute, so that a worker that
    runs in another folder finds it; other names, and URLs, as they are."""
    kind, colon, where = dataset.partition(":")
    return f"{kind}:{Path(where).expanduser().resolve()}" if colon and where and "://" not in where else dataset


def listed(kind: str, where: str) -> list[File]:
    """What lies below a folder of this machine; links are followed. `DataError` if there is no such folder."""
    folder = Path(where).expanduser()
    if not where or not folder.is_dir():
        raise DataError(f"dataset '{kind}:{where}' names no folder; {kind}:DIR takes an existing folder")
    try:
        return list(_below(folder, "", (folder.resolve(),)))
    except OSError as problem:
        raise DataError(f"dataset '{kind}:{where}' cannot be read ({problem})") from None


def _below(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[File]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_file():
                stat = entry.stat()
                yield File(name, stat.st_size, stat.st_mtime_ns)
            elif entry.is_dir() and (place := Path(entry.path).resolve()) not in above:  # else a link that leads round
                yield File(f"{name}/", 0, 0)
                yield from _below(Path(entry.path), f"{name}/", (*above, place))
            elif not entry.is_dir() and name.lower().endswith((*IMAGES, ".parquet")) and not entry.name.startswith("."):
                raise DataError(f"{entry.path} is no regular file: a link that leads nowhere, or a pipe")


def load(kind: str, where: str, found: Layout, reading: Reading) -> Decoded:
    """Decode the files ``found`` below the folder ``where``."""
    folder = Path(where).expanduser()
    train, test, classes, note = (_of_parquet if kind == "parquet" else _of_folder)(folder, found)
    stored = sum((folder / name).stat().st_size for name in found.files)
    decoded = _decoded(train, test, classes, reading, stored)
    decoded.note = "; ".join(filter(None, [found.unread, note, decoded.note]))
    return decoded


def _of_parquet(folder: Path, found: Layout) -> tuple[Encoded, Encoded, list[str], str]:
    """Both splits, the classes, and what a user may not expect; labels of every file are matched by name with train."""
    first = read_parquet(folder / found.train[0], CHUNK)
    others = [[read_parquet(folder / n, CHUNK, first) for n in names] for names in (found.train[1:], found.test)]
    train, test = [first, *others[0]], others[1]
    classes = class_names(train) or class_names(test)
    halves = [_joined([matched(part, classes, train + test) for part in parts]) for parts in (train, test)]
    unnamed = [Path(part.file).name for part in train + test if classes and part.classes is None]
    note = f"labels without names, taken as they are: {some(unnamed)}" if unnamed else ""
    return halves[0], halves[1], classes or _numbers(halves[0].labels), note


def _joined(parts: list[Encoded]) -> Encoded:
    """The files of one split as one."""
    first_rows = [0, *accumulate(part.rows for part in parts)]

    def chunks() -> Iterator[list]:
        for part in parts:
            yield from part.chunks()

    def place(row: int) -> str:
        part = int(np.searchsorted(first_rows, row, side="right")) - 1
        return parts[part].place(row - first_rows[part])

    paths = [path for part in parts for path in part.paths or [None] * part.rows]
    return Encoded(first_rows[-1], np.concatenate([part.labels for part in parts]), None, paths, chunks, place)


def _numbers(labels: np.ndarray) -> list[str]:
    """Names for classes that have none; no more than there are images, so that a label of 10**12 is no memory error."""
    return [str(c) for c in range(min(max(int(labels.max()), 0), len(labels)) + 1)]


def _of_folder(folder: Path, found: Layout) -> tuple[Encoded, Encoded, list[str], str]:
    """torchvision's ImageFolder layout: ``train/CLASS/**`` and ``test/CLASS/**``; classes in alphabetical order."""
    of_train = [class_of(name) for name in found.train]
    of_test = _annotated(folder, found) if found.labels else [class_of(name) for name in found.test]
    classes = sorted(set(of_train))
    number = {name: c for c, name in enumerate(classes)}
    for name in of_test:
        if name not in number:
            raise DataError(f"test class {name!r} is not among the classes of {folder / 'train'}: {some(classes, 10)}")
    train, test = (
        _samples([(str(folder / name), number[of]) for name, of in zip(names, ofs)])
        for names, ofs in ((found.train, of_train), (found.test, of_test))
    )
    return train, test, classes, ""


def _annotated(folder: Path, found: Layout) -> list[str]:
    """The class of each image of ``test`` by its line in their file: name, class and a box, with tabs between."""
    file = folder / str(found.labels)
    try:
        lines = [line.split("\t") for line in read_text(file).splitlines()]
    except Damaged as problem:
        raise DataError(str(problem)) from None
    of = {line[0]: line[1] for line in lines if len(line) > 1}
    for name in found.test:
        if Path(name).name not in of:
            raise DataError(f"{file} has no line with the class of {Path(name).name}")
    return [of[Path(name).name] for name in found.test]


def _samples(samples: list[tuple[str, int]]) -> Encoded:
    """Image files with their labels."""
    paths = [path for path, _ in samples]
    labels = np.array([label for _, label in samples], dtype=np.int64)

    def chunks() -> Iterator[list]:
        return (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))

    return Encoded(len(paths), labels, None, paths, chunks, paths.__getitem__)


def decode_samples(train: list[tuple[str, int]], test: list[tuple[str, int]], classes: list[str], size: int) -> Decoded:
    """Image files with their labels as one `Decoded`, resized to ``size`` pixels a side."""
    return _decoded(_samples(train), _samples(test), classes, Reading(image_size=size))


def _decoded(train: Encoded, test: Encoded, classes: list[str], reading: Reading, stored: int | None = None) -> Decoded:
    """``stored``: the bytes of their files, where those are the user's own."""
    asked = reading.image_size
    first = next(train.chunks())[0]
    own_size, grey = probe(first, train.place(0))
    if stored is not None:
        check_expansion(train.rows + test.rows, 1 if grey else 3, own_size, stored, train.place(0))
    size, note = ((asked, asked), f"images resized to {asked}x{asked}") if asked else (own_size, "")

    def images(size: tuple[int, int], resize: bool) -> list[np.ndarray]:
        return [decode(half.chunks(), half.rows, half.place, size, grey, resize=resize) for half in (train, test)]

    try:
        arrays = images(size, bool(asked))
    except SeveralSizes:  # rare, so the sizes of all images are not asked for beforehand
        note = f"images of several sizes resized to {SEVERAL[0]}x{SEVERAL[1]} (--image-size takes another)"
        arrays = images(SEVERAL, True)
    groups = of_test = None
    if reading.groups == "auto":
        groups = tracks_of(train.paths)
        of_test = tracks_of(test.paths, known=groups is not None)
    grouped_by, told = None if groups is None else "track", _told(groups, of_test)
    note = f"{note}; {told}" if note and told else note or told
    return Decoded((arrays[0], train.labels), (arrays[1], test.labels), classes, groups, grouped_by, note, of_test)


def tracks_of(paths: list[str | None] | None, known: bool = False) -> np.ndarray | None:
    """(N,) number of each row's track, or None unless every path is ``class/track_frame.ext`` and that makes groups.

    It makes none where each class is one track (``class/class_index.ext``), or each image. Where it is ``known`` that
    the data come in tracks, a small split may have one of each class: it is none if it has the class's own number.
    """
    found = [m for path in paths or () if (m := _TRACK.search(path or ""))]
    if not found or len(found) < len(paths or ()):
        return None
    tracks, numbers = np.unique([f"{m[1]}/{m[2]}" for m in found], return_inverse=True)
    if known:
        none = all(m[1].lstrip("0") == m[2].lstrip("0") for m in found)
    else:
        none = len(tracks) in (len({m[1] for m in found}), len(found))
    return None if none else numbers.astype(np.int64)


def _told(train: np.ndarray | None, test: np.ndarray | None) -> str:
    """What a user may not expect of the tracks (N,) of both splits."""
    told = [] if train is None else [f"{train.max() + 1} tracks by the file names stay together"]
    told += [] if test is None else [f"{test.max() + 1} tracks of test by the file names count as one image each"]
    return " and ".join(told) + (" (--groups none if they are no tracks)" if told else "")


class SeveralSizes(DataError):
    """An image is of another size than the first one."""


def probe(source: bytes | str, place: str) -> tuple[tuple[int, int], bool]:
    """(W, H) of an image and whether it is grey."""
    image = open_image(source, place)
    return image.size, image.mode in ("L", "1")


def decode(
    chunks: Iterable[list],
    rows: int,
    place: Callable[[int], str],
    size: tuple[int, int],
    grey: bool,
    *,
    resize: bool = False,
) -> np.ndarray:
    """(rows, C, H, W) uint8 from lists of encoded images (bytes or file names) in order; C is 1 if ``grey``, else 3."""
    width, height = size
    images = np.empty((rows, 1 if grey else 3, height, width), dtype=np.uint8)

    def work(task: tuple[int, list]) -> None:
        start, sources = task
        for row, source in enumerate(sources, start):
            pixels = _pixels(source, place(row), size, grey, resize)
            images[row] = pixels if grey else pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, _numbered(chunks)):
            pass  # an exception of a thread is raised here
    return images


def _numbered(chunks: Iterable[list]) -> Iterator[tuple[int, list]]:
    start = 0
    for chunk in chunks:
        yield start, chunk
        start += len(chunk)


def _pixels(source: bytes | str, place: str, size: tuple[int, int], grey: bool, resize: bool) -> np.ndarray:
    """One image as (H, W) or (H, W, 3) uint8."""
    image = open_image(source, place)
    if image.mode[0] in "IF":
        raise DataError(f"{place} has pixels of type {image.mode!r}; only 8-bit images are supported")
    if grey and image.mode not in ("L", "1"):
        raise DataError(
            f"{place} is a colour image while the first image of train is grey; all images must be of one kind"
        )
    if image.size != size and not resize:
        raise SeveralSizes(f"{place} is {image.width}x{image.height}, not {size[0]}x{size[1]} as the first of train")
    try:
        image = image.convert("L" if grey else "RGB")
    except Exception as problem:
        raise DataError(f"{place} is an image that Pillow cannot decode ({problem})") from problem
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image)
