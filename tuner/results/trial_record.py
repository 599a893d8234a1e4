"""What is known of one trial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tuner.results.trial_state import TrialState
from tuner.spec.objectives import shown_metrics


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

    def row(self, objectives: Iterable[str], metrics: dict[str, Any] | None = None) -> dict[str, Any]:
        """The trial as a row of the front: trial, epoch, the metrics of ``shown``, params, method.

        ``metrics``: those of another epoch than the last.
        """
        metrics = self.last if metrics is None else metrics
        values = {name: metrics.get(name) for name in shown_metrics(objectives)}
        return {
            "trial": self.trial,
            "epoch": metrics.get("epoch", 0),
            **values,
            "params": self.params,
            "method": self.method,
        }
