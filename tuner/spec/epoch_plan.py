"""At which epochs the trials of a search leave the stem, their plain base trained once for all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tuner.spec.space import Space

# A preview forks late, where the learning rate is still high, and ends with it at 0 (cool-downs of "warm-up, stable,
# decay" schedules; Kang et al., ICLR 2020: adjust a plain representation late). The two fractions are ours.
PREVIEW_FORK, PREVIEW_LENGTH = 0.7, 0.11


@dataclass(frozen=True)
class EpochPlan:
    """The epochs of one method's search. All results count finished epochs from 0.

    ``space``: the method's parameters; ``start`` is the fraction of ``max_epochs`` after which a trial reweights.
    ``burn_in``: ``stem`` (those epochs come from the stem) or ``own`` (every trial trains them itself).
    """

    space: Space
    max_epochs: int
    burn_in: str = "stem"

    def fork_of(self, params: dict[str, Any]) -> int:
        """How many epochs a full training with these parameters takes from the stem, those before it begins to
        reweight; 0: none. It trains the last epoch itself."""
        return self._epoch(params.get("start", 0.0)) if self.burn_in == "stem" else 0

    @property
    def forks(self) -> tuple[int, int]:
        """The earliest and the latest fork of a full training; 0, 0 where the method has no ``start``."""
        if self.burn_in != "stem" or "start" not in self.space.params:
            return 0, 0
        if "start" in self.space.searched:
            low, high = self.space.bounds("start")
        else:
            low = high = self.space.fixed.get("start", self.space.params["start"].default)
        return self._epoch(low), self._epoch(high)

    @property
    def own(self) -> float:
        """How many epochs a training in full has after its fork, midway between the earliest and the latest."""
        return self.max_epochs - sum(self.forks) / 2

    @property
    def likely_own(self) -> float:
        """The same of the trainings that a search will have, about: a default setting that starts later than the middle
        draws its trials half of the way there. SRAT's default job trained 72 to 89 epochs in all where this says 80."""
        default = self.space.default().get("start") if self.forks != (0, 0) else None
        later = self.own if default is None else self.max_epochs - self.fork_of({"start": default})
        return min(self.own, (self.own + later) / 2)

    @property
    def preview(self) -> tuple[int, int]:
        """Where a preview forks, and how many epochs it trains."""
        length = math.ceil(PREVIEW_LENGTH * self.max_epochs)
        return min(round(PREVIEW_FORK * self.max_epochs), self.max_epochs - length), length

    def previewed(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of the preview: the method begins at the fork at the latest."""
        latest = self.preview[0] / self.max_epochs
        return {**params, "start": min(params["start"], latest)} if "start" in params else params

    def _epoch(self, share: float) -> int:
        return min(round(share * self.max_epochs), self.max_epochs - 1)
