"""P13: a quotient such as 8/255 is a number wherever one is read, and a key that stands twice is refused."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from search_spaces.number import number
from search_spaces.param import coerce, params_of
from search_spaces.training import Training
from trainables.data.spec import parse_imbalance
from trainables.models.names import parse_model
from tuner.cli.app import main
from tuner.errors import UsageError
from tuner.spec.budget import Budget
from tuner.spec.objectives import parse_constraint, parse_smoothing
from tuner.spec.search_spec import SearchSpec

EPS = 0.03137254901960784  # 8/255, by hand: 0.031372549019607843...


def dry_run(capsys, monkeypatch, *args) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", ["tuner", "search", *map(str, args), "--dry-run", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "text, value",
    [
        ("8/255", EPS),
        (" 8 / 255 ", EPS),
        ("1/2", 0.5),
        ("-1/4", -0.25),
        ("1e1/4", 2.5),
        ("3", 3.0),
        (".5", 0.5),
        (2, 2.0),
    ],
)
def test_p13_what_is_a_number(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["8/0", "1/0.0", "8//255", "/255", "8/", "1/2/3", "8:255", "inf", "nan", "1e999", "1_0", "²", "", True, None, [8]],
)
def test_p13_what_is_none(text):
    with pytest.raises(ValueError, match="is no (finite )?number"):
        number(text)


def test_p13_hyperparameters(tmp_path):
    eps = params_of(Training)["eps"]
    assert coerce(eps, "8/255") == EPS
    for wrong in ("8/0", "8/255/2", "255/8", "8/-255", float("nan")):
        with pytest.raises(ValueError, match="eps=.* is not allowed; eps takes"):
            coerce(eps, wrong)
    milestones = params_of(Training)["milestones"]
    assert coerce(milestones, "1/2,3/4") == coerce(milestones, ["1/2", 0.75]) == "0.5,0.75"
    whole = params_of(Training)["attack_steps"]
    assert coerce(whole, "20/2") == 10
    with pytest.raises(ValueError):
        coerce(whole, "21/2")


def test_p13_set_fix_space_and_files(capsys, monkeypatch, tmp_path):
    code, said = dry_run(capsys, monkeypatch, "--set", "eps=8/255", "--fix", "start=1/3")
    assert code == 0 and said["set"]["eps"] == EPS
    spec = SearchSpec.from_dict(said)
    assert spec.search_space().fixed["start"] == pytest.approx(0.3333333333333333, abs=1e-16)
    (tmp_path / "space.yaml").write_text("start: [1/4, 1/2]\neps: {low: 4/255, high: 8/255}\n")
    code, said = dry_run(capsys, monkeypatch, "--space", tmp_path / "space.yaml")
    space = SearchSpec.from_dict(said).search_space()
    assert code == 0 and space.bounds("start") == (0.25, 0.5) and space.bounds("eps") == (0.01568627450980392, EPS)
    (tmp_path / "spec.yaml").write_text("method: srat\nset:\n  eps: 8/255\nval_fraction: 1/5\ntime_budget: 1e3\n")
    code, said = dry_run(capsys, monkeypatch, "--spec", tmp_path / "spec.yaml")
    assert code == 0 and (said["set"]["eps"], said["val_fraction"], said["time_budget"]) == (EPS, 0.2, 1000.0)


def test_p13_a_quotient_and_its_value_are_one_search():
    by_text = SearchSpec(set={"eps": "8/255"}, val_fraction="1/8", fix={"lr": "1/8"}, space={"start": ["1/4", "1/2"]})
    by_value = SearchSpec(set={"eps": EPS}, val_fraction=0.125, fix={"lr": 0.125}, space={"start": [0.25, 0.5]})
    assert by_text == by_value and by_text.search_name == by_value.search_name


def test_p13_the_fields_of_a_search():
    spec = SearchSpec(gpus_per_trial="1/4", cpus_per_trial="3/2", val_fraction="1/5", time_budget="100/4")
    assert (spec.gpus_per_trial, spec.cpus_per_trial, spec.val_fraction, spec.time_budget) == (0.25, 1.5, 0.2, 25.0)
    assert parse_constraint("clean_acc >= 4/5").bound == 0.8 and parse_smoothing("cvar:1/5") == 0.2
    assert parse_imbalance("exp:100/8") == ("exp", 12.5) and parse_model("resnet18:1/2") == ("resnet18", 0.5)
    assert Budget.of("1/2h") == Budget(30.0, "min")
    wrongs = {"gpus_per_trial": "1/0", "cpus_per_trial": "1/x", "val_fraction": "5/4", "time_budget": "0/3"}
    for name, wrong in wrongs.items():
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} '?{wrong}'? is not allowed"):
            SearchSpec(**{name: wrong})


def test_p13_the_schema_takes_what_the_tool_takes():
    from jsonschema import Draft202012Validator

    from tuner.spec.schema import spec_schema

    schema = Draft202012Validator(spec_schema())
    good = "set: {eps: 8/255}\nfix: {start: 1/3}\nval_fraction: 1/5\ngpus_per_trial: 1/4\nmodel: 'cnn:1/2'"
    assert schema.is_valid(yaml.safe_load(good)) and SearchSpec.from_yaml(good)
    for wrong in ("set: {eps: 8//255}", "val_fraction: 1/", "gpus_per_trial: a/4"):
        assert not schema.is_valid(yaml.safe_load(wrong))


@pytest.mark.parametrize(
    "text, said",
    [
        ("method: srat\nmethod: done\ntrials: 3\n", "key 'method' stands twice .*line 2"),
        ("method: srat\nset:\n  eps: 0.1\n  lr: 0.1\n  eps: 0.2\n", "key 'eps' stands twice .*line 5"),
        ("fix: {start: 0.1, start: 0.2}", "key 'start' stands twice"),
        ("{'trials': 3, trials: 4}", "key 'trials' stands twice"),
    ],
)
def test_p13_a_key_that_stands_twice_is_refused(text, said):
    with pytest.raises(UsageError, match=f"the spec file is not valid YAML: {said}") as caught:
        SearchSpec.from_yaml(text)
    assert "\n" not in str(caught.value)


def test_p13_twice_in_a_space_file_or_on_the_command_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "space.yaml").write_text("start: [0.1, 0.2]\nstart: [0.3, 0.4]\n")
    code, said = dry_run(capsys, monkeypatch, "--space", tmp_path / "space.yaml")
    assert code == 2 and "--space file is not valid YAML: key 'start' stands twice" in said["error"]
    code, said = dry_run(capsys, monkeypatch, "--set", "eps=0.1", "--set", "eps=0.2")
    assert code == 2 and said["error"] == "--set gives eps twice; give it once"
    code, said = dry_run(capsys, monkeypatch, "--set", "eps={a: 1, a: 2}")
    assert code == 2 and "\n" not in said["error"]


def test_p13_the_same_key_in_two_mappings_is_fine():
    assert SearchSpec.from_yaml("fix: {lr: 0.1}\nset: {lr: 0.2}").set == {"lr": 0.2}
