"""Ray Tune's side of the proposals: hands the driver's trials to Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tuner.optimizer.ask_tell import AskTell
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState


class ProposalSearcher(Searcher):
    """``configure(record)`` makes the trainable's config. Results reach the optimizer by the callback."""

    def __init__(self, optimizer: AskTell, configure: Callable[[TrialRecord], dict[str, Any]]):
        super().__init__()
        self.optimizer, self.configure = optimizer, configure
        self.limit: int | None = None
        self.live: dict[str, int] = {}  # Ray's id -> the trial's number
        self.lost: list[int] = []

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """We count ourselves: Ray's own limit would count paused trials too, and wait for them for ever."""
        self.limit = max_concurrent
        return True

    def suggest(self, trial_id: str):
        running = len(self.live) - self.optimizer.paused
        if self.limit and running >= self.limit:
            return None
        record = self._lost()
        if record is None:
            if running > 0 and not self.optimizer.ready:
                return None  # Ray asks again within a tenth of a second
            record = self.optimizer.next()
        if record is None:  # FINISHED is for ever, and a trial that runs may be lost and come again
            return None if self.live else Searcher.FINISHED
        self.live[trial_id] = record.trial
        return self.configure(record)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        number = self.live.pop(trial_id, None)
        if error and number is not None:
            self.lost.append(number)

    def _lost(self) -> TrialRecord | None:
        """A trial that broke off and has not ended since: a new actor goes on from its checkpoint."""
        while self.lost:
            record = self.optimizer.history.record(self.lost.pop(0))
            if record.state == TrialState.RUNNING:
                return record
        return None

    def save(self, checkpoint_path: str) -> None:
        pass  # the history is the state

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its searcher for a restore of its own, which is never used
