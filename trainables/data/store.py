"""The decoded dataset on disk: two Arrow files, written once per machine, mapped read-only by everyone.

    home/datasets/NAME-HASH/train.arrow   image tensor<uint8, (C, H, W)>, label int64, perhaps group int64
    home/datasets/NAME-HASH/test.arrow    the same columns: a file of its own, which a search never opens

With a storage (`--storage`) the same two files lie there as well, put by the driver under NAME-HASH-CONTENT; a node
copies them once. HASH covers path, size and time of the source files, and how they are read, so changed files are
decoded again. CONTENT covers the two files, and a copy with another content is refused: what one search's storage holds
is never taken for the data of another search. A folder appears under its name only when it is complete: it is written
aside and renamed under a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainables.data.arrow import arrow_problem
from trainables.data.decoded import Decoded
from trainables.data.encoded import in_metrics
from trainables.data.files import File, listed, load
from trainables.data.layout import Layout, layout
from trainables.data.named import load_named
from trainables.data.spec import DataError, Reading, check_dataset, decoded_start
from trainables.datasets import DATASETS
from trainables.files import inside, locked
from trainables.storage import Storage, below, explain, open_source

DECODED = re.compile(r"\w[\w.-]*")  # a decoded folder's name
CONTENT = re.compile(r"(.+)-([0-9a-f]{32})")  # and that of its copy, which ends with its content
FORMAT = 1  # raise it when the decoded files change: old ones are then left alone and new ones written
OWN_FORMAT = 2  # the same of the user's own files; those of format 1 did not say which test images are of one track


class Away(DataError, OSError):
    """The place where the data lie does not answer, or has lost them; it may be there again."""


@dataclass(frozen=True)
class Mapped:
    """One mapped file; the arrays are read-only and belong to the page cache."""

    images: np.ndarray  # (N, C, H, W) uint8
    labels: np.ndarray  # (N,) int64
    groups: np.ndarray | None  # (N,) int64
    meta: dict  # classes, grouped_by, note, mean, std


def prepare(dataset: str, home: Path, reading: Reading = Reading()) -> Path:  # noqa: B008 - frozen
    """The folder with the decoded ``dataset``, made now if it is not there yet. Any number of processes may
    call at once. ``reading``: how files of the user's own are read.

    `DataError` for an unknown name, missing or wrong files, or a home that cannot be written; `Away` is one too.
    """
    key, decode = _locate(dataset, Path(home).expanduser().resolve() / "datasets", reading)
    return place_folder(home, key, lambda aside: _write(aside, key, decode()))


def place_folder(home: Path, key: str, write: Callable[[Path], None]) -> Path:
    """The home's folder of decoded data named ``key``; if it is not there yet, ``write`` fills it aside."""
    datasets = Path(home).expanduser().resolve() / "datasets"
    folder = datasets / key
    if folder.is_dir():
        return folder
    try:
        datasets.mkdir(parents=True, exist_ok=True)
        with locked(datasets / f".{key}.lock"):
            if not folder.is_dir():
                _write_aside(folder, write)
    except DataError:
        raise
    except OSError as problem:
        raise DataError(
            f"home {str(home)!r} cannot be written ({problem}); it must be a folder that can be created and written"
        ) from problem
    return folder


def _locate(dataset: str, datasets: Path, reading: Reading) -> tuple[str, Callable[[], Decoded | str]]:
    """The decoded folder's name, and a function that decodes the dataset, or gives the URL from which to copy it."""
    check_dataset(dataset)
    kind, _, where = dataset.partition(":")
    if dataset in DATASETS:
        return f"{dataset}-v{FORMAT}", lambda: load_named(dataset, datasets / "raw")
    if kind == "stored":
        return _stored_name(where, datasets), lambda: where
    if "://" in where:
        below, decode, place, name = _remote_files(where), _fetch, where, where.partition("?")[0]
    else:
        below, decode = listed(kind, where), load
        place = name = str(Path(where).expanduser().resolve())
    found, stats = _read_of(kind, below, reading, place)
    digest = hashlib.sha256(repr((OWN_FORMAT, kind, place, stats, reading)).encode()).hexdigest()[:16]
    key = decoded_start(kind, name) + digest
    return key, lambda: decode(kind, where, found, reading)


def _read_of(kind: str, below: list[File], reading: Reading, place: str) -> tuple[Layout, list[File]]:
    """Which of the files ``below`` the data's ``place`` are read."""
    found = layout(kind, [file.name for file in below], reading.test_split, place)
    read = set(found.files)
    return found, sorted(file for file in below if file.name in read)


def source_files(dataset: str, reading: Reading) -> list[File]:
    """The files of ``parquet:DIR`` or ``folder:DIR``, a folder of this machine, that are read. `DataError`."""
    kind, _, where = dataset.partition(":")
    return _read_of(kind, listed(kind, where), reading, where)[1]


def _stored_name(where: str, datasets: Path) -> str:
    """The folder for a copy of the decoded data at ``where``; the folder that was decoded here, if it has their
    content."""
    name = (where.partition("?")[0] if "://" in where else where).rpartition("/")[2]
    if not DECODED.fullmatch(name):
        raise DataError(f"dataset 'stored:{where}' names no decoded data; it takes stored:STORAGE/datasets/NAME")
    parts = CONTENT.fullmatch(name)
    if parts is None:  # an earlier version put them there: these files, and no others of that name
        digest = hashlib.sha256(repr((where, _remote_files(where))).encode()).hexdigest()[:16]
        return f"stored-{name}-{digest}"
    source, digest = parts.groups()
    return source if (datasets / source).is_dir() and content(datasets / source) == digest else name


SKETCHED = 1000


def content(folder: Path) -> str:
    """32 hex digits of the SHA-256 of a decoded folder's two files, taken once and kept in it."""
    store = Storage(folder)
    kept = store.read("content")
    if kept is None:
        kept = _hash(folder).encode()
        with contextlib.suppress(OSError):  # an earlier version decoded it, and another user's home cannot be written
            store.write("content", kept)
    return kept.decode()


def sketch(folder: Path) -> str:
    """32 hex digits that tell the training set of a decoded folder from another one at little cost: of its classes, all
    its labels, and `SKETCHED` of its images, spread over it."""
    source = mapped(folder / "train.arrow")
    some = source.images[:: max(1, len(source.images) // SKETCHED)]
    digest = hashlib.sha256(repr((source.meta["classes"], source.images.shape)).encode())
    for values in (source.labels, some):
        digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _HALVES:
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _remote_files(where: str) -> list[File]:
    """What lies below a URL."""
    with _as_data_error(where):
        found = [File(*file) for file in open_source(where).listed()]
    if not found:
        raise DataError(f"dataset: there is nothing at {where!r}; it takes an existing folder")
    return found


@contextlib.contextmanager
def _as_data_error(where: str) -> Iterator[None]:
    """Errors of a storage as ``DataError``; otherwise the home would be blamed for them."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not where.startswith("hf://"):
            raise  # the hub's client has exceptions of its own, and those of its HTTP client
        kind = Away if isinstance(error, OSError) else DataError
        raise kind(f"dataset: {explain(where, error)}") from None


def _fetch(kind: str, where: str, found: Layout, reading: Reading) -> Decoded:
    """Decode the files ``found`` below a URL, copied here for as long as that takes."""
    store = open_source(where)
    with tempfile.TemporaryDirectory(prefix="tuner-data-") as folder:
        with _as_data_error(where):
            for name in found.files:
                file, data = inside(Path(folder), name), store.read(name)
                if data is None:
                    raise DataError(f"dataset: {name} of {where!r} was removed while it was read")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        return load(kind, folder, found, reading)


def _write(aside: Path, key: str, data: Decoded | str) -> None:
    """Write decoded data, or copy those at a URL, into a folder that will be called ``key``."""
    if isinstance(data, str):
        _copy(data, aside)
        _check_copy(key, data, aside)
    else:
        data.classes = in_metrics(data.classes)
        _validate(data)
        meta = {"classes": data.classes, "grouped_by": data.grouped_by, "note": data.note, **_statistics(data.train[0])}
        write_images(aside / "train.arrow", *data.train, data.groups, meta)
        write_images(aside / "test.arrow", *data.test, data.test_groups, meta)
    (aside / "content").write_text(_hash(aside))


def _write_aside(folder: Path, write: Callable[[Path], None]) -> None:
    for stale in folder.parent.glob(f".{folder.name}.part-*"):  # we hold the lock: a killed process left it
        shutil.rmtree(stale, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    try:
        write(aside)
        os.chmod(aside, 0o755)  # mkdtemp makes it private, but the home may be shared
        with contextlib.suppress(OSError):  # without locks another process may have been quicker
            os.rename(aside, folder)
        if not folder.is_dir():
            raise OSError(f"{folder} could not be created")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


_HALVES = ("test.arrow", "train.arrow")  # in the order in which they are put: the last says that both are there


def share(folder: Path, storage: str) -> str:
    """Put a decoded folder into ``storage``, unless it is there; returns NAME of its `stored:STORAGE/datasets/NAME`.
    `OSError`."""
    shared = folder.name if CONTENT.fullmatch(folder.name) else f"{folder.name}-{content(folder)}"
    store = Storage(below(storage, "datasets", shared))
    there = {name for name, _ in store.files()}
    for name in _HALVES:
        if name not in there:
            with pa.memory_map(str(folder / name)) as file:
                store.write(name, file.read_buffer())
    return shared


def _copy(where: str, folder: Path) -> None:
    for name in _HALVES:
        with _as_data_error(where):
            data = Storage(where).read(name)
        if data is None:
            raise Away(f"dataset 'stored:{where}' has no {name}; it was removed from the storage")
        (folder / name).write_bytes(data)


def _check_copy(key: str, where: str, folder: Path) -> None:
    """`DataError` unless the files that were copied are what their name says, and such as `_write` makes."""
    parts = CONTENT.fullmatch(key)
    if parts and _hash(folder) != parts[2]:
        raise DataError(f"dataset 'stored:{where}' is not what was put there: its content does not fit its name")
    for name in _HALVES:
        try:
            problem = arrow_problem(folder / name)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            problem = (str(error) or type(error).__name__).splitlines()[0]
        if problem:
            raise DataError(f"dataset 'stored:{where}' cannot be used: {name} holds no decoded images ({problem})")


CLASS_NAME = 255  # characters, as many as a folder's


def _validate_names(names: list[str]) -> None:
    once: set[str] = set()
    for name in names:
        if len(name) > CLASS_NAME:
            raise DataError(f"the dataset has a class whose name is {len(name):,} characters long, over {CLASS_NAME}")
        if not name.strip() or name in once:
            what = "without a name" if not name.strip() else f"called {name!r}"
            raise DataError(
                f"the dataset has {'two classes' if name in once else 'a class'} {what}; each needs its own"
            )
        once.add(name)


def _validate(data: Decoded) -> None:
    """Labels are 0..K-1 with K at least 2, every class has a name of its own, and images in both splits."""
    classes = len(data.classes)
    _validate_names(data.classes)
    for split, (images, labels) in (("train", data.train), ("test", data.test)):
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            row, label = wrong[0], labels[wrong[0]]
            what = "is not a label of train" if split == "test" and label >= 0 else "is out of range"
            hint = "; hubs mark images without a label so, another split may count as test (--test-split)"
            raise DataError(
                f"{split} row {row} has label {label}, which {what}; labels must be integers from 0 to {classes - 1}"
                + (hint if split == "test" and label == -1 else "")
            )
        if classes > len(labels):
            raise DataError(
                f"label {classes - 1} is out of range for a {split} set of {len(labels)} images; "
                "labels must be integers from 0 without gaps"
            )
        missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
        if len(missing):
            label = missing[0]
            raise DataError(
                f"class {data.classes[label]!r} (label {label}) has 0 images in {split}; every class needs at least one"
            )
    if classes < 2:
        raise DataError(f"the dataset has 1 class ({data.classes[0]!r}); it takes at least 2")


def _statistics(images: np.ndarray) -> dict[str, list[float]]:
    """Per-channel mean and standard deviation of pixels in [0, 1], from exact integer histograms."""
    values = np.arange(256) / 255
    share = [
        np.bincount(np.ascontiguousarray(images[:, c]).ravel(), minlength=256) / images[:, c].size
        for c in range(images.shape[1])
    ]
    mean = [float(s @ values) for s in share]
    variance = [float(s @ (values - m) ** 2) for s, m in zip(share, mean)]
    return {"mean": mean, "std": [max(v**0.5, 1e-3) for v in variance]}


def write_images(file: Path, images: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, meta: dict) -> None:
    """Images (N, C, H, W) uint8, labels (N,) and groups (N,) int64 as a file for `mapped`."""
    shape = images.shape[1:]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), int(np.prod(shape)))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), flat)
    columns = {"image": tensors, "label": pa.array(labels)}
    if groups is not None:
        columns["group"] = pa.array(groups)
    batch = pa.record_batch(columns).replace_schema_metadata({"tuner": json.dumps(meta)})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


@lru_cache(maxsize=8)
def mapped(file: Path) -> Mapped:
    """Map a decoded file; once per process."""
    batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
    groups = batch["group"].to_numpy() if "group" in batch.schema.names else None
    meta = json.loads(batch.schema.metadata[b"tuner"])
    return Mapped(batch["image"].to_numpy_ndarray(), batch["label"].to_numpy(), groups, meta)
