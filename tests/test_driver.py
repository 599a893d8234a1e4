"""How a driver ends, without Ray: whose result is returned, what signals and the time budget do."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.histories import fill
from trainables.data import Summary
from tuner.errors import Failed, Interrupted, UsageError
from tuner.execution import driver
from tuner.execution.stopping import stoppable
from tuner.home import Home
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.searches import load_search
from tuner.results.summary import save_result, saved_result
from tuner.spec.search_spec import SearchSpec


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
    monkeypatch.setattr(driver, "Tracker", lambda *args, **options: Listener())

    def run(what, home="a", storage=None, **changes):
        monkeypatch.setattr(driver, "_tune", lambda run, *rest: what(run.history))
        return driver.search(SearchSpec(**{**spec.to_dict(), **changes, "storage": storage}), Home(tmp_path / home))

    run.spec, run.folder = spec, Home(tmp_path / "a").search("s")
    return run


def test_a_search_of_before_goes_on_with_the_images_it_had(driven):
    """Its stored spec lacks the fields that came later; `tuner resume` reads it and the driver stores it again."""
    old = SearchSpec(**{**driven.spec.to_dict(), "val_per_class": 0})
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


def killed_after_all_trials(history):
    all_trials(history)
    raise Killed


def nothing(history):
    return None


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


def test_a_search_that_its_storage_stopped_has_failed(driven):
    with pytest.raises(Failed, match="'s' stopped because its storage failed; `tuner resume s` continues it"):
        driven(lambda history: one_trial(history) and "storage")
    assert saved_result(driven.folder)["state"] == "stopped"
    assert driven(all_trials)["state"] == "finished"


def test_a_finished_search_is_not_run_again(driven):
    assert driven(all_trials) == driven(killed_after_all_trials)


def test_more_seeds_asked_for_later_make_the_result_an_old_one(driven):
    driven(all_trials)
    with pytest.raises(Killed):
        driven(killed_after_all_trials, seeds=2)
    assert saved_result(driven.folder) is None


def test_a_result_that_says_stopped_is_not_that_of_a_search_that_is_finished(driven):
    """Left by older versions after a kill; with fewer --seeds than before it is so without one."""
    old = driven(all_trials)
    save_result(driven.folder, {**old, "state": "stopped"})
    assert driven(nothing)["state"] == "finished" == saved_result(driven.folder)["state"]


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

with stoppable(None) as stop:
    _setup_signal_catching()  # as Ray Tune does
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
        time.sleep(0.2)
        print(stop.reason, flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_the_process(first):
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, str(int(first)), str(int(signal.SIGINT))],
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ.copy(),
    )
    assert done.returncode == -signal.SIGINT and done.stdout == "signal\n", done.stderr


def test_one_is_not_enough():
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, str(int(signal.SIGINT))],
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ.copy(),
    )
    assert done.returncode == 0 and done.stdout == "signal\n", done.stderr


ON_A_THREAD = """
import threading, time
from tuner.execution.stopping import stoppable

def run():
    with stoppable(time.time() + 0.1) as stop:
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
        with stoppable(time.time() + 0.2) as stop:
            ending = SearchStopper(stop)
            told.append(ending.stop_all())
            time.sleep(0.6)
            told.append(ending.stop_all())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [False, True]
