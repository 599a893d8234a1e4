"""`tuner ls` of a home with many searches: what it keeps, and that what it keeps is never shown for another search."""

import json
import os

import pytest

from benchmarks.load import write_history
from tests.conftest import tuner_here
from trainables.files import locked
from tuner.home import Home
from tuner.results import listing, searches
from tuner.results.history import History
from tuner.results.searches import search_names
from tuner.spec.search_spec import SearchSpec

MANY = listing.WORTH


@pytest.fixture
def home(tmp_path):
    """So many searches that what is read of them is kept; each has trained two of its four trials."""
    home = Home(tmp_path / "home")
    for number in range(MANY):
        folder = home.search(f"s{number:02}")
        write_history(folder, 24)
        spec = SearchSpec(
            method="trades", trials=4, max_epochs=12, scheduler="none", storage="/else" if not number else None
        )
        (folder / "spec.yaml").write_text(spec.to_yaml())
    return home


@pytest.fixture
def opened(monkeypatch):
    """The names of the searches whose history is opened."""
    names, real = [], History.__init__

    def noted(history, folder):
        if folder:
            names.append(folder.name)
        real(history, folder)

    monkeypatch.setattr(History, "__init__", noted)
    return names


def ls(home, *options):
    """(rows by name, what was said)"""
    done = tuner_here("ls", "--home", home.root, "--json", *options)
    assert done.returncode == 0
    return {row["search"]: row for row in json.loads(done.stdout)}, done.stderr


def test_c3_a_history_is_read_once(home, opened):
    first, said = ls(home)
    assert len(first) == MANY == len(opened) and {row["state"] for row in first.values()} == {"stopped"}
    assert "s00" in said and "/else" in said
    opened.clear()
    assert ls(home) == (first, said) and not opened


def test_c3_what_a_driver_found_finished_is_not_read(finished, opened, tmp_path):
    """That of a driver's own end: test_listener.py."""
    home = Home(finished[1])
    assert tuner_here("resume", "first", "--home", home.root, "--json").returncode == 0
    opened.clear()
    rows, _ = ls(home)
    assert not opened and rows["first"]["state"] == "finished"
    assert ls(home, "--storage", tmp_path / "storage")[0] == rows and opened == ["first"]


def test_c3_what_has_changed_is_read_again(home, opened):
    first, _ = ls(home)
    opened.clear()
    write_history(home.search("s01"), 48)  # it has ended
    with open(home.search("s02") / "history.jsonl", "a") as file:
        file.write('{"event": "start", "trial": 2, "time": 1e9, "params": {}, "method": "trades"}\n')
    path = home.search("s03") / "history.jsonl"  # of the same size and time
    about, text = path.stat(), path.read_text()
    path.with_name("other").write_text(text.replace("1000000000.0", "1100000000.0"))
    os.utime(path.with_name("other"), ns=(about.st_atime_ns, about.st_mtime_ns))
    os.replace(path.with_name("other"), path)
    spec = home.search("s04") / "spec.yaml"
    spec.write_text(spec.read_text().replace("trials: 4", "trials: 2"))
    (home.search("s05") / "history.jsonl").write_text("nonsense\n")
    now, said = ls(home)
    assert sorted(opened) == ["s01", "s02", "s03", "s04", "s05"]
    assert (now["s01"]["state"], now["s02"]["trials"], now["s04"]["state"]) == ("finished", 3, "finished")
    assert now["s03"]["created"] > first["s03"]["created"] and "s05" not in now and "s05" in said
    assert {name: now[name] for name in now if name > "s05"} == {name: first[name] for name in first if name > "s05"}


def test_c3_whether_it_runs_is_never_kept(home):
    ls(home)
    with locked(home.search("s07") / ".lock"):
        assert ls(home)[0]["s07"]["state"] == "running"
    assert ls(home)[0]["s07"]["state"] == "stopped"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"s01": 1}', '{"s01": {"stamp": ["x"]}}'])
def test_c3_a_damaged_listing_is_none(home, text):
    first = ls(home)
    (home.root / listing.KEPT).write_text(text)
    assert ls(home) == first


def test_c3_few_searches_and_those_of_a_storage_are_read_anew(home, tmp_path, opened):
    ls(home, "--storage", tmp_path / "storage")
    assert not (home.root / listing.KEPT).exists() and len(opened) == MANY
    (home.search("s01") / "spec.yaml").unlink()
    ls(home)
    assert not (home.root / listing.KEPT).exists(), "a home is not written without need"


def test_c3_a_home_that_cannot_be_written_is_listed(home, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listing, "write_atomically", full)
    assert len(ls(home)[0]) == MANY


@pytest.mark.parametrize("created", [1e300, -1e300, 1e18, -1e15])
def test_s11_a_kept_time_that_no_calendar_has_is_read_again(home, created):
    first = ls(home)
    path = home.root / listing.KEPT
    kept = json.loads(path.read_text())
    kept["s01"]["created"] = created
    path.write_text(json.dumps(kept))
    assert ls(home) == first


def test_a_search_that_is_removed_meanwhile_hides_no_other(home, monkeypatch):
    """Between the moment its name is found and that its file is looked at."""
    real = searches.Path.stat

    def stat(path, **how):
        if path.name == "spec.yaml" and path.parent.name == "s01":
            raise FileNotFoundError(path)
        return real(path, **how)

    found = search_names(home)
    monkeypatch.setattr(searches.Path, "glob", lambda path, pattern: [home.search(n) / "spec.yaml" for n in found])
    monkeypatch.setattr(searches.Path, "stat", stat)
    assert sorted(search_names(home)) == sorted(found)


def test_a_home_whose_only_search_cannot_be_read_is_not_called_empty(tmp_path):
    assert tuner_here("ls", "--home", tmp_path).stdout == f"no searches in {tmp_path}\n"
    (folder := Home(tmp_path).search("s")).mkdir(parents=True)
    (folder / "spec.yaml").write_text("method: nonsense")
    done = tuner_here("ls", "--home", tmp_path)
    assert done.returncode == 0 and done.stdout == "" and "search 's' cannot be read" in done.stderr
