"""The front of a history, and the counts of trials."""

from __future__ import annotations

from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


def front_of(spec: SearchSpec, history: History) -> Front:
    """The Pareto front over the points (trial, offsets) of the trials that trained all epochs and of which the
    constraints hold."""
    return Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)


def counts(history: History) -> str:
    """``16 trials: 5 in full, 10 previewed, 1 failed``"""
    names = {
        TrialState.FINISHED: "in full",
        TrialState.PREVIEWED: "previewed",
        TrialState.STOPPED: "stopped at chance",
        TrialState.FAILED: "failed",
        TrialState.RUNNING: "not finished",
        TrialState.WAITING: "waiting",
        TrialState.SKIPPED: "skipped",
    }
    number = {state: len(history.with_state(state)) for state in names}
    parts = [f"{number[s]} {name}" for s, name in names.items() if number[s] or s == TrialState.FINISHED]
    total = len(history.trials)
    return f"{total} trial{'' if total == 1 else 's'}: " + ", ".join(parts)
