"""What to try next in one method's search: the default setting first, then what the sampler proposes. No Ray here.

    history = History(None)                      # in memory; with a folder: the log of a search
    rungs = Rungs(spec.early_stopping)
    proposer = Proposer(spec, history, rungs)
    while (proposal := proposer.next()) is not None:
        history.append("start", proposal.trial, params=proposal.params, method=spec.method)
        ...                                      # per epoch: history.append("epoch", ..), rungs.feed(..)
        history.append("end", proposal.trial, state=FINISHED or STOPPED)
        proposer.tell(proposal.trial, state, last_metrics)

A proposal depends on the spec, its number and what was known, never on timing. With a sampler that takes long (a
Gaussian process: about a second) the next proposal is computed as soon as one is handed out, from what was known then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces.provenance import paper_label
from tuner.optimizer.observations import Observations, propose
from tuner.optimizer.samplers import describe_sampler, make_sampler, proposal_seed, quasi_random, start_trials
from tuner.optimizer.study import RecordedStudy
from tuner.optimizer.successive_halving import Rungs
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS, Sampler
from tuner.spec.search_spec import SearchSpec

# Values at one budget that suffice for a model in a small space: late starters have none at the early rungs, so no
# budget may ever hold as many as the start has trials.
MIN_VALUES = 8


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number (also its number in the study) and the method's parameters."""

    trial: int
    params: dict[str, Any]


class Proposer:
    """Proposes settings from what the history says, and keeps the recorded study.

    ``spec``: of one method. ``rungs``: None where no trial is stopped early. ``folder``: where the study is recorded;
    without one, it is kept in memory for samplers that read it, and for others not at all. ``warm``: full trials of an
    earlier search. ``most``: how many trials it may propose, if not ``spec.trials``. ``study``: the study's name.
    """

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
        self.spec, self.space, self.history, self.rungs = spec, spec.search_space(), history, rungs
        self.sampler = SAMPLERS[spec.sampler]
        self.share = spec.trials if self.space.searched else 1  # nothing to search: the default setting once
        self.total = (most or spec.trials) if self.space.searched else 1
        self.warm = list(warm)
        self.known = self._observe(history)
        recorded = folder is not None or self.sampler.own_study
        self.recorded = RecordedStudy(spec, history, folder, study) if recorded else None
        self._waiting = [Proposal(t.trial, t.params) for t in history.trials.values() if t.state == TrialState.RUNNING]
        self._lost = [Proposal(n, p) for n, p in self.recorded.lost.items()] if self.recorded else []
        self._worker = ThreadPoolExecutor(1, "proposals") if self._model(0).prepares_ahead else None
        self._next: Future[dict[str, Any]] | None = None
        if history.trials and not self._lost:
            self._prepare(len(history.trials), lambda: self._observe(history.before_last_start(), last=history))

    @property
    def description(self) -> str:
        """One line: what this search proposes with."""
        first = paper_label(self.spec.methods[0], self.space.default())
        return describe_sampler(self.spec.sampler, self.space, len(self.spec.objectives), self.share, first)

    @property
    def ahead(self) -> bool:
        """Whether proposals are computed while the trials before them train."""
        return self._worker is not None

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
        return not self.interrupted and len(self.history.trials) >= self.total

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
        if not self._lost:
            self._prepare(proposal.trial + 1, lambda: self._with(proposal))
        return proposal

    def tell(self, trial: int, state: TrialState, metrics: dict[str, float]) -> None:
        """A trial has ended: it leaves its rung, and the study records it. The model itself reads the history."""
        if self.rungs:
            self.rungs.forget(trial)
        if self.recorded:
            self.recorded.end(trial, state, metrics)

    # ---- one proposal ------------------------------------------------------------------------------------------------

    def _new(self, number: int) -> Proposal:
        if self.recorded and self.sampler.own_study and number > 0:
            return Proposal(number, self.recorded.ask(number, self.share))
        params = self.space.default() if number == 0 else self._proposed(number)
        if self.recorded:
            self.recorded.start(number, params)
        return Proposal(number, params)

    def _proposed(self, number: int) -> dict[str, Any]:
        if self._next is not None:
            params, self._next = self._next.result(), None
        else:
            self.known.update(self.history.trials)
            params = self._plan(number, self.known)()
        repeats = frozenset(params.items()) in self.known.proposed  # training is seeded: it would give equal metrics
        return quasi_random(self.space, self.spec.seed, number) if repeats else params

    def _prepare(self, number: int, known: Callable[[], Observations]) -> None:
        """Begin to compute proposal ``number`` from what is known now, where that is done ahead."""
        if self._worker and number < self.total:
            self._next = self._worker.submit(self._plan(number, known()))

    def _plan(self, number: int, known: Observations) -> Callable[[], dict[str, Any]]:
        """How proposal ``number`` will be made: what is known is fixed now, the work may be done later."""
        spec, space, start = self.spec, self.space, start_trials(self.share)
        sampler = partial(make_sampler, seed=spec.seed, number=number, trials=self.share)
        if self.sampler.build and not self.sampler.learns:
            return lambda: propose(space, len(spec.objectives), [], sampler(self.sampler))
        least = min(start, MIN_VALUES)
        level = known.budget(least, max(least, 2 * len(space.searched)))
        if not self.sampler.learns or level is None or (number < start and not self.warm):
            return lambda: quasi_random(space, spec.seed, number)
        model = self._model(len(known.values[level]))
        waiting = self.rungs.paused if self.rungs else ()
        seed = proposal_seed(spec.seed, number)
        seen = known.frozen(level, space, waiting, seed, reads_pruned=model.reads_pruned)
        return lambda: propose(space, len(spec.objectives), seen, sampler(model))

    def _model(self, values: int) -> Sampler:
        """The sampler that proposes once there are so many values at one budget."""
        return self.sampler.model(
            conditional=self.space.conditional, objectives=len(self.spec.objectives), values=values
        )

    # ---- what is known -----------------------------------------------------------------------------------------------

    def _with(self, proposal: Proposal) -> Observations:
        """What is known now, and that ``proposal`` is under way."""
        self.known.update(self.history.trials)
        self.known.expect(TrialRecord(proposal.trial, proposal.params, self.spec.methods[0]))
        return self.known

    def _observe(self, history: History, last: History | None = None) -> Observations:
        """What ``history`` tells; with ``last``, also that the trial it started last is under way."""
        early = self.rungs.levels if self.rungs and self.rungs.scheduler.rungs_are_budgets else []
        known = Observations([*early, self.spec.max_epochs], self.spec.goal, self.spec.epoch_plan.start_of)
        known.add_past(self.warm)
        known.update(history.trials)
        if last is not None and len(last.trials) > len(history.trials):
            newest = last.trials[max(last.trials)]
            known.expect(TrialRecord(newest.trial, newest.params, newest.method))
        return known
