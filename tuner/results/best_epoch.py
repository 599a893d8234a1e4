"""The best validation epoch of a trial beside its last, and whether the two part by more than noise.

The best epoch has the largest sum of the objectives, as CFA (Wei et al., CVPR 2023) and FAAL (Zhang et al., CVPR 2024)
choose with average and worst class. It is chosen by `val`, and so its values are biased upwards. Fronts are made of
last epochs alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tuner.results.pareto import Front
from tuner.results.trial_record import TrialRecord

SIGMAS = 2


def standard_error(metrics: Mapping[str, Any], objective: str, counts: Mapping[str, int]) -> float | None:
    """The binomial standard error of an accuracy on `val`, of which ``counts`` are the images of each class.

    The mean of K class accuracies p: sqrt(sum p (1 - p) / n) / K; the worst class: that of its class alone; the tail:
    of the worst 30 % of the classes. None for a metric of another kind.
    """
    of = {f"{kind}_acc": f"{kind}_acc/" for kind in ("robust", "clean")}
    of |= {f"worst_class_{name}": prefix for name, prefix in of.items()} | {"tail_robust_acc": "robust_acc/"}
    if objective not in of:
        return None
    classes = [(metrics[key], n) for name, n in counts.items() if n and (key := of[objective] + name) in metrics]
    k = len(classes)
    if not k:
        return None
    if objective.startswith("worst_class_"):
        k = 1
    elif objective.startswith("tail_"):
        k = max(1, round(0.3 * k))
    worst = sorted(classes)[:k]
    return math.sqrt(sum(p * (1 - p) / n for p, n in worst)) / k


def parted(record: TrialRecord, objectives: tuple[str, ...], counts: Mapping[str, int]) -> dict[str, list[float]]:
    """Objective -> [at the best epoch, at the last], where they differ by more than twice the standard error of the
    difference. Both were measured on the same images, so the error is rather too large, and seldom is noise told.
    """
    best, last = record.best(objectives), record.last
    found = {}
    for name in objectives:
        errors = [e for metrics in (best, last) if (e := standard_error(metrics, name, counts)) is not None]
        if len(errors) == 2 and abs(best[name] - last[name]) > SIGMAS * math.hypot(*errors):
            found[name] = [best[name], last[name]]
    return found


def parted_rows(front: Front, trials: Mapping[int, TrialRecord], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The rows of the front whose best and last epoch part: trial, best_epoch, and ``parted`` of it."""
    rows = [(row["trial"], trials[row["trial"]]) for row in front.rows]
    return [
        {"trial": trial, "best_epoch": record.best(front.objectives)["epoch"], "objectives": differ}
        for trial, record in rows
        if (differ := parted(record, front.objectives, counts))
    ]
