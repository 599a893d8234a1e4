"""Adapters that let our optimizer decide as Ray Tune's scheduler and as its stopper. They decide nothing themselves."""

from __future__ import annotations

from ray.tune import Stopper
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trial_report import metrics_of
from tuner.execution.ray_callback import number_of
from tuner.execution.stopping import StopRequest
from tuner.optimizer.ask_tell import AskTell


class DeadTrials(FIFOScheduler):
    """Stops the trials that the optimizer calls dead, and those that a user skips. Previews and full trainings are
    trials of Ray's own, which run to their end: a promoted one is suggested again."""

    _supports_buffered_results = False  # the decision on an epoch is made before the next one starts

    def __init__(self, optimizer: AskTell):
        super().__init__()
        self.optimizer = optimizer
        self._numbers: dict[str, int] = {}  # Ray's trials in the order in which they came

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        self._numbers.setdefault(trial.trial_id, len(self._numbers))

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The first that waits, as Ray's own, which looks at all trials each time, also at those that have ended."""
        waiting = [t for t in tune_controller.get_live_trials() if t.status in (Trial.PENDING, Trial.PAUSED)]
        return min(waiting, key=lambda t: (t.status == Trial.PAUSED, self._numbers[t.trial_id]), default=None)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict) -> str:
        metrics = metrics_of(result)
        number = number_of(trial)
        ends = self.optimizer.skipped(number) or ("epoch" in metrics and self.optimizer.dead(number, metrics))
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its scheduler for its own restore, which is never used


class SearchStopper(Stopper):
    """Ends Ray Tune's loop once ``stop`` holds a reason. Works on any thread, unlike a signal, which reaches the main
    thread only.

    It triggers no callback: trials that ran keep their state in the history, and a resume continues them.
    """

    def __init__(self, stop: StopRequest):
        self.stop = stop

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False  # ends the whole search, never a single trial

    def stop_all(self) -> bool:
        return self.stop.reason is not None

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its stopper for its own restore, which is never used
