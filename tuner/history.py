"""What happened in a search, as an append-only log: the truth that fronts, reports and a resume are built from.

One JSON object per line in ``history.jsonl``; ``history.parquet`` is the same as one tidy table (trials x epochs).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FULL, STOPPED, FAILED, RUNNING = "finished", "stopped", "failed", "running"


@dataclass
class TrialRecord:
    """One trial as the log tells it. ``epochs`` holds one metrics dict per finished epoch, in order."""

    trial: int
    params: dict
    method: str
    state: str = RUNNING
    reason: str = ""
    seed: int = 0
    epochs: list[dict] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    trunk_epochs: int = 0  # of ``epochs``, those that came from the trunk
    trunk_trained: int = 0  # epochs that this trial trained for the trunk

    @property
    def trained(self) -> int:
        """Epochs really trained for this trial, for the trunk included."""
        return len(self.epochs) - self.trunk_epochs + self.trunk_trained

    @property
    def last(self) -> dict:
        return self.epochs[-1] if self.epochs else {}

    def row(self, objectives: Iterable[str]) -> dict:
        """The trial as a row of the front, at its last epoch."""
        values = {name: self.last.get(name) for name in (*objectives, "clean_acc")}
        return {"trial": self.trial, "epoch": self.last.get("epoch", 0), **values, "params": self.params}


class History:
    """Reads and appends the log. One writer (the driver); readers may come at any time. Without a folder: in memory."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.path = folder / "history.jsonl" if folder else None
        self.trials: dict[int, TrialRecord] = {}
        if self.path and self.path.exists():
            self._load()

    def _load(self) -> None:
        for line in self.path.read_text().splitlines():
            try:
                self._apply(json.loads(line))
            except json.JSONDecodeError:  # the last line of a writer that was killed
                continue

    def _apply(self, event: dict) -> None:
        kind, trial = event["event"], event.get("trial")
        if kind == "start" and trial not in self.trials:
            self.trials[trial] = TrialRecord(trial, event["params"], event["method"], seed=event.get("seed", 0),
                                             started=event["time"])
        elif kind == "resume":
            self.trials[trial].state = RUNNING
        elif kind == "epoch":
            record = self.trials[trial]
            metrics = event["metrics"]
            record.epochs = [e for e in record.epochs if e["epoch"] < metrics["epoch"]] + [metrics]
        elif kind == "trunk":
            self.trials[trial].trunk_trained += 1
        elif kind == "branch":
            self.trials[trial].epochs, self.trials[trial].trunk_epochs = event["epochs"], len(event["epochs"])
        elif kind == "end":
            record = self.trials[trial]
            record.state, record.reason, record.ended = event["state"], event.get("reason", ""), event["time"]

    def append(self, event: str, trial: int | None = None, **fields) -> None:
        record = {"event": event, "trial": trial, "time": time.time(), **fields}
        self._apply(record)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def epochs_trained(self) -> int:
        """Epochs really trained, those of a trunk once."""
        return sum(t.trained for t in self.trials.values())

    def epochs_saved(self) -> int:
        """Epochs that trials have but nobody had to train in this search, because the trunk had them."""
        return max(0, sum(t.trunk_epochs - t.trunk_trained for t in self.trials.values()))

    def before_last_start(self) -> History:
        """The history as it was when the newest trial was about to start."""
        past = History(None)
        for line in self.path.read_text().splitlines() if self.path and self.path.exists() else ():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if event["event"] == "start" and event["trial"] == max(self.trials):
                break
            past._apply(event)
        return past

    def with_state(self, *states: str) -> list[TrialRecord]:
        return [t for t in self.trials.values() if t.state in states]

    def rows(self, objectives: Iterable[str], goal=None) -> list[dict]:
        """One row per trial of full budget, with a ``goal`` only those that keep its constraints: what a front is drawn from."""
        return [t.row(objectives) for t in self.with_state(FULL) if goal is None or goal.feasible(t.last)]

    def table(self):
        """All trials x epochs as a tidy ``pyarrow.Table``: trial, state, seed, epoch, param/<name>, every metric."""
        import pyarrow as pa

        rows = [{"trial": t.trial, "method": t.method, "state": t.state, "seed": t.seed,
                 **{f"param/{k}": v for k, v in t.params.items()}, **metrics}
                for t in self.trials.values() for metrics in t.epochs]
        names = list(dict.fromkeys(k for row in rows for k in row))
        return pa.table({name: [row.get(name) for row in rows] for name in names})

    def write_parquet(self) -> Path:
        import pyarrow.parquet as pq

        path = self.folder / "history.parquet"
        aside = path.with_suffix(".tmp")
        pq.write_table(self.table(), aside)
        os.replace(aside, path)
        return path
