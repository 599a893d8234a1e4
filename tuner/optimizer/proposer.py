"""What to try next in one method's search: the default setting first, then what the sampler proposes. No Ray here.

    history = History(None)                      # in memory; with a folder: the log of a search
    proposer = Proposer(spec, history)
    while (proposal := proposer.next()) is not None:
        history.append("start", proposal.trial, params=proposal.params, method=spec.method)
        ...                                      # history.append("preview", ..) or ("epoch", ..), ("end", ..)
        proposer.tell(proposal.trial)

A proposal depends on the spec, its number and what was known, never on timing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.provenance import paper_label
from tuner.optimizer.observations import Observations, Worth, propose
from tuner.optimizer.samplers import START, first_points, make_sampler, proposal_seed, quasi_random
from tuner.optimizer.study import RecordedStudy
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

MIN_VALUES = 4  # trials that must have a value before a model is trusted
FURTHER = 100  # quasi-random points that are looked at for a setting that is new; a space of choices may have no more


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
        self.known = Observations(self.worth)
        self.known.add_past(self.warm)
        recorded = folder is not None or self.sampler.own_study
        self.recorded = RecordedStudy(spec, history, folder, study, self.space) if recorded else None
        left = [t for t in history.trials.values() if not t.state.ended and t.trial not in out]
        left.sort(key=lambda t: t.state == TrialState.WAITING)  # those that had begun go first
        self._waiting = [Proposal(t.trial, t.params) for t in left]
        self._lost = [Proposal(n, p) for n, p in self.recorded.lost.items()] if self.recorded else []

    @property
    def description(self) -> str:
        """One line: what this search proposes with."""
        first, seeds = paper_label(self.spec.methods[0], self.whole.default()), self.spec.default_trials
        if not self.space.searched:
            return f"sampler: nothing is searched, {first} runs {'once' if seeds == 1 else f'under {seeds} seeds'}"
        if not self.sampler.label:
            return f"sampler {self.sampler.name}, after {first}"
        seen = "the hypervolume of a trial's curve" if self.worth.swept else "a trial's objectives"
        seen += ", by its preview" if self.worth.previews else ""
        return f"sampler {self.sampler.name}: {first}, {START - 1} first points, then {self.sampler.label} on {seen}"

    @property
    def begun(self) -> bool:
        """Whether the next trial is one that an earlier process had begun."""
        return bool(self._waiting) and self.history.trials[self._waiting[0].trial].state == TrialState.RUNNING

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
            return self._lost.pop(0)
        if self.history.proposed >= self.total:
            return None
        return self._new(len(self.history.trials))

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
        self.known.update(self.history.trials)
        params = self._by_sampler(number)
        if self._is_new(params):
            return params
        further = (quasi_random(self.space, self.spec.seed, n) for n in range(number, number + FURTHER))
        return next(filter(self._is_new, further), params)

    def _is_new(self, params: dict[str, Any]) -> bool:
        """Whether nobody has trained the setting: training is seeded, so it would give equal metrics."""
        return frozenset(params.items()) not in self.known.proposed

    def _by_sampler(self, number: int) -> dict[str, Any]:
        spec, space, row = self.spec, self.space, self.sampler
        if row.build is None:
            return quasi_random(space, spec.seed, number)
        if row.learns and (first := self._first(number)):
            return first
        seed = proposal_seed(spec.seed, number)
        seen = self.known.frozen(space, seed, reads_pruned=row.reads_pruned, whole=self.whole) if row.learns else []
        sampler = make_sampler(row, seed=spec.seed, number=number, trials=spec.most_trials)
        return propose(space, self.worth.values, seen, sampler)

    def _first(self, number: int) -> dict[str, Any] | None:
        """What is tried before a model is trusted; None: it is. What users add is none of it, and takes no place."""
        begins = self.history.proposed < START
        if begins and (given := self._given()):
            return given
        if len(self.known.values) < MIN_VALUES or (begins and not self.warm):
            return first_points(self.space, self.spec.seed, number)
        return None

    def _given(self) -> dict[str, Any] | None:
        """The first setting of ``first`` that was not proposed yet and that the space, perhaps narrowed since, has."""
        done = self.known.proposed
        new = (dict(p) for p in self.first if frozenset(p.items()) not in done and self.space.expresses(p))
        return next(new, None)
