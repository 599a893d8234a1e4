"""What happened in a search, as an append-only log: the source of all fronts and reports, and of a resume.

``history.jsonl`` has one JSON object per line; ``history.parquet`` holds the same as one tidy table (trials x epochs).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import Failed
from tuner.results.events import Event, Metrics, Started, event_of
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Goal

if TYPE_CHECKING:  # loading pyarrow takes time that most commands need not spend
    import pyarrow as pa


class History:
    """Reads the log and appends to it. The driver is its only writer; others may read at any time.

    ``folder``: the search's; None keeps the history in memory. ``trials``: proposed settings by trial number;
    ``replicates``: repetitions of them under other seeds, numbered in the same series. ``numbers``: the trial numbers
    of each method, in the order in which they started. ``Failed`` if a line of the file is not an event.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.path = folder / "history.jsonl" if folder else None
        self.trials: dict[int, TrialRecord] = {}
        self.replicates: dict[int, TrialRecord] = {}
        self.numbers: dict[str, list[int]] = {}
        self._in_lane: dict[int, tuple[str, int]] = {}  # trial -> its method, its number among that method's trials
        self._lanes: dict[str, History] = {}
        self._root: tuple[History, str] | None = None  # of a lane: the whole history, the lane's method
        self._torn = False  # whether the file ends in the middle of a line
        if self.path and self.path.exists():
            self._load(self.path.read_text())

    def _load(self, text: str) -> None:
        self._torn = text[-1:] not in ("", "\n")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._apply(event_of(json.loads(line)))
            except json.JSONDecodeError:  # cut short when its writer was killed
                continue
            except (KeyError, TypeError, ValueError) as error:
                raise Failed(f"line {number} of {self.path} is no event of a search: {line[:80]!r}") from error

    def _apply(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        else:
            event.change(self.record(event.trial))
        if event.trial in self._in_lane and self._lanes:
            method, number = self._in_lane[event.trial]
            if method in self._lanes:
                self._lanes[method]._apply(replace(event, trial=number))

    def _start(self, event: Started) -> None:
        if event.trial in self.trials or event.trial in self.replicates:
            return
        record = event.record()
        if record.of is not None:
            self.replicates[record.trial] = record
            return
        self.trials[record.trial] = record
        numbers = self.numbers.setdefault(record.method, [])
        self._in_lane[record.trial] = (record.method, len(numbers))
        numbers.append(record.trial)

    def record(self, number: int) -> TrialRecord:
        """A trial or a replicate by its number."""
        return self.trials[number] if number in self.trials else self.replicates[number]

    def everything(self) -> list[TrialRecord]:
        """All trials, then all replicates."""
        return [*self.trials.values(), *self.replicates.values()]

    def number_in_lane(self, trial: int) -> tuple[str, int]:
        """A trial's method and its number among the trials of that method, from 0."""
        return self._in_lane[trial]

    def lane(self, method: str) -> History:
        """The trials of one method as a history of their own, numbered from 0, which later events keep up to date."""
        if method not in self._lanes:
            lane = self._lanes[method] = History(None)
            lane._root = (self, method)
            for number, trial in enumerate(self.numbers.get(method, [])):
                copy = replace(self.trials[trial], trial=number, epochs=list(self.trials[trial].epochs))
                lane.trials[number], lane._in_lane[number] = copy, (method, number)
                lane.numbers.setdefault(method, []).append(number)
        return self._lanes[method]

    def append(self, event: str, trial: int, **fields: Any) -> None:
        """Append an event, by the name and fields of its class (`tuner.results.events`); on disk when this returns."""
        line = {"event": event, "trial": trial, "time": time.time(), **fields}
        self._apply(event_of(line))
        if self.folder is None or self.path is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            if self._torn:  # else this line would become part of the incomplete one
                file.write("\n")
                self._torn = False
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def epochs_trained(self) -> int:
        """Epochs that were trained; those of a trunk count once, however many trials share it."""
        return sum(t.trained for t in self.everything())

    def epochs_saved(self, max_epochs: int) -> dict[str, int]:
        """Epochs that were not trained, by cause: taken from the trunk, or cut off by early stopping."""
        trunk = max(0, sum(t.trunk_epochs - t.trunk_trained for t in self.everything()))
        return {
            "trunk": trunk,
            "early_stopping": sum(max_epochs - len(t.epochs) for t in self.with_state(TrialState.STOPPED)),
        }

    def before_last_start(self) -> History:
        """The history as it was when the newest trial was about to start, in memory."""
        if self._root:
            root, method = self._root
            return root._before_start_of(root.numbers[method][max(self.trials)]).lane(method)
        return self._before_start_of(max(self.trials))

    def _before_start_of(self, trial: int) -> History:
        past = History(None)
        for line in self.path.read_text().splitlines() if self.path and self.path.exists() else ():
            try:
                event = event_of(json.loads(line))
            except json.JSONDecodeError:
                continue
            if isinstance(event, Started) and event.trial == trial:
                break
            past._apply(event)
        return past

    def with_state(self, *states: TrialState) -> list[TrialRecord]:
        """The trials in one of these states, without replicates."""
        return [t for t in self.trials.values() if t.state in states]

    def seeds_of(self, trial: int) -> list[TrialRecord]:
        """The trial and its finished replicates."""
        return [
            self.trials[trial],
            *(r for r in self.replicates.values() if r.of == trial and r.state == TrialState.FINISHED),
        ]

    def judged(self, trial: int) -> Metrics:
        """The metrics that count for a trial: those of its last epoch, or their mean over its seeds."""
        seeds = self.seeds_of(trial) if self.replicates else [self.trials[trial]]
        if len(seeds) == 1:
            return seeds[0].last
        first = seeds[0].last
        shared = [k for k, v in first.items() if isinstance(v, (int, float)) and all(k in r.last for r in seeds)]
        return {k: first[k] if k == "epoch" else statistics.fmean(r.last[k] for r in seeds) for k in shared}

    def row(self, trial: int, objectives: Iterable[str]) -> dict[str, Any]:
        """The trial as a row of the front: see `TrialRecord.row`.

        With replicates the values are means over ``seeds``, and ``std`` holds their sample standard deviations; the
        best epoch stays that of the first seed.
        """
        record, metrics = self.trials[trial], self.judged(trial)
        row = record.row(objectives)
        if metrics is record.last:
            return row
        seeds, names = self.seeds_of(trial), dict.fromkeys([*objectives, "clean_acc"])
        return {
            **row,
            **{n: metrics.get(n) for n in names},
            "seeds": [r.seed for r in seeds],
            "std": {n: statistics.stdev(r.last[n] for r in seeds) for n in names if n in metrics},
        }

    def rows(self, objectives: Iterable[str], goal: Goal | None = None) -> list[dict[str, Any]]:
        """The rows from which a front is built: one per trial that trained all epochs and, given a ``goal``, satisfies
        its constraints. A trial with replicates counts with its mean."""
        return [
            self.row(t.trial, objectives)
            for t in self.with_state(TrialState.FINISHED)
            if goal is None or goal.feasible(self.judged(t.trial))
        ]

    def table(self) -> pa.Table:
        """All trials x epochs as a tidy table: trial, method, state, seed, param/<name>, epoch and every other metric.

        With replicates there is a column ``of`` too: the trial whose setting a replicate repeats.
        """
        import pyarrow as pa

        of = ["of"] if self.replicates else []
        rows = [
            {
                "trial": t.trial,
                "method": t.method,
                "state": t.state,
                "seed": t.seed,
                **{k: t.of for k in of},
                **{f"param/{k}": v for k, v in t.params.items()},
                **metrics,
            }
            for t in self.everything()
            for metrics in t.epochs
        ]
        names = list(dict.fromkeys(k for row in rows for k in row))
        return pa.table({name: [row.get(name) for row in rows] for name in names})

    def write_parquet(self) -> Path:
        """Write ``history.parquet`` beside the log and return its path; ``ValueError`` for a history in memory."""
        import pyarrow.parquet as pq

        if self.folder is None:
            raise ValueError("a history in memory has no folder to write to")
        path = self.folder / "history.parquet"
        aside = path.with_suffix(".tmp")
        pq.write_table(self.table(), aside)
        os.replace(aside, path)
        return path
