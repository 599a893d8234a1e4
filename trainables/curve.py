"""What a judged model is worth, as counts of the classes at each setting of post-hoc offsets. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.class_metrics import class_metrics
from trainables.offsets import Offsets


@dataclass(frozen=True)
class CurvePoint:
    """A model with one setting of offsets: counts (K,) of images, and of those classified right without and under
    attack. ``tracks``: (K,) of how many tracks the images are; None where each is its own."""

    offsets: Offsets
    count: tuple[int, ...]
    clean: tuple[int, ...]
    robust: tuple[int, ...]
    tracks: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("count", "clean", "robust")}
        tracks = {} if self.tracks is None else {"tracks": list(self.tracks)}
        return {"offsets": self.offsets.to_dict(), **lists, **tracks}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> CurvePoint:
        lists = (tuple(stored[name]) for name in ("count", "clean", "robust"))
        tracks = stored.get("tracks")
        return cls(Offsets.of(stored["offsets"]), *lists, None if tracks is None else tuple(tracks))

    @property
    def independent(self) -> tuple[int, ...]:
        """(K,) how many different things the images of each class show: what an interval may count."""
        return self.count if self.tracks is None else self.tracks

    def check(self, classes: int) -> None:
        """``ValueError`` where the counts are none of so many classes."""
        if not all(len(counts) == classes for counts in (self.count, self.clean, self.robust)):
            raise ValueError("a curve's point without counts for every class")
        for n, clean, robust in zip(self.count, self.clean, self.robust):
            if not (0 <= clean <= n and 0 <= robust <= n):
                raise ValueError("a curve's point with more images right than there are")
        if not 0 < sum(self.count) < math.inf:
            raise ValueError("a curve's point without images")
        if len(self.independent) != classes or not all(
            min(n, 1) <= own <= n for own, n in zip(self.independent, self.count)
        ):
            raise ValueError("a curve's point with no track, or more tracks than images, in a class")


@dataclass(frozen=True)
class Curve:
    """A model over its offsets, all points on the same images; the first is the model as it was trained.

    ``classes`` and ``train_counts`` (K,): names and training images.
    """

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    points: tuple[CurvePoint, ...]

    def metrics(self, point: CurvePoint) -> dict[str, float]:
        """The metrics of one of its points: see `class_metrics`."""
        return class_metrics(self.classes, self.train_counts, point.count, point.clean, point.robust)

    def to_dict(self) -> dict[str, Any]:
        """As checkpoints, reports and histories hold it."""
        names = {"classes": list(self.classes), "train_counts": list(self.train_counts)}
        return {**names, "points": [point.to_dict() for point in self.points]}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Curve:
        points = tuple(CurvePoint.of(point) for point in stored["points"])
        curve = cls(tuple(stored["classes"]), tuple(stored["train_counts"]), points)
        curve.check()
        return curve

    def check(self) -> None:
        """``ValueError`` where the counts are none: of every class, and no more right than there are."""
        classes = len(self.classes)
        names = all(isinstance(name, str) for name in self.classes) and len(set(self.classes)) == classes
        if not (
            names
            and self.points
            and len(self.train_counts) == classes
            and 0 < min(self.train_counts) <= max(self.train_counts) < math.inf
        ):
            raise ValueError("a curve without points, or whose classes are not distinct and trained on")
        for point in self.points:
            point.check(classes)
        if len({point.offsets.tau for point in self.points}) < len(self.points):
            raise ValueError("two points of a curve with the same tau")
