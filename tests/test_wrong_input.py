"""Wrong input ends at once, before Ray starts: exit 2, one sentence that carries the value and what is allowed."""

import json
import os
import re
import sys
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.make_data import write_parquet
from tuner.cli import main

CASES = [
    (["--method", "srta"], ["'srta'", "srat"]),
    (["--method", "srat", "--method", "dome"], ["'dome'", "done"]),
    (["--method", "srat", "--method", "srat"], ["['srat', 'srat']", "different"]),
    (["--method", "srat", "--method", "done", "--trials", "1"], ["--trials 1", "2 methods"]),
    (["--method", "srat", "--method", "done", "--fix", "lamda=1"], ["'lamda'", "none of srat, done"]),
    (["--seeds", "0"], ["--seeds 0", "at least 1"]),
    (["--seeds", "two"], ["--seeds"]),
    (["--dataset", "cifar11"], ["'cifar11'", "cifar10"]),
    (["--model", "resnet19"], ["'resnet19'", "resnet18"]),
    (["--sampler", "grid"], ["'grid'", "tpe"]),
    (["--sampler", "cmaes"], ["'cmaes'", "gp"]),
    (["--scheduler", "hyperband"], ["'hyperband'", "none, preview"]),
    (["--scheduler", "asha"], ["'asha'", "none, preview"]),
    (["--scheduler", "preview", "--max-epochs", "3"], ["--max-epochs of at least 4", "it is 3", "--scheduler none"]),
    (["--scheduler", "preview", "--burn-in", "own"], ["--burn-in own", "forks from the stem"]),
    (["--burn-in", "trunk"], ["'trunk'", "own, stem"]),
    (["--budget", "40"], ["--budget", "'40'", "epochs"]),
    (["--budget", "2gpu-h"], ["'2gpu-h'", "--gpus-per-trial is 0"]),
    (["--until-flat", "0"], ["--until-flat 0", "at least 1"]),
    (["--constraint", "accuracy>=0.8"], ["'accuracy>=0.8'", "clean_acc"]),
    (["--constraint", "clean_acc=0.8"], ["'clean_acc=0.8'", "METRIC>=VALUE"]),
    (["--constraint", "clean_acc>=80"], ["'clean_acc>=80'", "share from 0 to 1"]),
    (["--constraint", "clean_acc<=0.5", "--constraint", "clean_acc>=0.6"], ["'clean_acc>=0.6'", "exclude each other"]),
    (["--cpus-per-trial", "inf"], ["--cpus-per-trial 'inf'"]),
    (["--smooth-worst", "cvar:2"], ["'cvar:2'", "cvar:SHARE"]),
    (["--warm-start", "nothing"], ["'nothing'", "no search"]),
    (["--study-storage", "redis://x"], ["'redis://x'", "sqlite"]),
    (["--objective", "robustness"], ["'robustness'", "robust_acc"]),
    (["--fix", "lamda=1"], ["'lamda'", "sep_weight"]),
    (["--fix", "start"], ["'start'", "KEY=VALUE"]),
    (["--fix", "start=["], ["'start=['", "KEY=VALUE", "YAML"]),
    (["--fix", "loss=*a"], ["'loss=*a'", "KEY=VALUE", "YAML"]),
    (["--set", "lr=2024-99-99"], ["'lr=2024-99-99'", "KEY=VALUE", "YAML"]),
    (["--fix", "start=7"], ["start=7", "[0.2, 0.95]"]),
    (["--fix", "loss=ce", "--fix", "gamma=1"], ["gamma=1.0", "loss in {focal}"]),
    (["--set", "learning_rate=1"], ["'learning_rate'", "lr"]),
    (["srat"], ["(srat)", "--method srat"]),
    (["--method", "srat", "--set", "loss=ce"], ["hyperparameter of srat", "--fix loss=ce"]),
    (["--method", "cfa", "--fix", "form=at", "--fix", "lambda_2=0.5"], ["lambda_2=0.5", "form in {trades}"]),
    (["--method", "done", "--fix", "eta=0.3"], ["eta=0.3", "normaliser in {running}"]),
    (["--method", "cfa", "--set", "ema=0.9"], ["ema=0.9", "average=fawa", "average=none"]),
    (["--set", "eps=0"], ["eps=0", "[0.0001, 1]"]),
    (["--set", "eps=-0.1"], ["eps=-0.1"]),
    (["--set", "batch_size=1"], ["batch_size=1", "[2, 4096]"]),  # two are enough for every method
    (["--set", "schedule=linear"], ["'linear'", "piecewise"]),
    (["--max-epochs", "0"], ["--max-epochs 0", "at least 1"]),
    (["--trials", "0"], ["--trials 0"]),
    (["--trials", "many"], ["--trials"]),
    (["--seed", "-1"], ["--seed -1"]),
    (["--cpus-per-trial", "0"], ["--cpus-per-trial 0"]),
    (["--gpus-per-trial", "-1"], ["--gpus-per-trial -1"]),
    (["--time-budget", "0"], ["--time-budget 0"]),
    (["--imbalance", "exp"], ["'exp'", "exp:K"]),
    (["--imbalance", "step:0.5"], ["step:0.5"]),
    (["--imbalance", "exp:100000"], ["exp:100000"]),
    (["--val-fraction", "1"], ["--val-fraction 1", "between 0 and 1"]),
    (["--val-fraction", "0.999", "--val-per-class", "999"], ["'8' has 139 image", "val_fraction 0.999"]),
    (["--val-fraction", "0.999", "--val-per-class", "0"], ["'8' has 139 image", "val_fraction 0.999"]),
    (["--val-per-class", "-1"], ["--val-per-class -1", "at least 0"]),
    (["--objective", "nsd"], ["'nsd'", "robust_acc"]),
    (["--name", "../outside"], ["'../outside'"]),
    (["--spec", "/no/such/file.yaml"], ["/no/such/file.yaml"]),
    (["--dataset", "parquet:/no/such"], ["/no/such"]),
    (["--dataset", "cifar10"], ["cifar10", "could not be downloaded", "datasets"]),
    (["--no-such-flag"], ["--no-such-flag"]),
]


def run(capsys, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["tuner", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.mark.parametrize(
    "args", [["--objective", "few_robust_acc"], ["--constraint", "many_robust_acc>=0.5"]], ids=" ".join
)
def test_a_metric_that_balanced_data_do_not_have(capsys, monkeypatch, tmp_path, args):
    data = ["--dataset", write_parquet(tmp_path / "data", counts=(20, 20, 20)), "--imbalance", "none"]
    code, out, _ = run(capsys, monkeypatch, "search", *data, *args, "--home", tmp_path / "home", "--json")
    message = json.loads(out)["error"]
    assert code == 2 and message.startswith(f"{args[-1].split('>=')[0]} has no value here: it needs at least three")
    assert "\n" not in message


def test_offsets_that_no_image_could_judge(capsys, monkeypatch, tmp_path):
    data = ["--dataset", write_parquet(tmp_path / "data", counts=(4, 4, 4)), "--imbalance", "none"]
    args = [*data, "--offsets", "classes", "--home", tmp_path / "home", "--json"]
    code, out, _ = run(capsys, monkeypatch, "search", *args)
    assert code == 2 and "'classes' is not allowed here" in json.loads(out)["error"]


@pytest.mark.parametrize("args, parts", CASES, ids=[" ".join(a) for a, _ in CASES])
def test_wrong_flag(capsys, monkeypatch, tmp_path, args, parts):
    code, out, err = run(capsys, monkeypatch, "search", *args, "--home", tmp_path / "home", "--json")
    message = json.loads(out)["error"]
    assert code == 2 and all(part in message for part in parts), message
    assert "\n" not in message and "Traceback" not in err
    assert not (tmp_path / "home" / "searches").exists()


NEEDS_NO_DATA = [
    ["--dataset", "cifar11"],
    ["--dataset", "hub:x"],
    ["--model", "resnet19"],
    ["--model", "cnn:99"],
    ["--model", "resnet50:0.5"],
    ["--imbalance", "exp"],
    ["--imbalance", "step:0.5"],
    ["--seed", str(2**32)],
]


@pytest.mark.parametrize("args", NEEDS_NO_DATA, ids=" ".join)
def test_a_dry_run_refuses_what_shows_without_data(capsys, monkeypatch, tmp_path, args):
    messages = []
    for command in (["search"], ["search", "--dry-run"], ["submit", "--dry-run"]):
        code, out, _ = run(capsys, monkeypatch, *command, *args, "--home", tmp_path / "home", "--json")
        assert code == 2, (command, out)
        messages.append(json.loads(out)["error"])
    assert len(set(messages)) == 1 and "\n" not in messages[0] and args[1].partition(":")[0] in messages[0]


@pytest.mark.parametrize(
    "args",
    [
        ["--dataset", "parquet:/no/such"],
        ["--imbalance", "step:100000"],
        ["--model", "resnet18:0.5"],
        ["--model", "mobilenet_v3_small"],
    ],
    ids=" ".join,
)
def test_a_dry_run_opens_no_data(capsys, monkeypatch, tmp_path, args):
    code, _, _ = run(capsys, monkeypatch, "search", "--dry-run", *args, "--home", tmp_path / "home")
    assert code == 0 and not (tmp_path / "home").exists()


def test_on_and_off_are_words(capsys, monkeypatch, tmp_path):
    (tmp_path / "spec.yaml").write_text("set: {compile: on}")
    for args in (["--set", "compile=on"], ["--spec", tmp_path / "spec.yaml"]):
        code, out, _ = run(capsys, monkeypatch, "search", *args, "--dry-run", "--json")
        assert code == 0 and json.loads(out)["set"] == {"compile": "on"}


SPACES = [
    ("start: [0.9, 0.3]", "upside down"),
    ("start: [0.1, 2.0]", "0.1"),
    ("loss: [ce, hinge]", "'hinge'"),
    ("nothing: [0, 1]", "'nothing'"),
    ("start: {low: 0.3}", "low"),
    ("[1, 2]", "key: value"),
    ("a: [", "YAML"),
    ("a: 2024-99-99", "YAML"),
    ("loss: [ce, ldam]\ngamma: [1, 2]", "loss in {focal}"),
    ("loss: [ce, ce]", "twice"),
    ("start: {low: 0.3, high: 0.9, log: maybe}", "log is true or false"),
]


@pytest.mark.parametrize("text, part", SPACES)
def test_wrong_space_file(capsys, monkeypatch, tmp_path, text, part):
    (tmp_path / "space.yaml").write_text(text)
    code, out, _ = run(capsys, monkeypatch, "search", "--space", tmp_path / "space.yaml", "--home", tmp_path, "--json")
    assert code == 2 and part in json.loads(out)["error"]


def test_unknown_spec_field(capsys, monkeypatch, tmp_path):
    (tmp_path / "spec.yaml").write_text("metod: srat")
    code, out, _ = run(capsys, monkeypatch, "search", "--spec", tmp_path / "spec.yaml", "--json")
    assert code == 2 and "'metod'" in json.loads(out)["error"] and "method" in out


SPECS = [
    "objectives: 3",
    "constraint: 3",
    "fix: [a]",
    "set: 3",
    "space: [1]",
    "name: 5",
    "dataset: [a]",
    "study_storage: 5",
    "storage: 3",
    "warm_start: 5",
    "accelerator: 3",
    "experiment: 3",
    "max_epochs: .inf",
    "cpus_per_trial: .inf",
    "seed: 1.5",
    "trials: true",
    "scheduler: [a]",
    "imbalance: [exp]",
    "imbalance: 10",
    "model: 18",
    "method: 5",
    "method: []",
    "objectives: []",
]


@pytest.mark.parametrize("text", SPECS)
def test_a_spec_field_of_another_type(capsys, monkeypatch, tmp_path, text):
    (tmp_path / "spec.yaml").write_text(text)
    code, out, _ = run(
        capsys, monkeypatch, "search", "--spec", tmp_path / "spec.yaml", "--fix", "loss=ce", "--dry-run", "--json"
    )
    message = json.loads(out)["error"]
    field, _, value = text.partition(": ")
    assert code == 2 and field in message.replace("-", "_") and "\n" not in message
    assert value.strip("[].") in message.lower()


def test_a_field_left_empty_has_its_default_and_one_word_is_a_list(capsys, monkeypatch, tmp_path):
    (tmp_path / "spec.yaml").write_text("fix:\nseed:\nimbalance:\nobjectives: robust_acc\nconstraint: clean_acc>=0.8")
    code, out, _ = run(capsys, monkeypatch, "search", "--spec", tmp_path / "spec.yaml", "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0 and (found["fix"], found["seed"], found["imbalance"]) == ({}, 0, "exp:10")
    assert found["objectives"] == ["robust_acc"] and found["constraint"] == ["clean_acc>=0.8"]


@pytest.mark.parametrize(
    "args, said",
    [
        (["--smooth-worst", "cvar:0.2", "--objective", "robust_acc"], "--smooth-worst cvar:0.2 has no effect"),
        (["--smooth-worst", "cvar:0.2"], ""),
    ],
)
def test_what_has_no_effect_is_said(capsys, monkeypatch, args, said):
    for methods in ([], ["--method", "srat", "--method", "wat"]):
        code, _, err = run(capsys, monkeypatch, "search", *args, *methods, "--dry-run")
        err = re.sub("^(?:scheduler|cost:|forecast:) .*\n", "", err, flags=re.M)  # below what has no effect
        assert code == 0 and err.strip().startswith(said) and bool(err) == bool(said)


def _png(size=(32, 32)):
    buffer = BytesIO()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(labels, image=None):
    return [{"img": {"bytes": image or _png(), "path": f"{i}.png"}, "label": label} for i, label in enumerate(labels)]


PARQUET = [
    ([{"picture": 1, "label": 0}], "picture"),
    ([{"img": {"bytes": _png(), "path": "a.png"}}], "label"),
    (_rows([0] * 9 + [1], b"no image"), "row 0"),
    (_rows([0] * 9 + [-3]), "-3"),
    (_rows([0] * 9), "1 class ('0')"),
]


@pytest.mark.parametrize(
    "rows, part", PARQUET, ids=["no image column", "no label column", "undecodable", "label", "one class"]
)
def test_wrong_parquet(capsys, monkeypatch, tmp_path, rows, part):
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    code, out, _ = run(
        capsys,
        monkeypatch,
        "search",
        "--dataset",
        f"parquet:{tmp_path}",
        "--imbalance",
        "none",
        "--home",
        tmp_path / "home",
        "--json",
    )
    assert code == 2 and part in json.loads(out)["error"], out


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="needs /proc, a folder nobody can write to")
def test_unwritable_home(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "search", "--home", "/proc/1/home", "--json")
    assert code == 2 and "/proc/1/home" in json.loads(out)["error"] and "--home" in out


@pytest.mark.parametrize("args", [["front", "nothing"], ["space", "srta"]])
def test_other_commands(capsys, monkeypatch, tmp_path, args):
    extra = ["--home", tmp_path] if args[0] == "front" else []
    code, out, _ = run(capsys, monkeypatch, *args, *extra, "--json")
    assert code == 2 and repr(args[1]) in json.loads(out)["error"]


def test_a_search_that_cannot_be_read_is_named_and_hides_no_other(capsys, monkeypatch, tmp_path):
    for name, text in (("broken", "method: nonesuch"), ("edited", "method: srat"), ("good", "method: srat")):
        (tmp_path / "searches" / name).mkdir(parents=True)
        (tmp_path / "searches" / name / "spec.yaml").write_text(text)
    (tmp_path / "searches" / "edited" / "history.jsonl").write_text("{}\n")
    code, out, err = run(capsys, monkeypatch, "ls", "--home", tmp_path, "--json")
    assert code == 0 and [row["search"] for row in json.loads(out)] == ["good"]
    assert "search 'broken' cannot be read" in err and "line 1 of" in err
    for command in ("front", "resume"):
        code, out, _ = run(capsys, monkeypatch, command, "broken", "--home", tmp_path, "--json")
        assert code == 2 and "'broken'" in json.loads(out)["error"] and "'nonesuch'" in json.loads(out)["error"]
