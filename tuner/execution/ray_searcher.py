"""Adapter that hands the trials which our optimizer proposes to Ray Tune as its search algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tuner.optimizer.ask_tell import AskTell
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState


class ProposalSearcher(Searcher):
    """``configure(record)`` makes the trainable's config. Results reach the optimizer through the callback."""

    def __init__(self, optimizer: AskTell, configure: Callable[[TrialRecord], dict[str, Any]]):
        super().__init__()
        self.optimizer, self.configure = optimizer, configure
        self.limit: int | None = None
        self.live: dict[str, int] = {}  # Ray's trial id -> our trial number
        self.lost: list[int] = []  # numbers of interrupted trials

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Take the limit over from Ray, which would ask for more trials than may run and keep them."""
        self.limit = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, ``FINISHED``, or None: no trial for now."""
        if self.limit and len(self.live) >= self.limit:
            return None
        record = self._lost()
        if record is None:
            if self.live and not self.optimizer.ready:
                return None  # Ray asks again within a tenth of a second
            record = self.optimizer.next()
        if record is None:  # FINISHED is final, and a running trial may still be lost and need a new actor
            return None if self.live else Searcher.FINISHED
        self.live[trial_id] = record.trial
        return self.configure(record)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        number = self.live.pop(trial_id, None)
        if error and number is not None and number not in self.live.values():  # else it was promoted since, and trains
            self.lost.append(number)

    def _lost(self) -> TrialRecord | None:
        """An interrupted trial that has not ended since: a new actor continues from its checkpoint."""
        while self.lost:
            record = self.optimizer.history.record(self.lost.pop(0))
            if record.state == TrialState.RUNNING:
                return record
            self.optimizer.back(record.trial)  # it was skipped meanwhile, and may be tried again
        return None

    def save(self, checkpoint_path: str) -> None:
        pass  # the history is the state

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its searcher for its own restore, which is never used
