"""What changes from second to second of a search, computed from what was appended to its history since."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from tuner.home import Home
from tuner.report.figures import plane, points_of, staircase
from tuner.report.format import short_label
from tuner.report.trials import trial_json
from tuner.results.bill import cost_words, epochs_within, expected, seconds_left, trained
from tuner.results.following import Followed
from tuner.results.fronts import counts, front_of
from tuner.results.pareto import Front, row_label
from tuner.results.replicates import total_trials
from tuner.results.running import FILE, Place, gpus_by_host, read_running
from tuner.results.search_run import SearchRun
from tuner.results.steering import pending
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

LATEST = 8  # ended trials that are listed
CURVES = 12  # of running trials; where nothing runs, of the latest that trained in full
FRESH = 300  # trials at most that are drawn before the whole picture is made again


class Watched:
    """A search as the page shows it. May be asked from several threads."""

    def __init__(self, home: Home, name: str):
        self.followed = Followed(home, name)
        self.lock = threading.Lock()
        self.generation = 0  # how often the history turned out to be another file
        self._history = self.followed.run.history
        self._forget()

    def _forget(self) -> None:
        self._seen: dict[int, tuple] = {}  # trial -> what there was of it at the last look
        self.changed: dict[int, int] = {}  # trial -> at which of the history's changes it last changed
        self._front: Front | None = None

    @property
    def run(self) -> SearchRun:
        return self.followed.run

    @property
    def version(self) -> str:
        """Names what the history and the files beside it say."""
        try:
            heard = (self.run.folder / FILE).stat().st_mtime_ns
        except OSError:
            heard = 0
        waiting = len(pending(self.run.folder))
        return f"{self.generation}.{self.run.history.changes}.{self.followed.state}.{heard}.{waiting}"

    def look(self) -> None:
        self.followed.look()
        history = self.run.history
        if history is not self._history:
            self.generation, self._history = self.generation + 1, history
            self._forget()
        self._take_in(history.everything())

    def _take_in(self, records: Iterable[TrialRecord]) -> None:
        """Note which trials have changed, and bring the front up to date: one that ended is compared with it alone; a
        replicate changes a mean, so then any trial may come onto it."""
        history, spec, new = self.run.history, self.run.spec, []
        for record in records:
            now = record.state, len(record.epochs), record.curve is None, len(record.notes), tuple(record.stars)
            before = self._seen.get(record.trial)
            if now != before:
                self._seen[record.trial], self.changed[record.trial] = now, history.changes
                if record.state == TrialState.FINISHED and (before is None or before[0] != record.state):
                    new.append(record)
                    if record.of is not None:  # a mean, which moves
                        self.changed[record.of] = history.changes
        if self._front is None or any(record.of is not None for record in new):
            self._front = front_of(spec, history)
            return
        rows = [row for t in new if t.role is None for row in history.rows_of(t.trial, spec.objectives, spec.goal)]
        if rows:
            self._front = Front.of([*self._front.rows, *rows], spec.objectives)

    @property
    def front(self) -> Front:
        assert self._front is not None
        return self._front

    # ---- as JSON ---------------------------------------------------------------------------------------------------

    def now(self, drawn: int, limits: list[list[float]] | None) -> dict[str, Any]:
        """All of it. ``drawn``: up to which of the history's changes the picture shows it, with the ``limits`` of its
        axes: what came later is sent as points to draw in it."""
        run, history, spec = self.run, self.run.history, self.run.spec
        state, places = self.followed.state, read_running(run.folder)
        everything = history.everything()
        return {
            "version": self.version,
            "state": state,
            "clock": time.time(),
            "counts": counts(history),
            "ended": history.tally.ended,
            "total": total_trials(spec) + history.added,
            "began": min((t.started for t in everything), default=None),
            "latest_event": max((max(t.started, t.ended) for t in everything), default=None),
            "seconds_left": seconds_left(spec, history) if state == "running" else None,
            "bill": self._bill(),
            "front": self._front_json(limits),
            "points": self._fresh(drawn),
            "running": [self._running(t, places.get(t.trial)) for t in everything if t.state == TrialState.RUNNING],
            "nodes": gpus_by_host(places) if state == "running" else {},
            "curves": self._curves(everything),
            "latest": self._latest(everything),
            "waiting": len(pending(run.folder)),
            "remarks": self._remarks(everything),
        }

    def _bill(self) -> dict[str, Any]:
        """What it has cost, and what it will; in words and in epochs."""
        spec, history = self.run.spec, self.run.history
        so_far, whole = trained(spec, history), epochs_within(spec, expected(spec, history.added))
        return {
            "trained": so_far.epochs,
            "expected": whole + sum(r.trained for r in history.replicates.values()),  # which come on top
            "words": so_far.words,
            "expected_words": cost_words(spec, history.added),
            "trainings": so_far.epochs / spec.max_epochs,
            "gpus": str(spec.gpus_per_trial),
        }

    def _front_json(self, limits: list[list[float]] | None) -> dict[str, Any]:
        rows, names = self.front.rows, self.run.spec.objectives
        corners = [(row[names[0]], row[names[1]]) for row in rows] if len(names) == 2 else []
        return {
            "members": [row_label(row) for row in rows],
            "hypervolume": self.front.hypervolume,
            "best": [{"name": short_label(n), "value": max((r[n] for r in rows), default=None)} for n in names],
            "stairs": staircase(corners, limits) if limits and corners else None,
        }

    def _fresh(self, drawn: int) -> list[dict[str, Any]]:
        history = self.run.history
        since = [number for number, at in self.changed.items() if at > drawn and number in history.trials]
        records = [history.trials[number] for number in sorted(since, key=self.changed.__getitem__)[-FRESH:]]
        return points_of(self.run.spec, history, self.front, plane(self.run.spec.objectives), records=records)

    def _label(self, record: TrialRecord) -> str:
        """``trial 3``, with its seed where trials have several."""
        own = self.run.spec.stems > 1 and record.of is None and record.role is None
        return f"{record.label}, seed {record.seed}" if own else record.label

    def _running(self, record: TrialRecord, place: Place | None) -> dict[str, Any]:
        spec = self.run.spec
        fork, length = spec.of(record.method).epoch_plan.preview if not record.full else (0, spec.max_epochs)
        heard = place if place and place.heard >= record.started else None
        stem, epoch = _progress(record, heard)
        return {
            "trial": record.trial,
            "label": self._label(record),
            "method": record.method if len(spec.methods) > 1 else "",
            "what": "trains the stem" if stem else "preview" if not record.full else "in full",
            "epoch": epoch,
            "of": fork + length,
            "began": record.started,
            "host": heard.host if heard else "",
            "heard": heard.heard if heard else None,
            "values": {short_label(n): record.last.get(n) for n in spec.objectives},
        }

    def _curves(self, everything: list[TrialRecord]) -> list[dict[str, Any]]:
        """The metrics of running trials, epoch by epoch."""
        shown = [t for t in everything if t.state == TrialState.RUNNING and t.epochs][:CURVES]
        if not shown:
            shown = sorted((t for t in everything if t.state == TrialState.FINISHED), key=lambda t: t.ended)[-CURVES:]
        names = dict.fromkeys((*self.run.spec.objectives, "robust_acc", "clean_acc", "train_loss"))
        return [
            {
                "label": self._label(t),
                "running": t.state == TrialState.RUNNING,
                "epochs": [m["epoch"] for m in t.epochs],
                "metrics": {n: [m.get(n) for m in t.epochs] for n in names if n in t.last},
            }
            for t in shown
        ]

    def _latest(self, everything: list[TrialRecord]) -> list[dict[str, Any]]:
        members = {row["trial"] for row in self.front.rows}
        ended = sorted((t for t in everything if t.state.ended), key=lambda t: -t.ended)[:LATEST]
        return [
            {
                "trial": t.trial,
                "label": self._label(t),
                "state": str(t.state),
                "reason": t.reason,
                "ended": t.ended,
                "front": t.trial in members,
                "values": {short_label(n): trial_json(t)["metrics"].get(n) for n in self.run.spec.objectives},
            }
            for t in ended
        ]

    def _remarks(self, everything: list[TrialRecord]) -> list[dict[str, Any]]:
        """Trials with notes or stars, the last one noted first."""
        noted = [t for t in everything if t.notes or t.stars]
        noted.sort(key=lambda t: -max([*(n.time for n in t.notes), *t.stars.values()]))
        return [
            {
                "trial": t.trial,
                "label": self._label(t),
                "stars": list(t.stars),
                "notes": [{"by": n.by, "time": n.time, "text": n.text} for n in t.notes],
            }
            for t in noted
        ]


def _progress(record: TrialRecord, heard: Place | None) -> tuple[bool, int]:
    """Whether a trial trains its stem, and the epoch of that or of its own; ``heard``: its latest report."""
    own = len(record.epochs)
    if heard is None:
        return bool(record.stem_trained and not own), own
    return heard.stem, heard.epoch if heard.stem else max(own, heard.epoch)
