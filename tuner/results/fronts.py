"""The front of a history, the row of the default setting, and the counts of trials."""

from __future__ import annotations

from typing import Any

from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


def paper_row(spec: SearchSpec, history: History) -> dict[str, Any] | None:
    """The finished trial of the first method's default setting, as a row of the front; None if there is none."""
    first = spec.lanes[0]
    default = first.search_space().default()
    for record in sorted(history.with_state(TrialState.FINISHED), key=lambda t: t.trial):
        if record.method == first.method and default.items() <= record.params.items():
            return history.row(record.trial, spec.objectives)
    return None


def front_of(spec: SearchSpec, history: History) -> Front:
    """The Pareto front of the trials that trained all epochs and satisfy the constraints."""
    return Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)


def counts(history: History) -> str:
    """``16 trials: 9 finished, 6 stopped early, 1 failed``"""
    names = {
        TrialState.FINISHED: "finished",
        TrialState.STOPPED: "stopped early",
        TrialState.FAILED: "failed",
        TrialState.RUNNING: "not finished",
    }
    number = {state: len(history.with_state(state)) for state in names}
    parts = [f"{number[s]} {name}" for s, name in names.items() if number[s] or s == TrialState.FINISHED]
    total = len(history.trials)
    return f"{total} trial{'' if total == 1 else 's'}: " + ", ".join(parts)
