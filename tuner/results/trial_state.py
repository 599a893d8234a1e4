"""The states of a trial."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """A trial's state; its value appears in the history, in `--json` and in MLflow's tag.

        proposed ──> RUNNING ──┬──> FINISHED    trained all its epochs: may be on a front
                      ^  ^ │   ├──> STOPPED     stayed at chance
            resumed   │  │ │   └──> FAILED      diverged, or failed again after its retries; the reason is kept
         interrupted  └──┼─┤
                         │ └──────> PREVIEWED   its preview has ended
                         └────────────┘ promoted: trains in full

    Only the driver's callback changes a state. FINISHED, STOPPED and FAILED are final; PREVIEWED is where a trial ends
    that is not promoted.
    """

    RUNNING = "running"
    FINISHED = "finished"
    PREVIEWED = "previewed"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing of it is to be trained, unless it is promoted."""
        return self is not TrialState.RUNNING
