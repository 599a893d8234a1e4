"""Text for metric names, numbers and parameter values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.spec.search_spec import SearchSpec

LABELS = {
    "robust_acc": "class-mean robust accuracy",
    "natural_robust_acc": "natural average robust accuracy",
    "worst_class_robust_acc": "worst-class robust accuracy",
    "tail_robust_acc": "tail robust accuracy (worst 30 % of classes)",
    "many_robust_acc": "robust accuracy of the most frequent third of classes",
    "medium_robust_acc": "robust accuracy of the middle third of classes by frequency",
    "few_robust_acc": "robust accuracy of the rarest third of classes",
    "clean_acc": "clean accuracy",
    "worst_class_clean_acc": "worst-class clean accuracy",
}
SHORT_LABELS = {
    "robust_acc": "class mean",
    "natural_robust_acc": "natural average",
    "worst_class_robust_acc": "worst class",
    "tail_robust_acc": "tail",
    "many_robust_acc": "many",
    "medium_robust_acc": "medium",
    "few_robust_acc": "few",
    "clean_acc": "clean",
    "worst_class_clean_acc": "worst clean",
}


def judging(spec: SearchSpec, name: str) -> Any:
    """A training setting by which trials are judged, ``eps`` or ``eval_attack``; "searched" where each has its own."""
    return "searched" if name in spec.own_attacks else getattr(spec.training(), name)


def short_label(metric: str) -> str:
    """The metric's name in tables and sentences: its short label, else itself."""
    return SHORT_LABELS.get(metric, metric)


def value_text(value: Any) -> str:
    """A parameter's value in a few characters: ``12.3`` for 12.3456, ``2.1e-4`` for 0.000212, ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def fraction(value: float | None) -> str:
    """A metric with three decimals; ``-`` for None or NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def images_text(row: Mapping[str, Any], what: str = "images") -> str:
    """``12630 images``, ``20 images of 5 tracks``: on how many a model was tested."""
    return f"{row['images']} {what}" + (f" of {row['tracks']} tracks" if row.get("tracks") else "")


def tracks_note(row: Mapping[str, Any]) -> list[str]:
    """What intervals of a tested model count where its images may come in tracks, in at most one sentence."""
    if "tracks" not in row:
        return []
    if row["tracks"] is not None:
        return ["In intervals on test a track counts as one image: its frames are mostly right or wrong together."]
    return [
        "Training images are frames of tracks, but nothing says which test images are of one track: each counts as an "
        "independent image, so intervals on test are too narrow if some are frames of one track."
    ]


def per_class(metrics: dict[str, float], metric: str = "robust_acc") -> dict[str, float]:
    """Class name -> accuracy, numbered classes first and in the order of their numbers."""
    prefix = metric + "/"
    accuracies = {k[len(prefix) :]: v for k, v in metrics.items() if k.startswith(prefix)}
    return dict(
        sorted(accuracies.items(), key=lambda kv: (not kv[0].isdigit(), kv[0].zfill(6) if kv[0].isdigit() else ""))
    )


def seed_text(row: Mapping[str, Any]) -> str:
    """Under which seed a row's model was trained, ``1``, or over which it is a mean, ``1, 0``; empty if not known."""
    return ", ".join(map(str, row.get("seeds", [row.get("seed", "")])))


def with_std(row: dict, name: str) -> str:
    """``0.512``, or ``0.512 ± 0.020`` (standard deviation) where it is a mean over seeds."""
    std = row.get("std", {}).get(name)
    return fraction(row.get(name)) + ("" if std is None else f" ± {fraction(std)}")
