"""The user's own files, Parquet with encoded images and folders of images, decoded in threads."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.decoded import Decoded
from trainables.data.parquet import read_parquet
from trainables.data.spec import DataError

CHUNK = 512  # images one thread decodes at a time
FALLBACK_SIZE = (32, 32)  # (W, H) of folder images that come in several sizes
# class/track_frame.ext: the frames of a track show one physical object (GTSRB)
_TRACK = re.compile(r"(?:^|/)(\d+)/(\d+)_\d+\.\w+$")


def absolute(dataset: str) -> str:
    """``dataset`` with the folder of ``parquet:DIR`` or ``folder:DIR`` made absolute, so that a worker that
    runs in another folder finds it; other names, and URLs, as they are."""
    kind, colon, where = dataset.partition(":")
    return f"{kind}:{Path(where).expanduser().resolve()}" if colon and where and "://" not in where else dataset


def source_files(kind: str, where: str) -> list[Path]:
    """The files a dataset is made of, sorted; `DataError` if the folder or one of its halves is missing."""
    folder = Path(where).expanduser()
    if not where or not folder.is_dir():
        raise DataError(f"dataset '{kind}:{where}' names no folder; {kind}:DIR takes an existing folder")
    files = []
    for split in ("train", "test"):
        if kind == "parquet":
            found = [folder / f"{split}.parquet"] if (folder / f"{split}.parquet").is_file() else []
        else:
            found = sorted(p for p in folder.glob(f"{split}/*/*") if _is_image(p))
        if not found:
            images = f"images {split}/CLASS/* ({' '.join(_EXTENSIONS)})"
            layout = f"{split}.parquet" if kind == "parquet" else images
            raise DataError(f"{folder} holds no {layout}; a {kind} dataset needs it for both train and test")
        files += found
    return files


_EXTENSIONS = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".")


def load_parquet(where: str) -> Decoded:
    """``where/train.parquet`` and ``where/test.parquet``; all images must have one size."""
    folder = Path(where).expanduser()
    train, test = (read_parquet(folder / f"{split}.parquet", CHUNK) for split in ("train", "test"))
    first_chunk = next(train.chunks())
    size, grey = probe(first_chunk[0], train.place(0))
    arrays = [decode(half.chunks(), half.rows, half.place, size, grey) for half in (train, test)]
    groups = tracks_of(train.paths)
    labels, names = train.labels, train.classes or test.classes
    return Decoded(
        (arrays[0], labels),
        (arrays[1], test.labels),
        names or _numbers(labels),
        groups,
        None if groups is None else "track",
    )


def _numbers(labels: np.ndarray) -> list[str]:
    """Names for classes that have none; no more than there are images, so that a label of 10**12 is no memory error."""
    return [str(c) for c in range(min(max(int(labels.max()), 0), len(labels)) + 1)]


def load_folder(where: str) -> Decoded:
    """torchvision's ImageFolder layout: ``train/CLASS/*`` and ``test/CLASS/*``; classes in alphabetical order."""
    folder, files = Path(where).expanduser(), source_files("folder", where)
    classes = sorted({f.parent.name for f in files if f.parent.parent.name == "train"})
    samples: dict[str, list] = {"train": [], "test": []}
    for file in files:
        split, name = file.relative_to(folder).parts[:2]
        if name not in classes:
            raise DataError(f"test class {name!r} is not among the classes of {folder / 'train'}: {', '.join(classes)}")
        samples[split].append((str(file), classes.index(name)))
    return decode_samples(samples["train"], samples["test"], classes)


def decode_samples(
    train: list[tuple[str, int]], test: list[tuple[str, int]], classes: list[str], size: tuple[int, int] | None = None
) -> Decoded:
    """Image files with their labels as one `Decoded`; resized to ``size`` (W, H), or to 32x32 if they differ
    in size."""
    sizes = {probe(path, path)[0] for path, _ in train + test}
    common = size or (sizes.pop() if len(sizes) == 1 else FALLBACK_SIZE)
    resized = size is not None or len(sizes) > 1
    grey = probe(train[0][0], train[0][0])[1]
    halves = []
    for samples in (train, test):
        paths = [path for path, _ in samples]
        chunks = (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))
        images = decode(chunks, len(paths), paths.__getitem__, common, grey, resize=resized)
        halves.append((images, np.array([label for _, label in samples], dtype=np.int64)))
    groups = tracks_of([path for path, _ in train])
    note = f"images of different sizes resized to {common[0]}x{common[1]}" if resized else ""
    return Decoded(halves[0], halves[1], classes, groups, None if groups is None else "track", note)


def tracks_of(paths: list[str] | None) -> np.ndarray | None:
    """(N,) number of each row's track, or None unless every path is ``class/track_frame.ext``."""
    found = [_TRACK.search(path or "") for path in paths or ()]
    if not found or not all(found):
        return None
    return np.unique([f"{m[1]}/{m[2]}" for m in found], return_inverse=True)[1].astype(np.int64)


def _header(source: bytes | str, place: str) -> Image.Image:
    """The opened, not yet decoded image."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception as problem:
        raise DataError(
            f"{place} is no image that Pillow can decode ({'empty' if not source else type(problem).__name__})"
        ) from problem


def probe(source: bytes | str, place: str) -> tuple[tuple[int, int], bool]:
    """(W, H) of an image and whether it is grey."""
    with _header(source, place) as image:
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
    image = _header(source, place)
    if image.mode[0] in "IF":
        raise DataError(f"{place} has pixels of type {image.mode!r}; only 8-bit images are supported")
    if grey and image.mode not in ("L", "1"):
        raise DataError(
            f"{place} is a colour image while the first image of train is grey; all images must be of one kind"
        )
    if image.size != size and not resize:
        raise DataError(
            f"{place} is {image.width}x{image.height} while the first image of train is "
            f"{size[0]}x{size[1]}; all images must share one size"
        )
    try:
        image = image.convert("L" if grey else "RGB")
    except Exception as problem:
        raise DataError(f"{place} is an image that Pillow cannot decode ({problem})") from problem
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image)
