"""Arrays in memory for the rows of `trainables.datasets`: scikit-learn's digits and torchvision's datasets.

Every source gives a `Decoded`; those that are files of the user's own are in `trainables.data.files`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from trainables.data.decoded import Decoded
from trainables.data.files import decode_samples
from trainables.data.spec import DataError
from trainables.datasets import DATASETS, Torchvision

TEST_SEED = 0  # fixes the test set of datasets that come without one; no search setting reaches it
TEST_FRACTION = 0.2


def load_named(name: str, raw: Path) -> Decoded:
    """A dataset of `DATASETS`; ``raw`` (home/datasets/raw) holds what is downloaded. ``DataError`` where its files are
    neither there nor to be had."""
    source = DATASETS[name].source
    return load_torchvision(name, source, raw) if isinstance(source, Torchvision) else resolve_name(source)(raw)


def load_digits(raw: Path) -> Decoded:
    """scikit-learn's 1,797 handwritten 8x8 digits, 0..16 scaled to 0..255; a fixed stratified fifth is `test`. They
    come with scikit-learn, so ``raw`` is not used."""
    # its file alone: importing scikit-learn would take 2 s
    file = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    rng = np.random.RandomState(TEST_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for c in range(10):
        rows = rng.permutation(np.flatnonzero(labels == c))
        test[rows[: round(TEST_FRACTION * len(rows))]] = True
    return Decoded((images[~test], labels[~test]), (images[test], labels[test]), [str(c) for c in range(10)])


def load_torchvision(name: str, source: Torchvision, raw: Path) -> Decoded:
    """One of torchvision's datasets from ``raw``, downloaded into it where there is a network."""
    train, test = (_open_torchvision(name, source, raw, is_train) for is_train in (True, False))
    classes = [str(c) for c in range(source.classes)] if source.classes else list(train.classes)
    if source.size:
        return decode_samples(train._samples, test._samples, classes, size=source.size)
    return Decoded(_arrays(train), _arrays(test), classes)


def _open_torchvision(name: str, source: Torchvision, raw: Path, is_train: bool):
    import torchvision.datasets

    split = {"split": "train" if is_train else "test"} if source.split else {"train": is_train}
    root = raw if source.size else raw / name  # of image files torchvision adds the folder itself
    make = getattr(torchvision.datasets, source.cls)
    try:
        return make(root, **split, download=False)
    except (RuntimeError, OSError):
        pass  # not there, or packed: download=True unpacks what lies there and fetches the rest
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(20)
        (raw / source.folder).mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return make(root, **split, download=True)
    # URLError, RuntimeError, zipfile and tarfile errors: all mean "no usable files"
    except Exception as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0].rstrip(":. ")
        folder, files = raw / source.folder, source.files.replace(",", " ").split()
        damaged = sorted(p.name for p in _entries(folder) if any(map(partial(fnmatch, p.name), files)))
        what = f"is damaged or incomplete ({', '.join(damaged)} in {folder})" if damaged else "is not on this machine"
        raise DataError(
            f"dataset {name!r} {what} and could not be downloaded{' again' if damaged else ''} ({reason}); "
            f"put {'an intact ' if damaged else ''}{source.files} into {folder}"
        ) from problem
    finally:
        socket.setdefaulttimeout(timeout)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _arrays(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels of the torchvision datasets that hold everything in memory."""
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
    if images.ndim == 3:  # grey: (N, H, W)
        images = images[:, None]
    elif images.shape[-1] == 3:  # CIFAR: (N, H, W, C); SVHN is (N, C, H, W) already
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, dtype=np.uint8), labels
