"""A home that version 0.1 made, with its own code: a search of three trials that was killed in the third's middle.

``data/home_of_0_1`` has no counts of images, no reference, no offsets, and none of the fields that came later.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import tuner, tuner_here
from tuner.home import Home
from tuner.results.history import History
from tuner.results.searches import load_search

OLD = Path(__file__).with_name("data") / "home_of_0_1"
FRONT = [(1, 0.40714285714285714, 0.0)]  # trial, robust_acc, worst class, by the file itself


@pytest.fixture
def home(tmp_path):
    shutil.copytree(OLD, tmp_path / "home")
    return tmp_path / "home"


def asked(*args, home):
    done = tuner_here(*args, "--home", home)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_and_its_front_is_what_it_was(home):
    (line,) = json.loads(asked("ls", "--json", home=home))
    assert (line["search"], line["method"], line["state"], line["trials"]) == ("before", "trades", "stopped", 3)
    (result,) = json.loads(asked("front", "before", "--json", home=home))
    assert [(r["trial"], r["robust_acc"], r["worst_class_robust_acc"]) for r in result["front"]] == FRONT
    assert result["front"][0]["offsets"] == {"kind": "none", "tau": 0.0, "values": []}
    assert result["paper"]["trial"] == 0 and len(result["paper_curve"]) == 1 and result["no_search"] == []
    assert (result["gain"], result["band"], result["hypervolume_claimed"], result["images"]) == ({}, None, None, None)
    assert result["trials"] == {"finished": 2, "previewed": 0, "stopped": 1, "failed": 0}


def test_its_tables_pages_and_answers(home, tmp_path):
    page, picture = tmp_path / "f.html", tmp_path / "f.png"
    said = asked("front", "before", "--html", page, "--png", picture, home=home)
    assert "Against the paper's setting, trial 0 (class mean 0.314," in said and "+0.093 class-mean" in said
    assert "gains +0.093" in page.read_text() and picture.read_bytes().startswith(b"\x89PNG")
    assert "robust_acc>=0.3: trial 1 " in asked("front", "before", "--at", "robust_acc>=0.3", home=home)


@pytest.mark.slow
def test_its_models_are_exported(home, tmp_path):
    for pick, trial in (("knee", 1), ("paper", 0), ("1", 1)):
        done = json.loads(asked("export", "before", "--pick", pick, "--to", tmp_path / pick, "--json", home=home))
        assert done["trial"] == trial and (tmp_path / pick / "model.safetensors").exists()
    none = tuner_here("export", "before", "--pick", "no_search", "--to", tmp_path / "x", "--home", home)
    assert none.returncode == 2 and "'no_search' has not finished in search 'before'" in none.stderr
    best = tuner_here("export", "before", "--pick", "1", "--epoch", "best", "--to", tmp_path / "x", "--home", home)
    assert best.returncode in (1, 2) and "an earlier version wrote it" in best.stderr


def test_it_is_trained_as_it_was(home):
    """What was added since has in it the value that the code had then."""
    spec = load_search(Home(home), "before").spec
    assert (spec.val_per_class, spec.val_fraction, spec.offsets) == (0, 0.2, "none")
    assert spec.training().milestones == "0.75,0.9" and spec.objectives == ("robust_acc", "worst_class_robust_acc")


@pytest.mark.long
def test_it_is_resumed_with_the_reference_that_it_lacks(home):
    folder = home / "searches" / "before"
    before = (folder / "history.jsonl").read_text()
    done = tuner("resume", "before", "--home", home, "--json", fresh=True)
    assert done.returncode == 0, done.stderr
    result, history = json.loads(done.stdout), History(folder)
    assert history.path.read_text().startswith(before)
    assert result["state"] == "finished" and result["trials"] == {
        "finished": 3,
        "previewed": 0,
        "stopped": 0,
        "failed": 0,
    }
    events = [json.loads(line) for line in history.path.read_text().splitlines()]
    epochs = Counter((e["trial"], e["metrics"]["epoch"]) for e in events if e["event"] == "epoch")
    assert epochs == {(trial, epoch): 1 for trial in (-1, 0, 1, 2) for epoch in (1, 2, 3, 4)}
    assert result["epochs_trained"] == 2 + 4, "the rest of the third trial, and plain AT"
    assert [row["trial"] for row in result["no_search"]] == [-1] and result["gain"] == {}
    assert [point.count for point in history.trials[2].curve.points] == [(28,) * 10], "the images that judged then"
    verified = tuner("verify", "before", "--attack", "pgd:2x1", "--home", home, "--json")
    assert verified.returncode == 0, verified.stderr
    assert {0, -1} < {row["trial"] for row in json.loads(verified.stdout)["rows"]}
