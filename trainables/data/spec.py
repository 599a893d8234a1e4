"""What data a search uses, in six fields, and how an imbalance is written down."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

from search_spaces.number import number
from trainables.datasets import DATASETS, KINDS, dataset_names
from trainables.reading import is_text
from trainables.urls import SIGN_IN, check_public, masked


class DataError(ValueError):
    """Wrong data or a wrong wish about data: one sentence that carries the value and what is allowed."""


MOST_PIXELS = 4096
GROUPS = ("auto", "none")
WHOLE = ":all"  # at the end of an imbalance
LONGEST = 128  # bytes of a data set's name in that of a folder: hashes come on top, and file systems take 255


@dataclass(frozen=True)
class Reading:
    """How images of the user's own (``parquet:``, ``folder:``) are read; a dataset with a name is read in one way."""

    image_size: int = 0  # pixels of a side, to which all are resized; 0: as they are, 32 where they differ
    test_split: str = "test"  # the files or the folder that count as `test`
    groups: str = "auto"  # auto: frames of one track, by the file names, stay together; none: every image is its own


@dataclass(frozen=True)
class DataSpec:
    dataset: str = "digits"  # one of `dataset_names`
    imbalance: str = "exp:10"  # none | exp:K | step:K, and exp:K:all | step:K:all, see `keeps_head`
    seed: int = 0  # chooses `val` and which images the thinning keeps; never `test`
    val_fraction: float = 0.2  # of a class, in (0, 1): what `val` has at least, if that is not above ``val_per_class``
    val_per_class: int = 300  # images of a class that `val` has at most; 0: the rule of earlier searches
    reading: Reading = Reading()
    extra: str = "none"  # parquet:DIR of more images to train on, see `trainables.data.extra`


def validate_spec(spec: DataSpec) -> None:
    """Raise `DataError` unless the fields that need no data make sense."""
    check_dataset(spec.dataset)
    parse_imbalance(spec.imbalance)
    if isinstance(spec.seed, bool) or not isinstance(spec.seed, int) or not 0 <= spec.seed < 2**32:
        raise DataError(f"data seed {spec.seed!r} is not allowed; it must be a whole number from 0 to 2**32 - 1")
    if not 0 < spec.val_fraction < 1:
        raise DataError(
            f"val_fraction {spec.val_fraction!r} is not allowed; it must lie between 0 and 1, both excluded"
        )
    if isinstance(spec.val_per_class, bool) or not isinstance(spec.val_per_class, int) or spec.val_per_class < 0:
        raise DataError(f"val_per_class {spec.val_per_class!r} is not allowed; it must be a whole number of at least 0")
    _check_reading(spec.dataset, spec.reading)
    check_extra(spec.extra)


def check_extra(extra: str) -> None:
    """Raise `DataError` unless it is ``none`` or names a folder of this machine; whether it exists is not looked at."""
    kind, _, where = extra.partition(":")
    if extra != "none" and (kind != "parquet" or not where or "://" in where):
        raise DataError(
            f"extra data {masked(extra)!r} are not allowed; they take none or parquet:DIR, a folder that all nodes see"
        )


def _check_reading(dataset: str, reading: Reading) -> None:
    size = reading.image_size
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MOST_PIXELS:
        raise DataError(f"image_size {size!r} is not allowed; it must be a whole number of pixels up to {MOST_PIXELS}")
    if reading.groups not in GROUPS:
        raise DataError(f"groups {reading.groups!r} is not allowed; it takes {' or '.join(GROUPS)}")
    if dataset in DATASETS and reading != Reading():
        given, default = dataclasses.asdict(reading), dataclasses.asdict(Reading())
        changed = [f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value != default[name]]
        raise DataError(
            f"{', '.join(changed)} is for images of your own (parquet:DIR, folder:DIR), not for {dataset!r}"
        )


def check_dataset(dataset: str) -> None:
    """Raise `DataError` unless it is a dataset's name, or a kind of files; whether they exist is not looked at."""
    if dataset.startswith("hf://"):
        raise DataError(
            f"unknown dataset {dataset!r}; a data set of the Hugging Face hub is written parquet:hf://datasets/USER/NAME"
        )
    if not is_text(dataset):
        raise DataError(f"dataset {dataset!r} has a name that is no text in UTF-8; rename its folder")
    try:
        DATASETS.refuse_broken(dataset)
    except ValueError as problem:
        raise DataError(str(problem)) from None
    if dataset not in DATASETS and dataset.partition(":")[0] not in (*KINDS, "stored"):
        raise DataError(f"unknown dataset {masked(dataset)!r}; it takes {', '.join(dataset_names())}")
    try:
        check_public("dataset", dataset, SIGN_IN)
    except ValueError as problem:
        raise DataError(str(problem)) from None


def parse_imbalance(text: str) -> tuple[str, float]:
    """``"none" | "exp:K" | "step:K"`` as (kind, K); K >= 1 is largest over smallest class, 1.0 for none. ``:all`` may
    follow: see `keeps_head`."""
    kind, colon, size = str(text).strip().lower().removesuffix(WHOLE).partition(":")
    if str(text).strip().lower() == "none":
        return "none", 1.0
    try:
        ratio = number(size)
    except ValueError:
        ratio = math.nan
    if kind not in ("exp", "step") or not (1 <= ratio < math.inf):
        raise DataError(
            f"imbalance {text!r} is not allowed; it takes none, exp:K or step:K with a number K >= 1, also "
            "exp:K:all, which keeps all images of the largest class"
        )
    return kind, ratio


def keeps_head(imbalance: str) -> bool:
    """Whether the largest class trains with all of its images, as in the published long-tailed data sets (CIFAR-10-LT
    begins at 5000): nothing is reserved for judging, and a class of which hardly an image is left over is judged by
    those it trains on too."""
    return str(imbalance).strip().lower().endswith(WHOLE)


def class_counts(n_max: float, classes: int, kind: str, factor: float) -> list[int]:
    """Images per class of a thinned dataset, most frequent class first (Cao et al. 2019, LDAM-DRW).

    exp: ``trunc(n_max * factor^(c / (classes-1)))``; step: the first half ``trunc(n_max)``, the rest
    ``trunc(n_max * factor)``. Truncation is of the IEEE product, so ``factor`` is smallest over largest class
    itself: through its reciprocal a count can come out one less. For an odd number of classes the official
    step list loses its last class; here the smaller half is the head and every other class the tail.
    """
    if kind == "exp":
        return [int(n_max * factor ** (c / max(classes - 1, 1))) for c in range(classes)]
    if kind == "step":
        head = classes // 2
        return [int(n_max)] * head + [int(n_max * factor)] * (classes - head)
    return [int(n_max)] * classes


def decoded_start(kind: str, name: str) -> str:
    """With what the names of the folders begin into which a data set is decoded, before a hash of its files. ``name``:
    its path, or its URL without a query."""
    safe = re.sub(r"[^\w.-]", "_", name.rstrip("/").rpartition("/")[2])
    return f"{kind}-{safe.encode()[:LONGEST].decode(errors='ignore')}-"
