"""What a history's trials come to, counted as its events come: what is asked at every result must not take longer the
more trials there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from search_spaces import STEM_PARAMS
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

Kind = tuple[str, tuple[Any, ...], int]  # method, its values of `STEM_PARAMS`, seed


def kind_of(record: TrialRecord) -> Kind:
    """By what a trial's stem is told from those of others."""
    return record.method, tuple(map(record.params.get, STEM_PARAMS)), record.seed


class Tally:
    """``states``: how many of the trials are in each state, ``previewed``: have been previewed or failed, ``full``:
    train, or have trained, in full; replicates and references aside. Of all: ``running``, by number, those that run;
    ``trained``, how many epochs they trained (`TrialRecord.trained`); of each `Kind` ``for_stem``, the
    epochs of a stem that were trained, ``left``, those at which a full training left it, and whether anything was
    ``previewed_on``."""

    def __init__(self) -> None:
        self.states = Counter({state: 0 for state in TrialState})  # none is added later, while another thread reads
        self.running: dict[int, TrialRecord] = {}
        self.previewed = self.full = self.trained = 0
        self.for_stem, self.left = defaultdict[Kind, set[int]](set), defaultdict[Kind, set[int]](set)
        self.previewed_on = set[Kind]()

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(count for state, count in self.states.items() if state.ended)

    def add(self, record: TrialRecord) -> None:
        """Count a trial, replicate or reference as it is now."""
        self._count(record, 1)
        if record.state == TrialState.RUNNING:
            self.running[record.trial] = record

    def remove(self, record: TrialRecord) -> None:
        """Take it out again, before it changes."""
        self._count(record, -1)
        self.running.pop(record.trial, None)

    def _count(self, record: TrialRecord, by: int) -> None:
        self.trained += by * record.trained
        kind = kind_of(record)
        self.for_stem[kind] |= record.stem_reached
        self.left[kind].add(record.stem_epochs)
        if record.preview is not None:
            self.previewed_on.add(kind)
        if record.of is None and record.role is None:
            self.states[record.state] += by
            self.previewed += by * (record.preview is not None or record.state == TrialState.FAILED)
            self.full += by * record.full
