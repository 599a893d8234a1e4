"""What happened in a search, as an append-only log: the truth that fronts, reports and a resume are built from.

One JSON object per line in ``history.jsonl``; ``history.parquet`` is the same as one tidy table (trials x epochs).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.errors import Failed
from tuner.results.events import Event, Started, event_of
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState


class History:
    """Reads and appends the log. One writer (the driver); readers may come at any time. Without a folder: in memory.

    ``trials``: what was proposed; ``replicates``: those settings under other seeds. One series numbers both.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.path = folder / "history.jsonl" if folder else None
        self.trials: dict[int, TrialRecord] = {}
        self.replicates: dict[int, TrialRecord] = {}
        self.numbers: dict[str, list[int]] = {}  # method -> its trials, in the order in which they started
        self._places: dict[int, tuple[str, int]] = {}  # trial -> its method and its place among that method's trials
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
            except json.JSONDecodeError:  # the last line of a writer that was killed
                continue
            except (KeyError, TypeError, ValueError) as error:
                raise Failed(f"line {number} of {self.path} is no event of a search: {line[:80]!r}") from error

    def _apply(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        else:
            event.change(self.record(event.trial))
        if event.trial in self._places and self._lanes:
            method, place = self._places[event.trial]
            if method in self._lanes:
                self._lanes[method]._apply(replace(event, trial=place))

    def _start(self, event: Started) -> None:
        if event.trial in self.trials or event.trial in self.replicates:
            return
        record = event.record()
        if record.of is not None:
            self.replicates[record.trial] = record
            return
        self.trials[record.trial] = record
        numbers = self.numbers.setdefault(record.method, [])
        self._places[record.trial] = (record.method, len(numbers))
        numbers.append(record.trial)

    def record(self, number: int) -> TrialRecord:
        """A trial or a replicate by its number."""
        return self.trials[number] if number in self.trials else self.replicates[number]

    def everything(self) -> list[TrialRecord]:
        """All trials, then all replicates."""
        return [*self.trials.values(), *self.replicates.values()]

    def place(self, trial: int) -> tuple[str, int]:
        """A trial's method and its number among the trials of that method, from 0."""
        return self._places[trial]

    def lane(self, method: str) -> History:
        """The trials of one method as a history of their own, numbered from 0; it follows this one."""
        if method not in self._lanes:
            lane = self._lanes[method] = History(None)
            lane._root = (self, method)
            for place, number in enumerate(self.numbers.get(method, [])):
                copy = replace(self.trials[number], trial=place, epochs=list(self.trials[number].epochs))
                lane.trials[place], lane._places[place] = copy, (method, place)
                lane.numbers.setdefault(method, []).append(place)
        return self._lanes[method]

    def append(self, event: str, trial: int, **fields: Any) -> None:
        """Record an event by its name (see `tuner.results.events`); on disk before this returns."""
        line = {"event": event, "trial": trial, "time": time.time(), **fields}
        self._apply(event_of(line))
        if self.folder is None or self.path is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            if self._torn:  # half a line would swallow this one
                file.write("\n")
                self._torn = False
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def epochs_trained(self) -> int:
        """Epochs really trained, those of a trunk once."""
        return sum(t.trained for t in self.everything())

    def epochs_saved(self, max_epochs: int) -> dict[str, int]:
        """Epochs that nobody had to train: the trunk had them, or the trial was stopped before them."""
        trunk = max(0, sum(t.trunk_epochs - t.trunk_trained for t in self.everything()))
        return {
            "trunk": trunk,
            "early_stopping": sum(max_epochs - len(t.epochs) for t in self.with_state(TrialState.STOPPED)),
        }

    def before_last_start(self) -> History:
        """The history as it was when the newest trial was about to start."""
        if self._root:
            root, method = self._root
            return root._until(root.numbers[method][max(self.trials)]).lane(method)
        return self._until(max(self.trials))

    def _until(self, trial: int) -> History:
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
        """Trials in one of these states; replicates are not counted."""
        return [t for t in self.trials.values() if t.state in states]

    def seeds_of(self, trial: int) -> list[TrialRecord]:
        """The trial and its finished replicates."""
        return [
            self.trials[trial],
            *(r for r in self.replicates.values() if r.of == trial and r.state == TrialState.FINISHED),
        ]

    def judged(self, trial: int) -> dict:
        """The metrics a trial is judged by: those of its last epoch, or their mean over its seeds."""
        runs = self.seeds_of(trial) if self.replicates else [self.trials[trial]]
        if len(runs) == 1:
            return runs[0].last
        shared = [k for k, v in runs[0].last.items() if isinstance(v, (int, float)) and all(k in r.last for r in runs)]
        return {k: runs[0].last[k] if k == "epoch" else statistics.fmean(r.last[k] for r in runs) for k in shared}

    def row(self, trial: int, objectives: Iterable[str]) -> dict:
        """The trial as a row of the front; one with replicates has ``seeds`` and ``std`` (of the sample) too."""
        record, found = self.trials[trial], self.judged(trial)
        row = record.row(objectives)
        if found is record.last:
            return row
        runs, names = self.seeds_of(trial), dict.fromkeys([*objectives, "clean_acc"])
        return {
            **row,
            **{n: found.get(n) for n in names},
            "seeds": [r.seed for r in runs],
            "std": {n: statistics.stdev(r.last[n] for r in runs) for n in names if n in found},
        }

    def rows(self, objectives: Iterable[str], goal=None) -> list[dict]:
        """One row per trial of full budget, with a ``goal`` only those that keep its constraints: what a front is drawn
        from. A trial with replicates counts with its mean."""
        return [
            self.row(t.trial, objectives)
            for t in self.with_state(TrialState.FINISHED)
            if goal is None or goal.feasible(self.judged(t.trial))
        ]

    def table(self):
        """All trials x epochs as a tidy ``pyarrow.Table``: trial, state, seed, epoch, param/<name>, every metric.

        ``of`` is there where there are replicates: the trial whose setting a row's trial repeats.
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
        """``history.parquet`` beside the log; ``ValueError`` for a history in memory."""
        import pyarrow.parquet as pq

        if self.folder is None:
            raise ValueError("a history in memory has no folder to write to")
        path = self.folder / "history.parquet"
        aside = path.with_suffix(".tmp")
        pq.write_table(self.table(), aside)
        os.replace(aside, path)
        return path
