"""One trial as its events tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tuner.results.trial_state import TrialState


@dataclass
class TrialRecord:
    """``epochs`` holds one metrics dict per finished epoch, in order.

    A replicate is a trial too: it runs the setting of trial ``of`` once more under another seed.
    """

    trial: int
    params: dict
    method: str
    state: TrialState = TrialState.RUNNING
    reason: str = ""
    seed: int = 0
    epochs: list[dict] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    trunk_epochs: int = 0  # of ``epochs``, those that came from the trunk
    trunk_trained: int = 0  # epochs that this trial trained for the trunk
    errors: int = 0  # exceptions of its own so far
    of: int | None = None

    @property
    def trained(self) -> int:
        """Epochs really trained for this trial, for the trunk included."""
        return len(self.epochs) - self.trunk_epochs + self.trunk_trained

    @property
    def last(self) -> dict:
        return self.epochs[-1] if self.epochs else {}

    def row(self, objectives: Iterable[str], metrics: dict | None = None) -> dict:
        """The trial as a row of the front, at its last epoch or with the ``metrics`` of another."""
        metrics = self.last if metrics is None else metrics
        values = {name: metrics.get(name) for name in (*objectives, "clean_acc")}
        return {
            "trial": self.trial,
            "epoch": metrics.get("epoch", 0),
            **values,
            "params": self.params,
            "method": self.method,
        }
