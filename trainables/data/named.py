"""The datasets that have a name: scikit-learn's digits and torchvision's, as arrays in memory.

Every source gives a `Decoded`; those that are files of the user's own are in `files.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from pathlib import Path

import numpy as np

from trainables.data.decoded import Decoded
from trainables.data.spec import DataError

TEST_SEED = 0  # fixes the test set of datasets that come without one; no search setting reaches it
TEST_FRACTION = 0.2

# name: (torchvision class, where under datasets/raw it looks, what to put there)
_FILES = {
    "cifar10": ("CIFAR10", "cifar10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar100", "cifar-100-python.tar.gz"),
    "svhn": ("SVHN", "svhn", "train_32x32.mat and test_32x32.mat"),
    "mnist": ("MNIST", "mnist/MNIST/raw", "the four *-ubyte.gz files"),
    "fashion-mnist": ("FashionMNIST", "fashion-mnist/FashionMNIST/raw", "the four *-ubyte.gz files"),
    "gtsrb": ("GTSRB", "gtsrb", "GTSRB-Training_fixed.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip"),
}


def load_digits() -> Decoded:
    """scikit-learn's 1,797 handwritten 8x8 digits, 0..16 scaled to 0..255; a fixed stratified fifth is
    `test`."""
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


def load_torchvision(name: str, raw: Path) -> Decoded:
    """One of torchvision's datasets from ``raw`` (home/datasets/raw), downloaded into it where there is a
    network."""
    train, test = (_open_torchvision(name, raw, is_train) for is_train in (True, False))
    if name == "gtsrb":
        from trainables.data.files import decode_samples  # not at the top: encoded.py needs Decoded

        return decode_samples(train._samples, test._samples, [str(c) for c in range(43)], size=(32, 32))
    classes = [str(c) for c in range(10)] if name in ("mnist", "svhn") else list(train.classes)
    return Decoded(_arrays(train), _arrays(test), classes)


def _open_torchvision(name: str, raw: Path, is_train: bool):
    import torchvision.datasets

    cls, where, files = _FILES[name]
    split = {"split": "train" if is_train else "test"} if name in ("svhn", "gtsrb") else {"train": is_train}
    root = raw if name == "gtsrb" else raw / name  # torchvision adds gtsrb/ itself
    make = getattr(torchvision.datasets, cls)
    try:
        return make(root, **split, download=False)
    except (RuntimeError, OSError):
        pass  # not there, or packed: download=True unpacks what lies there and fetches the rest
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(20)
        (raw / where).mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return make(root, **split, download=True)
    # URLError, RuntimeError, zipfile and tarfile errors: all mean "no usable files"
    except Exception as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0].rstrip(":. ")
        raise DataError(
            f"dataset {name!r} is not on this machine and could not be downloaded ({reason}); "
            f"put {files} into {raw / where}"
        ) from problem
    finally:
        socket.setdefaulttimeout(timeout)


def _arrays(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels of the torchvision datasets that hold everything in memory."""
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
    if images.ndim == 3:  # grey: (N, H, W)
        images = images[:, None]
    elif images.shape[-1] == 3:  # CIFAR: (N, H, W, C); SVHN is (N, C, H, W) already
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, dtype=np.uint8), labels
