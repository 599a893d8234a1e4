"""Any process may be killed at any moment: real kills of real searches, and nothing finished is trained twice."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import tuner, tuner_here, tuner_process
from tuner.results.history import History

# Some 1.5 s a trial, slow enough to be caught in the middle of one.
ARGS = [
    "search",
    "--method",
    "srat",
    "--trials",
    "3",
    "--max-epochs",
    "4",
    "--set",
    "passes=2",
    "--set",
    "attack_steps=2",
    "--set",
    "eval_attack=2",
    "--scheduler",
    "none",
    "--burn-in",
    "own",
    "--max-concurrent",
    "1",
    "--name",
    "killed",
    "--json",
]


def start_and_wait(home, ends, extra_epochs=1, args=ARGS, of="trials"):
    """Start the search and return its process once ``ends`` trials have ended and another is in its middle; ``of``:
    or one of these."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = tuner_process(*args, "--home", home, start_new_session=True, **pipes)
    path, deadline = home / "searches" / "killed" / "history.jsonl", time.time() + 150
    while time.time() < deadline:
        history = History(path.parent) if path.exists() else None
        if (
            history
            and sum(t.state.ended for t in history.trials.values()) >= ends
            and any(len(t.epochs) >= extra_epochs and t.state == "running" for t in getattr(history, of).values())
        ):
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the search never got that far")


def runs_of(result):
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def read(home):
    return [json.loads(line) for line in (home / "searches" / "killed" / "history.jsonl").read_text().splitlines()]


def all_at_once(process, how):
    """As `systemctl stop` and `scancel` do, to every process of the search. Ray's own are in other sessions, so they
    are out of reach of what signals a process group: `timeout`, `kill -- -PID`, a closing terminal."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert all(os.getsid(child.pid) != process.pid for child in children if "ray" in child.name()), children
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(how)
    process.send_signal(how)
    return children


@pytest.mark.long
def test_killed_driver_then_resume(tmp_path):
    """In the middle of plain AT, the reference, by SIGTERM to all, and of a trial, by SIGKILL. SIGTERM to the driver
    alone: test_submit.py's `tuner stop` sends it."""
    process = start_and_wait(tmp_path, 1, of="references")
    children = all_at_once(process, signal.SIGTERM)
    out, err = process.communicate(timeout=50)  # Ray ends a driver that it left alone after 60 s
    assert process.returncode == 130, err
    assert "SIGTERM: the search stops" in err and f"`tuner resume killed --home {tmp_path}` continues it" in err
    assert not psutil.wait_procs(children, timeout=10)[1], "none of Ray's processes is left"
    left = json.loads(out)
    assert left["state"] == "stopped" and left["trials"]["finished"] >= 1 and left["front"]
    assert "over_paper" in left["gain"] and bool(left["no_search"]) == ("over_no_search" in left["gain"])
    assert "RUNNING" not in {r.info.status for r in runs_of(left)}

    process = start_and_wait(tmp_path, 1, args=["resume", "killed"])
    second = tuner_here(*ARGS, "--home", tmp_path)
    assert second.returncode == 2 and "running already" in json.loads(second.stdout)["error"]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=50)
    before = read(tmp_path)
    finished = {e["trial"] for e in before if e["event"] == "end" and e["state"] == "finished"}
    trained = {(e["trial"], e["metrics"]["epoch"]) for e in before if e["event"] == "epoch"}
    done = tuner("resume", "killed", "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["state"] == "finished" and result["trials"] == {
        "finished": 3,
        "previewed": 0,
        "stopped": 0,
        "failed": 0,
    }
    assert (result["epochs_trained"], result["epochs_saved"]) == (4 * 4 - len(trained), 0)
    assert result["no_search"] and set(result["gain"]) == {"over_paper", "over_no_search"}

    events = read(tmp_path)
    assert events[: len(before)] == before
    epochs = Counter((e["trial"], e["metrics"]["epoch"]) for e in events if e["event"] == "epoch")
    assert set(epochs) == {(t, e) for t in range(-1, 3) for e in (1, 2, 3, 4)}  # -1: plain AT, the reference
    assert all(epochs[t, e] == 1 for t in finished for e in (1, 2, 3, 4)), "a finished trial was trained again"
    again = [k for k, n in epochs.items() if n > 1]
    assert len(again) <= 2, "an interrupted trial repeats at most the report of its last epoch"

    folder = tmp_path / "searches" / "killed"
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))))
    states = Counter(t.state.name for t in study.trials)
    assert states["RUNNING"] == states["WAITING"] == 0 and states["COMPLETE"] == 3

    client, runs = MlflowClient(result["mlflow"]["tracking_uri"]), runs_of(result)
    assert len(runs) == 1 + 3 + 1 and {r.info.status for r in runs} == {"FINISHED"}
    trial_runs = [r for r in runs if r.data.tags["tuner.kind"] == "trial"]
    for run in trial_runs:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "robust_acc")]
        assert sorted(set(steps)) == [1, 2, 3, 4]
