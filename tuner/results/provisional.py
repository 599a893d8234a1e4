"""The front of a search that has hardly begun to finish: its trials, compared at one epoch that is not the last."""

from __future__ import annotations

from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState

MIN_TRIALS = 4  # finished trials that a front needs to speak for itself


def provisional(history: History, objectives: tuple[str, ...], goal=None) -> tuple[int, Front] | None:
    """The latest epoch that ``MIN_TRIALS`` trials have reached beyond the trunk, and their front at that epoch.

    None where no trial is under way, where as many have finished their full budget, and where the front of the few that
    have is as large.
    """
    done = history.rows(objectives, goal)
    counted = [t for t in history.trials.values() if t.state != TrialState.FAILED and len(t.epochs) > t.trunk_epochs]
    if len(done) >= MIN_TRIALS or len(counted) < MIN_TRIALS or not history.with_state(TrialState.RUNNING):
        return None
    epoch = sorted((t.last["epoch"] for t in counted), reverse=True)[MIN_TRIALS - 1]
    # what the trunk had is every trial's, and says nothing about one
    rows = [
        t.row(objectives, m)
        for t in counted
        for m in t.epochs
        if m["epoch"] == epoch > t.trunk_epochs and (goal is None or goal.feasible(m))
    ]
    front = Front.of(rows, objectives)
    larger = front.hypervolume > Front.of(done, objectives).hypervolume or (front.rows and not done)
    return (epoch, front) if larger else None
