"""What one trial is told: a plain dictionary that travels through Ray, read back as a ``TrialConfig``. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from search_spaces.training import Training


@dataclass(frozen=True)
class TrialConfig:
    """``params`` are the method's, ``training`` the common knobs that differ from ``Training``'s defaults."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    dataset: str = "digits"
    imbalance: str = "exp:10"
    model: str = "cnn"
    max_epochs: int = 12
    seed: int = 0
    home: str = "tuner-home"
    trial: int = 0
    folder: str | None = None  # where the trial keeps its checkpoint; None: nowhere

    def knobs(self) -> Training:
        return Training(**self.training)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
