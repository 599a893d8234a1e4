"""A provisional front while few trials have finished: trials compared at an earlier epoch that enough have reached."""

from __future__ import annotations

from tuner.results.events import Metrics
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal

MIN_TRIALS = 4  # trials that make a front meaningful


def provisional(history: History, objectives: tuple[str, ...], goal: Goal | None = None) -> tuple[int, Front] | None:
    """The latest epoch that ``MIN_TRIALS`` trials have reached after leaving the trunk, and the front at that epoch.

    Given a ``goal``, only trials that satisfy its constraints at that epoch count. None if no trial is running, if
    ``MIN_TRIALS`` have finished, or if the front of the finished ones has at least the same hypervolume.
    """
    finished = history.rows(objectives, goal)
    enough = len({row["trial"] for row in finished}) >= MIN_TRIALS  # a trial has a row for each of its offsets
    counted = [t for t in history.trials.values() if t.state != TrialState.FAILED and len(t.epochs) > t.trunk_epochs]
    if enough or len(counted) < MIN_TRIALS or not history.with_state(TrialState.RUNNING):
        return None
    epoch = sorted((t.last["epoch"] for t in counted), reverse=True)[MIN_TRIALS - 1]
    metrics = [(t, m) for t in counted for m in t.epochs if _stands(t, m, epoch, goal)]
    front = Front.of([trial.row(objectives, m) for trial, m in metrics], objectives)
    larger = front.hypervolume > Front.of(finished, objectives).hypervolume or (front.rows and not finished)
    return (epoch, front) if larger else None


def _stands(trial: TrialRecord, metrics: Metrics, epoch: int, goal: Goal | None) -> bool:
    """Whether these are the trial's metrics at ``epoch`` and may stand on the front; an epoch of the trunk is shared
    and says nothing about a trial."""
    return metrics["epoch"] == epoch > trial.trunk_epochs and (goal is None or goal.feasible(metrics))
