"""Ray Tune's side of the rungs and of the end: hands over what trials report, starts what may go on, stops all when it
is told to. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trial_report import metrics_of
from tuner.execution.ray_callback import number_of
from tuner.optimizer.ask_tell import AskTell
from tuner.spec.schedulers import Decision

_ANSWER = {
    Decision.CONTINUE: TrialScheduler.CONTINUE,
    Decision.STOP: TrialScheduler.STOP,
    Decision.PAUSE: TrialScheduler.PAUSE,
}


class RungScheduler(FIFOScheduler):
    """A stopped trial ends as "stopped" through the driver's callback; a paused one keeps its checkpoint and waits."""

    _supports_buffered_results = False  # every epoch is looked at before the next one starts

    def __init__(self, optimizer: AskTell, stop: Callable[[str], None]):
        super().__init__()
        self.optimizer, self.stop = optimizer, stop

    def on_trial_result(self, tune_controller, trial: Trial, result: dict) -> str:
        metrics = metrics_of(result)
        if "epoch" not in metrics:  # a step that trained for the trunk only
            return TrialScheduler.CONTINUE
        return _ANSWER[self.optimizer.feed(number_of(trial), metrics)]

    def choose_trial_to_run(self, tune_controller) -> Trial | None:
        """A paused trial that may go on, else the next new one. When nothing else is left, the waiting ones end; if it
        is only that time is short, the run ends instead, and a resume finds them waiting."""
        if not self.optimizer.paused:
            return None  # Ray starts new ones in order by itself; looking through all that run, each time, adds up
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
        return {}  # Ray pickles its scheduler for a restore of its own, which is never used


class Ending(Stopper):
    """Ends Ray Tune's loop once ``stop.why`` says why, on whatever thread it runs; a signal reaches the main one alone.

    No callback hears of it: what ran or waited stays as it is in the history, and a resume goes on with it.
    """

    def __init__(self, stop):
        self.stop = stop

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False  # no single trial ends by this

    def stop_all(self) -> bool:
        return self.stop.why is not None
