"""How a driver ends, without Ray: whose result is returned, what signals and the time budget do."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from tests.histories import fill, metrics, no_search, run_of
from trainables.data import Summary, prepare
from trainables.storage import NO_ROOM
from tuner.errors import Failed, Interrupted, Stopped, UsageError
from tuner.execution import driver, stopping
from tuner.execution.stopping import StopRequest, like_ctrl_c, stoppable, unless_stuck
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.steering import ask
from tuner.results.summary import save_result, saved_result
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import tracker
from tuner.verification.rows import assessed


class NoTracker(Listener):
    threads: tuple = ()


class Killed(BaseException):
    """Nothing of a driver runs after it."""


@pytest.fixture
def driven(tmp_path, monkeypatch):
    """``run(what)``: a driver in whose place of Ray ``what(history)`` is called."""
    spec = SearchSpec(method="trades", name="s", trials=6)
    monkeypatch.setattr(
        driver, "check", lambda *args: Summary(["a", "b"], (1, 8, 8), {"train": [3, 2]}, None, "", [], [])
    )
    monkeypatch.setattr(driver, "share_dataset", lambda *args: None)
    monkeypatch.setattr(driver, "Tracker", lambda *args, **options: NoTracker())

    def run(what, home="a", storage=None, **changes):
        monkeypatch.setattr(driver, "_tune", lambda run, *rest: what(run.history))
        return driver.search(SearchSpec(**{**spec.to_dict(), **changes, "storage": storage}), Home(tmp_path / home))

    def resume(what, home, **changes):
        monkeypatch.setattr(driver, "_tune", lambda run, *rest: what(run.history))
        return driver.resume("s", home, **changes)

    run.spec, run.folder, run.resume = spec, Home(tmp_path / "a").search("s"), resume
    return run


def test_a_search_of_before_goes_on_with_the_images_it_had(driven):
    """Its stored spec lacks the fields that came later; `tuner resume` reads it and the driver stores it again."""
    old = SearchSpec(**{**driven.spec.to_dict(), "val_per_class": 0}).changed()
    driven.folder.mkdir(parents=True)
    lines = old.to_yaml().splitlines(keepends=True)
    (driven.folder / "spec.yaml").write_text("".join(line for line in lines if not line.startswith("val_")))
    assert load_search(Home(driven.folder.parent.parent), "s").spec == old
    with pytest.raises(UsageError, match="'s' exists with another val_per_class;"):
        driven(one_trial)
    with pytest.raises(Interrupted):
        driven(one_trial, val_per_class=0)
    assert "val_per_class: 0" in (driven.folder / "spec.yaml").read_text()


def one_trial(history):
    fill(history, SearchSpec(method="trades", trials=6), trials=1, failed=False)
    return "signal"


def all_trials(history):
    history.path.unlink(missing_ok=True)
    fill(History(history.folder), SearchSpec(method="trades", trials=6), failed=False)
    history.__init__(history.folder)
    return None


def previews(history):
    """Three proposals are previewed in 2 of 12 epochs."""
    for trial in range(3):
        history.append("start", trial, params={}, method="trades", preview=True)
        history.append("preview", trial, epochs=2, metrics=metrics(10, 0.5, 0.1))
    return "signal"


def promotions(history):
    """And then two of them trained in full."""
    for trial in range(2):
        history.append("promote", trial)
        for epoch in range(1, 13):
            history.append("epoch", trial, metrics=metrics(epoch, 0.5, 0.1))
        history.append("end", trial, state="finished")
    return "signal"


def killed_after_all_trials(history):
    all_trials(history)
    raise Killed


def nothing(history):
    return None


@pytest.mark.slow
@pytest.mark.parametrize("storage", [False, True])
def test_the_result_of_an_earlier_end_is_not_that_of_a_run_that_was_killed(driven, tmp_path, storage):
    storage = str(tmp_path / "storage") if storage else None
    with pytest.raises(Interrupted) as stopped:
        driven(one_trial, storage=storage)
    assert stopped.value.result["state"] == "stopped" == saved_result(driven.folder)["state"]
    with pytest.raises(Killed):
        driven(killed_after_all_trials, storage=storage)
    assert saved_result(driven.folder) is None
    for home in ("a", "b") if storage else ("a",):  # another home has of it what the storage has
        result = driven(nothing, home=home, storage=storage)
        assert result["state"] == "finished" and sum(result["trials"].values()) == 6


def test_what_a_search_saved_is_counted_in_all(driven):
    """A resume that trained in full what had been previewed before said that previews saved -24 epochs."""
    found = []
    for part in (previews, promotions):
        with pytest.raises(Interrupted) as stopped:
            driven(part, max_epochs=12)
        found.append(stopped.value.result)
    assert [result["epochs_saved_by"]["previews"] for result in found] == [3 * 12 - 3 * 2, 12 - 3 * 2]
    assert [result["epochs_trained"] for result in found] == [3 * 2, 2 * 12]


@pytest.mark.slow
def test_p1_a_search_of_one_trial_is_not_finished_without_its_reference(driven):
    """It was stopped between the end of trial 0 and the start of plain AT: `tuner resume` trains that."""

    def reference(history):
        no_search(history, SearchSpec(method="trades", trials=1))

    with pytest.raises(Interrupted) as stopped:
        driven(one_trial, trials=1)
    assert stopped.value.result["state"] == "stopped" and not stopped.value.result["no_search"]
    resumed = driven(reference, trials=1)
    assert resumed["state"] == "finished" and resumed["no_search"]


@pytest.mark.slow
def test_a_search_that_its_storage_stopped_has_failed(driven):
    with pytest.raises(
        Stopped, match="'s' stopped because its storage failed; `tuner resume s --home .*a` continues it"
    ):
        driven(lambda history: one_trial(history) and "storage")
    assert saved_result(driven.folder)["state"] == "stopped"
    assert driven(all_trials)["state"] == "finished"


def test_whoever_is_told_how_to_go_on_is_told_the_storage_too(driven, tmp_path):
    """Else the command is refused: a later one names the places of a spec again."""
    storage = str(tmp_path / "my storage")
    spec, home = replace(driven.spec, storage=storage), Home(tmp_path / "a")
    from tuner.execution.ray_callback import SearchCallback

    command = f"tuner resume s --storage '{storage}' --home {home.root}"
    run, said = SearchRun(spec, home, "s", History(None)), []
    callback = SearchCallback(run, AskTell(spec, run.history, run.folder), Listener(), said.append)
    callback.started(callback.optimizer.next())
    callback._interrupted(0, f"StorageDown: it {NO_ROOM}")
    assert said == [f"the search stops, `{command}` continues it: it {NO_ROOM}"]
    with pytest.raises(UsageError, match=re.escape(f"`{command}` continues it")):
        assessed(run)
    driven(nothing, storage=storage)
    with pytest.raises(UsageError, match=re.escape(f"or extend it: {command.replace(' s ', ' s --trials 9 ')}")):
        driven(nothing, storage=storage, trials=9)
    for kind in ("extend", "confirm", "retry"):
        with pytest.raises(UsageError) as refused:
            ask(replace(run, home=Home(home.root)), kind, trial=0)
        name = {"extend": "resume", "confirm": "front"}.get(kind, kind)
        assert f": tuner {name} s --storage '{storage}'" in str(refused.value)


def test_a_search_goes_on_with_the_training_images_it_began_with_alone(driven, monkeypatch, tmp_path, parquet_dir):
    """Else one front would hold trials that were trained and judged on other images. `test` may be mended meanwhile."""
    data = shutil.copytree(parquet_dir, tmp_path / "data")
    table = pq.read_table(data / "train.parquet")
    labels = pa.array([(label + 1) % 3 for label in table["label"].to_pylist()])
    other = table.set_column(table.column_names.index("label"), "label", labels)

    def run():
        decoded = prepare(f"parquet:{data}", tmp_path / "decoded")
        summary = Summary(["a", "b"], (1, 8, 8), {"train": [3, 2]}, None, "", [], [], decoded=decoded)
        monkeypatch.setattr(driver, "check", lambda *args: summary)
        return driven(nothing)

    run()
    pq.write_table(pq.read_table(data / "test.parquet").slice(1), data / "test.parquet")
    run()
    pq.write_table(other, data / "train.parquet")
    with pytest.raises(UsageError, match="are not those with which search 's' began, so its trials could"):
        run()
    pq.write_table(table, data / "train.parquet")
    run()
    assert driven(nothing, storage=str(tmp_path / "storage"))["state"] == "stopped", "which keeps its images itself"


def test_a_finished_search_is_not_run_again(driven):
    assert driven(all_trials) == driven(killed_after_all_trials)


@pytest.mark.slow
def test_more_seeds_asked_for_later_make_the_result_an_old_one(driven):
    driven(all_trials)
    with pytest.raises(Killed):
        driven(killed_after_all_trials, seeds=2)
    assert saved_result(driven.folder) is None


@pytest.mark.slow
def test_a_result_that_says_stopped_is_not_that_of_a_search_that_is_finished(driven):
    """Left by older versions after a kill; with fewer --seeds than before it is so without one."""
    old = driven(all_trials)
    save_result(driven.folder, {**old, "state": "stopped"})
    assert driven(nothing)["state"] == "finished" == saved_result(driven.folder)["state"]


@pytest.mark.parametrize("ended, said", [("budget", {"spent": "13epochs"}), ("time budget", {})])
def test_a_result_says_that_a_budget_is_spent(driven, ended, said):
    def late(history):
        one_trial(history)
        return ended

    result = driven(late, budget="13epochs")
    assert {name: result[name] for name in result if name == "spent"} == said and result["state"] == "stopped"


def test_who_interrupts_after_the_last_trial_has_stopped_nothing(driven):
    def late(history):
        all_trials(history)
        return "signal"

    with pytest.raises(Interrupted) as stopped:
        driven(late)
    assert stopped.value.result["state"] == "finished" == saved_result(driven.folder)["state"]


QUIET = """
import sys
from tuner.execution.ray_patches import quiet_tune

quiet_tune()
from ray import tune
from ray.air._internal import usage

usage.tag_callbacks([tune.Callback()])  # as Ray Tune does before the first trial
print([name for name in ("mlflow", "torch") if name in sys.modules])
"""


def test_no_trial_waits_for_mlflow():
    done = subprocess.run([sys.executable, "-c", QUIET], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stderr


# ---- signals and time ------------------------------------------------------------------------------------------------

PRESSED = """
import os, signal, sys, time
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # as the driver does
from ray.tune.tune import _setup_signal_catching
from tuner.execution.stopping import stoppable

with stoppable(None, go_on="`tuner resume s` continues it") as stop:
    _setup_signal_catching()  # as Ray Tune does
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
        time.sleep(0.2)
        print(stop.reason, stop.ray_s, stop.close_s, flush=True)
"""


def pressed(*signals):
    return subprocess.run(
        [sys.executable, "-c", PRESSED, *(str(int(number)) for number in signals)],
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ.copy(),
    )


def test_p1_every_signal_is_answered_at_once_and_ends_nothing():
    """However often batch systems send it."""
    done = pressed(signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["signal 8.0 4.0", *3 * ["signal 0.0 0.5"]], "the second one hurries the end"
    first, second = done.stderr.splitlines()
    assert first.startswith("SIGHUP: the search stops") and "`tuner resume s` continues it" in first
    assert second.startswith("SIGTERM again: ")


def test_p1_only_a_third_ctrl_c_ends_the_process():
    done = pressed(signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert done.returncode == -signal.SIGINT and len(done.stdout.splitlines()) == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "ended at once, without a result; `tuner resume s` continues it"


STUCK = """
import sys, threading
from tuner.execution.stopping import StopRequest, leave, unless_stuck

stop, abandoned = StopRequest(), []
stop.abandon = lambda: print("abandoned")
stop("signal")
stop.signals = 2
print(unless_stuck(threading.Event().wait, stop, print), stop.stuck)
import atexit
atexit.register(threading.Event().wait)  # as Ray's own end, which waits for its head
leave(130)
"""


def test_p1_a_process_with_a_stuck_thread_ends():
    done = subprocess.run([sys.executable, "-c", STUCK], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "None True\nabandoned\n"), done.stderr


@pytest.mark.slow
def test_c10_who_still_writes_to_mlflow_is_left_behind(driven, monkeypatch):
    """Ended in the middle of an import or a write, it made the libraries' own ends print a traceback."""
    ends, left = threading.Event(), []
    monkeypatch.setattr(stopping, "_left_behind", left)
    monkeypatch.setattr(tracker._Writer, "work", lambda writer: writer.imported.set() or ends.wait())
    monkeypatch.setattr(
        driver, "Tracker", lambda *args, **options: tracker.Tracker(*args, warn=print, close_s=lambda: 0.1)
    )
    try:
        with pytest.raises(Interrupted):
            driven(one_trial)
        ((thread, abandon),) = left
        assert thread.name == "mlflow" and thread.is_alive() and abandon() is None
        tracker.sync(load_search(Home(driven.folder.parents[1]), "s"), timeout=0.1, left=stopping.leave_behind)
        assert [thread.name for thread, _ in left] == ["mlflow"] * 2 and left[1][0] is not thread
    finally:
        ends.set()


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_c11_the_pictures_that_sync_draws_are_sent_to_a_storage_that_is_named(driven, tmp_path, monkeypatch, named):
    """They could not be written while the home's disk was full."""
    where = tmp_path / "storage"
    driven(all_trials, storage=str(where))
    for place in (driven.folder, where / "searches" / "s"):
        (place / "front.html").unlink(missing_ok=True)
    monkeypatch.setattr(driver, "sync", lambda run, **how: True)
    assert driver.fill_mlflow("s", Home(tmp_path / "a", str(where) if named else None), print)
    assert (driven.folder / "front.html").exists() and (where / "searches/s/front.html").exists() == named


def test_c13_what_ray_makes_of_a_full_disk_is_the_full_disk(driven):
    """It reads its snapshot at its end: an EOFError, which the command line took for Ctrl-C."""
    stop, said = StopRequest(), []
    stop("disk")
    with driver._watched(None, stop, said.append):
        raise EOFError("Ran out of input")
    assert stop.reason == "disk" and said == []
    with pytest.raises(EOFError), driver._watched(None, StopRequest(), said.append):
        raise EOFError("Ran out of input")


def test_c13_the_end_of_a_file_is_no_interruption(monkeypatch, capsys):
    from tuner.cli import app

    def command(home, as_json):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("tuner.report.console.show_searches", command)
    monkeypatch.setattr(sys, "argv", ["tuner", "ls"])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1 and capsys.readouterr().err.strip() == "Error: EOFError: Ran out of input"


def test_c11_a_snapshot_of_rays_that_a_full_disk_refuses_is_nobodys_loss(capsys):
    from tuner.execution.ray_patches import quiet_tune

    quiet_tune()
    from ray.tune.execution import experiment_state

    experiment_state.logger.error("Saving experiment state to storage failed", exc_info=True)
    assert capsys.readouterr() == ("", "") and not experiment_state.logger.isEnabledFor(logging.ERROR)


@pytest.mark.slow
def test_p1_a_search_whose_ray_is_gone_ends_at_once():
    stop, said, comes_back = StopRequest(), [], threading.Event()
    stop.lost = lambda: "its process raylet has died"
    try:
        assert unless_stuck(comes_back.wait, stop, said.append) is None and stop.stuck
    finally:
        comes_back.set()
    assert said == ["Ray is gone: its process raylet has died"] and stop.reason == "ray"


def test_p1_what_a_thread_returns_or_raises_is_the_drivers():
    assert unless_stuck(lambda: "storage", StopRequest(), print) == "storage"
    with pytest.raises(UsageError, match="no node"):
        unless_stuck(raising(UsageError("no node")), StopRequest(), print)


def raising(error):
    def work():
        raise error

    return work


def test_p1_before_the_first_trial_a_signal_breaks_off():
    """There is nothing yet to end orderly, and decoding a large data set takes minutes."""
    with pytest.raises(KeyboardInterrupt), stoppable(None) as stop:
        stop.orderly = False
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    with pytest.raises(KeyboardInterrupt), like_ctrl_c():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(5)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_p1_nohup_still_holds():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(None) as stop, like_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_p1_a_search_that_ray_left_has_its_result(driven):
    with pytest.raises(Stopped, match="'s' stopped because Ray is gone; `tuner resume s --home") as stopped:
        driven(lambda history: one_trial(history) and "ray")
    assert stopped.value.result["trials"]["finished"] == 1


def test_p1_nothing_is_recorded_once_ray_is_left_behind(tmp_path):
    """The abandoned thread may come back while the result is written."""
    from tuner.execution.ray_callback import SearchCallback

    spec, history = SearchSpec(method="trades", trials=6), History(None)
    fill(history, spec, trials=1, failed=False)
    watch, told = SearchCallback(run_of(spec, history), None, Listener(), print), history.changes
    watch.ending("ray")
    trial = SimpleNamespace(config={"trial": {"trial": 0}}, pickled_error_file=None, error_file=None)
    watch.on_trial_error(0, [], trial)  # what took Ray took its processes
    watch.ending.stuck = True
    watch.on_trial_result(0, [], trial, {"trial": 0, "metrics": {"epoch": 99}, "done": False})
    watch.on_trial_complete(0, [], trial)
    assert history.changes == told


@pytest.mark.process
def test_p1_what_ray_has_started_is_killed_before_ray_has_started():
    """A second signal in that second left processes, which wrote into their folder after it had been removed."""
    from ray._private import services, worker

    from tuner.execution.ray_patches import kill_private, out_of_reach

    assert worker._global_node is None
    with out_of_reach():
        started = services.ConsolePopen(["sleep", "60"])
    try:
        kill_private()
        assert started.wait(timeout=10) == -signal.SIGKILL
    finally:
        started.kill()


def test_p1_ray_pickles_nothing_of_the_drivers():
    from tuner.execution.ray_scheduler import SearchStopper

    stop = StopRequest()
    stop.lost = threading.RLock().acquire  # cannot be pickled, as a terminal cannot
    assert cloudpickle.dumps(SearchStopper(stop))


class Starting:
    """In place of the ray module: its first starts fail."""

    def __init__(self, *errors):
        self.errors, self.shut = [*errors], 0

    def init(self, *args, **how):
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self):
        self.shut += 1


SLOW = [
    Exception("The current node timed out during startup."),
    RuntimeError("Timed out waiting for file /tmp/r/gcs_server_port_1"),  # its GCS had been killed
]


def test_c9_ray_is_started_again_where_one_of_its_processes_died(monkeypatch):
    from tuner.execution import ray_instance

    starting = Starting(*SLOW)
    ray_instance.start(starting)
    assert starting.shut == 2
    with pytest.raises(Failed, match=r"^Ray does not start on this machine, tried three times \(Timed out waiting"):
        ray_instance.start(Starting(*SLOW, SLOW[1]))
    with pytest.raises(ValueError, match="an option"):
        ray_instance.start(Starting(ValueError("an option")))
    monkeypatch.setattr(ray_instance, "dead_process", lambda: "raylet")
    ray_instance.start(starting := Starting(ConnectionError("reset by peer")))
    assert starting.shut == 1


def test_c9_rays_logs_are_not_shown(capsys):
    from ray._private import worker

    from tuner.execution import ray_instance

    ray_instance.start(Starting())
    worker.print_to_stdstream({"lines": ["(raylet) 20 lines of its log"], "pid": "raylet", "is_err": False})
    assert capsys.readouterr() == ("", "")


def test_p1_a_heads_silence_is_waited_for(monkeypatch):
    from tuner.execution import ray_instance

    now, answers, said = [0.0], [True], []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_instance.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_instance, "listens", lambda host, port: (host, port) == ("10.0.0.1", 6379) and answers[0])
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    lost = ray_instance.watch(SimpleNamespace(get_runtime_context=lambda: context), said.append)

    def after(seconds):
        now[0] += seconds
        return lost()

    assert after(6) is None and not said
    answers[0] = False
    assert after(6) is None and len(said) == 1 and after(30) is None
    answers[0] = True
    assert after(6) is None
    answers[0] = False
    assert after(6) is None and len(said) == 2, "it had come back"
    assert after(41) == "its head 10.0.0.1:6379 has not answered for 41 s"


AT_ITS_END = """
import atexit, os, signal
from tuner.execution.stopping import leave

@atexit.register
def slowly():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    print("ended")

leave(3)
"""


def test_c6_a_signal_after_the_result_changes_no_exit_code():
    """Batch systems repeat them while libraries end."""
    done = subprocess.run([sys.executable, "-c", AT_ITS_END], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "ended\n", "")


WHILE_RAY_ENDS = """
import os, signal, threading, time
from tuner.execution import ray_instance

def as_ray_does():  # on a thread, as a search: from C++, which resets the handler and then waits for its processes
    python = ray_instance.ctypes.pythonapi
    with ray_instance._own_handler():
        python.PyOS_setsig(signal.SIGTERM, 0)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, lambda *_: print("said"))
thread = threading.Thread(target=as_ray_does)
thread.start()
thread.join()
"""


def test_c14_a_signal_while_ray_ends_is_heard():
    """A round of `make chaos` ended with SIGTERM's own exit code, without a line or a result."""
    done = subprocess.run([sys.executable, "-c", WHILE_RAY_ENDS], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")


WHILE_IMPORTING = """
import builtins, sys
real = builtins.__import__

def pressed(name, *rest):
    if name == "typer":
        raise KeyboardInterrupt
    return real(name, *rest)

from tuner.cli import main
builtins.__import__ = pressed
main()
"""


def test_c6_ctrl_c_while_the_command_line_is_imported_is_one_sentence():
    done = subprocess.run([sys.executable, "-c", WHILE_IMPORTING], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: interrupted\n")


def test_c5_a_clock_that_jumps_changes_no_duration_and_no_end(driven, monkeypatch):
    """NTP corrects it, or a laptop wakes up: seconds are counted by a clock that cannot jump."""

    def jump(history):
        monkeypatch.setattr(time, "time", lambda real=time.time: real() - 86400)
        one_trial(history)
        assert optimizer._in_time("trades", lambda stems: 1), "a day more of the time budget"
        return "signal"

    optimizer = AskTell(driven.spec, History(None), until=time.monotonic() + 1000)
    with pytest.raises(Interrupted) as stopped:
        driven(jump)
    assert 0 <= stopped.value.result["wall_s"] < 1000
    monkeypatch.undo()
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + 86400)
    assert optimizer._in_time("trades", lambda stems: 1)
    with stoppable(time.monotonic() + 100) as stop:
        time.sleep(0.3)
        assert stop.reason is None


ON_A_THREAD = """
import threading, time
from tuner.execution.stopping import stoppable

def run():
    with stoppable(time.monotonic() + 0.1) as stop:
        time.sleep(0.5)
        print(stop.reason)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_a_time_budget_on_another_thread_leaves_the_process_alone():
    done = subprocess.run(
        [sys.executable, "-c", ON_A_THREAD], text=True, capture_output=True, timeout=60, env=os.environ.copy()
    )
    assert done.returncode == 0 and done.stdout == "time budget\n", done.stderr


def test_rays_loop_is_told_wherever_it_runs():
    from tuner.execution.ray_scheduler import SearchStopper

    told = []

    def run():
        with stoppable(time.monotonic() + 0.2) as stop:
            ending = SearchStopper(stop)
            told.append(ending.stop_all())
            time.sleep(0.6)
            told.append(ending.stop_all())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [False, True]
