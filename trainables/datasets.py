"""The datasets that have a name, one row each. Needs neither torch nor numpy: the command line lists and checks names.

How to add a dataset
--------------------
Images of your own need no row: ``parquet:DIR`` and ``folder:DIR`` take them as they are (`trainables.data.files`).
A name for everybody is one row of `BUILT_IN`:

- what it is, in a few words, for help and documentation;
- where its images come from: `Torchvision`, or ``"package.module:function"``, a function that is given the folder for
  downloads and returns a `trainables.data.decoded.Decoded`; `trainables.data.named.load_digits` is an example. The test
  set must be the source's own, or split off in a way that no setting of a search changes;
- ``training``: what differs from the defaults of `search_spaces.training.Training`, e.g. the radius ``eps``.

Another installed package offers a row by an entry point of the group ``tuner.datasets``: ``NAME =
"package.module:ROW"``.

Sizes, class names and normalisation are read from the images. The row appears in ``--dataset``, its help and the
message for a wrong name; images are decoded once per machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces.plug_ins import Table, Unusable

if TYPE_CHECKING:
    from search_spaces.training import Training


@dataclass(frozen=True)
class Torchvision:
    """A class of ``torchvision.datasets`` that holds 8-bit images in memory, or files with labels (``size`` given)."""

    cls: str
    folder: str  # below datasets/raw of the home: where torchvision looks
    files: str  # what to put there where nothing can be downloaded
    split: bool = False  # it takes split="train" or "test" in place of train=True or False
    classes: int | None = None  # named by their numbers; None: it has names
    size: int | None = None  # pixels of a side, to which image files of several sizes are resized


@dataclass(frozen=True)
class Dataset:
    """One row."""

    about: str
    source: Torchvision | str
    training: Mapping[str, Any] = field(default_factory=dict)


_GREY = {"augment": "crop", "lr": 0.05}  # small grey images: digits must not be mirrored
_UBYTE = "the four *-ubyte.gz files"
_GTSRB = "GTSRB-Training_fixed.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip"

BUILT_IN: dict[str, Dataset] = {
    "digits": Dataset(
        "scikit-learn's 1,797 handwritten digits, 8x8 grey; nothing to download",
        "trainables.data.named:load_digits",
        {**_GREY, "eps": 0.1, "batch_size": 32, "passes": 8, "eval_attack": 20},
    ),
    "cifar10": Dataset("photos, 10 classes, 32x32", Torchvision("CIFAR10", "cifar10", "cifar-10-python.tar.gz")),
    "cifar100": Dataset("photos, 100 classes, 32x32", Torchvision("CIFAR100", "cifar100", "cifar-100-python.tar.gz")),
    "svhn": Dataset(
        "house numbers, 10 digits, 32x32",
        Torchvision("SVHN", "svhn", "train_32x32.mat and test_32x32.mat", split=True, classes=10),
        {"augment": "crop", "lr": 0.05},
    ),
    "fashion-mnist": Dataset(
        "clothes, 10 classes, 28x28 grey",
        Torchvision("FashionMNIST", "fashion-mnist/FashionMNIST/raw", _UBYTE),
        {**_GREY, "eps": 0.1},
    ),
    "mnist": Dataset(
        "handwritten digits, 28x28 grey",
        Torchvision("MNIST", "mnist/MNIST/raw", _UBYTE, classes=10),
        {**_GREY, "eps": 0.3},
    ),
    "gtsrb": Dataset(
        "traffic signs, 43 classes, resized to 32x32",
        Torchvision("GTSRB", "gtsrb", _GTSRB, split=True, classes=43, size=32),
        {"augment": "crop", "lr": 0.05},
    ),
}


def check_row(row: Any) -> None:
    """``Unusable`` unless another package's row can be used as one of ours."""
    from search_spaces.param import coerce, params_of
    from search_spaces.training import Training

    if not isinstance(row, Dataset) or not isinstance(row.about, str):
        raise Unusable("it must be a trainables.datasets.Dataset that says what it is")
    if not isinstance(row.source, Torchvision) and ":" not in str(row.source):
        raise Unusable('its source must be a Torchvision or "package.module:function"')
    known = params_of(Training)
    if not set(row.training) <= set(known):
        raise Unusable("its training must be training settings")
    if {name: coerce(known[name], value) for name, value in row.training.items()} != dict(row.training):
        raise Unusable("a value of its training is not of the type of the setting")


def _modules(row: Dataset) -> tuple[str, ...]:
    return (row.source.partition(":")[0],) if isinstance(row.source, str) else ()


DATASETS: Table[Dataset] = Table("dataset", "tuner.datasets", BUILT_IN, check_row, _modules)
KINDS = ("parquet", "folder")  # files of the user's own, written KIND:DIR


def dataset_names() -> tuple[str, ...]:
    """What ``--dataset`` takes, as written in help and messages: names, then ``parquet:DIR`` and ``folder:DIR``."""
    return *DATASETS, *(f"{kind}:DIR" for kind in KINDS)


def training_for(dataset: str, **changes) -> Training:
    """The training hyperparameters for a dataset: common defaults, what its row changes, ``changes`` on top."""
    from search_spaces.training import Training  # imports optuna, which would slow the command line's help

    row = DATASETS[dataset] if dataset in DATASETS else None
    return Training(**{**(row.training if row else {}), **changes})
