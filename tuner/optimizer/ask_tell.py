"""What runs next: trials of one method or of several and the references, then replicates. Ray knows nothing of this
file.

Every method is searched as it would be alone: a ``MethodSearch`` has a space, a history, rungs and a proposer of its
own, in which its trials are numbered from 0. `tuner.optimizer.method_bandit` chooses which method the next trial is of.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tuner.optimizer import method_bandit
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.successive_halving import Rungs
from tuner.results import replicates
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import Decision, Point
from tuner.spec.search_spec import SearchSpec

FIRST = 4  # trials that every method gets before the bandit chooses, or half of its equal share
PACE = 20  # latest epochs whose median duration is the estimate for the next ones


@dataclass
class MethodSearch:
    """The part of a search that belongs to one method; its trials are numbered from 0 here."""

    method: str
    spec: SearchSpec
    history: History
    rungs: Rungs
    proposer: Proposer
    rewards: method_bandit.RewardWindow = field(default_factory=method_bandit.RewardWindow)

    @property
    def first(self) -> int:
        """How many trials it gets before the bandit chooses."""
        return max(1, min(FIRST, self.spec.trials // 2))

    def feed(self, trial: int, params: dict, metrics: dict) -> Decision:
        """What becomes of its trial after an epoch: see ``Rungs.feed``."""
        if not self.rungs.levels:
            return Decision.CONTINUE
        point = self.spec.goal.point(metrics, self.rungs.scheduler.compares)
        return self.rungs.feed(trial, metrics["epoch"], point, self.spec.epoch_plan.start_of(params))

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended: its epochs and its point count for the bandit."""
        self.rewards.add(len(record.epochs) - record.trunk_epochs, self._point(record))

    def _point(self, record: TrialRecord) -> Point | None:
        """The objectives with which a trial may stand on the front; None: it may not."""
        if record.state != TrialState.FINISHED or not self.spec.goal.feasible(record.last):
            return None
        point = self.spec.goal.point(record.last)
        return point if all(v == v for v in point) else None


class AskTell:
    """Hands out trials and replicates in turn, and says at rungs what becomes of them. Trials go by the history's
    numbers.

    ``references``: trained beside the search's trials, once the first of them has started: they are what it is compared
    with, so a short time budget must not leave them out. ``until``: no trial starts that cannot end by then
    (``time.time()``). ``late``: set once that is the case.
    """

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        folder: Path | None = None,
        warm: Iterable[TrialRecord] = (),
        *,
        references: Iterable[TrialRecord] = (),
        until: float | None = None,
    ):
        self.spec, self.history, self.until, self.late = spec, history, until, False
        self.total = replicates.total_trials(spec)
        warm = list(warm)
        self.methods = {own.methods[0]: self._open(own, folder, warm) for own in spec.lanes}
        for record in sorted(history.trials.values(), key=lambda t: t.ended):
            if record.state != TrialState.RUNNING:
                self.methods[record.method].ended(record)
        unsearched = [*history.references.values(), *history.replicates.values()]
        self._again = [r for r in unsearched if r.state == TrialState.RUNNING]
        self._references = [r for r in references if r.trial not in history.references]
        self._next: MethodSearch | None = None

    def _open(self, spec: SearchSpec, folder: Path | None, warm: list[TrialRecord]) -> MethodSearch:
        """One method's part, as far as the history has it. ``spec``: of that method alone."""
        (method,), alone = spec.methods, len(self.spec.methods) == 1
        history = self.history if alone else self.history.lane(method)
        rungs = Rungs(spec.early_stopping)
        if rungs.levels:
            compares = spec.early_stopping.compares
            rungs.replay(history, lambda metrics: spec.goal.point(metrics, compares), spec.epoch_plan.start_of)
        proposer = Proposer(
            spec,
            history,
            rungs,
            folder,
            [t for t in warm if t.method == method],
            most=self.total,
            study=None if alone else f"{spec.search_name}/{method}",
        )
        return MethodSearch(method, spec, history, rungs, proposer)

    # ---- what runs next ----------------------------------------------------------------------------------------------

    @property
    def descriptions(self) -> list[str]:
        """How the search proposes and what it stops early; a line each, for every method."""
        lines = []
        for method, search in self.methods.items():
            name = f"{method}: " if len(self.methods) > 1 else ""
            lines += [name + search.proposer.description, name + search.rungs.scheduler.describe()]
        if len(self.methods) > 1:
            lines.append(
                f"methods {', '.join(self.methods)} share {self.total} trials: "
                f"{', '.join(str(search.first) for search in self.methods.values())} each, then those whose trials "
                "make the front of all grow get more"
            )
        if self.spec.seeds > 1:
            lines.append(f"seeds: at the end every front member is trained with {self.spec.seeds} seeds in all")
        return lines

    @property
    def ready(self) -> bool:
        """Whether ``next`` answers at once and nothing that is running can change what it answers."""
        if self._again or self.late or (self._references and self.history.trials):
            return True
        if not self.exhausted:
            return self._chosen().proposer.ready
        if self.spec.seeds == 1 or replicates.wanted(self.spec, self.history):
            return True
        return replicates.trials_ended(self.spec, self.history) and not replicates.running(self.history)

    @property
    def exhausted(self) -> bool:
        """Whether every trial asked for has been handed out."""
        return len(self.history.trials) >= self.total and not any(
            search.proposer.interrupted for search in self.methods.values()
        )

    def next(self) -> TrialRecord | None:
        """The next trial, reference or replicate to run; None when there is none, or no time for it (then ``late`` is
        set).

        The caller appends its "start" to the history, unless it is there, before it asks again.
        """
        if self.late:
            return None
        if self._again:
            record = self._again.pop(0)
            return record if self._in_time(record.method, self.spec.max_epochs - len(record.epochs)) else None
        if self._references and self.history.trials:
            record = self._references.pop(0)
            return record if self._in_time(record.method, self.spec.max_epochs) else None
        return self._replicate() if self.exhausted else self._trial()

    def _trial(self) -> TrialRecord | None:
        search, self._next = self._chosen(), None
        method, max_epochs = search.method, search.spec.max_epochs
        if not search.proposer.interrupted and not self._in_time(
            method, max_epochs - search.spec.epoch_plan.trunk_epochs
        ):
            return None  # before the proposal is recorded
        proposal, known = search.proposer.next(), self.history.numbers.get(method, [])
        if proposal is None:
            return None
        if proposal.trial >= len(known):
            return TrialRecord(self._number, proposal.params, method, seed=self.spec.seed)
        record = self.history.trials[known[proposal.trial]]
        return record if self._in_time(method, max_epochs - len(record.epochs)) else None

    def _replicate(self) -> TrialRecord | None:
        wanted = replicates.wanted(self.spec, self.history)
        if not wanted:
            return None
        trial, seed = wanted[0]
        record = self.history.record(trial)
        if not self._in_time(record.method, self.spec.max_epochs):
            return None
        return TrialRecord(self._number, record.params, record.method, seed=seed, of=trial)

    @property
    def _number(self) -> int:
        return len(self.history.trials) + len(self.history.replicates)

    def _chosen(self) -> MethodSearch:
        """The method of the next trial, the same until that trial is handed out."""
        if self._next is None:
            self._next = self._choose()
        return self._next

    def _choose(self) -> MethodSearch:
        """First a method with interrupted trials, then one that has not had its first ones, then the bandit's draw."""
        open_ = [search for search in self.methods.values() if not search.proposer.exhausted]
        begun = [search for search in open_ if search.proposer.interrupted]
        if begun:
            return begun[0]
        new = [search for search in open_ if len(search.history.trials) < search.first]
        if new:
            return min(new, key=lambda search: len(search.history.trials))
        if len(open_) == 1:
            return open_[0]
        rewards = {search.method: search.rewards for search in open_}
        return self.methods[method_bandit.choose(rewards, self.spec.seed, len(self.history.trials))]

    # ---- time --------------------------------------------------------------------------------------------------------

    def _in_time(self, method: str, epochs: int) -> bool:
        """Whether so many epochs of a method can end by ``until``, at the pace of its latest ones; else the search is
        ``late``."""
        if self.until is None:
            return True
        latest = islice(
            (
                m
                for t in reversed(self.history.everything())
                if t.method == method
                for m in reversed(t.epochs)
                if not m.get("trunk")
            ),
            PACE,
        )
        seconds = [(m.get("train_s") or 0.0) + (m.get("eval_s") or 0.0) for m in latest]
        needs = statistics.median(seconds) * max(0, epochs) if seconds else 0.0
        self.late = time.time() + needs > self.until
        return not self.late

    # ---- what became of it -------------------------------------------------------------------------------------------

    def tell(self, number: int, state: TrialState) -> None:
        """How a trial ended; its history knows already."""
        if number not in self.history.trials:
            return
        search, place = self._place(number)
        search.proposer.tell(place, state, self.history.trials[number].last)
        search.ended(self.history.trials[number])

    def feed(self, number: int, metrics: dict) -> Decision:
        """What becomes of a trial after an epoch with these metrics. Replicates and references always go on."""
        if number not in self.history.trials:
            return Decision.CONTINUE
        search, place = self._place(number)
        return search.feed(place, self.history.trials[number].params, metrics)

    @property
    def paused(self) -> int:
        """How many trials wait at a rung."""
        return sum(len(search.rungs.paused) for search in self.methods.values())

    @property
    def stops(self) -> bool:
        """Whether there are rungs at all."""
        return any(search.rungs.levels for search in self.methods.values())

    def promotable(self) -> int | None:
        """A paused trial that should go on now."""
        for method, search in self.methods.items():
            place = search.rungs.promotable()
            if place is not None:
                return self.history.numbers[method][place]
        return None

    def promote(self, number: int) -> None:
        """A paused trial goes on."""
        search, place = self._place(number)
        search.rungs.promote(place)

    def _place(self, number: int) -> tuple[MethodSearch, int]:
        method, place = self.history.number_in_lane(number)
        return self.methods[method], place
