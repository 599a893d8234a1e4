"""What a model gains over another on the same test images: paired differences with 95 % intervals.

The images of each class are resampled, the same ones for both models (class-stratified, paired bootstrap): what
happens to an image under both models is one draw. Half an image is spread over the four possible outcomes of each class
before it is resampled, so that a class in which the sample shows no variation still has some. The interval is that of
the basic bootstrap, d - (quantiles of the resampled deviations), which takes off the bias of the worst class's minimum.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuner.verification.intervals import DRAWS

METRICS = ("natural_robust_acc", "worst_class_robust_acc", "robust_acc")
Difference = tuple[float, tuple[float, float]]  # and its interval
SPREAD = 0.5  # of an image, in each class


def paired(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, train_counts: Sequence[int], seed: int = 0
) -> dict[str, Difference]:
    """``first`` minus ``second`` in each of `METRICS`.

    ``labels`` (N,): classes of the test images; ``first`` and ``second`` (N,): which of them are robust under each
    model; ``train_counts`` (K,): training images of each class. Classes without a test image are left out.
    """
    count = np.bincount(labels, minlength=len(train_counts))
    there = count > 0
    outcome = 2 * first.astype(int) + second.astype(int)
    cells = np.stack([np.bincount(labels[outcome == o], minlength=len(train_counts)) for o in range(4)], 1)[there]
    count, weights = count[there], np.asarray(train_counts, dtype=float)[there]
    smooth = (cells + SPREAD / 4) / (count + SPREAD)[:, None]
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.multinomial(n, p, size=DRAWS) for n, p in zip(count, smooth)], 1) / count[:, None]
    measured, centre, draws = (_differences(c, weights) for c in (cells / count[:, None], smooth, drawn))
    found = {}
    for name in METRICS:
        low, high = np.quantile(draws[name] - centre[name], [0.025, 0.975])
        difference = float(measured[name])
        found[name] = (difference, (max(-1.0, difference - float(high)), min(1.0, difference - float(low))))
    return found


def _differences(cells: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """``cells`` (..., K, 4): shares of a class's images that are robust under neither, second, first, both."""
    first, second = cells[..., 2] + cells[..., 3], cells[..., 1] + cells[..., 3]
    share = weights / weights.sum()
    return {
        "natural_robust_acc": (first - second) @ share,
        "worst_class_robust_acc": first.min(-1) - second.min(-1),
        "robust_acc": (first - second).mean(-1),
    }


def over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, Any] | None:
    """The mean difference over the seeds that both were trained with, paired by seed, with Student's t interval.

    ``ci`` is None with one seed; None if there is none.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    values = [first[seed] - second[seed] for seed in seeds]
    mean, ci = statistics.fmean(values), None
    if len(values) > 1:
        from scipy.special import stdtrit

        half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
        ci = (mean - half, mean + half)
    return {"seeds": seeds, "difference": mean, "ci": ci, "verdict": verdict(ci)}


def verdict(ci: tuple[float, float] | None) -> str:
    if ci is None or ci[0] <= 0 <= ci[1]:
        return "not distinguishable"
    return "better" if ci[0] > 0 else "worse"
