"""Which images are `train` and which `val`. Chosen from the source's training set alone; `test` is another file.

`val` is what training leaves over: of each class a reserve first, then, where `train` is thinned, what the thinning
would throw away. It is uneven across the classes; its rates are therefore always per class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.extra import prepare_extra
from trainables.data.spec import DataError, DataSpec, class_counts, keeps_head, parse_imbalance, validate_spec
from trainables.data.store import Mapped, mapped, prepare


@dataclass(frozen=True)
class Summary:
    """What a search will see, known before torch or Ray is loaded."""

    classes: list[str]
    shape: tuple[int, int, int]  # (C, H, W)
    counts: dict[str, list[int]]  # images per class of "train", "val", "test"
    grouped_by: str | None  # "track": val holds whole tracks, never frames of a track that train has
    note: str  # what decoding changed, e.g. a resize; "" if nothing
    mean: list[float]  # per channel, pixels in [0, 1], over the source's training set
    std: list[float]
    judged_by_train: tuple[str, ...] = ()  # classes of which `val` holds images that train too: rates are too high
    decoded: Path | None = None  # the folder of the decoded images
    extra: tuple[int, ...] = ()  # extra training images per class; none where there are no extra data
    extra_note: str = ""  # as ``note``, of them
    extra_content: str | None = None  # what they are, see `trainables.data.extra`

    @property
    def words(self) -> str:
        """One line for the user."""
        images = ", ".join(f"{sum(counts)} {split}" for split, counts in self.counts.items())
        if self.extra:
            images += f", and {sum(self.extra)} extra to train on{f' ({self.extra_note})' if self.extra_note else ''}"
        height, width = self.shape[1:]
        note = f"; {self.note}" if self.note else ""
        again = ""
        if self.judged_by_train:
            again = (
                f"; too few images of {', '.join(self.judged_by_train)} are left over for val, which has some "
                "that train too, so its rates there, and averages with them, are too high: only tuner verify, on test, "
                "compares models"
            )
        return f"data: {len(self.classes)} classes; images of {width}x{height}: {images}{note}{again}"


def check(spec: DataSpec, home: Path) -> Summary:
    """Prepare the data and try the split, without torch. `DataError` is everything that could go wrong later."""
    validate_spec(spec)
    folder = prepare(spec.dataset, home, spec.reading)
    source = mapped(folder / "train.arrow")
    train, val = choose(source, spec)
    tests = mapped(folder / "test.arrow").labels
    classes = len(source.meta["classes"])
    labels = {"train": source.labels[train], "val": source.labels[val], "test": tests}
    counts = {split: np.bincount(of_split, minlength=classes).tolist() for split, of_split in labels.items()}
    more = mapped(prepare_extra(spec.extra, home, source)) if spec.extra != "none" else None
    both = set(source.labels[np.intersect1d(train, val)].tolist())
    return Summary(
        source.meta["classes"],
        tuple(source.images.shape[1:]),
        counts,
        source.meta["grouped_by"],
        source.meta["note"],
        source.meta["mean"],
        source.meta["std"],
        tuple(source.meta["classes"][c] for c in sorted(both)),
        folder,
        () if more is None else tuple(np.bincount(more.labels, minlength=classes).tolist()),
        "" if more is None else more.meta["note"],
        None if more is None else more.meta["content"],
    )


def choose(source: Mapped, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int64) of ``source`` that are train and val under ``spec``.

    Of each class a reserve goes to ``val`` first: ``val_fraction`` of the class, or of the smallest class where the
    data are thinned; at most ``val_per_class`` images, at least one. ``train`` is what is left or, thinned with
    ``RandomState(seed)`` as in the published codes, of it as many images as ``class_counts`` says, from ``n_max`` =
    smallest class left. ``val`` then takes more of what that leaves over, in the same order, up to ``val_per_class``
    images. The order is that of numpy's ``RandomState([seed, 1])``. Where rows are grouped, whole groups are taken in
    place of images, and a class whose first group is larger than ``val_per_class`` has that one.

    ``val_per_class`` 0: the rule of earlier searches, without that limit: the reserve is all of ``val``, and where the
    data are thinned it has equally many images of each class.

    With ``:all`` behind the thinning nothing is reserved: see `_whole_head`.

    ``DataError`` where a class would be left without an image to train on.
    """
    if keeps_head(spec.imbalance):
        return _whole_head(source, spec)
    thinned = parse_imbalance(spec.imbalance)[0] != "none"
    labels = source.labels
    groups = np.arange(len(labels)) if source.groups is None else source.groups
    in_class = np.bincount(labels, minlength=len(source.meta["classes"]))
    rng = np.random.RandomState([spec.seed, 1])
    found = [np.unique(groups[labels == c], return_counts=True) for c in range(len(in_class))]
    order = [rng.permutation(len(members)) for members, _ in found]
    members = [of_class[o] for (of_class, _), o in zip(found, order)]
    sizes = [counts[o] for (_, counts), o in zip(found, order)]

    reserved = _reserve(source, spec, sizes, thinned)
    in_val = _of_groups(groups, members, reserved)
    if not thinned:
        return np.flatnonzero(~in_val), np.flatnonzero(in_val)
    left = np.bincount(labels[~in_val], minlength=len(in_class))
    counts = _thinned_counts(source, spec, left)
    if spec.val_per_class and sum(map(len, members)) == len(np.unique(groups)):  # else some group has several classes
        most = np.minimum(spec.val_per_class, in_class - counts)
        taken = [_first(s, len(s), images) for s, images in zip(sizes, most)]  # the reserve is among them
        in_val = _of_groups(groups, members, taken)
    val, rest = np.flatnonzero(in_val), np.flatnonzero(~in_val)
    if not spec.val_per_class:  # groups differ in size: what is too much goes unused
        val = _evened(val, labels, rng)
    return rest[thin(labels[rest], counts, spec.seed)], val


FEWEST = 30  # images of a class that judge it, before those that train judge it too


def _whole_head(source: Mapped, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """The published long-tailed split: ``train`` as LDAM-DRW's code takes it from all images (to the image, with its
    seed 0), and what it leaves over as ``val``, up to ``val_per_class`` images a class. A class of which fewer than
    `FEWEST` are left over is filled up with images that train."""
    if source.groups is not None or not spec.val_per_class:
        what = f"data in {source.meta['grouped_by']}s" if source.groups is not None else "--val-per-class 0"
        raise DataError(f"imbalance {spec.imbalance!r} is not possible with {what}; leave ':all' out")
    labels, rng = source.labels, np.random.RandomState([spec.seed, 1])
    in_class = np.bincount(labels, minlength=len(source.meta["classes"]))
    train = thin(labels, _thinned_counts(source, spec, in_class), spec.seed)
    trains = np.zeros(len(labels), dtype=bool)
    trains[train] = True
    val = []
    for c in range(len(in_class)):
        left = rng.permutation(np.flatnonzero((labels == c) & ~trains))
        if len(left) < FEWEST:
            left = np.concatenate([left, rng.permutation(np.flatnonzero((labels == c) & trains))])
        val.append(left[: spec.val_per_class])
    return train, np.sort(np.concatenate(val))


def thin(labels: np.ndarray, counts: list[int], seed: int) -> np.ndarray:
    """Positions in ``labels`` of a random ``counts[c]`` images of each class c, class after class (LDAM-DRW's
    order)."""
    rng = np.random.RandomState(seed)
    kept = []
    for c, count in enumerate(counts):
        positions = np.flatnonzero(labels == c)
        rng.shuffle(positions)
        kept.append(positions[:count])
    return np.concatenate(kept)


def _reserve(source: Mapped, spec: DataSpec, sizes: list[np.ndarray], thinned: bool) -> list[int]:
    """How many groups (images, where there are no groups) of each class go to val before training takes any.

    ``sizes``: of each class the images of its groups in the order in which they are taken.
    """
    smallest = min(map(len, sizes))
    taken = []
    for name, of_class in zip(source.meta["classes"], sizes):
        wanted = round(spec.val_fraction * (smallest if thinned else len(of_class)))
        count = _first(of_class, wanted, spec.val_per_class or len(source.labels))
        if count >= len(of_class):
            what = source.meta["grouped_by"] or "image"
            way = "; --groups none takes every image on its own" if source.groups is not None else ""
            raise DataError(
                f"class {name!r} has {len(of_class)} {what}(s) and val_fraction {spec.val_fraction} would take "
                f"{count} of them for val; at least one must be left for train{way}"
            )
        taken.append(count)
    return taken


def _first(sizes: np.ndarray, groups: int, images: int) -> int:
    """How many of the first groups are at most so many ``groups`` and ``images``; at least one."""
    return max(1, min(groups, int(np.searchsorted(np.cumsum(sizes), images, side="right"))))


def _of_groups(groups: np.ndarray, members: list[np.ndarray], taken: list[int]) -> np.ndarray:
    """Which rows (N,) belong to the groups that are ``taken``: so many of the first ``members`` of each class."""
    return np.isin(groups, np.concatenate([m[:n] for m, n in zip(members, taken)]))


def _thinned_counts(source: Mapped, spec: DataSpec, left: np.ndarray) -> list[int]:
    """Training images of each class, of which there are ``left`` (K,)."""
    kind, ratio = parse_imbalance(spec.imbalance)
    counts = class_counts(int(left.min()), len(left), kind, 1 / ratio)
    if min(counts) == 0:
        name, least = source.meta["classes"][counts.index(0)], left.min()
        advice = (
            f"{least} training images, so K must be less than {least}"
            if least > 1
            else "1 training image, of which nothing can be taken; use imbalance none"
        )
        raise DataError(
            f"class {name!r} would be left with 0 images by imbalance {spec.imbalance!r}; "
            f"the smallest class has {advice}"
        )
    return counts


def _evened(val: np.ndarray, labels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """As many rows of each class as the class with the fewest has, ascending."""
    of_class = [val[labels[val] == c] for c in range(labels.max() + 1)]
    even = min(map(len, of_class))
    return np.sort(np.concatenate([rng.permutation(rows)[:even] for rows in of_class]))
