"""What runs next: trials of one method or of several, then replicates. Ray knows nothing of this file.

Every method has a lane: a space, a history, rungs and a proposer of its own, in which its trials are numbered from 0,
so a method in a search of several is searched as it would be alone. `tuner.optimizer.method_bandit` chooses whose trial
is next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from tuner.optimizer import method_bandit
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.successive_halving import Rungs, rungs_for
from tuner.results import replicates
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.epoch_plan import CONTINUE, describe_scheduler, start_of, trunk_epochs
from tuner.spec.search_spec import SearchSpec

FIRST = 4  # trials that every method gets before the bandit chooses, or half of its equal share
PACE = 20  # epochs that an estimate of their duration is made from


@dataclass
class Lane:
    """One method's part of a search."""

    spec: SearchSpec
    history: History
    rungs: Rungs | None
    proposer: Proposer
    growth: method_bandit.RewardWindow = field(default_factory=method_bandit.RewardWindow)

    @property
    def first(self) -> int:
        return max(1, min(FIRST, self.spec.trials // 2))

    def ended(self, record: TrialRecord) -> None:
        point = self.spec.goal.point(record.last)
        good = (
            record.state == TrialState.FINISHED and self.spec.goal.feasible(record.last) and all(v == v for v in point)
        )
        self.growth.add(len(record.epochs) - record.trunk_epochs, point if good else None)


class AskTell:
    """Hands out trials and replicates in turn, and answers for the rungs. Trials go by their numbers in the history.

    ``until``: no trial starts that cannot end by then (``time.time()``).
    """

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        folder: Path | None = None,
        warm: Iterable[TrialRecord] = (),
        *,
        until: float | None = None,
    ):
        self.spec, self.history, self.until, self.late = spec, history, until, False
        self.total = replicates.total_trials(spec)
        self.lanes = {own.method: self._lane(own, folder, warm) for own in spec.lanes}
        for record in sorted(history.trials.values(), key=lambda t: t.ended):
            if record.state != TrialState.RUNNING:
                self.lanes[record.method].ended(record)
        self._again = [r for r in history.replicates.values() if r.state == TrialState.RUNNING]
        self._next: Lane | None = None

    def _lane(self, own: SearchSpec, folder: Path | None, warm: Iterable[TrialRecord]) -> Lane:
        alone = own is self.spec
        history = self.history if alone else self.history.lane(own.method)
        rungs = rungs_for(own)
        if rungs:
            rungs.replay(history, partial(own.goal.point, objectives=own.scheduler_objectives), partial(start_of, own))
        proposer = Proposer(
            own,
            history,
            rungs,
            folder,
            [t for t in warm if t.method == own.method],
            most=self.total,
            study=None if alone else f"{own.search_name}/{own.method}",
        )
        return Lane(own, history, rungs, proposer)

    # ---- what runs next ----------------------------------------------------------------------------------------------

    @property
    def descriptions(self) -> list[str]:
        """What the search proposes with, and who is stopped when; a line each, for every method."""
        lines = []
        for method, lane in self.lanes.items():
            name = f"{method}: " if len(self.lanes) > 1 else ""
            lines += [name + lane.proposer.description, name + describe_scheduler(lane.spec)]
        if len(self.lanes) > 1:
            lines.append(
                f"methods {', '.join(self.lanes)} share {self.total} trials: "
                f"{', '.join(str(lane.first) for lane in self.lanes.values())} each, then those whose trials "
                "make the front of all grow get more"
            )
        if self.spec.seeds > 1:
            lines.append(f"seeds: at the end every front member is trained with {self.spec.seeds} seeds in all")
        return lines

    @property
    def ready(self) -> bool:
        """Whether ``next`` answers at once and nothing that is running can change what it answers."""
        if self._again or self.late:
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
            lane.proposer.interrupted for lane in self.lanes.values()
        )

    def next(self) -> TrialRecord | None:
        """The next trial or replicate to run, or None when there is none, or no time for it (then ``late`` is set).

        The caller appends its "start" to the history, unless it is there, before it asks again.
        """
        if self.late:
            return None
        if self._again:
            record = self._again.pop(0)
            return record if self._in_time(record.method, self.spec.max_epochs - len(record.epochs)) else None
        return self._replicate() if self.exhausted else self._trial()

    def _trial(self) -> TrialRecord | None:
        lane, self._next = self._chosen(), None
        method = lane.spec.method
        if not lane.proposer.interrupted and not self._in_time(method, lane.spec.max_epochs - trunk_epochs(lane.spec)):
            return None  # before anything is written down
        proposal, known = lane.proposer.next(), self.history.numbers.get(method, [])
        if proposal.trial >= len(known):
            return TrialRecord(self._number, proposal.params, method, seed=self.spec.seed)
        record = self.history.trials[known[proposal.trial]]
        return record if self._in_time(method, lane.spec.max_epochs - len(record.epochs)) else None

    def _replicate(self) -> TrialRecord | None:
        for trial, seed in replicates.wanted(self.spec, self.history):
            record = self.history.trials[trial]
            if self._in_time(record.method, self.spec.max_epochs):
                return TrialRecord(self._number, record.params, record.method, seed=seed, of=trial)
            break
        return None

    @property
    def _number(self) -> int:
        return len(self.history.trials) + len(self.history.replicates)

    def _chosen(self) -> Lane:
        """The lane of the next trial: first who was interrupted, then who is new, then whom the bandit draws."""
        if self._next is None:
            open_ = [lane for lane in self.lanes.values() if not lane.proposer.exhausted]
            begun = [lane for lane in open_ if lane.proposer.interrupted]
            new = [lane for lane in open_ if len(lane.history.trials) < lane.first]
            if begun or new:
                self._next = begun[0] if begun else min(new, key=lambda lane: len(lane.history.trials))
            elif len(open_) == 1:
                self._next = open_[0]
            else:
                growths = {lane.spec.method: lane.growth for lane in open_}
                self._next = self.lanes[method_bandit.choose(growths, self.spec.seed, len(self.history.trials))]
        return self._next

    # ---- time --------------------------------------------------------------------------------------------------------

    def _in_time(self, method: str, epochs: int) -> bool:
        """Whether so many epochs can end by ``until``, as far as the latest ones tell; else the search is ``late``."""
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

    def tell(self, number: int, state: str) -> None:
        """How a trial ended; its history knows already."""
        if number in self.history.replicates:
            return
        lane, place = self._place(number)
        lane.proposer.tell(place, state, self.history.trials[number].last)
        lane.ended(self.history.trials[number])

    def feed(self, number: int, metrics: dict) -> str:
        """What becomes of a trial after an epoch: see ``Rungs.feed``. A replicate always goes on."""
        if number in self.history.replicates:
            return CONTINUE
        lane, place = self._place(number)
        if not lane.rungs:
            return CONTINUE
        point = lane.spec.goal.point(metrics, objectives=lane.spec.scheduler_objectives)
        return lane.rungs.feed(place, metrics["epoch"], point, start_of(lane.spec, self.history.trials[number].params))

    @property
    def paused(self) -> int:
        """How many trials wait at a rung."""
        return sum(len(lane.rungs.paused) for lane in self.lanes.values() if lane.rungs)

    @property
    def stops(self) -> bool:
        """Whether there are rungs at all."""
        return any(lane.rungs for lane in self.lanes.values())

    def promotable(self) -> int | None:
        """A paused trial that should go on now."""
        for method, lane in self.lanes.items():
            place = lane.rungs.promotable() if lane.rungs else None
            if place is not None:
                return self.history.numbers[method][place]
        return None

    def promote(self, number: int) -> None:
        lane, place = self._place(number)
        lane.rungs.promote(place)

    def _place(self, number: int) -> tuple[Lane, int]:
        method, place = self.history.number_in_lane(number)
        return self.lanes[method], place
