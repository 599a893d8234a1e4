"""`tuner trials`, `tuner logs SEARCH TRIAL` and `tuner watch`: what the history says, as people read it."""

import json

import pytest

from tests.conftest import tuner_here
from tests.histories import fill, metrics
from trainables.files import locked
from tuner.files import write_atomically
from tuner.home import Home
from tuner.report import trials
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec

SPEC = SearchSpec(method="srat", trials=7, max_epochs=12, name="s")


@pytest.fixture
def home(tmp_path):
    """Of a search: trials that finished, stopped and failed, one that was previewed, one that a user added."""
    home = Home(tmp_path)
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    history = fill(History(folder), SPEC, trials=3, curves=True)
    history.append("start", 4, params={"loss": "ce", "start": 0.5}, method="srat", preview=True)
    history.append("error", 4, reason="out of memory", text="Traceback\n  [red]line 1[/red]\nout of memory")
    history.append("preview", 4, epochs=2, metrics=metrics(10, 0.3, 0.1), curve=None)
    history.append(
        "add", 5, params={"loss": "ce", "start": 0.25}, method="srat", by="ann\x1b", request="1", preview=True
    )
    return home


def test_all_trials(home):
    done = tuner_here("trials", "s", "--home", home.root)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    rows = [row for row in rows if row[0]]  # a long setting goes on in the next line
    assert [row[:3] for row in rows] == [
        ["no search", "finished", "1/12"],
        ["0", "finished", "12/12"],
        ["1", "finished", "12/12"],
        ["2", "stopped", "2/12"],
        ["3", "failed", "0/12"],
        ["4", "previewed", "preview"],
        ["5", r"waiting, added by ann\x1b", "preview"],
    ]
    assert rows[5][3:] == ["0.400", "0.100", "loss=ce, start=0.5"] and "7 trials" not in done.stdout
    assert "6 trials: 2 in full, 1 previewed, 1 stopped at chance, 1 failed, 1 waiting" in done.stdout
    assert "asked for" not in done.stdout
    write_atomically(home.search("s") / "requests" / "1.json", "{}")
    assert "1 that users asked for" in tuner_here("trials", "s", "--home", home.root).stdout
    found = json.loads(tuner_here("trials", "s", "--home", home.root, "--json").stdout)
    assert [t["trial"] for t in found] == [-1, 0, 1, 2, 3, 4, 5] and found[-1]["added"] == "ann\x1b"
    assert found[5]["metrics"]["worst_class_robust_acc"] == pytest.approx(0.1, abs=1e-4) and not found[5]["full"]


def test_one_trial(home):
    one = tuner_here("trials", "s", 3, "--home", home.root)
    assert (
        one.stdout.startswith("trial 3 of s: failed, the loss is not finite at epoch 1\n")
        and "no epoch yet" in one.stdout
    )
    shown = tuner_here("trials", "s", "4", "--home", home.root).stdout
    assert "start = 0.5" in shown and "robust_acc/3" in shown and "preview" in shown
    none = tuner_here("trials", "s", 9, "--home", home.root)
    assert none.returncode == 2 and "search 's' has no trial 9; `tuner trials s --home" in none.stderr


def test_the_log_of_one(home):
    done = tuner_here("logs", "s", 4, "--home", home.root)
    lines = [line[21:] if line[:2] == "20" else line for line in done.stdout.splitlines()]
    assert lines[0] == "start: srat, seed 0, loss=ce, start=0.5" and lines[1] == "error: out of memory"
    assert lines[2:5] == ["    Traceback", "      [red]line 1[/red]", "    out of memory"]
    assert lines[5].startswith("preview: epoch 10, robust_acc 0.3") and len(lines) == 6
    History(home.search("s")).append("printed", 3, text="its own words\n[red]more[/red]\n")
    printed = tuner_here("logs", "s", 3, "--home", home.root).stdout
    assert printed.endswith("  printed\n    its own words\n    [red]more[/red]\n")
    ends = json.loads(tuner_here("logs", "s", 2, "--home", home.root, "--json").stdout)["lines"]
    assert ends[-1].endswith("  end: stopped") and sum("  epoch: " in line for line in ends) == 2
    assert r"add by ann\x1b: srat" in tuner_here("logs", "s", 5, "--home", home.root).stdout
    assert tuner_here("logs", "s", 9, "--home", home.root).returncode == 2


def test_watching_ends_with_the_search(home, monkeypatch):
    """Without a terminal it is printed where a trial has ended since."""
    folder, looks = home.search("s"), []

    def later(seconds):
        looks.append(seconds)
        history = History(folder)
        if len(looks) == 2:
            history.append("skip", 5, by="ann")
        if len(looks) == 3:
            for number in (6, 7):
                history.append("start", number, params={}, method="srat")
                history.append("end", number, state="failed")
            history.append("promote", 4)
            history.append("end", 4, state="failed")

    monkeypatch.setattr(trials.time, "sleep", later)
    with locked(folder / ".lock"):
        done = tuner_here("watch", "s", "--home", home.root)
    heads = [line for line in done.stdout.splitlines() if line.startswith("s  ")]
    assert [head.split(":")[0] for head in heads] == ["s  running", "s  running", "s  finished"], done.stderr
    assert "1 waiting" in heads[0] and "1 skipped" in heads[1] and "Pareto front" in done.stdout and len(looks) == 3


def test_a_view_of_a_search_without_trials(tmp_path):
    folder = Home(tmp_path).search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    assert tuner_here("trials", "s", "--home", tmp_path).returncode == 0
    trials.stdout_console().print(trials.view(load_search(Home(tmp_path), "s"), "stopped", 100))
