"""What is known of one trial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tuner.results.trial_state import TrialState


@dataclass
class TrialRecord:
    """A trial's setting, state and metrics, as its events leave them.

    ``epochs`` holds one dict of metrics per finished epoch, in order; ``started`` and ``ended`` are seconds since 1970.
    A replicate is a trial too: it repeats the setting of trial ``of`` under another seed.
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
    trunk_epochs: int = 0  # of ``epochs``, those that came from the trunk
    trunk_trained: int = 0  # epochs that this trial trained for the trunk
    errors: int = 0  # interruptions by an exception of its own
    of: int | None = None

    @property
    def trained(self) -> int:
        """Epochs that this trial trained itself, those for the trunk included."""
        return len(self.epochs) - self.trunk_epochs + self.trunk_trained

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last finished epoch; empty if there is none."""
        return self.epochs[-1] if self.epochs else {}

    def best(self, objectives: Iterable[str]) -> dict[str, Any]:
        """The metrics of the epoch with the largest sum of objectives, the first of equal ones; empty if there is none.

        Of a finished trial, whose epochs from its ``start`` on count: those before are the plain base's, and with a
        trunk it never had their weights. `trainables.loop.Trainer` keeps the weights of the same epoch.
        """
        names, last = tuple(objectives), len(self.epochs) - 1
        own = max(self.trunk_epochs, min(round(self.params.get("start", 0.0) * len(self.epochs)), last))
        known = [m for m in self.epochs[own:] if all(m.get(name) is not None for name in names)]
        return max(known, key=lambda m: sum(m[name] for name in names), default={})

    def row(self, objectives: Iterable[str], metrics: dict[str, Any] | None = None) -> dict[str, Any]:
        """The trial as a row of the front: trial, epoch, objectives, clean_acc, params, method; of a finished trial
        also ``best_epoch`` and, as ``best``, objectives and clean_acc at that epoch.

        ``metrics``: those of another epoch than the last.
        """
        objectives = tuple(objectives)
        metrics = self.last if metrics is None else metrics
        values = {name: metrics.get(name) for name in (*objectives, "clean_acc")}
        return {
            "trial": self.trial,
            "epoch": metrics.get("epoch", 0),
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
