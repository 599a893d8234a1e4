"""What happened in a search, as an append-only log: the source of all fronts and reports, and of a resume.

``history.jsonl`` has one JSON object per line; ``history.parquet`` holds the same as one tidy table (trials x epochs).
"""

from __future__ import annotations

import io
import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.files import naming, regular
from trainables.offsets import Offsets
from trainables.reading import LOG_BYTES, parse_json, read_text
from tuner.errors import Failed
from tuner.escape import printable
from tuner.files import write_atomically
from tuner.results.events import Asked, Event, Metrics, Started, Steered, checked_event_of, event_of
from tuner.results.tally import Tally
from tuner.results.trial_record import WHOLE, TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import Constraint, Goal, shown_metrics
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:  # loading pyarrow takes time that most commands need not spend
    import pyarrow as pa


PACE = 200  # events by which the time is estimated that a search needs
BEGINNING = '{"event": '  # of every line


class History:
    """Reads the log and appends to it. The driver is its only writer; others may read at any time.

    ``folder``: the search's; None keeps the history in memory. ``trials``: proposed settings by trial number;
    ``replicates``: repetitions of them under other seeds, numbered in the same series; ``references``: what they are
    compared with, numbered below 0. ``numbers``: the trial numbers of each method, in the order in which they started.
    What users asked for (`tuner.results.steering`): ``steered``, of the whole search; ``requests``, all that has been
    done; ``added``, how many of the trials are theirs. ``tally``: what all of this comes to, counted.
    ``Failed`` if a line of the file is not an event; ``Damaged`` if the file is no text.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.path = folder / "history.jsonl" if folder else None
        self.trials: dict[int, TrialRecord] = {}
        self.replicates: dict[int, TrialRecord] = {}
        self.references: dict[int, TrialRecord] = {}
        self.numbers: dict[str, list[int]] = {}
        self.steered = Steered()
        self.requests: set[str] = set()
        self.added = 0
        self.tally = Tally()
        self._in_lane: dict[int, tuple[str, int]] = {}  # trial -> its method, its number among that method's trials
        self._lanes: dict[str, History] = {}
        self._torn = False  # whether the file ends in the middle of a line
        self._latest = 0.0  # time of the latest event
        self.pace: deque[tuple[float, int]] = deque(maxlen=PACE)  # when epochs were trained, and how many: the latest
        self.changes = 0  # how many events have been applied: what is computed from a history holds until the next
        if self.path and self.path.exists():
            text = read_text(self.path, LOG_BYTES)
            for number, line in enumerate(text.split("\n"), 1):
                self.take(line, f"line {number} of {self.path}")
            self._torn = text[-1:] not in ("", "\n")

    def take(self, line: str, where: str) -> None:
        """Apply a line of a history's file. ``Failed`` names ``where`` a line stands that is no event, or whose event
        does not fit those before it."""
        try:
            self._apply(checked_event_of(parse_json(line)))
        except Exception as error:
            if not _cut(line, error):
                raise Failed(f"{where} is no event of a search: {line[:80]!r}") from error

    def _apply(self, event: Event) -> None:
        self.changes += 1
        self._latest = max(self._latest, event.time)
        if event.trained:
            self.pace.append((event.time, event.trained))
        if isinstance(event, Asked):
            self.requests.add(event.request)
        if event.trial == WHOLE:
            event.change_search(self.steered)
        elif isinstance(event, Started):
            self._start(event)
        else:
            self._change(event)
        if event.trial in self._in_lane and self._lanes:
            method, number = self._in_lane[event.trial]
            if method in self._lanes:
                self._lanes[method]._apply(replace(event, trial=number))

    def _change(self, event: Event) -> None:
        record = self.record(event.trial)
        self.tally.remove(record)
        try:
            event.change(record)
        finally:
            self.tally.add(record)

    def _start(self, event: Started) -> None:
        if event.trial in self:
            return
        record = event.record()
        if record.of is not None:
            self.record(record.of)  # raises where there is none
        self.tally.add(record)
        if record.of is not None:
            self.replicates[record.trial] = record
            return
        if record.role is not None:
            self.references[record.trial] = record
            return
        self.trials[record.trial] = record
        self.added += bool(record.added)
        numbers = self.numbers.setdefault(record.method, [])
        self._in_lane[record.trial] = (record.method, len(numbers))
        numbers.append(record.trial)

    def __contains__(self, number: int) -> bool:
        """Whether a trial, replicate or reference has this number."""
        return any(number in known for known in (self.trials, self.replicates, self.references))

    def record(self, number: int) -> TrialRecord:
        """A trial, replicate or reference by its number; ``KeyError`` if there is none."""
        for known in (self.trials, self.replicates):
            if number in known:
                return known[number]
        return self.references[number]

    def everything(self) -> list[TrialRecord]:
        """All trials, then all replicates, then the references."""
        return [*self.trials.values(), *self.replicates.values(), *self.references.values()]

    def latest(self) -> Iterator[TrialRecord]:
        """The same, the latest of each first."""
        return chain(*(reversed(known.values()) for known in (self.references, self.replicates, self.trials)))

    def number_in_lane(self, trial: int) -> tuple[str, int]:
        """A trial's method and its number among the trials of that method, from 0."""
        return self._in_lane[trial]

    def lane(self, method: str) -> History:
        """The trials of one method as a history of their own, numbered from 0, which later events keep up to date."""
        if method not in self._lanes:
            lane = self._lanes[method] = History(None)
            for number, trial in enumerate(self.numbers.get(method, [])):
                copy = replace(self.trials[trial], trial=number, epochs=list(self.trials[trial].epochs))
                lane.trials[number], lane._in_lane[number] = copy, (method, number)
                lane.numbers.setdefault(method, []).append(number)
                lane.added += bool(copy.added)
                lane.tally.add(copy)
        return self._lanes[method]

    def append(self, event: str, trial: int, **fields: Any) -> None:
        """Append an event, by the name and fields of its class (`tuner.results.events`); on disk when this returns."""
        now = max(time.time(), math.nextafter(self._latest, math.inf))  # a clock that jumps changes no order
        line = {"event": event, "trial": trial, "time": now, **fields}
        self._apply(event_of(line))
        if self.folder is None or self.path is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with naming(self.path), open(self.path, "a", encoding="utf-8", opener=regular) as file:
            if self._torn:  # else this line would become part of the incomplete one
                file.write("\n")
                self._torn = False
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_in_memory(self) -> None:
        """From now on nothing is written: a line could not be, and those after it would say nothing without it."""
        self.path = None

    @property
    def proposed(self) -> int:
        """How many trials the search has proposed itself."""
        return len(self.trials) - self.added

    def in_force(self, spec: SearchSpec) -> SearchSpec:
        """The search as users have changed it meanwhile; ``spec``: as it was made. An extension keeps the scheduler
        with which the search began."""
        if self.steered.trials is None:
            return spec
        return spec.changed(trials=self.steered.trials)

    def narrowed(self, spec: SearchSpec, space: dict[str, Any] | None = None) -> SearchSpec:
        """The search whose space is what new proposals come from; ``space``: ranges that narrow it further."""
        space = {**spec.space, **self.steered.space, **(space or {})}
        if space == spec.space:
            return spec
        return spec.changed(space=space)

    def epochs_trained(self) -> int:
        """Epochs that were trained; those of a stem count once, however many trials share it."""
        return self.tally.trained

    def epochs_saved(self, max_epochs: int) -> dict[str, int]:
        """Epochs that were not trained, by cause, where every trial could have trained all of its own: taken from the
        stem, only previewed (less what the previews cost), or left out by a trial at chance."""
        previews = sum(t.preview.epochs for t in self.trials.values() if t.preview)
        return {
            "stem": max(0, sum(t.stem_epochs - t.stem_trained for t in self.everything())),
            "previews": max_epochs * len(self.with_state(TrialState.PREVIEWED)) - previews,
            "at_chance": sum(max_epochs - len(t.epochs) for t in self.with_state(TrialState.STOPPED)),
        }

    def with_state(self, *states: TrialState) -> list[TrialRecord]:
        """The trials in one of these states, without replicates."""
        return [t for t in self.trials.values() if t.state in states]

    def seeds_of(self, trial: int) -> list[TrialRecord]:
        """The trial (or reference) and its finished replicates."""
        return [
            self.record(trial),
            *(r for r in self.replicates.values() if r.of == trial and r.state == TrialState.FINISHED),
        ]

    def judged(self, trial: int) -> Metrics:
        """The metrics that count for a trial without offsets: see `points`."""
        return self.points(trial)[0][1]

    def points(self, trial: int) -> list[tuple[Offsets, Metrics]]:
        """The trial's model at each setting of its offsets, without any first; metrics are means over its seeds."""
        first, *others = self.seeds_of(trial) if self.replicates else [self.record(trial)]
        if not others:
            return first.points
        found = []
        for offsets, metrics in first.points:
            same = [m for record in others if (m := _at(record, offsets.tau)) is not None]
            if len(same) == len(others):
                found.append((offsets, _mean([metrics, *same])))
        return found

    def metrics_of(self, row: Mapping[str, Any]) -> Metrics:
        """All metrics of a row of the front, those of single classes too."""
        tau = Offsets.of(row.get("offsets")).tau
        return next(metrics for offsets, metrics in self.points(row["trial"]) if offsets.tau == tau)

    def cheapest(self, objectives: Sequence[str], goal: Goal, constraint: Constraint) -> dict[str, Any] | None:
        """The row of all finished trials that satisfies ``constraint`` (and the goal's) with the largest value of the
        first objective that it does not bound; None if no row does."""
        wanted = sorted(objectives, key=lambda name: name == constraint.metric)
        rows = [
            row
            for row in self.rows(objectives, goal)
            if constraint.violation(self.metrics_of(row)) <= 0 and not any(map(_missing, (row[n] for n in wanted)))
        ]
        return max(rows, key=lambda row: [row[name] for name in wanted], default=None)

    def rows_of(self, trial: int, objectives: Iterable[str], goal: Goal | None = None) -> list[dict[str, Any]]:
        """The trial's points as rows of the front (`TrialRecord.row`), those that satisfy the ``goal``'s constraints.

        With replicates the values are means over ``seeds``, and ``std`` holds their sample standard deviations; the
        best epoch stays that of the first seed.
        """
        record, objectives = self.record(trial), tuple(objectives)
        seeds = self.seeds_of(trial) if self.replicates else [record]
        rows = []
        for offsets, metrics in self.points(trial):
            if goal is None or goal.feasible(metrics):
                spread = _spread(seeds, offsets, shown_metrics(objectives)) if len(seeds) > 1 else {}
                rows.append({**record.row(objectives, metrics, offsets), **spread})
        return rows

    def row(self, trial: int, objectives: Iterable[str]) -> dict[str, Any]:
        """The trial without offsets, as a row of the front."""
        return self.rows_of(trial, objectives)[0]

    def rows(self, objectives: Iterable[str], goal: Goal | None = None) -> list[dict[str, Any]]:
        """The rows from which a front is built: the points of all trials that trained all epochs, those that satisfy
        the ``goal``'s constraints. A trial with replicates counts with its means."""
        finished = self.with_state(TrialState.FINISHED)
        return [row for t in finished for row in self.rows_of(t.trial, objectives, goal)]

    def table(self) -> pa.Table:
        """All trials x epochs as a tidy table: trial, method, state, seed, param/<name>, epoch and every other metric.

        With replicates there is a column ``of`` too: the trial whose setting a replicate repeats.
        """
        return tidy(self.epoch_rows())

    def epoch_rows(self) -> list[dict[str, Any]]:
        """The rows of `table`."""
        of = ["of"] if self.replicates else []
        return [
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

    def write_parquet(self) -> Path:
        """Write ``history.parquet`` beside the log and return its path; ``ValueError`` for a history in memory."""
        import pyarrow.parquet as pq

        if self.folder is None:
            raise ValueError("a history in memory has no folder to write to")
        path, table = self.folder / "history.parquet", io.BytesIO()
        pq.write_table(self.table(), table)
        write_atomically(path, table.getvalue())
        return path


def _cut(line: str, error: Exception) -> bool:
    """Whether the line only ends too early, since its writer was killed: up to there it is an event's."""
    if not isinstance(error, json.JSONDecodeError) or not BEGINNING.startswith(line[: len(BEGINNING)]):
        return False
    return "Unterminated string" in error.msg or len(line) - error.pos <= len("Infinity")


def tidy(rows: Sequence[Mapping[str, Any]], names: Iterable[str] = ()) -> pa.Table:
    """A table of ``rows``, null where one has no such value. Its columns: ``names``, then theirs as they come."""
    import pyarrow as pa

    columns = dict.fromkeys([*names, *(k for row in rows for k in row)])
    return pa.table({printable(name): _column([row.get(name) for row in rows]) for name in columns})


def _column(values: list[Any]) -> pa.Array:
    """As text where they are of several kinds, which a table cannot hold."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _at(record: TrialRecord, tau: float) -> Metrics | None:
    """The metrics of a trained model with offsets of this tau (`TrialRecord.point`); None where it was not judged
    so."""
    if record.curve is None:
        return None if tau else record.last
    point = record.point(tau)
    return None if point is None else {**record.last, **record.curve.metrics(point)}


def _mean(metrics: list[Metrics]) -> Metrics:
    """Those that all have, as means; the epoch is the first one's."""
    first = metrics[0]
    shared = [k for k, v in first.items() if isinstance(v, (int, float)) and all(k in m for m in metrics)]
    return {k: first[k] if k == "epoch" else statistics.fmean(m[k] for m in metrics) for k in shared}


def _spread(seeds: list[TrialRecord], offsets: Offsets, names: Iterable[str]) -> dict[str, Any]:
    """What a row says of its seeds."""
    metrics = [_at(record, offsets.tau) or {} for record in seeds]
    shared = [name for name in dict.fromkeys(names) if all(name in m for m in metrics)]
    return {
        "seeds": [record.seed for record in seeds],
        "std": {name: statistics.stdev(m[name] for m in metrics) for name in shared},
    }
