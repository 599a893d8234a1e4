"""What Ray reports, written down: history first, then study, tracking and display."""

from __future__ import annotations

from ray import tune

from tuner.front import Front
from tuner.history import FAILED, FULL, STOPPED, History, TrialRecord
from tuner.proposals import Proposer
from tuner.spec import SearchSpec


class Watch(tune.Callback):
    """The driver's one callback. ``listeners`` get ``trial_started``, ``epoch``, ``trial_ended`` and ``front`` calls."""

    def __init__(self, spec: SearchSpec, history: History, proposer: Proposer, listeners: list):
        self.spec, self.history, self.proposer, self.listeners = spec, history, proposer, listeners
        self.front: Front | None = None  # not worked out yet

    def started(self, trial: int, params: dict) -> None:
        """A proposal is on its way: written down before anything can be lost."""
        if trial not in self.history.trials:
            self.history.append("start", trial, params=params, method=self.spec.method, seed=self.spec.seed)
        else:
            self.history.append("resume", trial)
        for listener in self.listeners:
            listener.trial_started(self.history.trials[trial])

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        number = result["trial"]
        if "failed" in result:
            self._end(number, FAILED, result["failed"])
            return
        metrics, trunk = result["metrics"], result.get("trunk") or {}
        if trunk.get("trained"):
            self.history.append("trunk", number, trunk_epoch=trunk["trained"])
        if trunk.get("past"):
            self._branch(number, trunk)
        elif metrics is not None and metrics["epoch"] > self.history.trials[number].last.get("epoch", 0):
            # a restarted trial says its last epoch again
            self.history.append("epoch", number, metrics=metrics)
            for listener in self.listeners:
                listener.epoch(number, metrics)
        if self.history.trials[number].last.get("epoch", 0) >= self.spec.max_epochs:
            self._end(number, FULL, "; ".join(result.get("notes", [])))

    def _branch(self, number: int, trunk: dict) -> None:
        """The trial leaves the trunk: its curve is whole from the first epoch on."""
        self.history.append("branch", number, epochs=trunk["past"], trunk=trunk["name"])
        for metrics in trunk["past"]:
            for listener in self.listeners:
                listener.epoch(number, metrics)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        self._end(_number(trial), STOPPED)  # no effect on a trial that has ended already

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        error = trial.get_error()
        self._end(_number(trial), FAILED, " ".join(str(error).strip().splitlines()[-1:]) or "the trial's process died")

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its callbacks for a restore of its own, which is never used

    def _end(self, number: int, state: str, reason: str = "") -> None:
        record = self.history.trials[number]
        if record.state in (FULL, STOPPED, FAILED):
            return
        self.history.append("end", number, state=state, reason=reason)
        self.proposer.tell(number, state, record.last)
        for listener in self.listeners:
            listener.trial_ended(record)
        if state == FULL and self.spec.goal.feasible(record.last):
            self._front(record)

    def _front(self, record: TrialRecord) -> None:
        """The front with one trial more: of the old front and that trial alone, however many there were."""
        before = self.front.rows if self.front else self.history.rows(self.spec.objectives, self.spec.goal)
        rows = [*before, record.row(self.spec.objectives)] if self.front else before
        self.front = Front.of(rows, self.spec.objectives)
        for listener in self.listeners:
            listener.front(self.front, len(self.history.with_state(FULL)))


def _number(trial) -> int:
    return trial.config["trial"]["trial"]
