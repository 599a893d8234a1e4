"""Records what Ray Tune reports: first in the history, then for the optimizer and the listeners."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from trainables.storage import NO_ROOM, Storage
from trainables.trial_report import Metrics, StemReport, TrialReport
from tuner.execution.failures import NODE, OWN, PROCESS, STORAGE, classify_failure, error_of
from tuner.execution.stopping import StopRequest
from tuner.optimizer.ask_tell import AskTell
from tuner.results.fronts import front_of
from tuner.results.listener import Listener
from tuner.results.pareto import Front
from tuner.results.running import Running
from tuner.results.search_run import SearchRun
from tuner.results.steering import REMARKS, answered, take_up
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.sync.named_places import resume_command

# A trial whose process dies this often within one epoch, on living nodes, is itself the cause and fails. A storage that
# fails a trial this often, after minutes of waiting each time, would fail the others too, so the search stops.
DEATHS = 3
DISK = "disk"  # the reason why a search stops whose history cannot be written
LOOK_S = 1.0  # between two looks for what users ask for


class SearchCallback(Callback):
    """The driver's only callback: while a search runs, it alone changes the history and notifies ``listener``.

    ``ask_nodes``: asks the nodes once whether they can use the storage; the future holds what is wrong, or None.
    ``stop``: called with a reason to end the search early. ``ending``: once Ray is not waited for any more, nothing is
    recorded, because the search ends without it. ``say``: prints a line for the user.
    """

    def __init__(self, run: SearchRun, optimizer: AskTell, listener: Listener, say: Callable[[str], None]):
        self.run, self.spec, self.history, self.optimizer = run, run.spec, run.history, optimizer
        self.listener, self.say = listener, say
        self.ask_nodes: Callable[[], Future[str | None]] = _no_problem
        self.stop: Callable[[str], None] = lambda reason: None
        self.ending = StopRequest()
        self._trial_started, self._training_announced = False, False
        self._reached: dict[int, int] = {}  # epochs of previews, which the history does not have
        # (trial, kind) -> (epochs it had trained, those of its preview), deaths since
        self._deaths: dict[tuple[int, str], tuple[tuple[int, int], int]] = {}
        self._finished = sum(t.state == TrialState.FINISHED for t in self.history.everything())
        self._front: Front | None = None  # computed when the first trial finishes
        self._outdated_announced = False
        self._look_due = 0.0  # ``time.monotonic()``
        self._running = Running(run.folder)

    def started(self, record: TrialRecord) -> None:
        """Record that a trial is handed to Ray, for the first time or to continue, before anything can be lost."""
        number = record.trial
        if number not in self.history:
            extra = {key: value for key in ("of", "role") if (value := getattr(record, key)) is not None}
            extra |= {} if record.full else {"preview": True}
            self._append("start", number, params=record.params, method=record.method, seed=record.seed, **extra)
        else:
            self._append("promote" if record.state == TrialState.PREVIEWED else "resume", number)
        self.listener.trial_started(self.history.record(number))

    # ---- what Ray Tune calls -----------------------------------------------------------------------------------------

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._trial_started = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._trial_started and not self._training_announced:
            self._training_announced = True
            self.ask_nodes()
            self.listener.training_began()
        if time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + LOOK_S
            self.take_up()
            self._running.write()

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        if self.ending.stuck:
            return
        report = TrialReport.of(result)
        number = report.trial
        self._running.heard(number, str(result.get("hostname", "")), *_reached(report), result.get("gpus", ()))
        if self.optimizer.skipped(number):
            return  # what it trained since
        if text := result.get("printed"):
            self._append("printed", number, text=str(text))
        if report.failed:
            self._end(number, TrialState.FAILED, report.failed)
            return
        if report.stem:
            self._stem(number, report.stem)
        (self._full if self.history.record(number).full else self._preview)(number, report)

    def _full(self, number: int, report: TrialReport) -> None:
        if report.metrics is not None and not (report.stem and report.stem.past):
            self._epochs(number, report.epochs or [report.metrics])  # a restarted trial reports all its epochs again
        if report.curve and not self.history.record(number).curve:
            self._append("curve", number, curve=report.curve)
        # Where the storage lost the last checkpoints, the trial trains epochs again that the history has.
        if report.done and self.history.record(number).last.get("epoch", 0) >= self.spec.max_epochs:
            self._end(number, TrialState.FINISHED, "; ".join(report.notes))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.ending.stuck:
            return
        record = self.history.record(number_of(trial))
        self._running.gone(record.trial)
        # of a preview the end is recorded: Ray tells of it late, when it may have been promoted already
        if trial.config["trial"].get("cool_down") is None:
            self._end(record.trial, TrialState.STOPPED, f"at chance after epoch {record.last.get('epoch', 0)}")
        self.optimizer.back(record.trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was interrupted. Unless it ends here, it is handed out again and continues from its checkpoint."""
        if self.ending.reason in ("signal", "ray"):
            return  # what ended the search ended the trial's process
        if self.ask_nodes().result():
            return  # the nodes do not share the storage: not the trial's fault, and the search is about to end
        number, error = number_of(trial), error_of(trial)
        self._running.gone(number)
        if not self._over(trial):  # else Ray failed at what comes after: its own checkpoint, say, on a full disk
            self._interrupted(number, error)
        self.optimizer.back(number)

    def _over(self, trial: Trial) -> bool:
        """Whether what Ray trained has ended: the trial, or its preview, which may have been promoted since."""
        record = self.history.record(number_of(trial))
        return record.state.ended or (trial.config["trial"].get("cool_down") is not None and bool(record.preview))

    def _interrupted(self, number: int, error: Exception | str) -> None:
        record, (kind, reason) = self.history.record(number), classify_failure(error)
        self._append("error" if kind == OWN else "lost", number, reason=reason, text=str(error))
        deaths = self._count_death(record, kind)
        if kind in (NODE, STORAGE):
            self.listener.trouble(f"{record.label}: {reason}")
        if record.errors > self.spec.max_failures:
            self._end(number, TrialState.FAILED, reason)
        elif kind == STORAGE and (deaths >= DEATHS or NO_ROOM in reason):
            command = resume_command(self.spec, self.run.home, self.run.name)
            self.say(f"the search stops, `{command}` continues it: {reason}")
            self.stop(STORAGE)
        elif kind == PROCESS and deaths >= DEATHS:
            self._end(number, TrialState.FAILED, f"its process died {DEATHS} times in one epoch: {reason}")
        else:
            allowed = f" (error {record.errors} of {self.spec.max_failures} allowed)" if kind == OWN else ""
            epoch = record.last.get("epoch", 0)
            self.say(f"{record.label} was interrupted after epoch {epoch}{allowed}, continues from there: {reason}")

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its callbacks for its own restore, which is never used

    def _append(self, event: str, number: int, **fields: Any) -> None:
        """Append an event to the history. Where its disk is full the search stops, with what it has in memory."""
        try:
            self.history.append(event, number, **fields)
        except OSError as error:
            self._not_written(error)

    def _not_written(self, error: OSError) -> None:
        self.history.keep_in_memory()
        self.say(f"the search stops: {error.strerror or error}: {self.run.folder / 'history.jsonl'}")
        self.stop(DISK)

    # ---- what users ask for ------------------------------------------------------------------------------------------

    def take_up(self) -> bool:
        """Do what users have asked for since; whether anything of it changes the search."""
        try:
            answers = take_up(self.spec, self.history, self.run.folder, self.optimizer.out)
        except OSError as error:
            self._not_written(error)
            return False
        for answer in answers:
            self.say(answered(answer))
        done = [answer.request for answer in answers if answer.done and answer.request.kind not in REMARKS]
        for request in done:  # a preview that was skipped, and is tried again, has ended as it had before
            if (
                request.kind in ("skip", "retry")
                and (record := self.history.record(request.about["trial"])).state.ended
            ):
                self.listener.trial_ended(record)
        if done:
            self.optimizer.take_over(self.history.in_force(self.spec))
        return bool(done)

    # ---- what is recorded --------------------------------------------------------------------------------------------

    def _count_death(self, record: TrialRecord, kind: str) -> int:
        """How often the trial has been interrupted in this way since it last trained an epoch."""
        now = record.trained, self._reached.get(record.trial, 0)
        before, deaths = self._deaths.get((record.trial, kind), ((0, 0), 0))
        deaths = deaths + 1 if before == now else 1
        self._deaths[record.trial, kind] = now, deaths
        return deaths

    def _stem(self, number: int, stem: StemReport) -> None:
        if stem.outdated and not self._outdated_announced:
            self._outdated_announced = True
            self.say(
                f"stem: trained again; what is stored for it ({stem.outdated}) comes from another version of the "
                "code or of torch"
            )
        if stem.trained:
            about = {"stem": stem.name} if stem.name else {}
            about |= {"spare": True} if stem.spare else {}
            self._append("stem", number, stem_epoch=stem.trained, **about)
        if stem.past and self.history.record(number).full:
            self._fork(number, stem.past, stem.name)

    def _preview(self, number: int, report: TrialReport) -> None:
        """Of a preview its end is recorded."""
        record = self.history.record(number)
        if report.metrics is None or record.preview:
            return
        self._reached[number] = report.metrics["epoch"]
        if not report.done:
            return
        epochs = self.spec.of(record.method).epoch_plan.preview[1]
        self._append("preview", number, epochs=epochs, metrics=report.metrics, curve=report.curve)
        with suppress(OSError):  # what it had trained is of no use any more
            Storage(self.run.place("previews", number)).remove("checkpoint.pt")
        self.optimizer.tell(number)
        self.listener.trial_ended(record)

    def _fork(self, number: int, past: Sequence[Metrics], stem: str | None) -> None:
        """The trial leaves the stem: its epochs now begin with the stem's."""
        self._append("fork", number, epochs=past, stem=stem)
        for metrics in past:
            self.listener.epoch_ended(self.history.record(number), metrics)

    def _epochs(self, number: int, epochs: Sequence[Metrics]) -> None:
        """Record those of a trial's epochs that the history does not have yet."""
        past = [metrics for metrics in epochs if metrics.get("stem")]
        if past and not self.history.record(number).epochs:
            self._fork(number, past, None)
        for metrics in epochs:
            if metrics["epoch"] > self.history.record(number).last.get("epoch", 0):
                self._append("epoch", number, metrics=metrics)
                self.listener.epoch_ended(self.history.record(number), metrics)

    def _end(self, number: int, state: TrialState, reason: str = "") -> None:
        """Record the trial's final state; without effect on a trial that has ended already."""
        record = self.history.record(number)
        if record.state.ended:
            return
        self._append("end", number, state=state, reason=reason)
        self.optimizer.tell(number)
        self._finished += state == TrialState.FINISHED
        self.listener.trial_ended(record)
        if state == TrialState.FINISHED and record.role is None:
            self._update_front(record)

    def _update_front(self, record: TrialRecord) -> None:
        """Add a finished trial to the front. Only the old front's members are compared with it, however many trials
        there were; a replicate changes a mean, so then any trial may come onto the front."""
        if self._front and record.of is None:
            rows = [*self._front.rows, *self.history.rows_of(record.trial, self.spec.objectives, self.spec.goal)]
            self._front = Front.of(rows, self.spec.objectives)
        else:
            self._front = front_of(self.spec, self.history)
        self.listener.front_changed(self._front, self._finished)


def _no_problem() -> Future[str | None]:
    problem: Future[str | None] = Future()
    problem.set_result(None)
    return problem


def _reached(report: TrialReport) -> tuple[int, bool]:
    """How far a trial has come, or the stem that it trains; and whether it is the stem."""
    if report.metrics is not None:
        return report.metrics["epoch"], False
    return (report.stem.trained or 0, True) if report.stem else (0, False)


def number_of(trial: Trial) -> int:
    """The number under which the history knows a trial of Ray Tune's."""
    return trial.config["trial"]["trial"]
