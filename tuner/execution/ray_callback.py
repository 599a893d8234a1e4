"""What Ray reports, written down: history first, then study, tracking and display."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ray import tune

from tuner.execution.failures import OWN, PROCESS, STORAGE, error_of, why_it_broke_off
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History, TrialRecord
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

# A process that dies so often before its trial got on, on nodes that live, is the trial's own doing. A storage that
# failed a trial so often, after minutes each time, is not waited for any longer: it would fail the others too.
DEATHS = 3


class SearchCallback(tune.Callback):
    """The driver's one callback. ``listeners`` get ``trial_started``, ``epoch``, ``trial_ended``, ``front`` calls.

    ``then``: what takes seconds and need not come before the first trial trains; Ray's loop waits for it. Then, or when
    a trial breaks off before, the nodes are asked whether they can use the storage.
    """

    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        lanes: AskTell,
        listeners: list,
        say: Callable[[str], None],
        then: Callable[[], None] | None = None,
    ):
        self.spec, self.history, self.lanes, self.listeners, self.say = spec, history, lanes, listeners, say
        self.then, self.training = then, False
        self.nodes: Callable[[], Future[str | None]] = _all_well  # asks once; what is wrong with their storage
        self.stop = None  # the driver's: called with a reason to end early
        self.deaths: dict[tuple[int, str], tuple[int, int]] = {}  # trial, kind -> epochs trained, deaths at that point
        self.full = sum(t.state == TrialState.FINISHED for t in history.everything())
        self.front: Front | None = None  # not worked out yet
        self.outdated = False  # said already

    def started(self, record: TrialRecord) -> None:
        """A trial is on its way: written down before anything can be lost."""
        number, of = record.trial, {} if record.of is None else {"of": record.of}
        if number not in self.history.trials and number not in self.history.replicates:
            self.history.append("start", number, params=record.params, method=record.method, seed=record.seed, **of)
        else:
            self.history.append("resume", number)
        for listener in self.listeners:
            listener.trial_started(self.history.record(number))

    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        self.training = True

    def on_step_end(self, iteration, trials, **info) -> None:
        if self.training and self.then:
            self.nodes()
            self.then()
            self.then = None

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        number = result["trial"]
        if "failed" in result:
            self._end(number, TrialState.FAILED, result["failed"])
            return
        metrics, trunk = result["metrics"], result.get("trunk") or {}
        if trunk.get("outdated") and not self.outdated:
            self.outdated = True
            self.say(
                f"trunk: trained anew; what is stored for it ({trunk['outdated']}) is of another version of the "
                "code or of torch"
            )
        if trunk.get("trained"):
            self.history.append("trunk", number, trunk_epoch=trunk["trained"])
        if trunk.get("past"):
            self._branch(number, trunk)
        elif metrics is not None:
            self._epochs(number, result.get("curve") or [metrics])  # a restarted trial says all of its epochs again
        if self.history.record(number).last.get("epoch", 0) >= self.spec.max_epochs:
            self._end(number, TrialState.FINISHED, "; ".join(result.get("notes", [])))

    def _epochs(self, number: int, curve: list[dict]) -> None:
        """Write down what of a trial's curve is new."""
        past = [metrics for metrics in curve if metrics.get("trunk")]
        if past and not self.history.record(number).epochs:
            self._branch(number, {"past": past, "name": None})
        for metrics in curve:
            if metrics["epoch"] > self.history.record(number).last.get("epoch", 0):
                self.history.append("epoch", number, metrics=metrics)
                for listener in self.listeners:
                    listener.epoch(number, metrics)

    def _branch(self, number: int, trunk: dict) -> None:
        """The trial leaves the trunk: its curve is whole from the first epoch on."""
        self.history.append("branch", number, epochs=trunk["past"], trunk=trunk["name"])
        for metrics in trunk["past"]:
            for listener in self.listeners:
                listener.epoch(number, metrics)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        self._end(_number(trial), TrialState.STOPPED)  # no effect on a trial that has ended already

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        """A trial broke off. Whoever is not ended here is handed out again and goes on from its last checkpoint."""
        if self.nodes().result():
            return  # not the trial's fault, and the search is about to end
        number, error = _number(trial), error_of(trial)
        record, (kind, reason) = self.history.record(number), why_it_broke_off(error)
        self.history.append("error" if kind == OWN else "lost", number, reason=reason, text=str(error))
        trained, deaths = self.deaths.get((number, kind), (0, 0))
        deaths = deaths + 1 if trained == record.trained else 1
        self.deaths[number, kind] = record.trained, deaths
        if record.errors > self.spec.max_failures:
            self._end(number, TrialState.FAILED, reason)
        elif kind == STORAGE and deaths >= DEATHS:
            self.say(f"the search stops, `tuner resume` goes on with it: {reason}")
            self.stop(STORAGE)
        elif kind == PROCESS and deaths >= DEATHS:
            self._end(number, TrialState.FAILED, f"its process died {DEATHS} times in one epoch: {reason}")
        else:
            tried = f", error {record.errors} of {self.spec.max_failures} allowed" if kind == OWN else ""
            epoch = record.last.get("epoch", 0)
            self.say(f"trial {number} broke off after epoch {epoch}{tried}, goes on from there: {reason}")

    def __getstate__(self) -> dict:
        return {}  # Ray pickles its callbacks for a restore of its own, which is never used

    def _end(self, number: int, state: str, reason: str = "") -> None:
        record = self.history.record(number)
        if record.state in (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED):
            return
        self.history.append("end", number, state=state, reason=reason)
        self.lanes.tell(number, state)
        self.full += state == TrialState.FINISHED
        for listener in self.listeners:
            listener.trial_ended(record)
        if state == TrialState.FINISHED and (record.of is not None or self.spec.goal.feasible(record.last)):
            self._front(record)

    def _front(self, record: TrialRecord) -> None:
        """The front with one trial more: of the old front and that trial alone, however many there were. A replicate
        changes a mean, so then anybody may come onto the front."""
        if self.front and record.of is None:
            rows = [*self.front.rows, record.row(self.spec.objectives)]
        else:
            rows = self.history.rows(self.spec.objectives, self.spec.goal)
        self.front = Front.of(rows, self.spec.objectives)
        for listener in self.listeners:
            listener.front(self.front, self.full)


def _all_well() -> Future[str | None]:
    found: Future[str | None] = Future()
    found.set_result(None)
    return found


def _number(trial) -> int:
    return trial.config["trial"]["trial"]
