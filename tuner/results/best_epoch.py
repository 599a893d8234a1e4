"""The best validation epoch of a trial beside its last, and whether the two part by more than noise.

The best epoch has the largest sum of the objectives, as CFA (Wei et al., CVPR 2023) and FAAL (Zhang et al., CVPR 2024)
choose with average and worst class. It is chosen by `val`, and so its values are biased upwards. Fronts are made of
last epochs alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainables.class_metrics import TAIL, watched
from trainables.curve import Curve
from tuner.results.pareto import Front
from tuner.results.trial_record import TrialRecord

SIGMAS = 2


def standard_error(metrics: Mapping[str, Any], objective: str, curve: Curve) -> float | None:
    """The binomial standard error of an accuracy of an epoch; ``curve``: of the trial, which knows the images.

    The mean of K class accuracies p: sqrt(sum p (1 - p) / n) / K, or with the weights of the natural average; the worst
    class: that of its class alone; the tail: of the worst 30 % of the classes. None for a metric of another kind.
    """
    prefix = "clean_acc/" if objective.endswith("clean_acc") else "robust_acc/"
    images = zip(curve.classes, _judging(curve), curve.train_counts)
    classes = [(metrics[prefix + name], n, weight) for name, n, weight in images if prefix + name in metrics]
    kept = _counted(objective, len(classes))
    if not classes or kept is None:
        return None
    natural = objective.startswith("natural_")
    shares = [(p, n, weight if natural else 1) for p, n, weight in sorted(classes)[:kept]]
    total = sum(share for *_, share in shares)
    return math.sqrt(sum((share / total) ** 2 * p * (1 - p) / n for p, n, share in shares))


def _judging(curve: Curve) -> list[int]:
    """How many images of each class judge an epoch, a track counting as one."""
    # offsets of single classes are fitted on the other half of the images; an epoch is judged on both
    halves = 2 if any(point.offsets.kind == "classes" for point in curve.points) else 1
    images, independent = (
        [halves * n or 1 for n in counts] for counts in (curve.points[0].count, curve.points[0].independent)
    )
    return [*map(min, watched(images), independent)]


def _counted(objective: str, classes: int) -> int | None:
    """Over how many of the worst classes an accuracy is a mean; None for a metric of another kind."""
    match objective:
        case "robust_acc" | "clean_acc" | "natural_robust_acc":
            return classes
        case "worst_class_robust_acc" | "worst_class_clean_acc":
            return 1
        case "tail_robust_acc":
            return max(1, round(TAIL * classes))
    return None


def parted(record: TrialRecord, objectives: tuple[str, ...]) -> dict[str, list[float]]:
    """Objective -> [at the best epoch, at the last], where they differ by more than twice the standard error of the
    difference. Both were measured on the same images, so the error is rather too large, and seldom is noise told.
    """
    if record.curve is None:
        return {}
    best, last = record.best(objectives), record.last
    found = {}
    for name in objectives:
        errors = [e for metrics in (best, last) if (e := standard_error(metrics, name, record.curve)) is not None]
        if len(errors) == 2 and abs(best[name] - last[name]) > SIGMAS * math.hypot(*errors):
            found[name] = [best[name], last[name]]
    return found


def parted_rows(front: Front, trials: Mapping[int, TrialRecord]) -> list[dict[str, Any]]:
    """The trials of the front that were better at their best epoch, in some objective beyond noise: trial, best_epoch,
    and ``parted`` of it. Those that are on it with offsets alone are left out: an epoch is judged without."""
    members = dict.fromkeys(row["trial"] for row in front.rows if not row["offsets"]["tau"])
    return [
        {"trial": trial, "best_epoch": trials[trial].best(front.objectives)["epoch"], "objectives": differ}
        for trial in members
        if (differ := parted(trials[trial], front.objectives)) and any(best > last for best, last in differ.values())
    ]
