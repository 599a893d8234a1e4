"""What to try next: the paper's setting first, then what the sampler proposes. Ray knows nothing of this file.

    history = History(None)                      # in memory; with a folder: the log of a search
    rungs = rungs_for(spec)                      # None where nothing is stopped early
    proposer = Proposer(spec, history, rungs)
    while (proposal := proposer.next()) is not None:
        history.append("start", proposal.trial, params=proposal.params, method=spec.method)
        ...                                      # per epoch: history.append("epoch", ..), rungs.feed(..)
        history.append("end", proposal.trial, state=FULL or STOPPED)
        proposer.tell(proposal.trial, state, last_metrics)

A proposal depends on the spec, its number and what was known, never on timing. Gaussian processes take about a second,
so where one may be used every proposal is worked out ahead, from what was known when the one before was handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tuner.optimizer.observations import SEEN, Observations, propose
from tuner.optimizer.samplers import (
    OWN_HISTORY,
    describe_sampler,
    make_sampler,
    model_kind,
    own_seed,
    quasi_random,
    start_trials,
)
from tuner.optimizer.study import Record
from tuner.optimizer.successive_halving import Rungs
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.epoch_plan import start_of
from tuner.spec.search_spec import SearchSpec

# values at one budget that make a model, in a small space; late starters have none at the early rungs (decisions.md)
MIN_VALUES = 8


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number (also its number in the study) and the method's parameters."""

    trial: int
    params: dict[str, Any]


class Proposer:
    """Proposes settings from what the history says, and keeps the recorded study (in ``folder``, or in memory)."""

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        rungs: Rungs | None = None,
        folder: Path | None = None,
        warm: Iterable[TrialRecord] = (),
        *,
        most: int | None = None,
        study: str | None = None,
    ):
        """``most``: how many trials it may propose, if not ``spec.trials``; ``study``: the recorded study's name."""
        self.spec, self.space, self.history, self.rungs = spec, spec.search_space(), history, rungs
        self.share = spec.trials if self.space.searched else 1  # nothing to search: the paper's setting once
        self.total = (most or spec.trials) if self.space.searched else 1
        self.warm = list(warm)
        self.known = self._knowledge(history)
        self.ahead = spec.sampler in ("auto", "gp") and self._kind(0) == "gp"
        self._worker = ThreadPoolExecutor(1, "proposals") if self.ahead else None
        self._next: Future | None = None
        # written at every start and end; without a folder only for samplers that read it
        recorded = folder is not None or spec.sampler in OWN_HISTORY
        self.record = Record(spec, history, folder, study) if recorded else None
        self._waiting = [Proposal(t.trial, t.params) for t in history.trials.values() if t.state == TrialState.RUNNING]
        self._lost = [Proposal(n, p) for n, p in self.record.lost.items()] if self.record else []
        if self.ahead and history.trials and not self._lost:
            self._prepare(len(history.trials), self._knowledge(history.before_last_start(), last=history))

    @property
    def description(self) -> str:
        """One line: what this search proposes with."""
        return describe_sampler(self.spec.sampler, self.space, len(self.spec.objectives), self.share, SEEN)

    @property
    def ready(self) -> bool:
        """Whether ``next`` answers at once."""
        return self.interrupted or self._next is None or self._next.done()

    @property
    def interrupted(self) -> bool:
        """Whether trials that an earlier process left are still to be handed out."""
        return bool(self._waiting or self._lost)

    @property
    def exhausted(self) -> bool:
        """Whether every trial asked for has been handed out."""
        return not self._waiting and not self._lost and len(self.history.trials) >= self.total

    def next(self) -> Proposal | None:
        """The next trial to run, or None when every trial asked for has been proposed.

        The caller appends its "start" to the history before it asks again.
        """
        if self._waiting:
            return self._waiting.pop(0)
        if self._lost:
            proposal = self._lost.pop(0)
        elif len(self.history.trials) >= self.total:
            return None
        else:
            proposal = self._new(len(self.history.trials))
        if self.ahead and not self._lost and proposal.trial + 1 < self.total:
            self.known.update(self.history.trials)
            self.known.expect(TrialRecord(proposal.trial, proposal.params, self.spec.method))
            self._prepare(proposal.trial + 1, self.known)
        return proposal

    def tell(self, trial: int, state: str, metrics: dict[str, float]) -> None:
        """Write down in the study how a trial ended; the model itself reads the history."""
        if self.rungs:
            self.rungs.forget(trial)
        if self.record:
            self.record.end(trial, state, metrics)

    def _new(self, number: int) -> Proposal:
        if self.spec.sampler in OWN_HISTORY and number > 0:
            return Proposal(number, self.record.ask(number, self.share))
        if number == 0:
            params = self.space.default()
        elif self._next is not None:
            (params, self._next) = (self._next.result(), None)
        else:
            self.known.update(self.history.trials)
            params = self._plan(number, self.known)()
        if number > 0 and self._repeats(params):
            params = quasi_random(self.space, self.spec.seed, number)
        if self.record:
            self.record.start(number, params)
        return Proposal(number, params)

    def _repeats(self, params: dict[str, Any]) -> bool:
        """Training is seeded: a setting that was tried can only give the same numbers again."""
        return frozenset(params.items()) in self.known.taken

    def _prepare(self, number: int, known: Observations) -> None:
        if number < self.total:
            self._next = self._worker.submit(self._plan(number, known))

    def _plan(self, number: int, known: Observations) -> Callable[[], dict[str, Any]]:
        """How proposal ``number`` will be made: what is known is fixed now, the work may be done later."""
        spec, start = self.spec, start_trials(self.share)
        sampler = partial(make_sampler, seed=spec.seed, number=number, trials=self.share)
        if spec.sampler == "random":
            return lambda: propose(self.space, len(spec.objectives), [], sampler("random"))
        least = min(start, MIN_VALUES)
        level = known.budget(least, max(least, 2 * len(self.space.searched)))
        if spec.sampler == "qmc" or level is None or (number < start and not self.warm):
            return lambda: quasi_random(self.space, spec.seed, number)
        kind = self._kind(len(known.values[level]))
        waiting = self.rungs.paused if self.rungs else ()
        seen = known.frozen(level, self.space, waiting, own_seed(spec.seed, number), kind)
        return lambda: propose(self.space, len(spec.objectives), seen, sampler(kind))

    def _kind(self, values: int) -> str:
        return model_kind(self.spec.sampler, self.space, len(self.spec.objectives), values, SEEN)

    def _knowledge(self, history: History, last: History | None = None) -> Observations:
        """What ``history`` tells; with ``last``, also that the trial it starts last is under way."""
        levels = [*(self.rungs.levels if self.rungs and self.rungs.rule == "asha" else ()), self.spec.max_epochs]
        known = Observations(levels, self.spec.goal, partial(start_of, self.spec))
        known.add_past(self.warm)
        known.update(history.trials)
        if last is not None and len(last.trials) > len(history.trials):
            newest = last.trials[max(last.trials)]
            known.expect(TrialRecord(newest.trial, newest.params, newest.method))
        return known
