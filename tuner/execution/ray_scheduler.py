"""Ray Tune's side of the rungs and of the end: hands over what trials report, starts what may go on, stops all when it
is told to. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

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

    def __init__(self, lanes: AskTell, stop: Callable[[str], None]):
        super().__init__()
        self.lanes, self.stop = lanes, stop

    def on_trial_result(self, tune_controller, trial: Trial, result: dict) -> str:
        metrics = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
        if "epoch" not in metrics:  # a step that trained for the trunk only
            return TrialScheduler.CONTINUE
        return _ANSWER[self.lanes.feed(trial.config["trial"]["trial"], metrics)]

    def choose_trial_to_run(self, tune_controller) -> Trial | None:
        """A paused trial that may go on, else the next new one. When nothing else is left, the waiting ones end; if it
        is only that time is short, the run ends instead, and a resume finds them waiting."""
        if not self.lanes.paused:
            return None  # Ray starts new ones in order by itself; looking through all that run, each time, adds up
        trials = tune_controller.get_live_trials()
        waiting = {t.config["trial"]["trial"]: t for t in trials if t.status == Trial.PAUSED}
        number = self.lanes.promotable()
        if number in waiting:
            self.lanes.promote(number)
            return waiting[number]
        pending = next((t for t in trials if t.status == Trial.PENDING), None)
        if pending is None and len(waiting) == len(trials):
            if self.lanes.late:
                self.stop("time budget")
            elif self.lanes.exhausted:
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
