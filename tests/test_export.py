"""Export: what is taken away is the model that was judged, whole or not at all, and others can use it."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.export.pt2_archive import constants as pt2_archive_constants

from tests.answers import refusing_server
from tests.conftest import tuner, tuner_here
from trainables.attack_copy import Frozen
from trainables.checkpoint import DamagedCheckpoint, read_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data import DataSpec, open_splits, open_test
from trainables.datasets import training_for
from trainables.evaluate import evaluate
from trainables.loop import Trainer
from trainables.model_io import load_model, load_trial, write_weights
from trainables.offsets import Offsets, prior
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.report.model_card import card_markdown
from tuner.results.history import History
from tuner.results.searches import load_front
from tuner.verification.export import export_model

ROOT = Path(__file__).parent.parent
FILES = {"model.safetensors", "model.pt2", "model.json", "README.md"}


def other(make, name="README.md"):
    """Put something else in the place of the file ``name``."""

    def change(to):
        (to / name).unlink()
        make(to / name)

    return change


def link(to):
    to.rename(to.with_name("elsewhere"))
    to.symlink_to("elsewhere")


def file(to):
    shutil.rmtree(to)
    to.write_text("mine")


NOT_EXPORTS = {  # what became of an earlier one
    "a thesis in it": lambda to: (to / "thesis.tex").write_text("mine"),
    "a repository in it": lambda to: (to / ".git" / "refs").mkdir(parents=True),
    "a folder for a file": other(lambda path: path.mkdir()),
    "a link for a file": other(lambda path: path.symlink_to("model.json")),
    "one file missing": lambda to: (to / "model.pt2").unlink(),
    "of another program": lambda to: (to / "model.json").write_text('{"format": 1}'),
    "of another version": lambda to: (to / "model.json").write_text('{"format": 2, "search": "", "architecture": {}}'),
    "no JSON": lambda to: (to / "model.json").write_bytes(b"\xff"),
    "a link": link,
    "a file": file,
}


@pytest.mark.parametrize("kind", NOT_EXPORTS)
def test_s6_a_folder_that_is_not_wholly_an_export_is_not_replaced(exported, tmp_path, kind):
    to = tmp_path / "model"
    shutil.copytree(exported[0], to)
    NOT_EXPORTS[kind](to)
    before = {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}
    with pytest.raises(UsageError, match="exists and .*; choose another") as error:
        export_model("first", "average", to, Home(exported[2]))
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")} == before


def test_s6_what_is_added_meanwhile_stays(exported, tmp_path, monkeypatch):
    """Between the check and the end of the export, and between the two renamings."""
    from tuner.verification import export

    to = tmp_path / "model"
    shutil.copytree(exported[0], to)
    write = export._write

    def slow(*args):
        (to / "notes.txt").write_text("mine")
        return write(*args)

    monkeypatch.setattr(export, "_write", slow)
    with pytest.raises(UsageError, match="also holds 'notes.txt'"):
        export_model("first", "average", to, Home(exported[2]))
    assert (to / "notes.txt").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["model"]

    rename = os.rename

    def late(old, new):
        rename(old, new)
        if old == to:
            (new / "late.txt").write_text("mine")

    (to / "notes.txt").unlink()
    monkeypatch.setattr(export, "_write", write)
    monkeypatch.setattr(os, "rename", late)
    export_model("first", "average", to, Home(exported[2]))
    kept = [p.read_text() for p in tmp_path.rglob("late.txt")]
    assert {f.name for f in to.iterdir()} == FILES and kept == ["mine"]


@pytest.fixture(scope="session")
def exported(finished, once):
    """(folder, result JSON, home) of one export through the command line, registered too."""
    _, home, _ = finished

    def make(folder):
        what = ["--pick", "knee", "--to", folder / "model", "--register", "digits"]
        done = tuner("export", "first", *what, "--home", home, "--json", fresh=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    folder, result = once("exported", make)
    return folder / "model", result, home


def test_the_best_epoch_is_exported(finished, tmp_path):
    """Where it is the last, the same weights; its metrics are of that epoch, and of `val` alone."""
    _, home, _ = finished
    done = tuner(
        "export", "first", "--pick", "paper", "--epoch", "best", "--to", tmp_path / "best", "--home", home, "--json"
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((home / "searches/first/result.json").read_text())["paper"]
    trial = json.loads(done.stdout)["trial"]
    assert trial == row["trial"]
    about = json.loads((tmp_path / "best/model.json").read_text())
    assert about["epoch"] == "best" and about["epochs"] == row["best_epoch"]
    (metrics,) = about["metrics"]
    assert metrics["split"] == "val" and {n: metrics[n] for n in row["best"]} == row["best"]
    state = torch.load(home / "searches/first/trials" / str(trial) / "checkpoint.pt", weights_only=True)
    card = (tmp_path / "best" / "README.md").read_text()
    assert "the epoch was selected by these numbers, which are of the images of `val` that judge every epoch" in card
    weights = load_model(tmp_path / "best").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in state["best"]["model"].items())
    assert "best of its epochs" in (tmp_path / "best/README.md").read_text()
    wrong = tuner_here("export", "first", "--pick", "knee", "--epoch", "first", "--to", tmp_path / "no", "--home", home)
    assert wrong.returncode == 2 and "'first' is not allowed; it takes last or best" in wrong.stderr


def test_folder_is_whole(exported):
    to, result, _ = exported
    assert {f.name for f in to.iterdir()} == FILES and result["folder"] == str(to)
    assert [p.name for p in to.parent.iterdir()] == ["model"], "nothing is left beside it"
    about = json.loads((to / "model.json").read_text())
    assert {"architecture", "preprocessing", "training", "spec", "metrics", "code", "torch", "params", "method"} <= set(
        about
    )
    assert about["architecture"]["classes"] == [str(c) for c in range(10)]
    assert about["architecture"]["shape"] == [1, 8, 8]
    assert about["code"].startswith("0.1.0")


def test_the_card_says_why_figures_on_val_are_not_the_fronts(exported):
    about = json.loads((exported[0] / "model.json").read_text())
    assert about["mean_of"] == [0] and "means over" not in card_markdown(about)
    said = "The search shows means over seeds 0, 1, 2; here the row of `val` is of seed 0 alone."
    assert said in card_markdown({**about, "mean_of": [0, 1, 2]})
    assert "means over" not in card_markdown({**about, "mean_of": [0, 1, 2], "epoch": "best"})  # no row of the front


def test_the_card_says_by_which_formula_its_offsets_were_computed(exported):
    """0 for the largest class is minus tau log of no share of all images."""
    about, counts = json.loads((exported[0] / "model.json").read_text()), [100, 50, *[20] * 8]
    card = card_markdown({**about, "offsets": prior(counts, 0.5).to_dict()})
    assert "minus 0.5 times the logarithm of its training images over those of the largest class" in card
    assert f"`0` +0.000, `1` {-0.5 * np.log(50 / 100):+.3f}, `2` {-0.5 * np.log(20 / 100):+.3f}" in card


def test_the_card_says_from_what_and_on_what_else_it_was_trained(exported):
    """Two epochs from somebody's robust weights were "trained for 2 epochs"."""
    about = json.loads((exported[0] / "model.json").read_text())
    epochs = f"Trained for {about['epochs']} epochs"
    assert f"{epochs}, seed 0" in card_markdown(about)
    spec = {**about["spec"], "init": "robust.pt", "extra_data": "parquet:generated", "extra_ratio": 0.3}
    said = "begun with the weights of `robust.pt`, with images of `parquet:generated` as 30 % of each batch, seed 0"
    assert f"{epochs}, {said}" in card_markdown({**about, "spec": spec})


def test_exported_model_has_the_metrics_it_was_picked_for(exported):
    """Judged again by the search's own evaluation, the weights give the numbers of the history."""
    to, result, home = exported
    about = json.loads((to / "model.json").read_text())
    val = open_splits(DataSpec("digits", "exp:10", 0), home).val
    found = evaluate(Frozen(load_model(to)), val, 10, eps=0.1, steps=4, seed=0).metrics(
        [str(c) for c in range(10)], open_splits(DataSpec("digits", "exp:10", 0), home).class_counts
    )
    points = History(home / "searches" / "first").record(result["trial"]).points
    last = next(metrics for offsets, metrics in points if offsets.to_dict() == result["offsets"])
    assert about["metrics"][0]["split"] == "val" and about["metrics"][0]["eps"] == 0.1
    for name, value in found.items():
        if "clean" in name:
            assert value == last[name], name
        elif name in ("robust_acc", "natural_robust_acc"):
            # attacks on the model with other offsets may break an image too; with offsets other random starts found
            # what is robust
            assert value == pytest.approx(last[name], abs=0.03), name
        elif name.startswith("robust_acc/") and not result["offsets"]["tau"]:
            assert value >= last[name], name
        assert "acc" not in name or about["metrics"][0][name] == pytest.approx(last[name])


def test_test_metrics_are_in_the_card_once_verified(finished, tmp_path):
    """With the per-class table; a result that belongs to another checkpoint is left out."""
    from tests.test_verify import copied
    from tests.verifying import without_ray
    from tuner.verification.verify import verify_search

    home = Home(copied(finished[1], tmp_path))
    with without_ray():
        row, *_ = verify_search("first", home, pick="knee", attack="pgd:2x1")["rows"]
    export_model("first", "knee", tmp_path / "out", home)
    out = tmp_path / "out"
    about, text = json.loads((out / "model.json").read_text()), (out / "README.md").read_text()
    (tested,) = [m for m in about["metrics"] if m["attack"] == "pgd:2x1"]
    assert tested["split"] == "test" and tested["robust_acc"] == row["robust_acc"]
    assert "Not verified" not in text and "Split test" in text
    low, high = row["per_class"]["4"]["ci"]
    line = next(line for line in text.splitlines() if line.startswith("| 4 |"))
    if about["metrics"][-1]["attack"] == "pgd:2x1":
        assert (
            line == f"| 4 | {row['per_class']['4']['robust_acc']:.3f} | {low:.3f} .. {high:.3f} | "
            f"{row['per_class']['4']['clean_acc']:.3f} |"
        )


def snippets(markdown):
    return re.findall(r"```python\n(.*?)```", markdown, re.S)


def test_load_snippets_of_the_card(exported):
    to, _, home = exported
    x, _ = open_test(DataSpec("digits"), home).batch(slice(0, 5))
    answers = []
    for snippet in snippets((to / "README.md").read_text()):
        space = {}
        exec(snippet, space)
        with torch.no_grad():
            answers.append(space["load"](to)(x))
    assert len(answers) == 2 and torch.allclose(answers[0], answers[1], atol=1e-5) and answers[0].shape == (5, 10)


def test_program_needs_torch_alone(exported):
    """In a process of its own, away from the project: no package of ours is loaded, any batch size works."""
    to, _, _ = exported
    code = (
        snippets((to / "README.md").read_text())[1]
        + f"""
import sys
model = load({str(to)!r})
print([tuple(model(torch.rand(n, 1, 8, 8)).shape) for n in (1, 2, 7)])
print([m for m in ("trainables", "tuner", "search_spaces") if m in sys.modules])
"""
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.splitlines() == ["[(1, 10), (2, 10), (7, 10)]", "[]"], done.stderr


class Evil:
    """A pickle that makes a folder."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return (os.mkdir, (str(self.trap),))


def opaque_constant(name, data, trap):
    """One more constant, which torch unpickles."""
    if not name.endswith("constants/model_constants_config.json"):
        return {name: data}
    config = json.loads(data)
    config["config"]["evil"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    folder = name.rpartition("/")[0]
    return {name: json.dumps(config), f"{folder}/opaque_obj_0": pickle.dumps(Evil(trap))}


def expression(name, data, trap):
    """For the size of the batch, an expression, which sympy evaluates as Python."""
    if not name.endswith("models/model.json"):
        return {name: data}
    code = f"sympify.__globals__['__builtins__']['__import__']('os').mkdir('{trap}')"
    text, changes = re.subn(r'("expr_str": ?)"[^"]*"', lambda m: m[1] + json.dumps(code), data.decode())
    assert changes
    return {name: text}


def test_s3_a_received_model_runs_no_code(exported, tmp_path):
    """The card's first snippet, on folders whose program runs code in two ways when torch opens it; the variable that
    earlier cards set helps against neither."""
    to, _, _ = exported
    traps = {bait: tmp_path / bait.__name__ / "executed" for bait in (opaque_constant, expression)}
    for bait, trap in traps.items():
        shutil.copytree(to, trap.parent)
        with zipfile.ZipFile(to / "model.pt2") as old, zipfile.ZipFile(trap.parent / "model.pt2", "w") as new:
            for item in old.infolist():
                for name, data in bait(item.filename, old.read(item), trap).items():
                    new.writestr(name, data)
        space = {}
        exec(snippets((to / "README.md").read_text())[0], space)
        with torch.no_grad():
            assert space["load"](trap.parent)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
        assert not trap.exists(), bait
    code = "import sys, contextlib, torch\nfor path in sys.argv[1:]:\n with contextlib.suppress(Exception):\n  "
    command = [sys.executable, "-I", "-c", code + "torch.export.load(path)"]
    paths = [trap.parent / "model.pt2" for trap in traps.values()]
    env = {**os.environ, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run([*command, *paths], capture_output=True, text=True, cwd="/", env=env)
    baits = {bait for bait, trap in traps.items() if trap.exists()}
    know_opaque = hasattr(pt2_archive_constants, "OPAQUE_OBJ_FILENAME_PREFIX")  # torch 2.11 does not yet
    assert baits == traps.keys() - (set() if know_opaque else {opaque_constant}), f"they must be real: {done.stderr}"


def test_s3_nothing_of_ours_opens_a_program_or_unpickles_objects():
    """Where it is called at all, torch's unpickler takes tensors alone."""
    from tests.test_house import FILES as MODULES

    loads = []
    for module, path in MODULES.items():
        text = path.read_text()
        if module not in ("tuner.report.model_card", "tuner.execution.failures"):  # the text; Ray's own file, just made
            assert not re.search(r"export\.load\(|pickle\.loads?\(|jit\.load\(|Unpickler\(", text), module
        loads += [(module, line) for line in text.splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for _, line in loads), loads


def test_registered_model_answers_on_real_images(exported, monkeypatch):
    import mlflow

    to, result, home = exported
    assert {"model": "digits", "version": "1", "alias": "knee"}.items() <= result.items()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # S3: it holds no code and no pickled object
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a program of the CPU is not looked for on a GPU
    model = mlflow.pyfunc.load_model("models:/digits@knee")
    version = mlflow.MlflowClient().get_model_version_by_alias("digits", "knee")
    x, y = open_test(DataSpec("digits"), home).batch(slice(None))
    answers = model.predict(x.numpy())
    with torch.no_grad():
        assert np.allclose(answers, load_model(to)(x).numpy(), atol=1e-5)
    assert (answers.argmax(1) == y.numpy()).mean() > 0.5
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    tau = result["offsets"]["tau"]
    offsets = {"tuner.offsets": f"{result['offsets']['kind']}:{tau:g}"} if tau else {}
    assert version.tags == {"tuner.search": "first", "tuner.trial": str(result["trial"]), **offsets}
    client = mlflow.MlflowClient()
    logged = client.get_logged_model(result["model_id"])
    assert version.source == logged.artifact_location and logged.status == "READY" and logged.name == "digits-knee"
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "digits", "version": "1"}]
    assert model.metadata.model_id == logged.model_id and mlflow.pyfunc.load_model(logged.model_uri)
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")  # of MLflow 3.18, which then refuses all pyfuncs
    program = mlflow.pytorch.load_model("models:/digits@knee")
    with torch.no_grad():
        assert np.allclose(program(x[:2]).numpy(), answers[:2], atol=1e-5)
    run = client.get_run(logged.source_run_id)
    assert run.data.tags["tuner.trial"] == str(result["trial"])
    assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    split = f"val-tau-{tau:g}" if tau else "val"
    row = next(
        r for r in load_front("first", Home(home)).rows if (r["trial"], r["offsets"]["tau"]) == (result["trial"], tau)
    )
    found = {metric.key: metric.value for metric in logged.metrics}
    assert found[f"{split}/worst_class_robust_acc"] == row["worst_class_robust_acc"]
    files = [p.name for p in Path(urlparse(logged.artifact_location).path).rglob("*")]
    assert "model.pt2" in files and not [f for f in files if f.endswith((".py", ".pkl", ".pickle", ".pth", ".pt"))]
    assert {"README.md", "model.json", "model.safetensors"} <= set(files)


def test_weights_are_those_that_were_judged(tmp_path):
    """Where a trial keeps a weight average, that is the model its metrics speak of."""
    training = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1, ema=0.9))
    trainer = Trainer(TrialConfig("srat", training=training, home=str(tmp_path), max_epochs=2), "cpu")
    save_checkpoint(tmp_path / "trial", trainer, trainer.run_epoch())
    model, about = load_trial(tmp_path / "trial", tmp_path)
    assert about["weights"] == "average"
    mine, theirs, last = model.state_dict(), trainer.average.model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert not torch.equal(mine["head.weight"], last["head.weight"])


def test_a_cosine_head_is_built_again(tmp_path):
    trainer = Trainer(TrialConfig("robal", training=asdict(training_for("digits")), home=str(tmp_path)), "cpu")
    save_checkpoint(tmp_path / "trial", trainer, {})
    model, about = load_trial(tmp_path / "trial", tmp_path)
    x = torch.rand(3, 1, 8, 8)
    assert about["architecture"]["head"] == "cosine" and torch.allclose(model(x), trainer.model.eval()(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["at", "robal"])
def test_offsets_are_folded_into_the_head(tmp_path, method):
    """robal's cosine head has no bias of its own. Saved and loaded, also as a program, logits are the trial's plus the
    offsets, and so are those of the copy that attacks use."""
    config = TrialConfig(method, training=asdict(training_for("digits")), home=str(tmp_path))
    trainer = Trainer(config, "cpu")
    save_checkpoint(tmp_path / "trial", trainer, {})
    offsets = Offsets("prior", 1.0, tuple(0.1 * i for i in range(10)))
    plain, bare = load_trial(tmp_path / "trial", tmp_path)
    model, about = load_trial(tmp_path / "trial", tmp_path, offsets=offsets)
    out = tmp_path / "out"
    out.mkdir()
    write_weights(model, out, about["architecture"]["shape"])
    (out / "model.json").write_text(json.dumps({"architecture": about["architecture"]}))
    program = torch.export.load(out / "model.pt2").module()
    x = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        wanted = plain(x) + torch.tensor(offsets.values)
        for found in (model, load_model(out), program, Frozen(model)):
            assert torch.allclose(found(x), wanted, atol=1e-5)
    assert bare["architecture"]["head_bias"] == (method == "at") and about["architecture"]["head_bias"]


@pytest.mark.parametrize("pick", ["no_search", "no_search@0.5", "paper@1", "front"])
def test_any_reference_and_any_row_can_be_exported(finished, wide_front, tmp_path, pick):
    """Its logits are the trial's plus the offsets; its metrics are those of the row."""
    home, result = Home(finished[1]), finished[0]
    if pick == "front":
        row = next(r for r in load_front("first", home).rows if r["offsets"]["tau"])
        pick = f"{row['trial']}@{row['offsets']['tau']:g}"
    else:
        role, _, tau = pick.partition("@")
        rows = {"paper": result["paper_curve"], "no_search": result["no_search"]}[role]
        row = next(r for r in rows if r["offsets"]["tau"] == float(tau or 0))
    export_model("first", pick, tmp_path / "out", home)
    about, card = (json.loads((tmp_path / "out/model.json").read_text()), (tmp_path / "out/README.md").read_text())
    x, _ = open_test(DataSpec("digits"), home.root).batch(slice(0, 20))
    plain, _ = load_trial(home.search("first") / "trials" / str(row["trial"]), home.root)
    with torch.no_grad():
        wanted = plain(x) + (torch.tensor(row["offsets"]["values"]) if row["offsets"]["tau"] else 0.0)
        assert torch.allclose(load_model(tmp_path / "out")(x), wanted, atol=1e-5)
    assert about["offsets"] == row["offsets"] and about["trial"] == row["trial"]
    for name in ("robust_acc", "worst_class_robust_acc", "clean_acc"):
        assert about["metrics"][0][name] == pytest.approx(row[name])
    assert ("the attacks saw its logits with them" in card) == bool(row["offsets"]["tau"])
    assert ("plain AT" in card) == (row["trial"] == -1) == (about["role"] == "no_search")


def test_a_prior_in_the_loss_is_said(finished):
    """bsl, robal and others train with class frequencies; offsets come on top. REAT, which does too, did not say so."""
    from search_spaces import METHODS
    from tuner.spec.search_spec import SearchSpec

    said = {m: [n for n in SearchSpec(method=m).notes if "come on top" in n] for m in ("bsl", "robal", "srat")}
    assert said["bsl"][0].startswith("bsl trains with the log class frequencies") and said["robal"] and not said["srat"]
    assert not [n for n in SearchSpec(method="bsl", offsets="none").notes if "come on top" in n]
    from tuner.report.model_card import _offsets

    about = {
        "offsets": {"kind": "prior", "tau": 1.0, "values": [0.0, 2.0]},
        "architecture": {"classes": ["cat", "dog"]},
        "prior_in_loss": said["bsl"][0],
    }
    assert "The method trains with the log class frequencies" in _offsets(about) and "`dog` +2.000" in _offsets(about)
    equations = (ROOT / "trainables/methods").glob("*.py")
    having = {path.stem for path in equations if "balanced_logits(" in path.read_text()}
    assert {m for m in METHODS if hasattr(METHODS[m], "PRIOR_IN_LOSS")} == having | {"robal"} > {"reat", "fairfront"}


def test_table_of_all_trials(finished, tmp_path):
    done = tuner_here("export", "first", "--parquet", tmp_path / "t.parquet", "--home", finished[1], "--json")
    assert json.loads(done.stdout)["rows"] == 21 and done.returncode == 0
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert sorted(zip(table["trial"], table["epoch"])) == [(t, e) for t in range(-1, 6) for e in (1, 2, 3)]
    assert {"state", "seed", "robust_acc", "param/sep_weight"} <= set(table)


# Four of the page's calls would each start an instance of Ray, and an actor for every core.
ONE_RAY = """
import ray
from tuner.execution import ray_instance, ray_session
session = ray_session.private_session()
ray_instance.start(ray, _temp_dir=session.__enter__(), num_cpus=1)
"""
ITS_END = """
ray.shutdown()
session.__exit__(None, None, None)
"""


@pytest.mark.long
@pytest.mark.ray
def test_python_page_runs(tmp_path):
    """docs/python.md, from top to bottom, as one script, in a Ray that is there before."""
    blocks = snippets((ROOT / "docs" / "python.md").read_text())
    script = tmp_path / "page.py"
    script.write_text("\n".join([ONE_RAY, *blocks, ITS_END]))
    env = {**os.environ, "TUNER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=240
    )
    assert done.returncode == 0 and len(blocks) == 6, done.stderr
    assert "finished {'finished': 4" in done.stdout and "hypervolume" in done.stdout
    assert {f.name for f in (tmp_path / "my-model").iterdir()} == FILES


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, parts",
    [
        (["--pick", "99", "--to", "OUT"], ["'99'", "not on the front"]),
        (["--pick", "best", "--to", "OUT"], ["'best'", "knee"]),
        (["--pick", "paper@9", "--to", "OUT"], ["'paper@9'", "0.25, 0.5"]),
        (["--pick", "no_search@", "--to", "OUT"], ["'no_search@'", "0.25, 0.5"]),
        (["--pick", "knee"], ["--to DIR"]),
        (["--to", "OUT"], ["--pick"]),
        ([], ["--parquet FILE"]),
        (["--register", "m", "--parquet", "OUT"], ["'m'", "--to DIR"]),
        (["--pick", "knee", "--to", "/proc/nowhere/x"], ["/proc/nowhere", "cannot be written"]),
        (["--pick", "knee", "--to", "TAKEN"], ["exists", "not an earlier export"]),
        (["--pick", "knee", "--to", "TAKEN/mine.txt"], ["exists", "not a folder"]),
    ],
)
def test_wrong_input(finished, tmp_path, capsys, monkeypatch, args, parts):
    from tests.test_wrong_input import run

    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    places = {"OUT": tmp_path / "out", "TAKEN": tmp_path / "taken", "TAKEN/mine.txt": tmp_path / "taken/mine.txt"}
    args = [str(places.get(a, a)) for a in args]
    code, out, _ = run(capsys, monkeypatch, "export", "first", *args, "--home", finished[1], "--json")
    error = json.loads(out)["error"]
    assert code == 2 and all(p in error for p in parts) and "\n" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["taken"] and os.listdir(tmp_path / "taken") == ["mine.txt"]


def flip(path):
    """One bit in the middle of the weights."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_trial(path):
    others = [p for p in sorted(path.parent.parent.glob("*/checkpoint.pt")) if p != path]
    shutil.copy(others[0], path)


@pytest.mark.parametrize(
    "damage, part",
    [
        (lambda path: path.unlink(), "is missing"),
        (flip, "is cut or altered"),
        (other_trial, "is not the one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is cut or altered"),
        (lambda path: path.write_bytes(b""), "is cut or altered"),
    ],
)
def test_a_damaged_checkpoint(finished, tmp_path, capsys, monkeypatch, damage, part):
    from tests.test_verify import copied
    from tests.test_wrong_input import run

    home = copied(finished[1], tmp_path)
    trial = json.loads(tuner_front(home))["trial"]
    damage(home / "searches" / "first" / "trials" / str(trial) / "checkpoint.pt")
    for command in (["export", "first", "--to", tmp_path / "out"], ["verify", "first"]):
        code, out, _ = run(capsys, monkeypatch, *command, "--pick", "knee", "--home", home, "--json")
        error = json.loads(out)["error"]
        assert code == 1 and error.startswith("checkpoint") and part in error and f"trials/{trial}/" in error
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def tuner_front(home):
    from tuner import load_front

    return json.dumps(load_front("first", Home(home)).knee())


def test_every_byte_of_the_weights_is_guarded(tmp_path):
    trainer = Trainer(TrialConfig("at", training=asdict(training_for("digits")), home=str(tmp_path)), "cpu")
    save_checkpoint(tmp_path, trainer, {})
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    assert read_checkpoint(tmp_path)["epoch"] == 0
    with zipfile.ZipFile(path) as file:
        places = [i.header_offset + 200 + i.file_size // 2 for i in file.infolist() if i.file_size > 1000]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(tmp_path)


def test_a_registry_that_refuses_the_password_leaves_nothing(finished, tmp_path, monkeypatch):
    with refusing_server() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//user:secret@"))
        with pytest.raises(Failed, match="refuses the user or password") as error:
            export_model("first", "knee", tmp_path / "out", Home(finished[1]), register="m")
    assert "secret" not in str(error.value) and not list(tmp_path.iterdir())


def test_an_earlier_export_is_replaced_whole(finished, tmp_path):
    for _ in range(2):
        export_model("first", "average", tmp_path / "out", Home(finished[1]))
        assert {f.name for f in (tmp_path / "out").iterdir()} == FILES
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        (tmp_path / "out" / "model.safetensors").write_bytes(b"old")
    with pytest.raises(UsageError, match="nobody"):
        export_model("first", "nobody", tmp_path / "out", Home(finished[1]))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"old"


def test_importing_the_package_is_light():
    code = (
        "import sys, tuner; from tuner import SearchSpec, Home; "
        "print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules]); "
        "from tuner import search, load_front; print(callable(search), callable(load_front))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "True True"], done.stderr
