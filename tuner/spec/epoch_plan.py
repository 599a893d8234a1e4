"""At which epochs the trials of a search leave the shared burn-in ("trunk") and begin to reweight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuner.spec.space import Space


def burn_in_reach(space: Space) -> list[str]:
    """The searched parameters that already act during the burn-in: trials that differ in them share no trunk."""
    return [name for name in space.searched if space.params[name].burn_in]


@dataclass(frozen=True)
class EpochPlan:
    """The epochs of one method's search. All results count finished epochs from 0.

    ``space``: the method's parameters; ``start`` is the fraction of ``max_epochs`` that a trial trains before it
    reweights. ``trunk``: ``auto`` (trials share those epochs where they can), ``none`` (they never do) or ``at:N``
    (every trial starts from N epochs of plain adversarial training).
    """

    space: Space
    max_epochs: int
    trunk: str = "auto"

    @property
    def trunk_epochs(self) -> int:
        """How many epochs every trial takes from the trunk at least; 0 where there is none.

        With a searched start this is the smallest possible one; a trial may leave later.
        """
        if self.trunk.startswith("at:"):
            return int(self.trunk[3:])
        if self.trunk == "none" or "start" not in self.space.params or burn_in_reach(self.space):
            return 0
        return self._before_the_end(self._smallest_start)

    @property
    def latest_branch(self) -> int:
        """The latest epoch at which a trial can leave the trunk; 0 where there is none."""
        if self.trunk == "auto" and "start" in self.space.searched and not burn_in_reach(self.space):
            return self._before_the_end(self.space.bounds("start")[1])
        return self.trunk_epochs

    @property
    def earliest_start(self) -> int:
        """The earliest epoch at which a trial can begin to reweight, not before its trunk ends: rungs count from it."""
        if "start" not in self.space.params:
            return self.trunk_epochs
        return max(round(self._smallest_start * self.max_epochs), self.trunk_epochs)

    def start_of(self, params: dict[str, Any]) -> int:
        """The epoch at which a trial with these parameters begins to reweight, not before its trunk ends.

        The trial itself computes the same in ``trainables.method.start_epoch``.
        """
        start = round(params.get("start", 0.0) * self.max_epochs)
        return max(start, self.trunk_epochs) if self.trunk.startswith("at:") else start

    @property
    def _smallest_start(self) -> float:
        if "start" in self.space.fixed:
            return self.space.fixed["start"]
        return self.space.bounds("start")[0] if "start" in self.space.searched else self.space.params["start"].default

    def _before_the_end(self, share: float) -> int:
        """The trial trains the last epoch itself, whatever the trunk holds."""
        return min(round(share * self.max_epochs), self.max_epochs - 1)
