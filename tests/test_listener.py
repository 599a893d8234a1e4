"""Who hears what happens in a search: in order, whole, and without harm to it."""

import inspect
import signal
import socket
from pathlib import Path

import pytest

from tests.histories import curve, fill, metrics, run_of, start
from tuner.home import Home
from tuner.report import pages
from tuner.report.pages import Pages
from tuner.report.progress import Progress
from tuner.results import listing
from tuner.results.history import History
from tuner.results.listener import Listener, Listeners
from tuner.results.pareto import Front
from tuner.results.trial_record import NO_SEARCH
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec
from tuner.testing import ListenerContract
from tuner.testing.listeners import EVENTS


class Recorder(Listener):
    """Notes every call with what the history says of it at that moment."""

    def __init__(self):
        self.heard = []

    def search_started(self, run):
        self.run = run
        self.heard.append(("search_started",))

    def trial_started(self, record):
        assert self.run.history.record(record.trial) is record
        self.heard.append(("trial_started", record.trial))

    def training_began(self):
        self.heard.append(("training_began",))

    def epoch_ended(self, record, metrics):
        assert record.last == metrics, "the history has it by then"
        self.heard.append(("epoch_ended", record.trial, metrics["epoch"]))

    def trial_ended(self, record):
        assert record.state.ended
        self.heard.append(("trial_ended", record.trial, str(record.state)))

    def front_changed(self, front, finished):
        assert front.rows
        self.heard.append(("front_changed", finished))

    def search_ended(self, run, state):
        assert all((run.folder / name).exists() for name in ("front.html", "front.png", "front.parquet"))
        self.heard.append(("search_ended", state))
        caught = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigCgt"))
        self.catches = int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1

    def result(self):
        return {"heard": len(self.heard)}


class Broken(Listener):
    """Fails at every call."""

    name = "a broken listener"

    def __getattribute__(self, name):
        if name in EVENTS:
            raise RuntimeError(f"no {name}")
        return super().__getattribute__(name)


@pytest.mark.ray
def test_a_search_from_python_tells_a_listener_everything(tmp_path, capfd):
    """A real search with a closed port for MLflow and a listener that fails: both are named, neither does harm."""
    from tuner import search

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
            training = {"passes": 1, "attack_steps": 1, "eval_attack": 1}
            spec = SearchSpec(method="trades", trials=2, max_epochs=2, set=training, max_concurrent=1, name="heard")
            recorder = Recorder()
            result = search(spec, Home(tmp_path), listeners=[Broken(), recorder])
    assert result["state"] == "finished" and result["heard"] == len(recorder.heard)
    assert recorder.catches, "Ray, which has ended, left a SIGTERM that kills: the end would not be in order"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "load_search", None)  # `tuner ls` reads no history for what a driver has ended
        assert [row["search"] for row in listing.searches(Home(tmp_path))] == ["heard"]
    heard = recorder.heard
    assert heard[0] == ("search_started",) and heard[-1] == ("search_ended", "finished")
    assert heard.count(("training_began",)) == 1
    for trial in (0, -1, 1):  # -1: plain AT, the reference
        mine = [call for call in heard if len(call) > 1 and call[1] == trial and call[0] != "front_changed"]
        assert mine == [
            ("trial_started", trial),
            ("epoch_ended", trial, 1),
            ("epoch_ended", trial, 2),
            ("trial_ended", trial, "finished"),
        ]
    # counts the trainings that ended, of which the second was the reference's, which is no member of the front
    assert [call for call in heard if call[0] == "front_changed"] == [("front_changed", 1), ("front_changed", 3)]
    said = capfd.readouterr().err
    assert said.count("a broken listener: RuntimeError: no search_started; the search goes on") == 1
    assert "a broken listener: RuntimeError: no trial_started" not in said, "named once"
    assert "MLflow at http://127.0.0.1:" in said and (tmp_path / "searches/heard/front.html").exists()


class TestPages(ListenerContract):
    def make(self):
        return Pages()


def test_the_contract_of_listeners_tells_every_event():
    """A new event must not be forgotten in what the tests of listeners tell."""
    source = inspect.getsource(ListenerContract.test_a_search_with_a_finished_and_a_failed_trial)
    assert not [event for event in EVENTS if f"listener.{event}(" not in source]


def test_listeners_hand_on_every_call():
    """A new method of `Listener` must not be forgotten in `Listeners`."""
    assert [name for name in vars(Listeners) if not name.startswith("_")] == EVENTS


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pages.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("storage, every", [(None, pages.EVERY_S), ("s3://b/x", pages.FAR_EVERY_S)])
def test_the_page_is_renewed_while_the_search_runs(tmp_path, clock, storage, every):
    spec = SearchSpec(method="trades", max_epochs=4, storage=storage)
    run = run_of(spec, History(None), Home(tmp_path))
    listener, page = Pages(), tmp_path / "searches" / spec.search_name / "front.html"
    listener.search_started(run)
    assert "no trial has finished its full budget" in page.read_text()
    start(run.history, spec, 0, spec.search_space().default())
    run.history.append("epoch", 0, metrics=metrics(4, 0.5, 0.25))
    run.history.append("end", 0, state=TrialState.FINISHED)
    clock[0] += every - 1
    listener.front_changed(run.front(), 1)
    assert "no trial has finished its full budget" in page.read_text(), "not so soon"
    clock[0] += 2
    listener.front_changed(run.front(), 1)
    assert "no trial has finished its full budget" not in page.read_text()
    assert not page.with_name("front.png").exists()
    listener.search_ended(run, "finished")
    assert page.with_name("front.png").exists() and page.with_name("front.parquet").exists()


def test_a_page_that_takes_long_is_renewed_rarely(tmp_path, clock, monkeypatch):
    written = []

    def slowly(run):
        clock[0] += 3.0
        written.append(clock[0])

    monkeypatch.setattr(pages, "write_page", slowly)
    spec = SearchSpec(method="trades", max_epochs=4)
    run = run_of(spec, fill(History(None), spec), Home(tmp_path))
    listener = Pages()
    listener.search_started(run)
    for _ in range(1000):
        clock[0] += 1.0
        listener.front_changed(Front(spec.objectives, ()), 1)
    assert len(written) == 1 + 1000 // int(3 / pages.SHARE)


def test_progress_says_what_offsets_give(capsys):
    """Classes of `curve` without offsets: 0.9, 0.633, 0.367 and 0.1, at tau 1: 0.72, 0.56, 0.4 and 0.24, where the sum
    of natural average (80, 70, 60 and 50 of 260 training images) and worst class is the largest."""
    spec, history = SearchSpec(max_epochs=4, trials=6), History(None)
    start(history, spec, 0, spec.search_space().default())
    history.append("epoch", 0, metrics=metrics(4, 0.5, 0.1))
    history.append("curve", 0, curve=curve(0.5, 0.1))
    history.append("end", 0, state="finished")
    Progress(run_of(spec, history)).trial_ended(history.trials[0])
    said = capsys.readouterr().err
    assert "trial 0 finished: natural_robust_acc 0.551, worst_class_robust_acc 0.100; @1 0.511, 0.240" in said


def test_the_time_left_counts_the_reference(monkeypatch, capsys):
    """Two trials and the reference of four epochs each: after six epochs in a minute six are left, so a minute."""
    now = [1000.0]
    for clock in ("tuner.report.progress.time.monotonic", "tuner.results.history.time.time"):
        monkeypatch.setattr(clock, lambda: now[0])
    spec, history = SearchSpec(method="trades", max_epochs=4, trials=2), History(None)
    progress = Progress(run_of(spec, history))
    start(history, spec, 0, spec.search_space().default())
    history.append("start", NO_SEARCH, params={}, method="at", role="no_search")
    progress.trial_started(history.trials[0])
    progress.trial_started(history.references[NO_SEARCH])

    def train(record, *epochs):
        for epoch in epochs:
            now[0] += 10
            history.append("epoch", record.trial, metrics=metrics(epoch, 0.5, 0.1))
            progress.epoch_ended(record, record.last)

    train(history.trials[0], 1, 2, 3, 4)
    train(history.references[NO_SEARCH], 1, 2)
    history.append("end", 0, state=TrialState.FINISHED)
    progress.trial_ended(history.trials[0])
    assert "(1/2 done, 1 running, about 1 min 00 s left)" in capsys.readouterr().err
    train(record := history.references[NO_SEARCH], 3, 4)
    history.append("end", NO_SEARCH, state=TrialState.FINISHED)
    progress.trial_ended(record)
    assert "no search finished" in (said := capsys.readouterr().err)
    assert "(1/2 done, 0 running, about 40 s left)" in said, "four of twelve epochs, eight in 80 s"


@pytest.mark.parametrize(
    "limits, left", [({"budget": "8epochs"}, "20 s"), ({"budget": "1.5min"}, "30 s"), ({"time_budget": 80.0}, "20 s")]
)
def test_the_time_left_ends_with_the_budget(limits, left, monkeypatch, capsys):
    """After six epochs in a minute."""
    now = [1000.0]
    for clock in ("tuner.report.progress.time.monotonic", "tuner.results.history.time.time"):
        monkeypatch.setattr(clock, lambda: now[0])
    spec, history = SearchSpec(method="trades", max_epochs=6, trials=20, scheduler="none", **limits), History(None)
    progress = Progress(run_of(spec, history))
    start(history, spec, 0, spec.search_space().default())
    for epoch in range(1, 7):
        now[0] += 10
        history.append("epoch", 0, metrics=metrics(epoch, 0.5, 0.1))
    history.append("end", 0, state=TrialState.FINISHED)
    progress.trial_ended(history.trials[0])
    assert f"about {left} left)" in capsys.readouterr().err
