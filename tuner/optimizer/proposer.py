"""What to try next in one method's search: the default setting first, then what the sampler proposes. No Ray here.

    history = History(None)                      # in memory; with a folder: the log of a search
    proposer = Proposer(spec, history)
    while (proposal := proposer.next()) is not None:
        history.append("start", proposal.trial, params=proposal.params, method=spec.method)
        ...                                      # history.append("preview", ..) or ("epoch", ..), ("end", ..)
        proposer.tell(proposal.trial)

A proposal depends on the spec, its number and what was known, never on timing. With a sampler that takes long (a
Gaussian process: about a second) the next proposal is computed as soon as one is handed out, from what was known then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces.provenance import paper_label
from tuner.optimizer.observations import Observations, Worth, propose
from tuner.optimizer.samplers import START, first_points, make_sampler, proposal_seed, quasi_random
from tuner.optimizer.study import RecordedStudy
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS, Sampler
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

MIN_VALUES = 4  # trials that must have a value before a model is trusted


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number (also its number in the study) and the method's parameters."""

    trial: int
    params: dict[str, Any]


class Proposer:
    """Proposes settings from what the history says, and keeps the recorded study.

    ``spec``: of one method. ``folder``: where the study is recorded; without one, it is kept in memory for samplers
    that read it, and for others not at all. ``warm``: the trials of an earlier search. ``first``: settings to try
    before there is a model, in place of quasi-random ones. ``most``: how many trials it may propose, if not
    ``spec.trials``. ``study``: the study's name. ``out``: trials that are with a worker now. ``space``: what new
    proposals come from, where it has been narrowed; the model still knows what lies beyond.
    """

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        folder: Path | None = None,
        warm: Iterable[TrialRecord] = (),
        *,
        first: Iterable[dict[str, Any]] = (),
        most: int | None = None,
        study: str | None = None,
        out: Collection[int] = (),
        space: Space | None = None,
    ):
        self.spec, self.history, self.worth, self.whole = spec, history, Worth.of(spec), spec.search_space()
        self.space = space or self.whole
        self.sampler = SAMPLERS[spec.sampler]
        # where a user has narrowed everything away, nothing more is proposed
        self.total = most or spec.trials if self.space.searched else spec.default_trials
        self.warm, self.first = list(warm), list(first)
        self.known = self._observe(history)
        recorded = folder is not None or self.sampler.own_study
        self.recorded = RecordedStudy(spec, history, folder, study, self.space) if recorded else None
        left = [t for t in history.trials.values() if not t.state.ended and t.trial not in out]
        left.sort(key=lambda t: t.state == TrialState.WAITING)  # those that had begun go first
        self._waiting = [Proposal(t.trial, t.params) for t in left]
        self._lost = [Proposal(n, p) for n, p in self.recorded.lost.items()] if self.recorded else []
        self._worker = ThreadPoolExecutor(1, "proposals") if self._model(0).prepares_ahead else None
        self._next: Future[dict[str, Any]] | None = None
        if history.trials and not self._lost:
            self._prepare(len(history.trials), self._before_newest)

    @property
    def description(self) -> str:
        """One line: what this search proposes with."""
        first, seeds = paper_label(self.spec.methods[0], self.whole.default()), self.spec.default_trials
        if not self.space.searched:
            return f"sampler: nothing is searched, {first} runs {'once' if seeds == 1 else f'under {seeds} seeds'}"
        if not self.sampler.models:
            return f"sampler {self.sampler.name}, after {first}"
        early, last = self._model(0), self._model(math.inf)
        if early is not last:
            why = f"flat space; {last.label} after {early.max_values} values"
        else:
            why = "conditional space" if self.space.conditional else f"{self.worth.values} objectives"
        seen = "the hypervolume of a trial's curve" if self.worth.swept else "a trial's objectives"
        seen += ", by its preview" if self.worth.previews else ""
        return f"sampler {self.sampler.name}: {first}, {START - 1} first points, then {early.label} on {seen} ({why})"

    @property
    def ready(self) -> bool:
        """Whether ``next`` answers at once."""
        return self.interrupted or self._next is None or self._next.done()

    @property
    def interrupted(self) -> bool:
        """Whether trials that an earlier process left, or that a user added, are still to be handed out."""
        return bool(self._waiting or self._lost)

    @property
    def exhausted(self) -> bool:
        """Whether every trial asked for has been handed out."""
        return not self.interrupted and self.history.proposed >= self.total

    def next(self) -> Proposal | None:
        """The next trial to run, or None when every trial asked for has been proposed.

        The caller appends its "start" to the history before it asks again.
        """
        if self._waiting:
            return self._waiting.pop(0)
        if self._lost:
            proposal = self._lost.pop(0)
        elif self.history.proposed >= self.total:
            return None
        else:
            proposal = self._new(len(self.history.trials))
        if not self._lost:
            self._prepare(proposal.trial + 1, lambda: self._with(proposal))
        return proposal

    def close(self) -> None:
        """Another one takes over."""
        if self._worker:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def tell(self, trial: int) -> None:
        """A trial has ended, or its preview: the study records it. The model itself reads the history."""
        if self.recorded:
            self.recorded.end(self.history.trials[trial])

    # ---- one proposal ------------------------------------------------------------------------------------------------

    def _new(self, number: int) -> Proposal:
        default = number == 0 or not self.space.searched
        if self.recorded and self.sampler.own_study and not default:
            return Proposal(number, self.recorded.ask(number, self.spec.most_trials))
        params = self.whole.default() if default else self._proposed(number)
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
        if self._worker and self.space.searched and number - self.history.added < self.total:
            self._next = self._worker.submit(self._plan(number, known()))

    def _plan(self, number: int, known: Observations) -> Callable[[], dict[str, Any]]:
        """How proposal ``number`` will be made: what is known is fixed now, the work may be done later."""
        spec, space, values = self.spec, self.space, self.worth.values
        sampler = partial(make_sampler, seed=spec.seed, number=number, trials=spec.most_trials)
        if self.sampler.build and not self.sampler.learns:
            return lambda: propose(space, values, [], sampler(self.sampler))
        if not self.sampler.learns:
            return lambda: quasi_random(space, spec.seed, number)
        if number < START and (given := self._given(known)):
            return lambda: given
        if len(known.values) < MIN_VALUES or (number < START and not self.warm):
            return lambda: first_points(space, spec.seed, number)
        model = self._model(len(known.values))
        seed = proposal_seed(spec.seed, number)
        seen = known.frozen(space, seed, reads_pruned=model.reads_pruned, whole=self.whole)
        return lambda: propose(space, values, seen, sampler(model))

    def _given(self, known: Observations) -> dict[str, Any] | None:
        """The first setting of ``first`` that was not proposed yet and that the space, perhaps narrowed since, has."""
        new = (dict(p) for p in self.first if frozenset(p.items()) not in known.proposed and self.space.expresses(p))
        return next(new, None)

    def _model(self, values: float) -> Sampler:
        """The sampler that proposes once there are so many trials with a value."""
        return self.sampler.model(conditional=self.space.conditional, objectives=self.worth.values, values=values)

    # ---- what is known -----------------------------------------------------------------------------------------------

    def _with(self, proposal: Proposal) -> Observations:
        """What is known now, and that ``proposal`` is under way."""
        self.known.update(self.history.trials)
        self.known.expect(TrialRecord(proposal.trial, proposal.params, self.spec.methods[0]))
        return self.known

    def _before_newest(self) -> Observations:
        """What was known when the newest trial was about to start, and that it is under way."""
        newest = self.history.trials[max(self.history.trials)]
        known = self._observe(self.history.before_last_start())
        known.expect(TrialRecord(newest.trial, newest.params, newest.method, added=newest.added))
        return known

    def _observe(self, history: History) -> Observations:
        known = Observations(self.worth)
        known.add_past(self.warm)
        known.update(history.trials)
        return known
