"""What a model's counts of each class say: averages over the classes, the worst of them, and groups by frequency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

TAIL = 0.3  # of the classes: those of `tail_robust_acc`
WATCHED = 30  # images of a class that judge an epoch, where the smallest class has no more
BALANCED = 1.5  # largest over smallest class up to which training images count as balanced


def class_metrics(
    classes: Sequence[str],
    train_counts: Sequence[int],
    count: Sequence[float],
    clean: Sequence[float],
    robust: Sequence[float],
) -> dict[str, float]:
    """Metrics as fractions in [0, 1], from counts (K,) over the classes; a class without images is left out.

    ``train_counts``: training images. ``count``: images judged; ``clean`` and ``robust``: how many of them are
    classified right without an attack and under it.

    ``clean_acc`` and ``robust_acc`` are means over the classes; ``natural_robust_acc`` weights each class by its
    training images; ``tail_robust_acc`` is the mean of the worst 30 % of the classes; ``robust_acc_gap`` is the best
    minus the worst class; ``nsd`` is the standard deviation of the classes' robust accuracies over their mean (0 where
    the mean is 0). Where training images are imbalanced, ``many_robust_acc``, ``medium_robust_acc`` and
    ``few_robust_acc`` are the means of the groups of `frequency_groups`.
    """
    there = [i for i, n in enumerate(count) if n > 0]
    clean_rates, rates = ([float(right[i] / count[i]) for i in there] for right in (clean, robust))
    weights = [float(train_counts[i]) for i in there]
    mean = _mean(rates)
    spread = math.sqrt(_mean([(r - mean) ** 2 for r in rates]))
    groups = {
        f"{name}_robust_acc": _mean([r for i, r in zip(there, rates) if i in members])
        for name, members in frequency_groups(train_counts).items()
        if any(i in members for i in there)
    }
    return {
        "clean_acc": _mean(clean_rates),
        "robust_acc": mean,
        "natural_robust_acc": math.fsum(w * r for w, r in zip(weights, rates)) / math.fsum(weights),
        "worst_class_clean_acc": min(clean_rates),
        "worst_class_robust_acc": min(rates),
        "tail_robust_acc": _mean(sorted(rates)[: max(1, round(TAIL * len(rates)))]),
        **groups,
        "robust_acc_gap": max(rates) - min(rates),
        "nsd": spread / mean if mean else 0.0,
        **{f"clean_acc/{classes[i]}": r for i, r in zip(there, clean_rates)},
        **{f"robust_acc/{classes[i]}": r for i, r in zip(there, rates)},
    }


def watched(counts: Sequence[int]) -> list[int]:
    """How many of the ``counts`` (K,) images of each class in `val` judge every epoch: as many as the smallest class
    has, but `WATCHED` where that has fewer. All of them judge the trained model."""
    most = max(min(counts), WATCHED)
    return [min(n, most) for n in counts]


def imbalanced(train_counts: Sequence[int]) -> bool:
    """Whether some class has clearly fewer training images than another."""
    return max(train_counts) > BALANCED * min(train_counts)


def frequency_groups(train_counts: Sequence[int]) -> Mapping[str, frozenset[int]]:
    """``many``, ``medium`` and ``few``: classes by their training images, a third each (the middle one takes the rest).

    Empty where they are balanced, or where there are fewer than three classes. The thirds are ours: the long-tail
    literature's limits of 100 and 20 images leave groups empty on data as small as digits and as large as CIFAR-10-LT.
    """
    return _groups(tuple(train_counts))


@lru_cache(maxsize=64)  # asked for every model that is judged; a search has one set of training images
def _groups(train_counts: tuple[int, ...]) -> Mapping[str, frozenset[int]]:
    if len(train_counts) < 3 or not imbalanced(train_counts):
        return {}
    order = sorted(range(len(train_counts)), key=lambda c: (-train_counts[c], c))
    third = len(order) // 3
    parts = {"many": order[:third], "medium": order[third:-third], "few": order[-third:]}
    return MappingProxyType({name: frozenset(classes) for name, classes in parts.items()})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
