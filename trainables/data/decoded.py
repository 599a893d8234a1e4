"""What every source of images is decoded into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Decoded:
    """A whole dataset: images (N, C, H, W) uint8, labels (N,) int64, per split."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: list[str]
    groups: np.ndarray | None = None  # (N,) train rows that must stay together, e.g. frames of one track
    grouped_by: str | None = None
    note: str = ""  # what was changed on the way, for the user to read
    test_groups: np.ndarray | None = None  # (N,) the same of test rows; None: nothing says which belong together
