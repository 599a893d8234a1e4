"""Ray Tune's side of the proposals: hands the driver's proposals to Ray and its endings back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tuner.proposals import Proposal, Proposer


class ProposalSearcher(Searcher):
    """``configure(proposal)`` makes the trainable's config. Results reach the proposer through the callback, not here."""

    def __init__(self, proposer: Proposer, configure: Callable[[Proposal], dict[str, Any]]):
        super().__init__()
        self.proposer, self.configure = proposer, configure

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        return True

    def suggest(self, trial_id: str):
        proposal = self.proposer.next()
        return Searcher.FINISHED if proposal is None else self.configure(proposal)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass  # the history is the state

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its searcher for a restore of its own, which is never used
