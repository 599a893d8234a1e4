"""Trials under several seeds in turn (``--stems``): whoever shows a trial says its seed, and whoever trains or tests it
again does so under that seed. Without Ray, on made-up histories. What is proposed: tests/test_lanes.py; how such a
search is extended: tests/test_steering.py."""

import json
import re

import pyarrow.parquet as pq
import pytest

from tests.conftest import tuner_here
from tests.histories import fill, metrics, run_of, start
from tuner.home import Home
from tuner.report.comparison import combined_cells, compare_runs
from tuner.report.figures import picture_data
from tuner.report.files import write_pictures
from tuner.report.live.now import Watched
from tuner.report.text import front_cells, headline
from tuner.results.cloning import clone
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.tracking.runs import _view_state, parent_changes
from tuner.verification import verify
from tuner.verification.reproduce import _config

SPEC = SearchSpec(method="srat", trials=8, max_epochs=12, seed=4, stems=3, name="s")
SEEDS = [4, 5, 6, 4, 5, 6, 4, 5]  # of trials 0 to 7


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    (folder := home.search("s")).mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    history = fill(History(folder), SPEC, curves=True)
    start(history, SPEC, 7, SPEC.search_space().default())  # the best
    history.append("epoch", 7, metrics=metrics(12, 0.8, 0.5))
    history.append("end", 7, state="finished")
    return home


def cells(text):
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return [row for row in rows if row[0]]  # a long setting goes on in the next line


def test_tables_have_a_column_for_it(home):
    shown = tuner_here("trials", "s", "--home", home.root).stdout
    assert "┃ seed ┃" in shown and [row[1] for row in cells(shown)[1:]] == list(map(str, SEEDS))
    assert "seed = 5" in tuner_here("trials", "s", 1, "--home", home.root).stdout
    assert "start: srat, seed 5" in tuner_here("logs", "s", 1, "--home", home.root).stdout
    run = load_search(home, "s")
    assert {row["seed"] for row in run.front().rows} >= {5}
    (found,) = json.loads(tuner_here("front", "s", "--home", home.root, "--json").stdout)
    assert [row["seed"] for row in found["front"]] == [SEEDS[row["trial"]] for row in found["front"]]
    table = tuner_here("front", "s", "--home", home.root).stdout
    assert "┃ seed ┃" in table
    kept = tuner_here("front", "s", "--at", "robust_acc>=0.1", "--home", home.root).stdout
    assert re.search(r"trial 7, seed 5[,:( ]", kept)
    files = pq.read_table(write_pictures(run, home.root)["front.parquet"]).to_pylist()
    assert [row["seed"] for row in files] == [row["seed"] for row in found["front"]]
    one = run_of(
        SearchSpec(method="srat", trials=6, max_epochs=12, name="one"), fill(History(None), SearchSpec("srat"))
    )
    assert {row["seed"] for row in one.front().rows} == {0}


def test_pages_and_mlflow_say_it(home):
    run = load_search(home, "s")
    points = picture_data(run)["points"]
    assert all(p["seed"] == SEEDS[p["trial"]] and f"seed {p['seed']}" in p["text"] for p in points) and len(points) > 4
    watched = Watched(home, "s")
    watched.look()
    latest = watched.now(0, None)["latest"]
    assert {t["label"] for t in latest} >= {"trial 1, seed 5", "trial 3, seed 4", "no search"}
    assert "seeds 4 to 6 in turn" in headline(SPEC)[1] and "seed 0" in headline(SearchSpec("srat"))[1]
    columns = _view_state("0", SPEC)["selectedColumns"]
    assert "params.`seed`" in columns and "params.`method`" not in columns
    columns = _view_state("0", SearchSpec(("srat", "at")))["selectedColumns"]
    assert "params.`method`" in columns and "params.`seed`" not in columns
    assert parent_changes(SPEC).params["stems"] == 3 and "stems" not in parent_changes(SearchSpec("srat")).params


def test_the_combined_front_of_several_methods_says_it():
    """Of plain AT, which varies nothing, rows differ in it alone."""
    spec = SearchSpec(method=("srat", "at"), trials=4, max_epochs=4, stems=2)
    for seeds, shown in (((0, 1), ["1", "0"]), ((0, 0), None)):
        history = History(None)
        for trial, (seed, mean, worst) in enumerate(zip(seeds, (0.5, 0.6), (0.3, 0.2))):
            history.append("start", trial, params={}, method="at", seed=seed)
            history.append("epoch", trial, metrics=metrics(4, mean, worst))
            history.append("end", trial, state="finished")
        header, rows = combined_cells(compare_runs([run_of(spec, history)]))
        assert shown == ([row[header.index("seed")] for row in rows] if "seed" in header else None)


def test_a_mean_is_of_no_single_seed():
    """With --seeds beside --stems: a member's values are means over its own seed and others."""
    spec, history = SearchSpec(method="srat", trials=2, max_epochs=4, stems=2, seeds=2), History(None)
    default = spec.search_space().default()
    for trial, of, seed in ((0, None, 0), (1, None, 1), (2, 1, 0)):
        history.append("start", trial, params=default, method="srat", seed=seed, **({"of": of} if of else {}))
        mean, worst = (0.5, 0.3) if trial == 0 else (0.6, 0.2)
        history.append("epoch", trial, metrics=metrics(4, mean, worst))
        history.append("end", trial, state="finished")
    run = run_of(spec, history)
    header, rows = front_cells(run.front(), [], spec.search_space().searched)
    assert {row[0]: row[header.index("seed")] for row in rows} == {"0": "0", "1": "1, 0"}
    assert {p["id"]: p["seed"] for p in picture_data(run)["points"]} == {"0": 0, "1": None}


def test_it_is_trained_again_under_its_own_seed_on_the_same_images(home, tmp_path):
    run = load_search(home, "s")
    clone("s", "t", home)
    for found in (run, load_search(home, "t")):
        for number in (0, 1, 5):
            config = _config(found, found.history.record(number), home, None, tmp_path / "s.bundle.zip")
            assert (config.seed, config.split_seed) == (SEEDS[number], 4)


def test_seeds_of_verify_are_those_of_no_trial_and_of_all_rows_alike(home, monkeypatch):
    """Else a trial of the second seed and the reference would be trained anew under other seeds, and no difference
    between them could be paired."""
    monkeypatch.setattr(verify, "check_checkpoint", lambda config, record: None)
    run = load_search(home, "s")
    rows = [{"trial": trial, "role": "front", "also": ()} for trial in (-1, 0, 1)]
    jobs = verify.make_jobs(run, rows, "apgd", 2)
    assert [(job.trial, job.seed, job.config.seed) for job in jobs] == [
        *((-1, None, 4), (-1, 7, 7), (-1, 8, 8)),
        *((0, None, 4), (0, 7, 7), (0, 8, 8)),
        *((1, None, 5), (1, 7, 7), (1, 8, 8)),
    ]
