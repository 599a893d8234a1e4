"""The states of a trial."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """A trial's state; its value appears in the history, in `--json` and in MLflow's tag.

        proposed ──> RUNNING ──┬──> FINISHED   trained all its epochs: may be on a front
                      ^   │    ├──> STOPPED    stopped early at a rung, or still paused there when the search ended
            resumed,  │   │    └──> FAILED     diverged, or failed again after its retries; the reason is kept
            promoted  └───┘ interrupted, or paused at a rung: continues from its checkpoint

    Only the driver's callback changes a state. FINISHED, STOPPED and FAILED are final.
    """

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self is not TrialState.RUNNING
