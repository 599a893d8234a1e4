"""Log a search to MLflow: one parent run, and one child run per trial. Logging never delays or stops training.

Every call puts a message into a queue. One background thread imports MLflow, merges the messages and writes them in
batches; what cannot be written is kept and tried again. All writes can be repeated without harm, since times come from
the history instead of the clock. So a resumed search continues its runs, which it finds by the key in its folder, and
`sync` can replay a whole history.
"""

from __future__ import annotations

import json
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.curve import Curve
from trainables.urls import masked
from tuner import escape
from tuner.files import write_atomically
from tuner.report.text import summary_markdown
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.pareto import Front, row_label
from tuner.results.references import no_search_trial, paper_trial, role_of
from tuner.results.search_run import SearchRun
from tuner.results.summary import state_of
from tuner.results.trial_record import Preview, TrialRecord
from tuner.results.trial_state import TrialState
from tuner.tracking import runs
from tuner.tracking.inputs import data_inputs
from tuner.tracking.runs import Changes, metric_name, milliseconds

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from trainables.data import Summary

MIN_PAUSE_S = 1.0  # messages are collected this long before they are written
MAX_PAUSE_S = 30.0  # between two attempts while MLflow fails
PAGE_EVERY_S = 60.0  # between two uploads of the page while the search runs; it has 5 MB
CPU_SHARE = 0.1  # of a core at most for the writer, which shares the GIL with the driver
ATTEMPTS_AT_CLOSE = 3
_STATUS = {
    TrialState.FINISHED: "FINISHED",
    TrialState.PREVIEWED: "FINISHED",
    TrialState.STOPPED: "KILLED",
    TrialState.FAILED: "FAILED",
    TrialState.SKIPPED: "KILLED",
    TrialState.RUNNING: "KILLED",
    TrialState.WAITING: "KILLED",
}
_BUDGET = {TrialState.FINISHED: "full", TrialState.PREVIEWED: "preview"}
ASIDE = ".to-mlflow"  # in a search's folder: what is written to be sent, and left by who is killed meanwhile
PARENT = -2  # stands for the search's own run where runs are addressed by trial number


class Tracker(Listener):
    """The listener that passes what happens in a search to the writer's thread.

    Every call returns at once, except `training_began`, which waits for MLflow's import, and `close`. ``warn`` prints a
    line for the user. ``live=False``: a history is replayed, and errors are reported once, at the end. ``began``: start
    of the search in seconds since 1970, by default now. ``close_s``: how many seconds the search's end may wait for
    MLflow. ``data``: what the search's images are, which become inputs of its runs; `sync` does not open them.
    """

    name = "MLflow"

    def __init__(
        self,
        run: SearchRun,
        *,
        warn: Callable[[str], None],
        began: float | None = None,
        live: bool = True,
        close_s: Callable[[], float] = lambda: 30.0,
        data: Summary | None = None,
    ):
        self.run, self.warn, self.live, self.close_s, self.data = run, warn, live, close_s, data
        self._uri = runs.tracking_uri(run.home)
        self.tracking_uri = masked(self._uri)
        self.began = began or time.time()
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._seconds: dict[int, dict[int, float]] = {}  # trial -> epoch -> its duration: the time axis of metrics
        self._started: dict[int, float] = {}
        # trials that are tagged as members of the front -> labels of their rows; an earlier driver's may not be
        self._members = dict.fromkeys((row["trial"] for row in run.front().rows), "") if live else {}
        self._last_end = 0.0
        self._page_due = 0.0  # ``time.monotonic()`` from which the page may be uploaded again
        self._resumed = bool(run.history.everything())  # also where none has ended an epoch: trials may have failed
        self._writer = _Writer(self)
        self._thread = threading.Thread(target=self._writer.work, name="mlflow", daemon=True)
        self.threads = [self._thread]  # of these some may still write when `close` has returned
        self._send(PARENT, runs.parent_changes(run.spec, run.history.steered.trials is not None))

    def training_began(self) -> None:
        """Start the writer and wait until it has imported MLflow.

        Ray's pickling inspects every loaded module, which makes MLflow's lazy modules import the rest on the caller's
        thread; two imports of MLflow at the same time deadlock.
        """
        self._start(120)

    def _start(self, wait_s: float) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._writer.imported.wait(wait_s)

    def trial_started(self, record: TrialRecord) -> None:
        """A trial starts or continues; the epochs in its record are written, again if necessary."""
        trial = record.trial
        self._started[trial], self._seconds[trial] = record.started, {}
        training = asdict(self.run.spec.of(record.method).training())
        threat = self.run.spec.threat_model.name
        params = {**training, "threat": threat, "method": record.method, "seed": record.seed, **record.params}
        tags = {
            "tuner.kind": "trial",
            "tuner.trial": str(trial),
            "tuner.search": self.run.name,
            "tuner.method": record.method,
            "tuner.role": role_of(self.run.spec, self.run.history, record),
            "tuner.pareto": "false",
            "tuner.reason": "none",  # one that failed and is tried again had another
        }
        if record.role is not None:
            tags["tuner.kind"] = "reference"
        if record.of is not None:
            tags |= {"tuner.kind": "replicate", "tuner.replicate_of": str(record.of), "tuner.seed": str(record.seed)}
        self._members.pop(trial, None)
        self._send(trial, Changes(record.label, record.started, params, tags, status="RUNNING"))
        for metrics in list(record.epochs):
            self.epoch_ended(record, metrics)

    def epoch_ended(self, record: TrialRecord, metrics: dict[str, Any]) -> None:
        trial = record.trial
        seconds = self._seconds.setdefault(trial, {})
        step = int(metrics.get("epoch", len(seconds) + 1))
        seconds[step] = sum(metrics.get(k) or 0.0 for k in ("train_s", "eval_s"))
        when = milliseconds(self._started.get(trial, 0.0) + sum(s for e, s in seconds.items() if e <= step))
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
        if record.trial not in self._started:  # skipped while it waited: MLflow may never have heard of it
            self.trial_started(record)
        tags = {"tuner.budget": _BUDGET.get(record.state, "stopped"), "tuner.reason": record.reason or "none"}
        if record.stem_epochs:
            tags["tuner.stem_epochs"] = str(record.stem_epochs)
        self._last_end = max(self._last_end, record.ended)
        changes = Changes(tags=tags, status=_STATUS[record.state], ended=record.ended or time.time())
        if record.preview:
            changes.metrics = _previewed(record.preview)
        if record.curve is not None:
            changes.metrics = [*changes.metrics, *self._trained(record)]
            changes.params["offsets_kind"] = record.curve.points[-1].offsets.kind
            changes.documents["curve.json"] = _with_metrics(record.curve)
        self._send(record.trial, changes)

    def _trained(self, record: TrialRecord) -> list[tuple[str, float, int, int]]:
        """The trained model's metrics on all of val, by which the front is drawn, where they are not those of its last
        epoch, which a part of val judged; at the same step and later, so that they are the run's values."""
        (_, trained), *_ = record.points
        differ = {name: value for name, value in trained.items() if value != record.last.get(name)}
        trained_at = self._started.get(record.trial, 0.0) + sum(self._seconds.get(record.trial, {}).values())
        when, step = milliseconds(max(record.ended, trained_at)) + 1, int(record.last.get("epoch", 0))
        return [(metric_name(name), float(value), when, step) for name, value in differ.items()]

    def front_changed(self, front: Front, finished: int) -> None:
        """Log a point of the parent's curves, tag the members of the front with their rows, and from time to time
        upload the page."""
        when, members = milliseconds(self._last_end), {}
        for row in front.rows:
            members.setdefault(row["trial"], []).append(row_label(row))
        self._send(
            PARENT,
            Changes(
                metrics=[
                    ("hypervolume", front.hypervolume, when, finished),
                    ("front_size", float(len(front.rows)), when, finished),
                ]
            ),
        )
        labels = {trial: ", ".join(points) for trial, points in members.items()}
        for trial in labels.keys() | self._members.keys():
            if labels.get(trial) != self._members.get(trial):
                on_front = "true" if trial in labels else "false"
                tags = {"tuner.pareto": on_front, "tuner.front_points": labels.get(trial, "none")}
                self._send(trial, Changes(tags=tags))
        self._members = labels
        page = self.run.folder / "front.html"
        if self.live and time.monotonic() >= self._page_due and page.exists():
            self._page_due = time.monotonic() + PAGE_EVERY_S
            self._send(PARENT, Changes(files=[page]))

    def search_ended(self, run: SearchRun, state: str) -> None:
        if self.close(state, timeout=self.close_s()) and self._resumed:
            # an earlier driver may have been killed before it sent everything
            sync(run, warn=self.warn, timeout=10 * self.close_s(), left=self.threads.extend)

    def close(self, state: str, *, timeout: float = 30) -> bool:
        """Log the summary and the pictures in the search's folder, end every run and wait for the writer.

        Waits at most ``timeout`` seconds; False if MLflow does not have everything then (`sync` adds the rest).
        """
        deadline = time.monotonic() + timeout
        self._start(timeout)
        for record in self.run.history.everything():
            if not record.state.ended and not _to_come(record):
                self.trial_ended(record)
        tags = {"mlflow.note.content": summary_markdown(self.run), "tuner.state": state}
        if (trials := self.run.history.steered.trials) is not None:  # it may have been extended while it ran
            tags["tuner.trials"] = str(trials)
        files = [self.run.folder / name for name in ("spec.yaml", "front.html", "front.png", "front.parquet")]
        self._send(
            PARENT,
            Changes(
                tags=tags,
                status=_STATUS.get(state, "FAILED"),
                ended=max(self._last_end, self.began),
                files=[file for file in files if file.exists()],
                metrics=self._reference_metrics(),
            ),
        )
        return self._writer.finish(self._thread, deadline)

    def _reference_metrics(self) -> list[tuple[str, float, int, int]]:
        """The hypervolumes of the references over their offsets that satisfy the constraints, as the front's is; of
        those that have finished and have any."""
        run, spec, history = self.run, self.run.spec, self.run.history
        when = milliseconds(max((record.ended for record in history.everything()), default=0.0))  # some before a resume
        trials = {
            "no_search_hypervolume": no_search_trial(spec, history),
            "paper_hypervolume": paper_trial(spec, history),
        }
        rows = {n: history.rows_of(t, spec.objectives, spec.goal) for n, t in trials.items() if t is not None}
        finished = sum(record.state == TrialState.FINISHED for record in run.history.everything())
        fronts = {name: Front.of(own, run.spec.objectives) for name, own in rows.items() if own}
        return [(name, front.hypervolume, when, finished) for name, front in fronts.items()]

    def result(self) -> dict[str, Any]:
        return {"mlflow": {"tracking_uri": self.tracking_uri, "run_id": self.run_id}}

    @property
    def run_id(self) -> str | None:
        """The id of the search's run, or None if MLflow does not answer within 5 seconds."""
        self._writer.connected.wait(5)
        return self._writer.run_ids.get(PARENT)

    @property
    def run_ids(self) -> dict[str, Any]:
        """The ids of all runs so far: {"parent": id or None, "trials": {trial number as text: id}}."""
        trials = dict(self._writer.run_ids)
        return {"parent": trials.pop(PARENT, None), "trials": {str(t): r for t, r in trials.items()}}

    def _send(self, run: int, changes: Changes) -> None:
        self._inbox.put((run, changes))


def _with_metrics(curve: Curve) -> dict[str, Any]:
    """`Curve.to_dict`, each point with its metrics."""
    points = [{**point.to_dict(), "metrics": curve.metrics(point)} for point in curve.points]
    return {**curve.to_dict(), "points": points}


class _Writer:
    """The background thread: merges messages, keeps what is not yet written, and tries again while MLflow fails."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker
        self.connected, self.imported = threading.Event(), threading.Event()
        self.run_ids: dict[int, str] = {}  # trial number, or PARENT -> run id
        self._todo: dict[int, Changes] = {}  # trial number, or PARENT -> what is not written yet
        self._client = self._experiment = None
        self._closing = threading.Event()
        self._complete = False  # everything was written
        self._inputs: list[DatasetInput] = []  # of every run
        self._rejected = False  # MLflow rejected something for good
        self._failing = False  # the last attempt to write failed
        self._refusal: str | None = None  # why MLflow refuses what is written, if it does

    def work(self) -> None:
        """Import MLflow, then write until `finish` is called and everything is written or the attempts are used up."""
        try:
            self._import()
        finally:
            self.imported.set()
        pause, left = MIN_PAUSE_S, ATTEMPTS_AT_CLOSE
        while left:
            self._take(pause)
            closing = self._closing.is_set() and self.tracker._inbox.empty()
            try:
                self._write()
                pause = MIN_PAUSE_S
                self._failing, self._refusal = False, None
                if closing and self.tracker._inbox.empty():
                    self._complete = not self._rejected
                    return
            except Exception as error:
                self._refusal = runs.refusal(error)
                self._report(error)
                pause, left = min(2 * pause, MAX_PAUSE_S), 0 if closing and self._refusal else left - closing

    def finish(self, thread: threading.Thread, deadline: float) -> bool:
        """Write the rest by ``deadline`` (``time.monotonic()``); warns and returns False if something is missing."""
        self._closing.set()
        self.tracker._inbox.put(None)
        thread.join(max(0.0, deadline - time.monotonic()))
        if not self._complete:
            problem = self._refusal or "does not have all of this search yet"
            self.tracker.warn(
                f"MLflow at {self.tracker.tracking_uri} {problem}; the history has everything, and "
                f"`tuner sync {self.tracker.run.name}{self.tracker.run.home.flag}` fills it in"
            )
        return self._complete

    def _take(self, pause: float) -> None:
        """Merge messages for ``pause`` seconds, or less when the search closes."""
        end = time.monotonic() + (min(pause, 1.0) if self._closing.is_set() else pause)
        while (rest := end - time.monotonic()) > 0 and not (self._closing.is_set() and not self._failing):
            try:
                self._merge(self.tracker._inbox.get(timeout=rest))
            except queue.Empty:
                break
        while not self.tracker._inbox.empty():
            self._merge(self.tracker._inbox.get())

    def _merge(self, message: tuple[int, Changes] | None) -> None:
        if message is not None:
            self._todo.setdefault(message[0], Changes()).add(message[1])

    def _write(self) -> None:
        """Write everything, with a rest after each run, until the search closes."""
        if not self._todo:
            return
        from mlflow.exceptions import MlflowException

        if self._client is None:
            self._connect()
        for trial in sorted(self._todo, key=lambda t: (t == PARENT, t)):  # PARENT, which ends the search, comes last
            begin = time.thread_time()
            try:
                self._write_run(trial, self._todo[trial])
            except MlflowException as error:
                if error.error_code not in runs.PERMANENT_ERRORS:
                    raise
                self._rejected = True
                self._report(error)
            del self._todo[trial]
            self._closing.wait((time.thread_time() - begin) * (1 - CPU_SHARE) / CPU_SHARE)

    def _import(self) -> None:
        runs.configure_mlflow()
        import mlflow.entities
        import mlflow.exceptions  # noqa: F401

    def _connect(self) -> None:
        from mlflow import MlflowClient, __version__

        for name in ("mlflow", "alembic"):  # what fails is told in our words; MLflow adds a traceback for each attempt
            logging.getLogger(name).setLevel(logging.CRITICAL)
        tracker, run = self.tracker, self.tracker.run
        spec, uri = run.spec, tracker._uri
        local = not uri.startswith(("http:", "https:", "databricks"))
        if uri == runs.database_uri(run.home.mlflow_db):
            runs.open_database(run.home, lambda uri: MlflowClient(tracking_uri=uri))
        client = MlflowClient(tracking_uri=uri)
        experiment = runs.experiment_id(
            client, runs.experiment_name(spec), run.home.artifacts.as_uri() if local else None
        )
        key = runs.search_key(run.folder)
        parent = runs.parent_run(client, experiment, spec, run.name, key, tracker.began)
        self.run_ids = {PARENT: parent, **runs.trial_runs(client, experiment, parent)}
        if tracker.data:
            self._inputs = data_inputs(spec, tracker.data)
            client.log_inputs(parent, self._inputs)
        self._experiment, self._client = experiment, client
        self.connected.set()
        runs.log_system_metrics(parent, uri, tracker.warn if tracker.live else None)
        try:
            runs.save_view(client, experiment, parent, spec, run.name, __version__)
        except Exception as error:  # not needed: the pictures on the search's run show the same
            tracker.warn(f"no saved chart view in MLflow: {masked(str(error))[:300]}")

    def _write_run(self, trial: int, changes: Changes) -> None:
        if trial not in self.run_ids:
            if not changes.name:  # an earlier driver was killed before it logged this trial's start; `sync` will
                return
            self.run_ids[trial] = runs.trial_run(self._client, self._experiment, self.run_ids[PARENT], changes)
            if self._inputs:
                self._client.log_inputs(self.run_ids[trial], self._inputs)
        for name, content in changes.documents.items():  # `log_dict` makes them where nobody tidies up
            path = self.tracker.run.folder / ASIDE / name
            write_atomically(path, json.dumps(content, indent=2))
            self._client.log_artifact(self.run_ids[trial], str(path))
            shutil.rmtree(path.parent)
        write(self._client, self.run_ids[trial], changes)

    def _report(self, error: Exception) -> None:
        """Warn once per outage, without secrets; a refused login is left to `finish` if that is about to report it."""
        ending = self._closing.is_set() or not self.tracker.live
        if not self._failing and not (self._refusal and ending):
            text = f"{type(error).__name__}: {masked(' '.join(str(error).split()))[:300]}"
            self.tracker.warn(
                f"MLflow at {self.tracker.tracking_uri} does not accept results at the moment; they are kept and tried "
                f"again ({'it ' + self._refusal if self._refusal else text})"
            )
        self._failing = True


def write(client: MlflowClient, run_id: str, changes: Changes) -> None:
    """Write all changes of one run but its documents in as few requests as MLflow allows, its status last."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(metric_name(k), escape.mlflow(v, escape.PARAM_LENGTH)) for k, v in changes.params.items()]
    tags = [RunTag(k, escape.mlflow(v)) for k, v in changes.tags.items()]
    metrics = [Metric(key, value, when, step) for key, value, when, step in changes.metrics]
    for i in range(max(-(-len(params) // 100), -(-len(tags) // 100), -(-len(metrics) // 800))):
        client.log_batch(
            run_id, metrics[i * 800 : (i + 1) * 800], params[i * 100 : (i + 1) * 100], tags[i * 100 : (i + 1) * 100]
        )
    for path in changes.files:
        client.log_artifact(run_id, str(path))
    if changes.status == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    elif changes.status:
        client.set_terminated(run_id, changes.status, milliseconds(changes.ended))


def _previewed(preview: Preview) -> list[tuple[str, float, int, int]]:
    """The metrics at the end of a preview, under names of their own: beside them are those of the full training."""
    when = milliseconds(preview.ended)
    values = {k: v for k, v in preview.metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return [(f"preview/{metric_name(k)}", float(v), when, int(preview.metrics["epoch"])) for k, v in values.items()]


def _to_come(record: TrialRecord) -> bool:
    """Whether a trial waits that has trained nothing yet."""
    return record.state == TrialState.WAITING and not record.trained


def sync(
    run: SearchRun,
    *,
    warn: Callable[[str], None] = print,
    timeout: float = 300,
    left: Callable[[list[threading.Thread]], None] = lambda threads: None,
) -> bool:
    """Fill MLflow from the history alone, into the search's existing runs or new ones. May be repeated.

    Waits at most ``timeout`` seconds; False if MLflow does not have everything then. ``left`` is given the threads that
    may still write.
    """
    spec = run.spec
    records = sorted(run.history.everything(), key=lambda t: (t.ended or float("inf"), t.trial))
    began = min((t.started for t in records), default=None)
    tracker = Tracker(run, warn=warn, began=began, live=False)
    past, front, finished = History(None), Front(spec.objectives, ()), 0
    for record in records:
        if _to_come(record):
            continue
        tracker.trial_started(record)
        if record.state.ended:
            tracker.trial_ended(record)
        known = past.references if record.role else past.trials if record.of is None else past.replicates
        known[record.trial] = record
        finished += record.state == TrialState.FINISHED
        if record.state == TrialState.FINISHED and record.role is None:
            if record.of is None:
                rows = [*front.rows, *past.rows_of(record.trial, spec.objectives, spec.goal)]
                front = Front.of(rows, spec.objectives)
            else:  # a replicate changes a mean, so any trial may come onto the front
                front = front_of(spec, past)
            tracker.front_changed(front, finished)
    complete = tracker.close(state_of(run), timeout=timeout)
    left(tracker.threads)
    return complete
