"""A search in MLflow: one parent run, one child run per trial. Logging never slows or stops training.

Every call puts a message into a queue; one background thread imports MLflow, merges what has come in since, and
writes it in batches. Whatever cannot be written stays and is tried again. All writes can be repeated without harm
(times come from the history, not from the clock), so a resume goes on with the same runs, found by the key in the
search's folder, and `sync` can replay a whole history.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tuner.report.text import summary_markdown
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.summary import state_of
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.tracking import runs as layout
from tuner.tracking.runs import Changes, metric_name, without_secrets

GATHER_S, MOST_S = 1.0, 30.0  # how long messages are collected before they are written
PAGE_EVERY_S = 60.0  # while the search runs; a page has 5 MB
SHARE = 0.1  # of a core: more is not taken from the driver, with which the writer shares the GIL
ATTEMPTS_AT_CLOSE = 3
_STATUS = {
    TrialState.FINISHED: "FINISHED",
    TrialState.STOPPED: "KILLED",
    TrialState.FAILED: "FAILED",
    TrialState.RUNNING: "KILLED",
}
PARENT = -1  # the search's own run, among trial numbers


class Tracker(Listener):
    """Hears what happens in a search and hands it to the writer's thread. Every call returns at once but for
    `training_began`, which waits for MLflow's import, and `close`. Not ``live``: a history is replayed, so what MLflow
    refuses is told once, at the end.
    """

    name = "MLflow"

    def __init__(self, run: SearchRun, *, warn: Callable[[str], None], began: float | None = None, live: bool = True):
        self.run, self.warn, self.live = run, warn, live
        self._uri = layout.tracking_uri(run.home)
        self.tracking_uri = without_secrets(self._uri)
        self.began = began or time.time()
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._seconds: dict[int, dict[int, float]] = {}  # of every epoch of every trial: the time axis of its metrics
        self._started: dict[int, float] = {}
        self._members: set[int] = set()  # trials that are tagged as on the front
        self._last_end = 0.0
        self._page_due = 0.0  # ``time.monotonic()`` before which the page is not sent again
        self._resumed = any(record.epochs for record in run.history.everything())
        self._writer = _Writer(self)
        self._thread = threading.Thread(target=self._writer.work, name="mlflow", daemon=True)
        self._send(PARENT, layout.parent_changes(run.spec))

    def training_began(self) -> None:
        """Import MLflow, and wait for it. Ray's pickling looks into every module there is, which makes MLflow's lazy
        ones import the rest on the caller's thread; two imports of MLflow at once dead-lock."""
        if self._thread.ident is None:
            self._thread.start()
        self._writer.imported.wait(120)

    def trial_started(self, record: TrialRecord) -> None:
        """A new trial, or one that goes on: what its history has already is written (again)."""
        trial = record.trial
        self._started[trial], self._seconds[trial] = record.started, {}
        params = {**asdict(self.run.spec.training()), "method": record.method, "seed": record.seed, **record.params}
        tags = {
            "tuner.kind": "trial",
            "tuner.trial": str(trial),
            "tuner.search": self.run.name,
            "tuner.method": record.method,
            "tuner.pareto": "false",
        }
        name = f"trial {trial}"
        if record.of is not None:
            tags |= {"tuner.kind": "replicate", "tuner.replicate_of": str(record.of), "tuner.seed": str(record.seed)}
            name = f"trial {record.of} seed {record.seed}"
        self._members.discard(trial)
        self._send(trial, Changes(name, record.started, params, tags, status="RUNNING"))
        for metrics in list(record.epochs):
            self.epoch_ended(record, metrics)

    def epoch_ended(self, record: TrialRecord, metrics: dict) -> None:
        trial = record.trial
        seconds = self._seconds.setdefault(trial, {})
        step = int(metrics.get("epoch", len(seconds) + 1))
        seconds[step] = sum(metrics.get(k) or 0.0 for k in ("train_s", "eval_s"))
        when = _ms(self._started.get(trial, 0.0) + sum(s for e, s in seconds.items() if e <= step))
        self._send(
            trial,
            Changes(
                metrics=[
                    (metric_name(k), float(v), when, step)
                    for k, v in metrics.items()
                    if isinstance(v, (int, float)) and not isinstance(v, bool)
                ]
            ),
        )

    def trial_ended(self, record: TrialRecord) -> None:
        tags = {"tuner.budget": "full" if record.state == TrialState.FINISHED else "stopped"}
        if record.reason:
            tags["tuner.reason"] = record.reason
        if record.trunk_epochs:
            tags["tuner.trunk_epochs"] = str(record.trunk_epochs)
        self._last_end = max(self._last_end, record.ended)
        self._send(record.trial, Changes(tags=tags, status=_STATUS[record.state], ended=record.ended or time.time()))

    def front_changed(self, front: Front, finished: int) -> None:
        """A point on the parent's curves, which trials are members now, and from time to time the page."""
        when, members = _ms(self._last_end), {row["trial"] for row in front.rows}
        self._send(
            PARENT,
            Changes(
                metrics=[
                    ("hypervolume", front.hypervolume, when, finished),
                    ("front_size", float(len(front.rows)), when, finished),
                ]
            ),
        )
        for trial in members ^ self._members:
            self._send(trial, Changes(tags={"tuner.pareto": "true" if trial in members else "false"}))
        self._members = members
        page = self.run.folder / "front.html"
        if self.live and time.monotonic() >= self._page_due and page.exists():
            self._page_due = time.monotonic() + PAGE_EVERY_S
            self._send(PARENT, Changes(files=[page]))

    def search_ended(self, run: SearchRun, state: str) -> None:
        if self.close(state) and self._resumed:  # what a killed driver had not sent yet
            sync(run, warn=self.warn)

    def close(self, state: str, *, timeout: float = 30) -> bool:
        """Send the summary and the pictures that lie in the search's folder, end every run, wait for the writer; False
        if MLflow lacks something (then: `sync`)."""
        self.training_began()
        deadline = time.monotonic() + timeout
        for record in self.run.history.everything():
            if record.state == TrialState.RUNNING:
                self.trial_ended(record)
        tags = {"mlflow.note.content": summary_markdown(self.run), "tuner.state": state}
        files = [self.run.folder / name for name in ("spec.yaml", "front.html", "front.png", "front.parquet")]
        self._send(
            PARENT,
            Changes(
                tags=tags,
                status=_STATUS.get(state, "FAILED"),
                ended=max(self._last_end, self.began),
                files=[file for file in files if file.exists()],
            ),
        )
        return self._writer.finish(self._thread, deadline)

    def result(self) -> dict[str, Any]:
        return {"mlflow": {"tracking_uri": self.tracking_uri, "run_id": self.run_id}}

    @property
    def run_id(self) -> str | None:
        """The parent run, if MLflow answers within a few seconds."""
        self._writer.connected.wait(5)
        return self._writer.runs.get(PARENT)

    @property
    def run_ids(self) -> dict:
        runs = dict(self._writer.runs)
        return {"parent": runs.pop(PARENT, None), "trials": {str(t): r for t, r in runs.items()}}

    def _send(self, run: int, changes: Changes) -> None:
        self._inbox.put((run, changes))


class _Writer:
    """The background thread: takes messages, keeps what is not written yet, tries again while MLflow is away."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker
        self.connected, self.imported = threading.Event(), threading.Event()
        self.runs: dict[int, str] = {}
        self._todo: dict[int, Changes] = {}
        self._client = self._experiment = None
        self._closing = threading.Event()
        self._complete, self._lost, self._away, self._refused = False, False, False, False

    def work(self) -> None:
        try:
            self._import()
        finally:
            self.imported.set()
        pause, left = GATHER_S, ATTEMPTS_AT_CLOSE
        while left:
            self._take(pause)
            closing = self._closing.is_set() and self.tracker._inbox.empty()
            try:
                pause = min(max(GATHER_S, self._write() * (1 - SHARE) / SHARE), MOST_S)
                self._away, self._refused = False, False
                if closing and self.tracker._inbox.empty():
                    self._complete = not self._lost
                    return
            except Exception as error:
                self._refused = layout.is_refusal(error)
                self._report(error)
                pause, left = min(2 * pause, MOST_S), 0 if closing and self._refused else left - closing

    def finish(self, thread: threading.Thread, deadline: float) -> bool:
        self._closing.set()
        self.tracker._inbox.put(None)
        thread.join(max(0.0, deadline - time.monotonic()))
        if not self._complete:
            what = layout.REFUSES if self._refused else "does not have all of this search yet"
            self.tracker.warn(
                f"MLflow at {self.tracker.tracking_uri} {what}; the history has everything, and "
                f"`tuner sync {self.tracker.run.name}` fills it in"
            )
        return self._complete

    def _take(self, pause: float) -> None:
        """Merge messages until ``pause`` has passed; a close ends the wait."""
        end = time.monotonic() + (min(pause, 1.0) if self._closing.is_set() else pause)
        while (rest := end - time.monotonic()) > 0 and not (self._closing.is_set() and not self._away):
            try:
                self._merge(self.tracker._inbox.get(timeout=rest))
            except queue.Empty:
                break
        while not self.tracker._inbox.empty():
            self._merge(self.tracker._inbox.get())

    def _merge(self, message) -> None:
        if message is not None:
            self._todo.setdefault(message[0], Changes()).add(message[1])

    def _write(self) -> float:
        """Send everything; the CPU seconds it took, without those of connecting."""
        if not self._todo:
            return 0.0
        from mlflow.exceptions import MlflowException

        if self._client is None:
            self._connect()
        begin = time.thread_time()
        for run in sorted(self._todo, key=lambda r: (r == PARENT, r)):  # PARENT, which ends the search, comes last
            try:
                self._write_run(run, self._todo[run])
            except MlflowException as error:
                if error.error_code not in layout.REFUSED_VALUES:
                    raise
                self._lost = True
                self._report(error)
            del self._todo[run]
        return time.thread_time() - begin

    def _import(self) -> None:
        layout.quiet()
        import mlflow.entities
        import mlflow.exceptions  # noqa: F401

    def _connect(self) -> None:
        from mlflow import MlflowClient, __version__

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        t, run = self.tracker, self.tracker.run
        spec = run.spec
        local = not t._uri.startswith(("http:", "https:", "databricks"))
        if t._uri == f"sqlite:///{run.home.mlflow_db}":
            layout.make_store(run.home, lambda uri: MlflowClient(tracking_uri=uri))
        client = MlflowClient(tracking_uri=t._uri)
        experiment = layout.experiment_id(client, spec.experiment_name, run.home.artifacts.as_uri() if local else None)
        key = layout.search_key(run.folder)
        parent = layout.parent_run(client, experiment, spec, run.name, key, t.began)
        self.runs = {PARENT: parent, **layout.trial_runs(client, experiment, parent)}
        self._experiment, self._client = experiment, client
        self.connected.set()
        layout.watch_machine(parent, t._uri, t.warn if t.live else None)
        try:
            layout.save_view(client, experiment, parent, spec, run.name, __version__)
        except Exception as error:  # the pictures on the search's run show the same
            t.warn(f"no saved chart view in MLflow: {without_secrets(str(error))[:300]}")

    def _write_run(self, run: int, changes: Changes) -> None:
        if run not in self.runs:
            if not changes.name:  # an earlier driver was killed before it wrote this trial's start: `sync` will
                return
            self.runs[run] = layout.trial_run(self._client, self._experiment, self.runs[PARENT], changes)
        write(self._client, self.runs[run], changes)

    def _report(self, error: Exception) -> None:
        """Once per outage, without secrets; not where `finish` is about to say the same."""
        ending = self._closing.is_set() or not self.tracker.live
        if not self._away and not (self._refused and ending):
            text = f"{type(error).__name__}: {without_secrets(' '.join(str(error).split()))[:300]}"
            self.tracker.warn(
                f"MLflow at {self.tracker.tracking_uri} does not take results now; they are kept and "
                f"tried again ({'it ' + layout.REFUSES if self._refused else text})"
            )
        self._away = True


def write(client, run: str, changes: Changes) -> None:
    """All changes of one run, in as few requests as MLflow allows; its end last."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(k, str(v)) for k, v in changes.params.items()]
    tags = [RunTag(k, str(v)) for k, v in changes.tags.items()]
    metrics = [Metric(key, value, when, step) for key, value, when, step in changes.metrics]
    for i in range(max(-(-len(params) // 100), -(-len(tags) // 100), -(-len(metrics) // 800))):
        client.log_batch(
            run, metrics[i * 800 : (i + 1) * 800], params[i * 100 : (i + 1) * 100], tags[i * 100 : (i + 1) * 100]
        )
    for path in changes.files:
        client.log_artifact(run, str(path))
    if changes.status == "RUNNING":
        client.update_run(run, status="RUNNING")
    elif changes.status:
        client.set_terminated(run, changes.status, _ms(changes.ended))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def sync(run: SearchRun, *, warn: Callable[[str], None] = print, timeout: float = 300) -> bool:
    """Fill MLflow from the history alone, into the search's runs or new ones; may be repeated."""
    spec = run.spec
    records = sorted(run.history.everything(), key=lambda t: (t.ended or float("inf"), t.trial))
    began = min((t.started for t in records), default=None)
    tracker = Tracker(run, warn=warn, began=began, live=False)
    past, front, finished = History(None), Front(spec.objectives, ()), 0
    for record in records:
        tracker.trial_started(record)
        if record.state.ended:
            tracker.trial_ended(record)
        (past.trials if record.of is None else past.replicates)[record.trial] = record
        finished += record.state == TrialState.FINISHED
        if record.state == TrialState.FINISHED and (record.of is not None or spec.goal.feasible(record.last)):
            if record.of is None:
                front = Front.of([*front.rows, record.row(spec.objectives)], spec.objectives)
            else:  # a replicate changes a mean: any trial may come onto the front
                front = front_of(spec, past)
            tracker.front_changed(front, finished)
    return tracker.close(state_of(run), timeout=timeout)
