"""Where a trial stands."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """A trial's state; its value is what the history, `--json` and MLflow's tag carry.

        proposed ──> RUNNING ──┬──> FINISHED   trained all its epochs: may stand on a front
                      ^   │    ├──> STOPPED    stopped early at a rung, or still waiting there when the search ended
            resumed,  │   │    └──> FAILED     diverged, stayed broken after its retries; the reason is kept
            promoted  └───┘ interrupted, or paused at a rung: goes on from its checkpoint

    The driver's callback is the only one that changes a state. FINISHED, STOPPED and FAILED are final.
    """

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self is not TrialState.RUNNING
