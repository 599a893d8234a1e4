"""Adapters that let our optimizer decide as Ray Tune's scheduler and as its stopper. They decide nothing themselves."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune import Stopper
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trial_report import metrics_of
from tuner.execution.ray_callback import number_of
from tuner.execution.stopping import StopRequest
from tuner.optimizer.ask_tell import AskTell
from tuner.spec.schedulers import Decision

_DECISIONS = {
    Decision.CONTINUE: TrialScheduler.CONTINUE,
    Decision.STOP: TrialScheduler.STOP,
    Decision.PAUSE: TrialScheduler.PAUSE,
}


class RungScheduler(FIFOScheduler):
    """Asks the optimizer after each epoch whether the trial continues, stops or pauses, and which paused one resumes.

    A stopped trial gets its state "stopped" from the driver's callback; a paused one keeps its checkpoint and waits.
    """

    _supports_buffered_results = False  # the decision on an epoch is made before the next one starts

    def __init__(self, optimizer: AskTell, stop: Callable[[str], None]):
        super().__init__()
        self.optimizer, self.stop = optimizer, stop

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict) -> str:
        metrics = metrics_of(result)
        if "epoch" not in metrics:  # a step that trained for the trunk only
            return TrialScheduler.CONTINUE
        return _DECISIONS[self.optimizer.feed(number_of(trial), metrics)]

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial that was promoted, else the next new one.

        When only paused trials are left and none can be promoted any more, they are stopped. When only the time budget
        prevents new trials, the search ends instead, and `tuner resume` finds them paused.
        """
        if not self.optimizer.paused:
            return None  # Ray starts new trials in order by itself; searching all live ones each time would add up
        trials = tune_controller.get_live_trials()
        waiting = {number_of(t): t for t in trials if t.status == Trial.PAUSED}
        number = self.optimizer.promotable()
        if number in waiting:
            self.optimizer.promote(number)
            return waiting[number]
        pending = next((t for t in trials if t.status == Trial.PENDING), None)
        if pending is None and len(waiting) == len(trials):
            if self.optimizer.late:
                self.stop("time budget")
            elif self.optimizer.exhausted:
                for trial in waiting.values():
                    tune_controller.stop_trial(trial)
        return pending

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its scheduler for its own restore, which is never used


class SearchStopper(Stopper):
    """Ends Ray Tune's loop once ``stop`` holds a reason. Works on any thread, unlike a signal, which reaches the main
    thread only.

    It triggers no callback: trials that ran or were paused keep their state in the history, and a resume continues
    them.
    """

    def __init__(self, stop: StopRequest):
        self.stop = stop

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False  # ends the whole search, never a single trial

    def stop_all(self) -> bool:
        return self.stop.reason is not None
