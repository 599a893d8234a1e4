"""A field of a search means the same on the command line, in a spec file, in the JSON schema and in the name."""

import json
import sys
from contextlib import nullcontext
from dataclasses import fields

import jsonschema
import pytest
import yaml

from search_spaces import METHODS
from search_spaces.param import params_of
from search_spaces.training import Training
from tuner.cli import main
from tuner.errors import UsageError
from tuner.home import Home, check_name
from tuner.results.searches import load_search
from tuner.spec.fields import SearchFields
from tuner.spec.option import ALWAYS, options_of
from tuner.spec.schema import spec_schema
from tuner.spec.search_spec import FORMER_FIELDS, SearchSpec

SCHEMA = spec_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OPTIONS = options_of(SearchSpec)

# The stored spec of a search with the options of 2026-11, before there was any field with a value `before`.
STORED = """\
method: srat
dataset: digits
imbalance: exp:10
model: cnn
set: {}
trunk: auto
seed: 0
objectives:
- robust_acc
- worst_class_robust_acc
constraint: []
fix: {}
space: {}
trials: 16
max_epochs: 12
time_budget: null
seeds: 1
sampler: auto
smooth_worst: null
warm_start: null
scheduler: null
asha_metric: null
reduction: 2
grace: null
on_rung: stop
max_concurrent: null
cpus_per_trial: 1.0
gpus_per_trial: 0.0
accelerator: null
max_failures: 2
name: null
experiment: null
storage: null
study_storage: null
"""

# What a search of then differed in from `STORED`.
EARLIER = [
    "{}",
    "method: done",
    "method: [srat, done]",
    "method: [cfa, wat, dafa, mart]",
    "dataset: 'parquet:/a/b'",
    "imbalance: none",
    "model: 'resnet18:0.5'",
    "max_epochs: 40",
    "seed: 7",
    "objectives: robust_acc",
    "sampler: gp",
    "scheduler: none",
    "asha_metric: clean_acc",
    "reduction: 3",
    "grace: 2",
    "on_rung: pause",
    "constraint: clean_acc>=0.8",
    "smooth_worst: cvar:0.2",
    "warm_start: earlier",
    "fix: {start: 0.3}",
    "set: {lr: '1e-3'}",
    "space: {start: [0.3, 0.6]}",
    "trunk: none",
    "{trunk: 'at:3', method: wat}",
    "{trunk: 'at:3', method: wat, seeds: 3, cpus_per_trial: 2, dataset: 'parquet:/x/y'}",
    "{method: [srat, trades], fix: {beta: 3.0, lr: 0.05}, space: {start: [0.3, 0.6]}, trials: 6}",
    "{sampler: nsga2, scheduler: pareto-asha, max_epochs: 40, constraint: [clean_acc>=0.8], smooth_worst: 'cvar:0.2', "
    "warm_start: a, set: {compile: on}}",
]


# A search's name holds the hash of what can change its results: the same spec gives the same name.
NAMES = {
    "{}": "srat-digits-bcd356d7",
    "val_per_class: 0": "srat-digits-57636add",
    "val_fraction: 0.1": "srat-digits-6edccd21",
    "offsets: none": "srat-digits-d54bef38",
    "init: none": "srat-digits-bcd356d7",
    "burn_in: own": "srat-digits-e7ff7d86",
    "scheduler: none": "srat-digits-6a607102",
    "recipe: common": "srat-digits-bcd356d7",
    "threat: linf": "srat-digits-bcd356d7",
    "{method: wat, recipe: paper}": "wat-digits-ef960e22",
    "{method: wat, imbalance: none, objectives: [robust_acc, worst_class_robust_acc]}": "wat-digits-20cf8a8a",
}


@pytest.mark.parametrize("text", EARLIER)
def test_an_earlier_search_keeps_its_name_and_meaning(tmp_path, text):
    home = Home(tmp_path)
    folder = home.search("its-name-of-then")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump({**yaml.safe_load(STORED), **yaml.safe_load(text)}))
    spec = load_search(home, "its-name-of-then").spec
    assert spec.search_name == "its-name-of-then"
    assert SearchSpec.from_stored(spec.to_yaml()) == spec  # written again, with what it means
    assert (spec.val_per_class, spec.val_fraction) == (0, 0.2)
    assert (spec.burn_in, spec.scheduling.name) == ("own", "none")  # what is left of it trains in full


def test_a_search_goes_on_with_the_scheduler_that_it_began_with():
    """Which one applies where none is named has changed: an earlier version stored no name, and previewed."""
    for method, then, now in (("srat", "preview", "none"), ("trades", "preview", "preview"), ("at", "none", "none")):
        spec = SearchSpec(method=method)
        earlier = SearchSpec.from_stored(spec.to_yaml())
        assert (spec.scheduling.name, earlier.scheduling.name) == (now, then)
        assert SearchSpec.from_stored(spec.to_stored()).scheduling.name == now
        assert earlier.search_name == SearchSpec.from_stored(spec.to_stored()).search_name == spec.search_name


@pytest.mark.parametrize("name", FORMER_FIELDS)
def test_a_field_of_an_earlier_version_is_named(name):
    with pytest.raises(UsageError, match=f"spec field '{name}' is of an earlier version"):
        SearchSpec.from_yaml(f"{name}: null")


def test_a_file_of_the_user_has_todays_defaults():
    assert SearchSpec.from_yaml("{}") == SearchSpec()
    assert SearchSpec.from_stored(SearchSpec().to_stored()) == SearchSpec().changed()
    assert SearchSpec().val_per_class == 300 and SearchSpec.from_stored(STORED).val_per_class == 0
    assert SearchSpec.from_stored(STORED + "val_per_class: 40").val_per_class == 40
    stored = SearchSpec.from_stored(STORED)  # no part of the answer that was not asked for then
    assert (stored.offsets, stored.recipe) == ("none", "former")
    assert (SearchSpec().offsets, SearchSpec().recipe, SearchSpec().burn_in) == ("auto", "common", "stem")


def test_before_is_a_value_that_a_spec_can_hold():
    for name, asked in OPTIONS.items():
        if asked.before is not ALWAYS:
            assert asked.before is not None and asked.hashed
            asked.kind.check(asked, asked.before)


@pytest.mark.parametrize("text, name", NAMES.items(), ids=NAMES)
def test_a_search_keeps_its_name(text, name):
    spec = SearchSpec.from_yaml(text)
    assert spec.search_name == name and SearchSpec.from_stored(spec.to_yaml()).search_name == name
    assert VALIDATOR.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize("folder", ["vögel", "日本", "x" * 200, "²"])
def test_a_folder_of_any_name_makes_a_name_of_a_search(folder):
    spec = SearchSpec(method=("srat", "at"), dataset=f"folder:/data/{folder}")
    assert check_name(spec.search_name).endswith(f"-{spec.hash()}") and len(spec.lanes) == 2
    assert SearchSpec.from_stored(spec.to_stored()).search_name == spec.search_name


# Of each field: words of the command line that set it, what the spec file says for the same, and values that are
# wrong both for the tool and for the schema.
VALUES = {
    "method": (["--method", "srat", "--method", "wat"], ["srat", "wat"], ["srta", 5, [], ["srat", "srat"], ["dome"]]),
    "dataset": (["--dataset", "parquet:/a"], "parquet:/a", [5, ["digits"]]),
    "offsets": (["--offsets", "prior"], "prior", ["both", 5]),
    "imbalance": (["--imbalance", "step:100"], "step:100", [5, ["exp"]]),
    "val_per_class": (["--val-per-class", "40"], 40, [-1, 2.5, "40", True]),
    "val_fraction": (["--val-fraction", "1/10"], 0.1, [0, 1, -0.1, "a tenth", True]),
    "image_size": (["--dataset", "parquet:/a", "--image-size", "64"], 64, [-1, 2.5, "40", True]),
    "test_split": (
        ["--dataset", "parquet:/a", "--test-split", "validation"],
        "validation",
        [5, "", "../test", ["test"]],
    ),
    "groups": (["--dataset", "parquet:/a", "--groups", "none"], "none", ["tracks", 5, True]),
    "extra_data": (["--extra-data", "parquet:/a"], "parquet:/a", ["/a", "folder:/a", "parquet:s3://b/a", 5]),
    "extra_ratio": (["--extra-data", "parquet:/a", "--extra-ratio", "1/4"], 0.25, [0, 1, "a third", True]),
    "model": (["--model", "resnet18:0.5"], "resnet18:0.5", [5, ""]),
    "threat": (["--threat", "l2:1/2"], "l2:0.5", [5, "l3:1", "l2", "l2:", "linf:", "L2:0.5", "l2:0.5:1", ["linf"]]),
    "init": (["--init", "robust.pt"], "robust.pt", [5, ["a.pt"], "", " "]),
    "set": (["--set", "lr=0.01"], {"lr": 0.01}, [3, ["lr"], {"rate": 1}, {"lr": 9}, {"schedule": "linear"}]),
    "recipe": (["--method", "mart", "--recipe", "paper"], "paper", ["former", "papers", 5, ["paper"]]),
    "burn_in": (["--burn-in", "own"], "own", [3, "none", "at:3"]),
    "seed": (["--seed", "7"], 7, [-1, 1.5, "7", True]),
    "objectives": (["--objective", "clean_acc"], ["clean_acc"], [3, [], ["bad"], ["clean_acc", "clean_acc"]]),
    "constraint": (["--constraint", "clean_acc>=0.8"], ["clean_acc>=0.8"], [3, ["acc>=0.8"], "clean_acc=0.8", [3]]),
    "fix": (["--fix", "start=0.3"], {"start": 0.3}, [[1], {"lamda": 1}, {"start": 7}, {"loss": "hinge"}, {"slope": 6}]),
    "space": (
        ["--space", "SPACE"],
        {"start": [0.3, 0.6], "loss": ["ce", "ldam"]},
        [[1], {"lamda": [0, 1]}, {"start": [0.3]}, {"start": {"low": 0.3}}, {"start": [0.1, 2]}, {"loss": ["hinge"]}],
    ),
    "trials": (["--trials", "6"], 6, [0, 1.5, "6", True, [6]]),
    "max_epochs": (["--max-epochs", "40"], 40, [0, 1.5, "40"]),
    "budget": (["--budget", "6gpu-h", "--gpus-per-trial", "1"], "6gpu-h", [40, "40", "6gpu", "-3min", "1d"]),
    "until_flat": (["--until-flat", "3"], 3, [0, 1.5]),
    "time_budget": (["--time-budget", "60.5"], 60.5, [0, -1, "60 s"]),
    "seeds": (["--seeds", "3"], 3, [0, 2.5]),
    "stems": (["--stems", "4"], 4, [0, 2.5, "4", True, 1001]),
    "sampler": (["--sampler", "gp"], "gp", ["grid", "cmaes", 5]),
    "smooth_worst": (["--smooth-worst", "cvar:0.2"], "cvar:0.2", [0.2, "cvar:2", "cvar:0", "mean:0.2"]),
    "warm_start": (["--warm-start", "earlier"], "earlier", [5, ""]),
    "scheduler": (["--scheduler", "none"], "none", ["asha", ["preview"]]),
    "max_concurrent": (["--max-concurrent", "3"], 3, [0, 2.5]),
    "cpus_per_trial": (["--cpus-per-trial", "0.5"], 0.5, [0, "x", True]),
    "gpus_per_trial": (["--gpus-per-trial", "auto"], "auto", [-1, 1.5, True, "all", [1]]),
    "processes_per_trial": (["--processes-per-trial", "2"], 2, [0, 1.5, "x"]),
    "accelerator": (["--accelerator", "H200"], "H200", [3, ""]),
    "max_failures": (["--max-failures", "0"], 0, [-1, 1.5]),
    "owner": (["--owner", "ada"], "ada", [3, "a b", "", "../x"]),
    "priority": (["--priority", "high"], "high", ["urgent", 3]),
    "name": (["--name", "mine"], "mine", [5, "../outside", ""]),
    "experiment": (["--experiment", "e"], "e", [3, ""]),
    "storage": (["--storage", "s3://bucket/x"], "s3://bucket/x", [3, ""]),
    "study_storage": (["--study-storage", "sqlite:///x.db"], "sqlite:///x.db", ["redis://x", 5, ""]),
}
NOT_HASHED = {
    "budget",
    "until_flat",
    "time_budget",
    "seeds",
    "max_concurrent",
    "cpus_per_trial",
    "gpus_per_trial",
    "processes_per_trial",
    "accelerator",
    "max_failures",
    "owner",
    "priority",
    "name",
    "experiment",
    "storage",
    "study_storage",
}


def dry_run(capsys, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["tuner", "search", *map(str, args), "--dry-run", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0, said
    return said


@pytest.mark.parametrize("name", VALUES)
def test_option_file_and_schema_mean_the_same(capsys, monkeypatch, tmp_path, name):
    args, value, _ = VALUES[name]
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(value if name == "space" else {}))
    own_images = dict.fromkeys(("image_size", "test_split", "groups"), {"dataset": "parquet:/a"})
    allows = {"budget": {"gpus_per_trial": 1.0}, "extra_ratio": {"extra_data": "parquet:/a"}, **own_images}
    more = {"recipe": {"method": "mart"}, **allows}.get(name, {})
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({name: value, **more}))
    by_option = dry_run(capsys, monkeypatch, *[tmp_path / "space.yaml" if a == "SPACE" else a for a in args])
    by_file = dry_run(capsys, monkeypatch, "--spec", tmp_path / "spec.yaml")
    assert by_option == by_file and by_file[name] == value != SearchSpec().to_dict()[name]
    VALIDATOR.validate({name: value})
    VALIDATOR.validate(by_file)


@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_value_is_refused_by_tool_and_schema(name):
    for wrong in VALUES[name][2]:
        with pytest.raises(UsageError) as refusal:
            SearchSpec.from_dict({name: wrong})
        message, shown = (
            str(refusal.value),
            wrong if isinstance(wrong, str) else str(wrong).strip("[]{}'").split("'")[0],
        )
        assert "\n" not in message and shown in message, message
        assert not VALIDATOR.is_valid({name: wrong}), wrong


@pytest.mark.parametrize("name", VALUES)
def test_what_can_change_a_result_changes_the_name(name):
    allows = {"budget": {"gpus_per_trial": 1.0}, "recipe": {"method": "mart"}}  # what allows the value
    allows = {**allows, "extra_ratio": {"extra_data": "parquet:/a"}}.get(name, {})
    changed, plain = SearchSpec.from_dict({**allows, name: VALUES[name][1]}), SearchSpec(**allows)
    assert (changed.hash() == plain.hash()) == (name in NOT_HASHED)


def test_every_field_is_tried_here():
    assert set(VALUES) == set(OPTIONS) == {field.name for field in fields(SearchFields)}


@pytest.mark.slow
def test_schema_says_what_a_field_is():
    VALIDATOR.check_schema(SCHEMA)
    defaults = SearchSpec().to_dict()
    for name, asked in OPTIONS.items():
        said = SCHEMA["properties"][name]
        assert said["default"] == defaults[name] and said["description"].startswith(asked.sentence)
        VALIDATOR.validate({name: None})  # an empty field of a spec file
        VALIDATOR.validate({name: defaults[name]})
    assert SCHEMA["properties"]["sampler"]["enum"] == [*OPTIONS["sampler"].kind.suggestions(), None]
    assert SCHEMA["properties"]["trials"]["minimum"] == 1
    assert not VALIDATOR.is_valid({"metod": "srat"}) and not VALIDATOR.is_valid(["srat"])


def ends(param):
    """The values at the ends of a parameter's range, or its choices."""
    return getattr(param.range, "choices", None) or (param.range.low, param.range.high)


def low(param):
    """The least value of a parameter, or its first choice."""
    return param.range.choices[0] if hasattr(param.range, "choices") else param.range.low


def high(param):
    return param.range.choices[-1] if hasattr(param.range, "choices") else param.range.high


def beyond(param):
    return "nonsense" if hasattr(param.range, "choices") else param.range.high + 1


def refused(spec):
    """The parameters of which the schema refuses the value."""
    return {error.path[1] for error in VALIDATOR.iter_errors(spec) if len(error.path) > 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_schema_knows_the_parameters_of_a_method(method):
    params = {**params_of(Training), **params_of(METHODS[method].Params)}

    def spec(field, value, methods=method):
        return {"method": methods, field: {name: value(param) for name, param in params.items()}}

    for field, value in [
        ("fix", low),
        ("fix", high),
        ("space", low),
        ("space", lambda param: list(dict.fromkeys((low(param), high(param))))),
    ]:
        VALIDATOR.validate(spec(field, value))
        VALIDATOR.validate(spec(field, value, [method]))
    for field, value in [
        ("fix", beyond),
        ("space", beyond),
        ("space", lambda param: [low(param), beyond(param)]),
        ("space", lambda param: {"low": low(param), "high": beyond(param)}),
    ]:
        assert refused(spec(field, value)) == set(params)
        assert refused(spec(field, value, [method, "reat"])) == set(params)


@pytest.mark.parametrize("field", ["fix", "space"])
def test_schema_knows_whose_a_parameter_is(field):
    for methods in ("srat", ["srat"], None):
        assert not VALIDATOR.is_valid({"method": methods, field: {"slope": 3}})
    assert not VALIDATOR.is_valid({field: {"slope": 3}})  # srat is the default
    VALIDATOR.validate({"method": ["srat", "mail"], field: {"slope": 3}})
    assert not VALIDATOR.is_valid({"method": ["srat", "mail"], field: {"slope": 1e9}})
    # GAIRAT has a schedule of its own, for other methods it is the learning rate's.
    for methods, value, right in [
        ("gairat", "fixed", True),
        ("at", "fixed", False),
        (["gairat", "at"], "fixed", False),
    ]:
        assert VALIDATOR.is_valid({"method": methods, field: {"schedule": value}}) == right
        with nullcontext() if right else pytest.raises(UsageError, match="schedule"):
            SearchSpec.from_dict({"method": methods, field: {"schedule": value}})


def test_schema_command_prints_it(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tuner", "schema"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMA))


def test_options_over_a_file_win_name_by_name(capsys, monkeypatch, tmp_path):
    (tmp_path / "spec.yaml").write_text("{trials: 6, fix: {start: 0.3, sep_weight: 1.0}, objectives: [clean_acc]}")
    found = dry_run(capsys, monkeypatch, "--spec", tmp_path / "spec.yaml", "--trials", "7", "--fix", "start=0.5")
    assert (found["trials"], found["fix"], found["objectives"]) == (7, {"start": 0.5, "sep_weight": 1.0}, ["clean_acc"])
