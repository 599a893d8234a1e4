"""Trials that break off: which losses count, and that a trial goes on from its last checkpoint. Real Ray and kills."""

import json
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from tuner.breaks import NODE, OWN, PROCESS, _known, why_it_broke_off
from tuner.history import History
from tuner.lanes import Lanes
from tuner.spec import SearchSpec
from tuner.watch import DEATHS, Watch

# As Ray 2.60 wrote them when a namespace's cable was pulled, a process killed, and a node's memory full.
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ResourceTrainable\n\tip: 10.78.4.3\n"
LOST_NODE = DIED + ("The actor died because its node has died. Node Id: 7f\n\tthe actor's node was terminated "
                    "unexpectedly: health check failed due to missing too many heartbeats")
DEAD_PROCESS = DIED + ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
                       "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Consider "
                       "enabling resource isolation to prevent node deaths by resource contention.")


def broken(message):
    return RayActorError(error_msg=message)


def test_what_ray_says_is_understood():
    assert why_it_broke_off(broken(LOST_NODE)) == (NODE, "its node 10.78.4.3 was lost")
    assert why_it_broke_off(broken(DEAD_PROCESS)) == (PROCESS, "The actor is dead because its worker process has died")
    kind, reason = why_it_broke_off(_known(OutOfMemoryError("Task was killed due to the node running low on memory.")))
    assert kind == PROCESS and reason == "The actor is dead because its node ran out of memory"
    task = RayTaskError("train", "Traceback:\n  File ...\nValueError: no such class", ValueError("no such class"))
    assert why_it_broke_off(task) == (OWN, "ValueError: no such class")
    assert why_it_broke_off(ActorDiedError(task)) == (OWN, "ValueError: no such class")  # in its creation
    assert why_it_broke_off("") == (OWN, "no reason given")


@pytest.fixture
def break_off(tmp_path):
    """(history, function(error) that ends a Ray trial of trial 0 so, said lines) with --max-failures 1."""
    spec, said = SearchSpec(trials=2, max_epochs=4, max_failures=1), []
    history = History(None)
    watch = Watch(spec, history, Lanes(spec, history), [], said.append)
    watch.started(watch.lanes.next())

    def end(error):
        path = tmp_path / "error.pkl"
        path.write_bytes(cloudpickle.dumps(error))
        told = SimpleNamespace(config={"trial": {"trial": 0}}, pickled_error_file=str(path), error_file=None)
        watch.on_trial_error(0, [], told)
        return history.trials[0]
    return history, end, said


def test_a_lost_node_never_counts(break_off):
    history, end, said = break_off
    for _ in range(10):
        assert end(broken(LOST_NODE)).state == "running"
    assert history.trials[0].errors == 0 and len(said) == 10 and "its node 10.78.4.3 was lost" in said[0]


def test_errors_beyond_max_failures_end_the_trial(break_off):
    _, end, _ = break_off
    error = RayTaskError("train", "ValueError: broken", ValueError("broken"))
    assert end(error).state == "running"
    record = end(error)
    assert record.state == "failed" and record.reason == "ValueError: broken"


def test_a_process_that_dies_again_and_again_in_one_epoch_ends_the_trial(break_off):
    history, end, _ = break_off
    for _ in range(DEATHS - 1):
        assert end(broken(DEAD_PROCESS)).state == "running"
    history.append("epoch", 0, metrics={"epoch": 1})  # it got on: the count starts again
    for _ in range(DEATHS - 1):
        assert end(broken(DEAD_PROCESS)).state == "running"
    record = end(broken(DEAD_PROCESS))
    assert record.state == "failed" and "its process died 3 times in one epoch" in record.reason


@pytest.mark.timeout(600)
def test_killed_process_and_own_error_in_a_real_search(tmp_path):
    """Trial 0's process is killed after its first epoch; trial 1 cannot write its checkpoint, whatever it tries."""
    folder = tmp_path / "searches" / "b"
    (folder / "trials").mkdir(parents=True)
    (folder / "trials" / "1").write_text("a file where a folder should be")
    command = [sys.executable, "-m", "tuner.cli", "search", "--method", "srat", "--trials", "2", "--max-epochs", "4",
               "--set", "eval_attack=4", "--max-concurrent", "1", "--max-failures", "1", "--name", "b",
               "--home", str(tmp_path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path, deadline = folder / "history.jsonl", time.time() + 240
    while not (path.exists() and '"epoch"' in path.read_text() and (pid := _training(process.pid))):
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.02)
    psutil.Process(pid).kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["trials"] == {"finished": 1, "stopped": 0, "failed": 1}
    events = [json.loads(line) for line in path.read_text().splitlines()]
    epochs = Counter((e["trial"], e["metrics"]["epoch"]) for e in events if e["event"] == "epoch")
    assert epochs == {(0, e): 1 for e in (1, 2, 3, 4)}
    lost = [e for e in events if e["event"] == "lost"]
    assert [e["trial"] for e in lost] == [0] and "trial 0 broke off after epoch" in err
    errors = [e for e in events if e["event"] == "error"]
    assert [e["trial"] for e in errors] == [1, 1] and all("File " in e["text"] for e in errors)
    end = next(e for e in events if e["event"] == "end" and e["trial"] == 1)
    assert end["state"] == "failed" and "trials/1" in end["reason"], end["reason"]
    assert "Traceback" not in err, "one line for the user, the rest is in the history"


def _training(parent):
    for child in psutil.Process(parent).children(recursive=True):
        try:
            if " ".join(child.cmdline()).startswith("ray::ResourceTrainable.train"):  # Ray says what it is doing
                return child.pid
        except psutil.Error:
            continue
    return None
