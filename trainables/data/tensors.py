"""Splits as torch tensors: views of the mapped file on the CPU, one copy on a GPU. torch is imported on first use."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.class_metrics import watched
from trainables.data.extra import prepare_extra
from trainables.data.spec import DataSpec, validate_spec
from trainables.data.split import choose
from trainables.data.store import Mapped, mapped, prepare

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """N images of one dataset. On the CPU ``base`` is the mapped file: never write into it.

    Everything that hands out images gathers them in one tensor operation, no Python per image.
    """

    base: Tensor  # (M, C, H, W) uint8, M >= N
    index: Tensor  # (N,) int64, rows of base
    labels: Tensor  # (N,) int64
    groups: Tensor | None = None  # (N,) int64: images of one number are frames of one track; None: there are no tracks
    hides_tracks: bool = False  # of test images: training has tracks, and nothing says which of these are of one

    def __len__(self) -> int:
        return len(self.index)

    def images(self, rows: Tensor | slice) -> Tensor:
        """(B, C, H, W) uint8 of ``rows`` (0..N-1): a copy, free to change."""
        return self.base[self.index[rows]]

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images of ``rows`` as float32 in [0, 1], (B, C, H, W), and their labels (B,)."""
        return self.images(rows).float().div_(255), self.labels[rows]

    def independent(self, classes: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """(classes,) of how many different things the images ``rows`` of each class are: tracks, or else images."""
        import torch

        labels = self.labels[rows]
        if self.groups is not None:
            labels = torch.stack([self.groups[rows], labels]).unique(dim=1)[1]
        return torch.bincount(labels, minlength=classes)

    @property
    def x(self) -> Tensor:
        """(N, C, H, W) uint8: all images, copied."""
        return self.images(slice(None))

    @property
    def y(self) -> Tensor:
        return self.labels


@dataclass(frozen=True, eq=False)
class Splits:
    """What a search may see. There is no way from here to the test images."""

    train: Split
    val: Split
    watch: Split  # the part of `val` that judges every epoch, see `class_metrics.watched`; `val` itself where it is all
    classes: list[str]
    shape: tuple[int, int, int]  # (C, H, W)
    class_counts: list[int]  # training images per class
    mean: list[float]  # per channel, for the model's normalisation
    std: list[float]
    extra: Split | None = None  # images that train too, and count for nothing else

    @property
    def trained_on(self) -> Split | Joined:
        """What a training step takes rows of: `train`, and after its rows those of `extra`."""
        return self.train if self.extra is None else Joined(self.train, self.extra)


@dataclass(frozen=True, eq=False)
class Joined:
    """The images of two splits, one after the other; nothing is copied but what is asked for."""

    first: Split
    second: Split

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `Split.batch`, of ``rows`` (B,)."""
        n = len(self.first)
        (x, y), (more_x, more_y) = self.first.batch(rows.clamp(max=n - 1)), self.second.batch((rows - n).clamp(min=0))
        own = rows < n
        return _chosen(own, x, more_x), _chosen(own, y, more_y)


def _chosen(own: Tensor, mine: Tensor, others: Tensor) -> Tensor:
    return mine.where(own.reshape((-1,) + (1,) * (mine.dim() - 1)), others)


def open_splits(spec: DataSpec, home: Path, device="cpu") -> Splits:
    """``train`` and ``val`` on ``device``. Repeated calls in one process give the same object: nothing is
    mapped again."""
    validate_spec(spec)
    return _open_splits(spec, Path(home).expanduser().resolve(), str(device))


def open_test(spec: DataSpec, home: Path, device="cpu") -> Split:
    """The source's own test set, whatever the imbalance and the seed."""
    validate_spec(spec)
    source = mapped(prepare(spec.dataset, home, spec.reading) / "test.arrow")
    split = _split(source, np.arange(len(source.labels)), str(device))
    return replace(split, hides_tracks=source.meta["grouped_by"] is not None and source.groups is None)


@lru_cache(maxsize=2)  # each holds device memory
def _open_splits(spec: DataSpec, home: Path, device: str) -> Splits:
    source = mapped(prepare(spec.dataset, home, spec.reading) / "train.arrow")
    train, val = choose(source, spec)
    meta = source.meta
    counts = np.bincount(source.labels[train], minlength=len(meta["classes"])).tolist()
    judges = _split(source, val, device)
    watch = _watched(source.labels[val])
    return Splits(
        _split(source, train, device),
        judges,
        judges if len(watch) == len(val) else _split(source, val[watch], device),
        meta["classes"],
        tuple(source.images.shape[1:]),
        counts,
        meta["mean"],
        meta["std"],
        _extra(spec.extra, home, source, device),
    )


def _extra(extra: str, home: Path, source: Mapped, device: str) -> Split | None:
    if extra == "none":
        return None
    more = mapped(prepare_extra(extra, home, source))
    return _split(more, np.arange(len(more.labels)), device)


def _watched(labels: np.ndarray) -> np.ndarray:
    """Rows of `val`, whose labels these are, that judge every epoch: spread evenly, for neighbours are often alike."""
    counts = np.bincount(labels)
    kept = []
    for c, most in enumerate(watched(counts.tolist())):
        rows = np.flatnonzero(labels == c)
        kept.append(rows[np.linspace(0, len(rows) - 1, most).round().astype(int)])
    return np.sort(np.concatenate(kept))


def digest(split: Split) -> str:
    """sha256 over the images' shape, their pixels as uint8 and their labels as int64, little-endian."""
    found = hashlib.sha256(repr((len(split), *split.base.shape[1:])).encode())
    for begin in range(0, len(split), 4096):
        found.update(split.images(slice(begin, begin + 4096)).cpu().numpy().tobytes())
    found.update(split.labels.cpu().numpy().astype("<i8").tobytes())
    return found.hexdigest()


def _split(source: Mapped, rows: np.ndarray, device: str) -> Split:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # read-only on purpose
        base = torch.from_numpy(source.images)
    index = torch.from_numpy(rows)
    labels = torch.from_numpy(source.labels[rows])
    groups = None if source.groups is None else torch.from_numpy(source.groups[rows])
    if torch.device(device).type == "cpu":
        return Split(base, index, labels, groups)
    there = None if groups is None else groups.to(device)
    return Split(base[index].to(device), torch.arange(len(rows), device=device), labels.to(device), there)
