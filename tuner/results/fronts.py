"""Fronts of a search's history."""

from __future__ import annotations

from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


def paper_row(spec: SearchSpec, history: History) -> dict | None:
    """The finished trial that ran the (first) method's paper's setting, as a row of the front."""
    first = spec.lanes[0]
    default = first.search_space().default()
    for record in sorted(history.with_state(TrialState.FINISHED), key=lambda t: t.trial):
        if record.method == first.method and default.items() <= record.params.items():
            return history.row(record.trial, spec.objectives)
    return None


def front_of(spec: SearchSpec, history: History) -> Front:
    """The Pareto front of the trials of full budget that keep the constraints."""
    return Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)


def counts(history: History) -> str:
    """``16 trials: 9 finished, 6 stopped early, 1 failed``"""
    names = {
        TrialState.FINISHED: "finished",
        TrialState.STOPPED: "stopped early",
        TrialState.FAILED: "failed",
        TrialState.RUNNING: "not finished",
    }
    parts = [
        f"{len(history.with_state(s))} {n}"
        for s, n in names.items()
        if history.with_state(s) or s == TrialState.FINISHED
    ]
    number = len(history.trials)
    return f"{number} trial{'' if number == 1 else 's'}: " + ", ".join(parts)
