"""The states of a trial."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """A trial's state; its value appears in the history, in `--json` and in MLflow's tag.

        proposed ──> RUNNING ──┬──> FINISHED    trained all its epochs: may be on a front
         WAITING ──>  ^  ^ │   ├──> STOPPED     stayed at chance
         (a user's)   │  │ │   └──> FAILED      diverged, or failed again after its retries; the reason is kept
            resumed   │  │ │
         interrupted  └──┼─┤
                         │ └──────> PREVIEWED   its preview has ended
                         └────────────┘ promoted: trains in full

    Only the driver's callback changes a state. FINISHED and STOPPED are final; PREVIEWED is where a trial ends that is
    not promoted. A user may add a trial, end one that has not ended (SKIPPED), and try one again that failed or was
    skipped (`tuner.results.steering`): either waits until it is its turn. Where its preview had ended, the latter is
    PREVIEWED again.
    """

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    PREVIEWED = "previewed"
    STOPPED = "stopped"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing of it is to be trained, unless it is promoted."""
        return self not in (TrialState.RUNNING, TrialState.WAITING)
