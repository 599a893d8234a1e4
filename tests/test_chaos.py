"""`make chaos` in small: six disturbed searches, and that the harness sees what it looks for."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.chaos import invariants
from tests.chaos.__main__ import Rounds
from tests.chaos.disturb import MARK, disturb, processes
from tests.chaos.plan import KINDS, SEARCHES, Disturbance, Plan, draw

PATIENCE = 4.0  # tests share the machine
ROUNDS = {  # tests/test_resume.py and tests/test_stem_search.py kill the driver
    "terminal closed": ({}, Disturbance("group", 17, 0.2, signal.SIGHUP)),
    "GCS killed, then systemd stops all": (
        {},
        Disturbance("gcs", 11, 0.2),
        Disturbance("all", 17, 0.2, signal.SIGTERM),
    ),
    "worker killed, clock jumps": ({}, Disturbance("worker", 9, 0.2), Disturbance("clock", 17, 0.2, jump_s=-3600.0)),
    "MLflow killed": ({"server": True}, Disturbance("mlflow", 8, 0.2, lasts_s=2.0)),
    "storage away": ({"storage": True}, Disturbance("storage", 17, 0.2, lasts_s=2.0)),
    "disk full": ({"small_disk": True}, Disturbance("disk", 11, 0.2, lasts_s=1000.0)),
}


@pytest.fixture(scope="module")
def rounds():
    """What plays them. Its folder has a short path, since Ray's sockets lie below it."""

    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as root, Rounds(Path(root), PATIENCE) as rounds:
        yield rounds


@pytest.mark.long
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ROUNDS)
def test_c0_a_disturbed_search_ends_as_an_undisturbed_one(name, rounds):
    changes, *disturbances = ROUNDS[name]
    if changes.get("small_disk") and os.geteuid():
        pytest.skip("a disk of its own needs root")
    usual = {"server": False, "storage": False, "small_disk": False}
    plan = Plan(0, [*ROUNDS].index(name), "one", 1, **{**usual, **changes}, disturbances=tuple(disturbances))
    assert rounds.play(plan) == []


# ---- what the harness sees -------------------------------------------------------------------------------------------


def test_c0_a_round_is_its_seed_and_number():
    assert draw(3, 7) == draw(3, 7) != draw(3, 8)
    plans = [draw(1, number) for number in range(200)]
    assert {d.kind for p in plans for d in p.disturbances} == set(KINDS) and {p.search for p in plans} == set(SEARCHES)
    assert {len(p.disturbances) for p in plans} == {1, 2, 3} and {p.workers for p in plans} == {1, 2}
    assert all(p.server for p in plans if any(d.kind == "mlflow" for d in p.disturbances))
    assert draw(1, 0, {"gcs": 1}).disturbances[0].kind == "gcs"


def ended(*trials):
    """The events of trials that train one epoch each."""
    return [
        event
        for trial in trials
        for event in (
            {"event": "start", "trial": trial},
            {"event": "epoch", "trial": trial, "metrics": {"epoch": 1}},
            {"event": "end", "trial": trial, "state": "finished", "reason": ""},
        )
    ]


def judged(events, starts=1):
    """What is found in a history."""
    lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    result = {"state": "finished", "trials": {"failed": 0, "stopped": 0}}
    return [*invariants._events(SimpleNamespace(lines=lines, starts=starts, result=result))]


WHOLE = ended(-1, 0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "events, starts, found",
    [
        (WHOLE, 1, None),
        ([*WHOLE[:4], b'{"event": "epo', *WHOLE[4:]], 2, None),
        ([*WHOLE[:4], b'{"event": "epo', *WHOLE[4:]], 1, "lines of the history are cut"),
        ([*WHOLE, WHOLE[2]], 2, "trial -1 has 2 events end"),
        ([*WHOLE, WHOLE[1]], 2, "trial -1 has an event epoch after its end"),
        (WHOLE[:-1], 2, "trials .4. have not ended"),
        ([*WHOLE[:-1], WHOLE[-2], WHOLE[-1]], 2, "epoch 1 of trial 4 was trained 2 times"),
        ([*WHOLE[:-1], {"event": "resume", "trial": 4}, *WHOLE[-2:]], 2, None),
        ([*WHOLE[:-1], {**WHOLE[-1], "state": "failed"}], 1, "trial 4 ended as failed"),
        ([*WHOLE[:-2], {"event": "preview", "trial": 4}, {"event": "promote", "trial": 4}, *WHOLE[-2:]], 1, None),
    ],
)
def test_c0_it_sees_what_is_wrong_in_a_history(events, starts, found):

    said = judged(events, starts)
    assert said == [] if found is None else any(re.search(found, line) for line in said), said


def test_c0_it_sees_what_is_left(tmp_path):
    folders = [tmp_path / name for name in ("home", "storage", "t")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / ".x.lock").touch()
    round_ = SimpleNamespace(home=folders[0], storage=folders[1], temporary=folders[2], trained=tmp_path)
    assert [*invariants._left(round_)] == []
    for folder, name in zip(folders, (".result.json.0123456789ab", ".checkpoint.pt.01234567", "ray-abc")):
        (folder / name).touch()
    (tmp_path / "previews" / "3").mkdir(parents=True)
    (tmp_path / "previews" / "3" / "checkpoint.pt").touch()
    assert len([*invariants._left(round_)]) == 4


@pytest.mark.process
def test_c0_a_storage_comes_back_under_somebody_who_writes_meanwhile(tmp_path, monkeypatch):
    storage, trashed = tmp_path / "storage", []
    (storage / "searches").mkdir(parents=True)
    round_ = SimpleNamespace(storage=storage, lost=set())
    monkeypatch.setattr(invariants, "checkpoints", lambda _: {})
    back = disturb(round_, Disturbance("storage", 0, 0.0))
    (storage / "before").mkdir(parents=True)
    rename = Path.rename

    def slow_rename(path: Path, to: Path) -> None:
        rename(path, to)
        if path == storage:
            trashed.append(to)
            if len(trashed) < 3:  # the writer is faster
                (storage / "new").mkdir(parents=True)

    monkeypatch.setattr(Path, "rename", slow_rename)
    back()
    assert os.listdir(storage) == ["searches"] and os.listdir(tmp_path) == ["storage"] and len(trashed) == 3


def test_c0_it_sees_processes_that_write_over_their_environment():
    """As Ray's workers do, with the name that they give themselves."""
    sleep = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], env={{}}); {sleep}"
    started = subprocess.Popen([sys.executable, "-c", code], env={MARK: "mine"}, start_new_session=True)
    try:
        sessions: set[int] = set()
        while len(found := processes("mine", sessions)) < 2:
            assert started.poll() is None
        assert started.pid in found and started.pid in sessions and not processes("another", set())
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def test_c0_it_sees_what_mlflow_lacks(tmp_path):
    folder, database = tmp_path / "searches" / "s", tmp_path / "mlflow.db"
    folder.mkdir(parents=True)
    metrics = {"epoch": 1, "robust_acc": 0.5}
    events = [
        {"event": "start", "trial": 0, "time": 1, "params": {}, "method": "at"},
        {"event": "epoch", "trial": 0, "time": 1, "metrics": metrics},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("CREATE TABLE runs (run_uuid, status)")
        opened.execute("CREATE TABLE tags (run_uuid, key, value)")
        opened.execute("CREATE TABLE metrics (run_uuid, key, step)")
        opened.executemany("INSERT INTO runs VALUES (?, 'FINISHED')", [("p",), ("t",)])
        opened.executemany("INSERT INTO tags VALUES (?, 'tuner.search', 's')", [("p",), ("t",)])
        opened.execute("INSERT INTO tags VALUES ('t', 'tuner.trial', '0')")
        opened.execute("INSERT INTO metrics VALUES ('t', 'robust_acc', 1)")
    plan = SimpleNamespace(name="s", server=False)
    round_ = SimpleNamespace(plan=plan, home=tmp_path, search=folder, said="")
    assert [*invariants._mlflow(round_)] == []
    for wrong, found in (
        ("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = 'p'", "runs of MLflow are"),
        ("DELETE FROM metrics", "MLflow lacks epochs"),
        ("DELETE FROM tags WHERE run_uuid = 't'", "MLflow has 1 runs"),
    ):
        with closing(sqlite3.connect(database)) as opened, opened:
            opened.execute(wrong)
        assert any(found in line for line in invariants._mlflow(round_)), found


def test_c0_it_sees_what_differs():
    one = {"state": "finished", "records": {0: {"epochs": [1.0], "params": "a"}}}
    other = {"state": "stopped", "records": {0: {"epochs": [1.5], "params": "a"}, 1: {"epochs": []}}}
    assert [*invariants.unequal(one, one)] == []
    found = [line.partition(" is ")[0] for line in invariants.unequal(one, other)]
    assert found == ["state", "trial 0: epochs", "trial 1: epochs"]
