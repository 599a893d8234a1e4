"""A search under a threat model: how it is asked for, what its trials get, and what its reports say."""

import json
import sys

import numpy as np
import pytest
import yaml

from tests.histories import fill
from tests.test_escape import ABOUT
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.offsets import NONE
from tuner.cli import main
from tuner.errors import UsageError
from tuner.execution.driver import check
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.report.model_card import card_markdown
from tuner.report.text import headline
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.tracking.runs import parent_changes
from tuner.verification.job import Job
from tuner.verification.summary import read_result, row_of
from tuner.verification.verify import store


def made(folder, **fields):
    """A search with made-up results."""
    home, spec = Home(folder), SearchSpec(name="one", max_epochs=4, **fields)
    home.search("one").mkdir(parents=True)
    (home.search("one") / "spec.yaml").write_text(spec.to_yaml())
    fill(load_search(home, "one").history, spec)
    return load_search(home, "one")


def test_trials_get_norm_and_radius_with_their_stem(tmp_path):
    run = made(tmp_path, threat="l2:1/2")
    config = trial_config(run, run.history.record(0))
    assert (config.threat, config.training["eps"]) == ("l2", 0.5)
    later = next(c for r in run.history.everything() if (c := trial_config(run, r)).fork)
    assert (later.threat, later.stem["eps"]) == ("l2", 0.5)
    assert parent_changes(run.spec).params["threat"] == "l2" and parent_changes(run.spec).params["eps"] == 0.5


def test_the_radius_goes_over_the_datas_and_the_recipes():
    for dataset, eps in (("digits", 0.1), ("mnist", 0.3), ("cifar10", 8 / 255)):
        assert SearchSpec(dataset=dataset).training() == training_for(dataset)
        assert SearchSpec(dataset=dataset).training().eps == eps
        assert SearchSpec(dataset=dataset, threat="linf:0.2").training().eps == 0.2
        assert SearchSpec(dataset=dataset, threat="l2:0.5", recipe="paper", method="mart").training().eps == 0.5
    assert SearchSpec(set={"eps": 0.2}, threat="linf").training().eps == 0.2


@pytest.mark.parametrize(
    "fields, said",
    [
        (
            {"threat": "l2:0.5", "set": {"eps": 0.1}},
            "--threat 'l2:0.5' and --set eps=0.1 give two radii; leave one out",
        ),
        ({"threat": "linf:0.1", "fix": {"eps": 0.2}}, "--threat 'linf:0.1' and --fix eps=0.2 give two radii; "),
        ({"threat": "l2:0.5", "space": {"eps": [0.1, 1]}}, "and --space eps=[0.1, 1] give two radii"),
        ({"method": ["srat", "wat"], "threat": "l2:0.5", "set": {"eps": 0.1}}, "give two radii"),
        (
            {"method": "done", "threat": "l2:0.5", "fix": {"barrier": True}},
            "--threat 'l2:0.5' is not allowed with done and barrier=True, which is made for the box of linf",
        ),
        ({"method": "done", "threat": "l2:0.5", "space": {"barrier": [True, False]}}, "barrier=True"),
    ],
)
def test_two_radii_and_what_is_made_for_a_box_are_refused(fields, said):
    with pytest.raises(UsageError) as refusal:
        SearchSpec(**fields)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_same_radius_twice_is_no_conflict():
    assert SearchSpec(threat="l2:1/2", set={"eps": 0.5}).training().eps == 0.5
    assert SearchSpec(threat="linf:0.1", fix={"eps": "1/10"}).training().eps == 0.1
    SearchSpec(method="done", fix={"barrier": True})
    SearchSpec(method="done", threat="l2:0.5")


@pytest.mark.parametrize(
    "threat",
    ["l3:1", "l2:-1", "l2:", "l2", "linf:8", "l2:9"],
    ids=["norm", "negative", "none", "no-radius", "8", "huge"],
)
def test_wrong_input_is_one_sentence(capsys, monkeypatch, tmp_path, threat):
    """Also a radius that only the data show to be too large: 8x8 values are at most 8 apart."""
    args = ["search", "--threat", threat, "--home", tmp_path, "--json", "--trials", 1, "--max-epochs", 1]
    monkeypatch.setattr(sys, "argv", ["tuner", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 2 and json.loads(captured.out)["error"].startswith("--threat 'l")
    assert "Traceback" not in captured.err and len(captured.err.splitlines()) == 1


def test_a_radius_that_the_images_allow(tmp_path):
    assert check(SearchSpec(threat="l2:8"), Home(tmp_path)).shape == (1, 8, 8)


def test_reports_say_the_norm():
    assert "L-inf attack, eps 0.1 of a pixel range of 1" in headline(SearchSpec())[1]
    assert "L2 attack, eps 0.5 of a pixel range of 1" in headline(SearchSpec(threat="l2:0.5"))[1]


def test_reports_say_where_each_trial_is_judged_by_its_own_attack():
    line = headline(SearchSpec(space={"eps": [0.05, 0.1], "eval_attack": [5, 20]}))[1]
    assert "eps searched of" in line and "searched steps each of CE-PGD" in line
    assert "20 steps each of CE-PGD" in headline(SearchSpec())[1]


def test_the_model_card_says_the_norm():
    row = {
        "split": "val",
        "attack": "a",
        "eps": 0.5,
        "robust_acc": 0.5,
        "worst_class_robust_acc": 0.1,
        "clean_acc": 0.9,
    }
    about = {**ABOUT, "metrics": [row], "offsets": None}
    earlier = about["training"]
    assert "L-inf radius\n0.1 of" in card_markdown(about)
    assert "L2 radius\n0.5 of" in card_markdown({**about, "training": {**earlier, "threat": "l2", "eps": 0.5}})


def test_what_was_stored_before_there_were_threat_models_is_of_linf(tmp_path):
    spec = yaml.safe_load(SearchSpec(name="one").to_yaml())
    del spec["threat"]
    stored = SearchSpec.from_stored(yaml.safe_dump(spec))
    assert stored == SearchSpec(name="one", scheduler="preview") and stored.threat_model.name == "linf"
    assert SearchSpec().hash() == "bcd356d7"
    config = TrialConfig("at").to_dict()
    del config["threat"]
    assert TrialConfig.of(config).threat == "linf"


@pytest.mark.parametrize("said, read", [({}, "linf"), ({"threat": "l2"}, "l2"), ({"threat": "l3"}, None)])
def test_a_stored_verification_says_its_threat_model(tmp_path, said, read):
    """Those of earlier versions are of linf; an unknown one counts as damaged."""
    job = Job(0, TrialConfig("at"), tmp_path / "0")
    result = {
        **{"labels": np.array([0, 1]), "broken_by": np.array([-1, 1]), "alarms": [], "classes": ["0", "1"]},
        **{"train_counts": [30, 10], "eps": 0.1, "search_steps": 20, "epoch": 3, "device": "cpu", "seconds": 1.0},
        **{"offsets": NONE.to_dict(), "checkpoint": "x", "data": "y", "versions": {}},
        "stages": [{"name": name, "tried": 2, "broken": 1, "seconds": 0.5} for name in ("clean", "pgd-ce")],
    }
    store(job, "apgd", {"result": {**result, **said}})
    found = read_result(job.json, job.flags)
    assert (found and row_of(found, job.flags)["threat"]) == read
