"""Trials that break off: which losses count, that a storage's silence is waited for, and that a trial goes on from its
last checkpoint. Real Ray and kills."""

import json
import subprocess
import time
from collections import Counter
from dataclasses import asdict
from errno import ENOSPC
from types import SimpleNamespace

import psutil
import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from tests.conftest import tuner_process
from tests.histories import curve, run_of
from trainables import ray_adapter
from trainables.checkpoint import read_checkpoint
from trainables.config import TrialConfig
from trainables.data import prepare, share
from trainables.datasets import training_for
from trainables.gpu_use import rows_of
from trainables.initial import keep_weights
from trainables.models.build import build_model
from trainables.processes import ProcessDied
from trainables.ray_adapter import WAITS_S, StorageDown, TrialActor
from trainables.storage import Storage, below
from trainables.trial_report import TrialReport
from tuner.execution.failures import NODE, OWN, PROCESS, STORAGE, classify_failure
from tuner.execution.ray_callback import DEATHS, SearchCallback
from tuner.execution.ray_patches import as_lost_actor
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.references import references
from tuner.results.running import read_running
from tuner.results.summary import front_json
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.search_spec import SearchSpec

# As Ray 2.60 wrote them when a namespace's cable was pulled, a process killed, and a node's memory full.
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ResourceTrainable\n\tip: 10.78.4.3\n"
LOST_NODE = DIED + (
    "The actor died because its node has died. Node Id: 7f\n\tthe actor's node was terminated "
    "unexpectedly: health check failed due to missing too many heartbeats"
)
DEAD_PROCESS = DIED + (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Consider "
    "enabling resource isolation to prevent node deaths by resource contention."
)


SILENT = RayTaskError(
    "train",
    "Traceback:\n  File ...\ntrainables.ray_adapter.StorageDown: storage 's3://b' is silent",
    StorageDown("storage 's3://b' is silent"),
)


def broken(message):
    return RayActorError(error_msg=message)


def test_what_ray_says_is_understood():
    assert classify_failure(broken(LOST_NODE)) == (NODE, "its node 10.78.4.3 was lost")
    assert classify_failure(broken(DEAD_PROCESS)) == (PROCESS, "The actor is dead because its worker process has died")
    kind, reason = classify_failure(
        as_lost_actor(OutOfMemoryError("Task was killed due to the node running low on memory."))
    )
    assert kind == PROCESS and reason == "The actor is dead because its node ran out of memory"
    task = RayTaskError("train", "Traceback:\n  File ...\nValueError: no such class", ValueError("no such class"))
    assert classify_failure(task) == (OWN, "ValueError: no such class")
    assert classify_failure(ActorDiedError(task)) == (OWN, "ValueError: no such class")  # in its creation
    assert classify_failure("") == (OWN, "no reason given")
    for silent in (SILENT, ActorDiedError(SILENT)):
        assert classify_failure(silent) == (STORAGE, "storage 's3://b' is silent")
    said = "process 2 of the 2 that train this trial was killed by SIGKILL"
    died = RayTaskError("train", f"Traceback:\ntrainables.processes.ProcessDied: {said}", ProcessDied(said))
    assert classify_failure(died) == (PROCESS, said)


class Troubled(Listener):
    def __init__(self, troubles):
        self.troubles = troubles

    def trouble(self, text):
        self.troubles.append(text)


@pytest.fixture
def troubles():
    """What the listeners were told to be lost."""
    return []


@pytest.fixture
def break_off(tmp_path, troubles):
    """(history, function(error) that ends a Ray trial of trial 0 so, said lines) with --max-failures 1. What stops the
    search is said too."""
    spec, said = SearchSpec(trials=2, max_epochs=4, max_failures=1), []
    history = History(None)
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Troubled(troubles), said.append)
    watch.stop = said.append
    watch.started(watch.optimizer.next())

    def end(error, trial=0, **config):
        path = tmp_path / "error.pkl"
        path.write_bytes(cloudpickle.dumps(error))
        told = SimpleNamespace(config={"trial": {"trial": trial, **config}}, pickled_error_file=str(path))
        watch.on_trial_error(0, [], told)
        return history.trials[trial]

    return history, end, said


def test_a_lost_node_never_counts(break_off, troubles):
    history, end, said = break_off
    for _ in range(10):
        assert end(broken(LOST_NODE)).state == "running"
    assert history.trials[0].errors == 0 and len(said) == 10 and "its node 10.78.4.3 was lost" in said[0]
    assert troubles == ["trial 0: its node 10.78.4.3 was lost"] * 10


def test_errors_beyond_max_failures_end_the_trial(break_off, troubles):
    _, end, _ = break_off
    error = RayTaskError("train", "ValueError: broken", ValueError("broken"))
    assert end(error).state == "running"
    record = end(error)
    assert record.state == "failed" and record.reason == "ValueError: broken"
    assert not troubles, "nothing was lost"


def test_a_process_that_dies_again_and_again_in_one_epoch_ends_the_trial(break_off):
    history, end, _ = break_off
    for _ in range(DEATHS - 1):
        assert end(broken(DEAD_PROCESS)).state == "running"
    history.append("epoch", 0, metrics={"epoch": 1})  # it got on: the count starts again
    for _ in range(DEATHS - 1):
        assert end(broken(DEAD_PROCESS)).state == "running"
    record = end(broken(DEAD_PROCESS))
    assert record.state == "failed" and "its process died 3 times in one epoch" in record.reason


def test_a_preview_that_gets_on_between_deaths_goes_on(tmp_path):
    """Its epochs are not in the history before it ends; the reports of its actor say that it got on."""
    spec, history = SearchSpec(trials=8, max_epochs=20, scheduler="preview"), History(None)
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Listener(), lambda line: None)
    watch.started(watch.optimizer.next())
    preview = watch.optimizer.next()
    watch.started(preview)
    path = tmp_path / "error.pkl"
    path.write_bytes(cloudpickle.dumps(broken(DEAD_PROCESS)))
    config = {"trial": {"trial": preview.trial}}
    told = SimpleNamespace(config=config, pickled_error_file=str(path), error_file=None)
    for epoch in (15, 16):
        for _ in range(DEATHS - 1):
            watch.on_trial_error(0, [], told)
        result = {"trial": preview.trial, "metrics": {"epoch": epoch}, "done": False}
        watch.on_trial_result(0, [], told, result)
    assert not preview.full and history.trials[preview.trial].state == "running"
    for _ in range(DEATHS):
        watch.on_trial_error(0, [], told)
    assert history.trials[preview.trial].state == "failed"


def test_an_error_after_the_end_is_no_interruption(break_off):
    """Ray saves a checkpoint of its own once a trial has ended, which a full disk prevents (make chaos, 13/0). So late
    an error of a preview is none of the training in full to which it has been promoted."""
    history, end, said = break_off
    history.append("end", 0, state="finished")
    error = RayTaskError("save", "OSError: no space", OSError(28, "No space left on device"))
    assert end(error).state == "finished" and history.trials[0].errors == 0 and not said
    history.append("start", 1, params={}, method="srat", preview=True)
    history.append("preview", 1, epochs=1, metrics={"epoch": 3}, curve=None)
    assert end(error, trial=1, cool_down=1).state == "previewed"
    history.append("promote", 1)
    assert end(error, trial=1, cool_down=1).errors == 0 and not said
    assert end(error, trial=1, cool_down=None).errors == 1 and "trial 1 was interrupted" in said[0]


def test_a_silent_storage_ends_the_search_and_no_trial(break_off, troubles):
    history, end, said = break_off
    for epoch in range(1, 5):
        for _ in range(DEATHS - 1):
            assert end(SILENT).state == "running"
        end(broken(DEAD_PROCESS))
        history.append("epoch", 0, metrics={"epoch": epoch})  # it answered again: the count starts anew
    assert all("continues from there" in line for line in said) and len(said) == 4 * DEATHS
    for _ in range(DEATHS):
        assert end(SILENT).state == "running"  # a resume goes on with it
    assert history.trials[0].errors == 0 and set(troubles) == {"trial 0: storage 's3://b' is silent"}
    assert said[-1] == "storage" and "storage 's3://b' is silent" in said[-2] and "resume" in said[-2]


def test_a_reference_that_fails_is_named_and_the_search_goes_on(tmp_path):
    """Plain AT fails for good: no trial of the search has, which ends as finished and compares with what there is."""
    spec, said = SearchSpec(trials=1, max_epochs=1, max_failures=1), []
    history = History(None)
    run = run_of(spec, history)
    optimizer = AskTell(spec, history, references=references(spec))
    watch = SearchCallback(run, optimizer, Listener(), said.append)
    for number in (0, NO_SEARCH):
        watch.started(optimizer.next())
        assert list(history.everything())[-1].trial == number
    path = tmp_path / "error.pkl"
    path.write_bytes(cloudpickle.dumps(RayTaskError("train", "ValueError: broken", ValueError("broken"))))
    told = SimpleNamespace(config={"trial": {"trial": NO_SEARCH}}, pickled_error_file=str(path), error_file=None)
    for _ in range(2):
        watch.on_trial_error(0, [], told)
    (line,) = said
    assert line.startswith("no search was interrupted after epoch 0 (error 1 of 1 allowed), continues from there: ")
    report = TrialReport(0, {"epoch": 1, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.1}, done=True)
    watch.on_trial_result(0, [], None, report.to_result())
    assert optimizer.next() is None and history.record(NO_SEARCH).state == "failed"
    result = front_json(run)
    assert result["state"] == "finished" and result["trials"] == {
        "finished": 1,
        "previewed": 0,
        "stopped": 0,
        "failed": 0,
    }
    assert result["no_search"] == [] and [row["trial"] for row in result["front"]] == [0]


def test_c12_a_trial_whose_last_checkpoints_are_lost_ends_with_its_curve(tmp_path):
    """Its epochs are in the history; a storage that came back has an earlier checkpoint. It trains them again and ended
    at the first of them, without the curve by which the front is drawn and the next setting proposed."""
    spec, history = SearchSpec(trials=1, max_epochs=3, storage=None), History(None)
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Listener(), print)
    record = watch.optimizer.next()
    watch.started(record)
    for epoch in (1, 2, 3):  # by an earlier driver, which died before the curve was written
        history.append("epoch", 0, metrics={"epoch": epoch})
    for epoch in (2, 3):
        rates = {"epoch": epoch, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.1}
        told = TrialReport(0, rates, done=epoch == 3, curve=curve(0.5, 0.1) if epoch == 3 else None)
        assert history.record(0).state == "running"
        watch.on_trial_result(0, [], None, told.to_result())
    assert history.record(0).state == "finished" and history.record(0).curve


@pytest.fixture
def actor(tmp_path, monkeypatch):
    """(function that makes the actor of a tiny trial, function(name, errors) that makes that method of the storage
    raise them first, the seconds it slept)."""
    training = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1))
    trial = TrialConfig(
        "gairat", training=training, home=str(tmp_path), max_epochs=2, folder=str(tmp_path / "t"), fork=1, stem=training
    )
    slept = []
    monkeypatch.setattr(ray_adapter, "sleep", slept.append)

    def fail(name, errors):
        real = getattr(Storage, name)

        def sometimes(self, *args):
            if errors:
                raise errors.pop(0)
            return real(self, *args)

        monkeypatch.setattr(Storage, name, sometimes)

    return lambda: TrialActor({"trial": trial.to_dict()}), fail, slept


def test_a_storage_that_answers_again_costs_nothing_but_time(actor, tmp_path):
    make, fail, slept = actor
    fail("read", [OSError("AWS Error NETWORK_CONNECTION"), TimeoutError()])
    running = make()
    running.step()
    assert slept == [*WAITS_S[:2]]
    fail("write", [OSError(ENOSPC, "No space left on device")] * 3)
    while running.trainer.epoch < 2:
        running.step()
    assert slept == [*WAITS_S[:2], *WAITS_S[:3]] and read_checkpoint(tmp_path / "t")["epoch"] == 2


def test_a_storage_that_stays_silent_is_named(actor, tmp_path):
    make, fail, slept = actor
    running = make()
    running.step(), running.step()  # the stem, and leaving it
    fail("write", [OSError("AWS Error NETWORK_CONNECTION")] * 100)
    with pytest.raises(StorageDown, match=f"storage '{tmp_path}' cannot be used .AWS Error NETWORK_CONNECTION"):
        running.step()
    assert slept == list(WAITS_S) and 200 < sum(slept) < 400
    assert StorageDown.__name__ in repr(cloudpickle.loads(cloudpickle.dumps(StorageDown("so"))))


@pytest.fixture
def node(tmp_path, monkeypatch):
    """(function that makes the actor of a trial whose data and initial weights lie in a storage, on a machine that has
    neither; function(name, answers) that lets the storage give these for that file first; the seconds it slept)."""
    shared, training = str(tmp_path / "shared"), asdict(training_for("digits", passes=1, eval_attack=1))
    data = below(shared, "datasets", share(prepare("digits", tmp_path / "driver"), shared))
    weights, slept, read = keep_weights(shared, build_model("cnn", 10, (1, 8, 8)).state_dict()), [], Storage.read
    trial = TrialConfig(
        "gairat", training=training, dataset=f"stored:{data}", home=str(tmp_path / "node"), storage=shared, init=weights
    )
    monkeypatch.setattr(ray_adapter, "sleep", slept.append)
    answers = {"train.arrow": [], f"{weights}.safetensors": []}

    def sometimes(self, name):
        if not answers.get(name):
            return read(self, name)
        if isinstance(answer := answers[name].pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(Storage, "read", sometimes)
    return lambda: TrialActor({"trial": trial.to_dict()}), answers, slept


def test_data_and_weights_to_start_from_are_waited_for_too(node):
    """A trial on a machine that had not copied them yet was given up as if it were its own fault."""
    make, answers, slept = node
    for given in answers.values():
        given += [OSError("AWS Error NETWORK_CONNECTION"), None]  # None: the mount is away
    assert make().trainer.epoch == 0 and slept == [*WAITS_S[:4]]


@pytest.mark.parametrize("which", [0, 1])
def test_data_and_weights_that_stay_away_are_named(node, which):
    make, answers, slept = node
    name = [*answers][which]
    answers[name] += [None] * 100
    with pytest.raises(StorageDown, match=f"{name}.*{'are not in' if which else 'removed from the storage'}"):
        make()
    assert slept == list(WAITS_S)
    answers[name][:] = [b"altered"]
    with pytest.raises(ValueError, match="its content does not fit its name"):
        make()


@pytest.mark.parametrize("error", [FileExistsError(), NotADirectoryError(), PermissionError(), ValueError()])
def test_waiting_does_not_help_where_the_trials_own_folder_is_wrong(actor, error):
    make, fail, slept = actor
    fail("read", [error])
    with pytest.raises(type(error)):
        make()
    assert slept == []


def test_a_stem_that_cannot_be_stored_is_no_fault_of_the_trial(actor):
    make, fail, slept = actor
    running = make()
    fail("write", [OSError("AWS Error NETWORK_CONNECTION")])
    with pytest.raises(StorageDown):
        running.step()
    assert slept == [], "a new actor waits, before it reads"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_process_and_own_error_in_a_real_search(tmp_path):
    """Trial 0's process is killed after its first epoch; trial 1 cannot write its checkpoint, whatever it tries."""
    folder = tmp_path / "searches" / "b"
    (folder / "trials").mkdir(parents=True)
    (folder / "trials" / "1").write_text("a file where a folder should be")
    args = ["--method", "srat", "--trials", 2, "--max-epochs", 4, "--max-concurrent", 1, "--max-failures", 1]
    args += ["--set", "passes=2", "--set", "attack_steps=3", "--set", "eval_attack=2", "--burn-in", "own"]
    args += ["--name", "b", "--home", tmp_path, "--json"]
    process = tuner_process("search", *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path, deadline = folder / "history.jsonl", time.time() + 240
    while not (path.exists() and '"epoch"' in path.read_text() and (pid := _training(process.pid))):
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.02)
    daemons = " ".join(command for _, command in _children(process.pid))
    assert "gcs_server" in daemons, daemons
    assert not any(idle in daemons for idle in ("monitor.py", "dashboard.py")), "nobody needs these here"
    psutil.Process(pid).kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["trials"] == {"finished": 1, "previewed": 0, "stopped": 0, "failed": 1}
    events = [json.loads(line) for line in path.read_text().splitlines()]
    epochs = Counter((e["trial"], e["metrics"]["epoch"]) for e in events if e["event"] == "epoch")
    assert epochs == {(t, e): 1 for t in (-1, 0) for e in (1, 2, 3, 4)}  # -1: plain AT, the reference
    lost = [e for e in events if e["event"] == "lost"]
    assert [e["trial"] for e in lost] == [0] and "trial 0 was interrupted after epoch" in err
    errors = [e for e in events if e["event"] == "error"]
    assert [e["trial"] for e in errors] == [1, 1] and all("File " in e["text"] for e in errors)
    end = next(e for e in events if e["event"] == "end" and e["trial"] == 1)
    assert end["state"] == "failed" and "trials/1" in end["reason"], end["reason"]
    assert "Traceback" not in err, "one line for the user, the rest is in the history"


def _training(parent):
    """The process in which a trial trains: Ray says what it is doing."""
    return next((pid for pid, command in _children(parent) if command.startswith("ray::ResourceTrainable.train")), None)


def _children(parent):
    """(process id, command line) of everything that ``parent`` has started."""
    for child in psutil.Process(parent).children(recursive=True):
        try:
            yield child.pid, " ".join(child.cmdline())
        except psutil.Error:
            continue


def test_a_worker_says_how_busy_the_gpus_of_its_machine_are(actor, monkeypatch):
    """Where it trains on one; elsewhere nothing is asked."""
    make, rows, asked = actor[0], [{"index": 0, "utilization.gpu": 93.0}], []
    monkeypatch.setattr(ray_adapter, "of_worker", lambda: SimpleNamespace(ask=lambda: asked.append(1) or rows))
    running = make()
    assert "gpus" not in running.step() and not asked
    monkeypatch.setattr(running.trainer, "device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(running, "_step", lambda: {"trial": 0, "stem": {"trained": 1}, "done": False})
    assert running.step() == {"trial": 0, "stem": {"trained": 1}, "done": False, "gpus": rows} and asked
    rows.clear()  # before the first answer
    assert "gpus" not in running.step()


def test_what_a_trial_prints_is_said_once_and_has_a_size(actor, monkeypatch, capsys):
    running = actor[0]()

    def step():
        print("its own words")
        return {"trial": 0, "done": False}

    monkeypatch.setattr(running, "_step", step)
    assert running.step() == running.step() == {"trial": 0, "done": False, "printed": "its own words\n"}
    assert capsys.readouterr().out == 2 * "its own words\n", "it goes where it went before"
    monkeypatch.setattr(running, "_step", lambda: print("x" * 20_000) or {"trial": 0})
    kept = running.step()["printed"]
    assert kept == "x" * (ray_adapter.PRINTED - 28) + "\n..." and running.step() == {"trial": 0}


def test_the_driver_writes_down_what_a_trial_prints(tmp_path):
    spec, history = SearchSpec(trials=2, max_epochs=4), History(tmp_path)
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Listener(), lambda line: None)
    watch.started(watch.optimizer.next())
    report = {"trial": 0, "metrics": None, "done": False, "printed": "hello\n"}
    watch.on_trial_result(1, [], SimpleNamespace(config={"trial": {"trial": 0}}), report)
    assert '"event": "printed", "trial": 0' in history.path.read_text() and History(tmp_path).trials[0].epochs == []


def test_the_driver_keeps_what_a_worker_says_of_its_gpus(tmp_path):
    spec, history = SearchSpec(trials=2, max_epochs=4), History(None)
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Listener(), lambda line: None)
    watch.started(watch.optimizer.next())
    watch._running.path = tmp_path / "running.json"
    rows = rows_of("0, NVIDIA H200, 87, 40960, 143771\n")
    watch.on_trial_result(0, [], None, {**TrialReport(0, {"epoch": 1}).to_result(), "hostname": "n", "gpus": rows})
    watch._running.write()
    assert read_running(tmp_path)[0].gpus == rows
