"""What killed processes leave behind: half-written files, and the lock of Optuna's journal."""

import os
import time

import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from trainables import files, storage
from trainables.storage import Storage
from tuner import files as tuner_files
from tuner.execution.driver import _tidy
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.study import RecordedStudy
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec
from tuner.tracking.tracker import ASIDE


def old(path, seconds=60.0):
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_c1_both_writers_name_half_written_files_alike(tmp_path, monkeypatch):
    named, real = [], files.aside_of

    def noted(name):
        named.append(real(name))
        return named[-1]

    for module in (tuner_files, storage):
        monkeypatch.setattr(module, "aside_of", noted)
    write_atomically(tmp_path / "a.json", "x")
    Storage(tmp_path).write("b/c.pt", b"x")
    for name in (*named, ".checkpoint.pt.0123abcd"):  # the last by an earlier version
        (tmp_path / name).write_bytes(b"half")
        old(tmp_path / name)
    files.remove_abandoned(tmp_path)
    assert len(named) == 2 and sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "b", "c.pt"]


@pytest.mark.parametrize("shared", [False, True])
def test_c1_a_search_that_ends_leaves_no_half_written_file(tmp_path, shared):
    """By the names that both writers give, of this search, its stems and probes of its storage."""
    spec = SearchSpec(storage=str(tmp_path / "storage") if shared else None)
    run = SearchRun(spec, Home(tmp_path / "home", spec.storage), "s", History(None))
    place = tmp_path / "storage" if shared else run.home.root
    made = []
    for folder, name, seconds in (
        (place / "searches/s/trials/3", "checkpoint.pt", 0),  # Ray has ended, so nobody writes there
        (place / "searches/s/previews/3", "checkpoint.pt", 0),
        (place / "stems/abc", "epoch-0001.pt", 60),
        (place, "probe", 60),
        (run.folder, "history.parquet", 60),
        (run.folder / "verify/x", "0.json", 60),
        (run.folder / ASIDE, "", 0),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        made.append(folder / (files.aside_of(name) if name else "curve.json"))
        made[-1].write_bytes(b"half")
        old(made[-1], seconds)
    kept = [place / "stems/abc/.key.json.lock", run.folder / ".lock", place / "searches/s/trials/3/checkpoint.pt"]
    kept += [place / "stems/abc" / files.aside_of("epoch-0002.pt"), run.folder / files.aside_of("verified.json")]
    for path in kept[:3]:
        path.write_bytes(b"x")
        old(path)
    for path in kept[3:]:
        path.write_bytes(b"being written by another process")
    _tidy(run)
    assert [path for path in made if path.exists()] == [] and all(path.exists() for path in kept)


@pytest.mark.parametrize("shared", [False, True])
def test_c1_what_an_ended_preview_had_trained_is_removed(tmp_path, shared):
    """A driver that is killed right after it has recorded the preview's end does not come to it."""
    spec, history = SearchSpec(storage=str(tmp_path / "storage") if shared else None), History(None)
    for trial in (1, 2):
        history.append("start", trial, params={}, method="srat", preview=True)
    history.append("preview", 1, epochs=2, metrics={"epoch": 9})
    run = SearchRun(spec, Home(tmp_path / "home", spec.storage), "s", history)
    for trial in (1, 2, 7):  # the second is to go on, the third is unknown
        Storage(run.place("previews", trial)).write("checkpoint.pt", b"x")
    Storage(run.place("trials", 1)).write("checkpoint.pt", b"x")
    _tidy(run)
    left = sorted(path.parent.name for path in tmp_path.rglob("previews/*/checkpoint.pt"))
    assert left == ["2", "7"] and len([*tmp_path.rglob("trials/1/checkpoint.pt")]) == 1


def test_c2_the_lock_of_a_killed_driver_keeps_nobody_waiting(tmp_path, monkeypatch):
    """Optuna's own lock is a link that a killed driver leaves: the next one waited for 30 s, and called it a link out
    of the folder where the home had been moved."""
    (tmp_path / "study.log.lock").symlink_to("/nowhere/study.log")  # by an earlier version
    monkeypatch.setattr(JournalFileSymlinkLock, "acquire", lambda lock: pytest.fail("it waits for a link"))
    RecordedStudy(SearchSpec(trials=2), History(None), tmp_path).study.ask()
    assert [path.name for path in tmp_path.iterdir()] == ["study.log"] and (tmp_path / "study.log").stat().st_size
