"""What is known of one trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.curve import Curve, CurvePoint
from trainables.offsets import NONE, Offsets
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import shown_metrics

NO_SEARCH = -1  # the number of the reference that every search trains once: plain AT. Trials are numbered from 0.
WHOLE = -2  # the number under which events stand that are about the whole search


@dataclass(frozen=True)
class Preview:
    """What a trial was worth after ``epochs`` epochs from a late fork: metrics at their end, and its curve. ``ended``:
    when, in seconds since 1970."""

    epochs: int
    metrics: dict[str, Any]
    curve: Curve | None = None
    ended: float = 0.0
    computed: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)  # what is made of it, kept here


@dataclass(frozen=True)
class Note:
    """What somebody wrote of a trial. ``time``: when, in seconds since 1970."""

    by: str
    time: float
    text: str


@dataclass
class TrialRecord:
    """A trial's setting, state and metrics, as its events leave them.

    ``epochs`` holds one dict of metrics per finished epoch, in order; ``started`` and ``ended`` are seconds since 1970.
    ``curve``: the trained model over its post-hoc offsets; None where it was not swept. ``full``: it trains, or has
    trained, in full; else it is a proposal to be previewed, or that has been (``preview``). A replicate is a trial too:
    it repeats the setting of trial ``of`` under another seed. So is a reference, which has a ``role``: ``no_search``.
    ``added``: the user whose setting it is; empty where the search proposed it. ``seeds``: with how many it is to be
    trained in all, where a user asked for more. ``notes``: what users wrote of it; ``stars``: who marked it, and when.
    """

    trial: int
    params: dict[str, Any]
    method: str
    state: TrialState = TrialState.RUNNING
    reason: str = ""
    seed: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    stem_epochs: int = 0  # of ``epochs``, those that came from the stem
    stem_trained: int = 0  # epochs that this trial trained for the stem
    stem_reached: set[int] = field(default_factory=set)  # which of its own stem these were
    errors: int = 0  # interruptions by an exception of its own
    of: int | None = None
    role: str | None = None
    curve: Curve | None = None
    full: bool = True
    preview: Preview | None = None
    added: str = ""
    seeds: int = 1
    notes: tuple[Note, ...] = ()
    stars: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: ``trial 3``, ``trial 3 seed 1`` of a replicate, ``no search`` of the reference."""
        number = self.trial if self.of is None else self.of
        name = "no search" if number == NO_SEARCH else f"trial {number}"
        return name if self.of is None else f"{name} seed {self.seed}"

    @property
    def trained(self) -> int:
        """Epochs that this trial trained itself, those for the stem and of its preview included."""
        return len(self.epochs) - self.stem_epochs + self.stem_trained + (self.preview.epochs if self.preview else 0)

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last finished epoch; empty if there is none."""
        return self.epochs[-1] if self.epochs else {}

    @property
    def points(self) -> list[tuple[Offsets, dict[str, Any]]]:
        """The trained model at each setting of its offsets, with its metrics; where it was not swept, as it is. Of a
        trial that was only previewed, its preview's."""
        if self.state == TrialState.PREVIEWED:
            return self.preview_points
        return _points(self.last, self.curve)

    def point(self, tau: float) -> CurvePoint | None:
        """The trained model with offsets of this tau, as it was judged. Where those of single classes were fitted and
        none helped, the curve has the model as it is alone, which it is with any tau. None: it was not judged so."""
        points = self.curve.points if self.curve else ()
        return next((point for point in points if point.offsets.tau == tau), points[0] if len(points) == 1 else None)

    @property
    def preview_points(self) -> list[tuple[Offsets, dict[str, Any]]]:
        """The same of its preview; empty where there was none."""
        return _points(self.preview.metrics, self.preview.curve) if self.preview else []

    def best(self, objectives: Iterable[str]) -> dict[str, Any]:
        """The metrics of the epoch with the largest sum of objectives, the first of equal ones; empty if there is none.

        Of a finished trial, whose epochs from its ``start`` on count: those before are the plain base's, and with a
        stem it never had their weights. `trainables.loop.Trainer` keeps the weights of the same epoch.
        """
        names, last = tuple(objectives), len(self.epochs) - 1
        own = max(self.stem_epochs, min(round(self.params.get("start", 0.0) * len(self.epochs)), last))
        known = [m for m in self.epochs[own:] if all(m.get(name) is not None for name in names)]
        return max(known, key=lambda m: sum(m[name] for name in names), default={})

    def row(
        self, objectives: Iterable[str], metrics: Mapping[str, Any] | None = None, offsets: Offsets = NONE
    ) -> dict[str, Any]:
        """A row of the front: trial, seed, epoch, offsets, the metrics of `shown_metrics`, params, method.

        ``metrics``: those with ``offsets``, or of another epoch than the last.
        """
        objectives = tuple(objectives)
        metrics = self.last if metrics is None else metrics
        values = {name: metrics.get(name) for name in shown_metrics(objectives)}
        return {
            "trial": self.trial,
            "seed": self.seed,
            "epoch": metrics.get("epoch", 0),
            "offsets": offsets.to_dict(),
            **values,
            "params": self.params,
            "method": self.method,
            **self._best_of(objectives),
        }

    def _best_of(self, objectives: tuple[str, ...]) -> dict[str, Any]:
        best = self.best(objectives) if self.state == TrialState.FINISHED else {}
        if not best:
            return {}
        return {"best_epoch": best.get("epoch", 0), "best": {n: best.get(n) for n in (*objectives, "clean_acc")}}


def _points(metrics: dict[str, Any], curve: Curve | None) -> list[tuple[Offsets, dict[str, Any]]]:
    if curve is None:
        return [(NONE, metrics)]
    return [(point.offsets, {**metrics, **curve.metrics(point)}) for point in curve.points]
