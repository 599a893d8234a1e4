"""Which images are `train` and which `val`. Chosen from the source's training set alone; `test` is another file.

`val` is taken first and balanced, then `train` is thinned, so the rare classes pay nothing for their
validation images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.spec import DataError, DataSpec, class_counts, parse_imbalance, validate_spec
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


def check(spec: DataSpec, home: Path) -> Summary:
    """Prepare the data and try the split, without torch. `DataError` is everything that could go wrong later."""
    validate_spec(spec)
    folder = prepare(spec.dataset, home)
    source = mapped(folder / "train.arrow")
    train, val = choose(source, spec)
    tests = mapped(folder / "test.arrow").labels
    classes = len(source.meta["classes"])
    labels = {"train": source.labels[train], "val": source.labels[val], "test": tests}
    counts = {split: np.bincount(of_split, minlength=classes).tolist() for split, of_split in labels.items()}
    return Summary(
        source.meta["classes"],
        tuple(source.images.shape[1:]),
        counts,
        source.meta["grouped_by"],
        source.meta["note"],
        source.meta["mean"],
        source.meta["std"],
    )


def choose(source: Mapped, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int64) of ``source`` that are train and val under ``spec``.

    ``val`` is drawn with numpy's ``RandomState([seed, 1])``: of each class ``val_fraction`` of the smallest
    class if the data are thinned (balanced), else of the class itself; at least one image; whole groups where
    rows are grouped. ``train`` is thinned with ``RandomState(seed)`` as in the published codes, from
    ``n_max`` = smallest class left.
    """
    kind, ratio = parse_imbalance(spec.imbalance)
    names, labels = source.meta["classes"], source.labels
    rest, val = _take_val(source, spec, balanced=kind != "none")
    if kind == "none":
        return rest, val
    left = np.bincount(labels[rest], minlength=len(names))
    counts = class_counts(int(left.min()), len(names), kind, 1 / ratio)
    if min(counts) == 0:
        c, least = counts.index(0), left.min()
        advice = (
            f"{least} training images, so K must be less than {least}"
            if least > 1
            else "1 training image, of which nothing can be taken; use imbalance none"
        )
        raise DataError(
            f"class {names[c]!r} would be left with 0 images by imbalance {spec.imbalance!r}; "
            f"the smallest class has {advice}"
        )
    return rest[thin(labels[rest], counts, spec.seed)], val


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


def _take_val(source: Mapped, spec: DataSpec, *, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """(rows left for train, rows of val), both ascending."""
    labels, names = source.labels, source.meta["classes"]
    groups = np.arange(len(labels)) if source.groups is None else source.groups
    of_class = [np.unique(groups[labels == c]) for c in range(len(names))]
    smallest = min(len(members) for members in of_class)
    rng = np.random.RandomState([spec.seed, 1])
    taken = []
    for c, members in enumerate(of_class):
        count = max(1, round(spec.val_fraction * (smallest if balanced else len(members))))
        if count >= len(members):
            what = source.meta["grouped_by"] or "image"
            raise DataError(
                f"class {names[c]!r} has {len(members)} {what}(s) and val_fraction "
                f"{spec.val_fraction} would take {count} of them for val; "
                "at least one must be left for train"
            )
        taken.append(rng.permutation(members)[:count])
    in_val = np.isin(groups, np.concatenate(taken))
    val = [np.flatnonzero(in_val & (labels == c)) for c in range(len(names))]
    if balanced:  # groups differ in size: what is too much goes unused, it must not leak into train
        even = min(len(rows) for rows in val)
        val = [np.sort(rng.permutation(rows)[:even]) for rows in val]
    return np.flatnonzero(~in_val), np.sort(np.concatenate(val))
