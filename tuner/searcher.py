"""Ray Tune's side of the proposals: hands the driver's proposals to Ray and its endings back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tuner.proposals import Proposal, Proposer


class ProposalSearcher(Searcher):
    """``configure(proposal)`` makes the trainable's config. Results reach the proposer by the callback."""

    def __init__(self, proposer: Proposer, configure: Callable[[Proposal], dict[str, Any]]):
        super().__init__()
        self.proposer, self.configure = proposer, configure
        self.limit: int | None = None
        self.live: set[str] = set()

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """We count ourselves: Ray's own limit would count paused trials too, and wait for them for ever."""
        self.limit = max_concurrent
        return True

    def suggest(self, trial_id: str):
        running = len(self.live) - len(self.proposer.rungs.paused if self.proposer.rungs else ())
        if self.limit and running >= self.limit:
            return None
        if running > 0 and not self.proposer.ready:
            return None  # Ray asks again within a tenth of a second
        proposal = self.proposer.next()
        if proposal is None:
            return Searcher.FINISHED
        self.live.add(trial_id)
        return self.configure(proposal)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass  # the history is the state

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its searcher for a restore of its own, which is never used
