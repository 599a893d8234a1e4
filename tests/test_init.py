"""A search that starts from trained weights: a file, an export, a trial; with its accuracy said before it trains."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import tuner
from tests.histories import start
from tests.layouts import CifarResNet18, published
from trainables import first_look
from trainables.checkpoint import save_checkpoint
from trainables.config import TrialConfig
from trainables.data import DataSpec, open_splits
from trainables.foreign import read_state
from trainables.initial import keep_weights, load_initial
from trainables.loop import Trainer
from trainables.model_io import add_offsets, load_trial
from trainables.models.build import build_model
from trainables.reading import Damaged
from trainables.schedule import learning_rate
from trainables.stem import Fork, key_hash, stem_key
from tuner.errors import UsageError
from tuner.execution import driver
from tuner.execution.initial import prepare_init
from tuner.execution.trial_config import trial_config
from tuner.files import write_atomically
from tuner.home import Home
from tuner.report.text import notes
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.summary import front_json
from tuner.results.trial_record import NO_SEARCH, TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import INIT, init_of, init_text, keep_init
from tuner.sync.mirror import push
from tuner.verification.foreign import verify_model

WIDTHS, MODEL = (6, 13, 26, 51), "resnet18:0.1"


def right_on_val(model, home) -> float:
    """Of the images that a first look takes, evenly over `val`."""
    val = open_splits(DataSpec("digits", "exp:10"), home).val
    rows = torch.linspace(0, len(val) - 1, min(500, len(val))).round().long()
    x, y = val.batch(rows)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Seconds for the attack of a first look."""
    monkeypatch.setattr(first_look, "ATTACK_S", 0.1)


@pytest.fixture(scope="module")
def robust(tmp_path_factory):
    """A public model of digits and its file."""
    folder = tmp_path_factory.mktemp("robust")
    return published(folder, *open_splits(DataSpec("digits", "none"), folder).train.batch(slice(None)), WIDTHS, 40)


def spec_of(init, **more):
    return SearchSpec(model=MODEL, init=str(init), name="mine", **more)


def prepared(spec, home) -> SearchRun:
    """As the driver does before trials start."""
    record = prepare_init(spec, home)
    run = SearchRun(spec, home, spec.search_name, History(None))
    run.folder.mkdir(parents=True, exist_ok=True)
    keep_init(run.folder, record)
    return run


def config_of(run, method="srat", **changes) -> TrialConfig:
    config = trial_config(run, TrialRecord(0, {}, method, seed=run.spec.seed))
    return dataclasses.replace(config, **{"folder": None, **changes})


@pytest.mark.slow
def test_the_accuracy_is_that_of_the_file_and_is_kept(robust, tmp_path):
    model, file = robust
    run = prepared(spec_of(file), Home(tmp_path))
    record = init_of(run.spec, run.folder)
    assert record["accuracy"]["clean_acc"] == pytest.approx(right_on_val(model, tmp_path), abs=1e-6)
    assert 0.5 < record["accuracy"]["clean_acc"] and record["accuracy"]["robust_acc"] < record["accuracy"]["clean_acc"]
    assert first_look.PART <= record["accuracy"]["attacked"] <= record["accuracy"]["images"] <= 500
    assert any("keys renamed: conv1.weight -> backbone.0.weight" in note for note in record["notes"])
    result = front_json(run)
    assert result["init"] == record
    (line,) = notes(result, run.spec.objectives)
    assert line.startswith(f"init: {file} classifies {record['accuracy']['clean_acc']:.3f} of ")


def test_trials_and_stems_begin_with_the_weights(robust, tmp_path):
    model, file = robust
    run = prepared(spec_of(file), Home(tmp_path))
    trainer = Trainer(config_of(run))
    x = trainer.splits.val.batch(slice(0, 64))[0]
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(x), model(x), rtol=1e-4, atol=1e-4)
    random = Trainer(config_of(run, init=None))
    assert key_hash(stem_key(random)) != key_hash(stem_key(trainer))  # another stem, by what the weights are
    assert "init" not in stem_key(random) and stem_key(trainer)["init"] == trainer.config.init
    fork = Fork(Trainer(config_of(run, fork=1, stem=run.spec.set)))
    stem = fork._new_stem()
    assert all(torch.equal(a, b) for a, b in zip(stem.model.state_dict().values(), trainer.model.state_dict().values()))
    stem_of_random = Trainer(dataclasses.replace(stem.config, init=None))
    assert not torch.equal(stem_of_random.model.head.weight, stem.model.head.weight)


def test_what_describes_a_model_has_the_normalisation_that_its_weights_had(robust, tmp_path):
    run = prepared(spec_of(robust[1]), Home(tmp_path / "home"))
    for init in (None, trial_config(run, TrialRecord(0, {}, "srat")).init):
        trainer = Trainer(config_of(run, init=init))
        save_checkpoint(tmp_path / "trial", trainer, {"epoch": 0})
        model, about = load_trial(tmp_path / "trial", run.home.root)
        described = about["architecture"]["mean"], about["architecture"]["std"]
        assert described == (pytest.approx(model.mean.flatten().tolist()), pytest.approx(model.std.flatten().tolist()))
        assert (described[0] == trainer.splits.mean) == (init is None)


@pytest.mark.slow
def test_it_goes_on_when_the_file_is_gone_and_not_with_another_file(robust, tmp_path):
    home, file = Home(tmp_path / "home"), tmp_path / "here.pt"
    shutil.copy(robust[1], file)
    run = prepared(spec_of(file), home)
    kept = init_of(run.spec, run.folder)
    assert prepare_init(run.spec, home) == kept  # not looked at again
    file.unlink()
    assert prepare_init(run.spec, home) == kept
    Trainer(config_of(run))
    state = read_state(robust[1]).state
    state["module.model.linear.bias"] = torch.ones(10)
    torch.save(state, file)
    with pytest.raises(UsageError, match="is not the file that search 'mine' began with; put that one back"):
        prepare_init(run.spec, home)
    file.unlink()
    moved = dataclasses.replace(run.spec, storage=str(tmp_path / "storage"))  # the search goes on with a storage
    assert prepare_init(moved, home) == kept
    Trainer(config_of(dataclasses.replace(run, spec=moved), home=str(tmp_path / "another machine")))
    shutil.rmtree(home.root / "inits")
    with pytest.raises(UsageError, match="is gone, and so are the weights that were read from it"):
        prepare_init(run.spec, home)
    shutil.copy(robust[1], file)
    assert prepare_init(run.spec, home)["weights"] == kept["weights"]
    Trainer(config_of(run))


def test_the_same_command_in_another_home_begins_with_the_same_file(robust, tmp_path):
    spec = spec_of("weights.pt", storage=str(tmp_path / "storage"))
    here, there = Home(tmp_path / "a"), Home(tmp_path / "b", spec.storage)
    run = prepared(dataclasses.replace(spec, init=str(robust[1])), here)
    write_atomically(run.folder / "spec.yaml", spec.to_stored())
    push(spec.storage, here, "mine")
    driver.check(spec, there)
    assert prepare_init(spec, there) == init_of(spec, run.folder), "it needs no file"
    state = read_state(robust[1]).state
    state["module.model.linear.bias"] = torch.ones(10)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="is not the file that search 'mine' began with"):
        prepare_init(dataclasses.replace(spec, init=str(tmp_path / "other.pt")), there)


def test_it_goes_on_where_the_search_of_the_trial_is_not_and_not_with_another_trial(tmp_path):
    """In another home, after `tuner gc` or `rm`; `tuner resume` on another machine had no search of that name."""
    here, storage = Home(tmp_path / "home"), str(tmp_path / "storage")
    first = ended(here)
    run = prepared(SearchSpec(init="first:no_search", name="mine", storage=storage), here)
    kept = init_of(run.spec, run.folder)
    write_atomically(run.folder / "spec.yaml", run.spec.to_stored())
    push(storage, here, "mine")
    there = Home(tmp_path / "b", storage)
    driver.check(run.spec, there)
    assert prepare_init(run.spec, there) == prepare_init(run.spec, here) == kept
    checkpoint = first.folder / "trials" / str(NO_SEARCH) / "checkpoint.pt"
    other = Trainer(trial_config(first, first.history.record(NO_SEARCH)))
    save_checkpoint(checkpoint.parent, other, other.run_epoch())
    with pytest.raises(UsageError, match="is not the file that search 'mine' began with"):
        prepare_init(run.spec, here)
    checkpoint.unlink()
    assert prepare_init(run.spec, here) == kept
    (first.folder / "history.jsonl").write_text("{}\n")
    assert prepare_init(run.spec, here) == kept, "whatever became of the other search"
    shutil.rmtree(first.folder)
    assert prepare_init(run.spec, here) == kept
    shutil.rmtree(tmp_path / "storage" / "inits")
    with pytest.raises(UsageError, match="is gone, and so are the weights that were read from it"):
        prepare_init(run.spec, here)


def test_weights_lie_in_the_storage_by_their_content(robust, tmp_path):
    spec = spec_of(robust[1], storage=str(tmp_path / "storage"))
    run = prepared(spec, Home(tmp_path / "home"))
    (stored,) = (tmp_path / "storage" / "inits").iterdir()
    assert stored.stem == init_of(spec, run.folder)["weights"] and not (tmp_path / "home" / "inits").exists()
    elsewhere = config_of(run, home=str(tmp_path / "another machine"))
    Trainer(elsewhere)
    stored.write_bytes(stored.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(Damaged, match="is cut or altered"):
        Trainer(elsewhere)
    stored.unlink()
    with pytest.raises(Damaged, match="are not in"):
        Trainer(elsewhere)


@pytest.mark.slow
def test_pixels_are_scaled_as_the_model_needs_them(tmp_path):
    """Two models that are right on all images, one for pixels as they are and one for the data's mean and std; their
    files do not say so."""
    home = Home(tmp_path)
    splits = open_splits(DataSpec("digits", "exp:10"), tmp_path)
    net = build_model(MODEL, 10, splits.shape, mean=splits.mean, std=splits.std)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x, y = splits.val.batch(slice(None))
    for step in range(30):
        rows = torch.randperm(len(y))[:128]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    theirs = CifarResNet18(WIDTHS, 10, channels=1)
    numbers = [value for name, value in net.state_dict().items() if name not in ("mean", "std")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), numbers)))  # both list their layers from the first to the last
    torch.save(theirs.state_dict(), tmp_path / "plain.pt")
    record = prepare_init(spec_of(tmp_path / "plain.pt"), home)
    assert record["notes"][-1].endswith("the data's mean and std taken")
    assert record["accuracy"]["clean_acc"] == pytest.approx(right_on_val(net.eval(), tmp_path), abs=1e-6)
    model = build_model(MODEL, 10, splits.shape)
    load_initial(model, tmp_path, record["weights"])
    assert model.mean.flatten().tolist() == pytest.approx(splits.mean)


def ended(home, name="first", method="srat") -> SearchRun:
    """A search whose reference has trained for an epoch: of plain AT its trial."""
    spec = SearchSpec(name=name, method=method, max_epochs=1, set={"passes": 1, "eval_attack": 2})
    run = SearchRun(spec, home, name, History(home.search(name)))
    write_atomically(run.folder / "spec.yaml", spec.to_yaml())
    start(run.history, spec, 0, spec.search_space().default())
    number = 0 if method == "at" else NO_SEARCH
    if number == NO_SEARCH:
        run.history.append("start", NO_SEARCH, params={}, method="at", seed=0, role="no_search")
    trainer = Trainer(trial_config(run, run.history.record(number)))
    save_checkpoint(trainer.config.folder, trainer, trainer.run_epoch())
    run.history.append("end", number, state="finished")
    return run


@pytest.mark.slow
def test_an_export_and_a_trial(tmp_path):
    mine, name = Home(tmp_path / "home"), "first"
    run = ended(mine, name)
    model, about = load_trial(trial_config(run, run.history.record(NO_SEARCH)).folder, mine.root)
    (tmp_path / "export").mkdir()
    save_file(model.state_dict(), tmp_path / "export" / "model.safetensors")
    (tmp_path / "export" / "model.json").write_text(json.dumps(about))
    spec = SearchSpec(init=f"export:{tmp_path / 'export'}", name="mine")
    by_export = prepare_init(spec, mine)
    assert by_export["accuracy"]["clean_acc"] == pytest.approx(right_on_val(model, mine.root), abs=1e-6)
    assert not by_export["notes"]
    with pytest.raises(UsageError, match="is a model cnn, not resnet18; --model cnn takes it"):
        prepare_init(dataclasses.replace(spec, model="resnet18"), mine)
    by_trial = prepare_init(SearchSpec(init=f"{name}:no_search", name="mine"), mine)
    assert by_trial["weights"] == by_export["weights"]
    plain = ended(mine, "plain", method="at")  # its only trial is no search too
    assert list(plain.history.references) == []
    by_both = [prepare_init(SearchSpec(init=f"plain:{trial}", name="mine"), mine) for trial in ("0", "no_search")]
    assert by_both[0]["weights"] == by_both[1]["weights"]
    for wrong, part in [
        (f"{name}:99", "has no trial '99'"),
        (f"{name}:x", "has no trial 'x'"),
        (f"{name}:0", "trial 0 has no checkpoint"),
        ("nobody:3", "no search 'nobody'"),
        ("not-there.pt", "is not there"),
        ("export:not-there", "is not there"),
        (str(tmp_path), "is a folder; it takes a FILE of weights, or export:DIR"),
    ]:
        with pytest.raises(UsageError) as refused:
            prepare_init(SearchSpec(init=wrong, name="mine"), mine)
        assert part in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_images_of_val_on_which_the_weights_were_trained_are_said(robust, tmp_path):
    """Under another seed four of five images of val had trained them, and rates on val were shown as of unseen ones."""
    home = Home(tmp_path)
    ended(home)
    found = {seed: prepare_init(SearchSpec(init="first:no_search", name="mine", seed=seed), home) for seed in (0, 1)}
    assert found[0]["val"] == "" and init_text(found[0]).endswith("before training")
    known, val = (open_splits(DataSpec("digits", "exp:10", seed), tmp_path) for seed in (0, 1))
    both = set(known.train.index.tolist()) & set(val.val.index.tolist())
    assert len(both) > 100
    said = f"; it was trained on {len(both)} of the {len(val.val)} images of val, so rates on val are too high"
    assert init_text(found[1]).endswith(said)
    (tmp_path / "export").mkdir()
    shutil.copy(tmp_path / "inits" / f"{found[0]['weights']}.safetensors", tmp_path / "export" / "model.safetensors")
    about = {
        "architecture": {"model": "cnn", "head": "linear", "classes": ["a"], "shape": [1], "mean": [0], "std": [1]}
    }
    for spec, ends in ((SearchSpec(), said), (None, NOT_KNOWN), (SearchSpec(init="x"), NOT_KNOWN)):
        described = about | ({"spec": spec.to_dict()} if spec else {})
        (tmp_path / "export" / "model.json").write_text(json.dumps(described))
        record = prepare_init(SearchSpec(init=f"export:{tmp_path / 'export'}", name="mine", seed=1), home)
        assert init_text(record).endswith(ends)
    assert init_text(prepare_init(spec_of(robust[1]), home)).endswith(NOT_KNOWN)


NOT_KNOWN = "; whether it was trained on images of val is not known; if so, rates on val are too high"


def test_an_exported_cosine_head_is_no_linear_one(tmp_path):
    """RoBal's, exported with offsets, has a bias: its tensors are those of a linear head, which computes another
    model."""
    model = build_model("cnn", 10, (1, 8, 8), head="cosine")
    add_offsets(model, [0.1] * 10)
    architecture = {"model": "cnn", "head": "cosine", "classes": list("0123456789"), "shape": [1, 8, 8]}
    (tmp_path / "export").mkdir()
    save_file(model.state_dict(), tmp_path / "export" / "model.safetensors")
    about = {"architecture": {**architecture, "mean": [0.5], "std": [0.25]}}
    (tmp_path / "export" / "model.json").write_text(json.dumps(about))
    home, file = Home(tmp_path / "home"), tmp_path / "export" / "model.safetensors"
    refused = pytest.raises(UsageError, match="is the export of a model with a cosine head")
    for init in (f"export:{tmp_path / 'export'}", str(file)):
        with refused:
            prepare_init(SearchSpec(init=init, name="mine"), home)
    with refused:
        verify_model(file, SearchSpec(), home, attack="pgd:1x1")


def test_a_whole_search_begins_with_a_trial_of_another(finished, tmp_path):
    """At a learning rate that moves nothing, its trials end with the weights that they began with."""
    shutil.copytree(finished[1], tmp_path / "home")
    home = Home(tmp_path / "home")
    settings = ("lr=1e-4", "passes=1", "attack_steps=1", "eval_attack=1")
    quick = [word for setting in settings for word in ("--set", setting)]
    asked = ("--method", "dafa", "--init", "first:0", "--name", "second", "--trials", 1, "--max-epochs", 1, *quick)
    done = tuner("search", *asked, "--max-concurrent", 1, "--home", home.root, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    said = f"first:0 classifies {result['init']['accuracy']['clean_acc']:.3f} of "
    assert said in done.stderr and result["state"] == "finished" and result["trials"]["finished"] == 1
    first = load_search(home, "first")
    before, _ = load_trial(trial_config(first, first.history.record(0)).folder, home.root)
    second = load_search(home, "second")
    for number in (0, NO_SEARCH):
        after, _ = load_trial(trial_config(second, second.history.record(number)).folder, home.root)
        for (name, old), new in zip(before.named_parameters(), after.parameters()):
            torch.testing.assert_close(new, old, rtol=0, atol=0.01, msg=lambda text, name=name: f"{name}: {text}")


def test_what_cannot_be_used_is_said_before_anything_starts(robust, tmp_path):
    home = Home(tmp_path)
    with pytest.raises(UsageError, match="cannot be used with model cnn: its tensors are not those of the model"):
        prepare_init(SearchSpec(init=str(robust[1])), home)
    with pytest.raises(UsageError, match="robal trains a cosine head, which no published weights have"):
        prepare_init(spec_of(robust[1], method="robal"), home)
    run = prepared(spec_of(robust[1]), home)
    (run.folder / INIT).write_text(json.dumps({"source": "x"}))
    with pytest.raises(UsageError, match="does not say what the search starts from"):
        prepare_init(run.spec, home)
    assert prepare_init(SearchSpec(), home) is None and init_of(SearchSpec(), run.folder) is None


def test_a_name_leads_to_no_other_file(tmp_path):
    digest = keep_weights(tmp_path, build_model("cnn", 10, (1, 8, 8)).state_dict())
    shutil.copy(tmp_path / "inits" / f"{digest}.safetensors", tmp_path / "outside.safetensors")
    with pytest.raises(Damaged):
        load_initial(build_model("cnn", 10, (1, 8, 8)), tmp_path, "../outside")


def test_faals_recipe_is_two_epochs_from_a_checkpoint():
    """run_prn.py and the log of its run: learning rate 0.01, then 0.001, weights from the first batch on."""
    with pytest.raises(UsageError, match="trains a robust model on for 2 epochs; --init FILE says which"):
        SearchSpec(method="faal", recipe="paper")
    spec = SearchSpec(method="faal", recipe="paper", init="robust.pt", max_epochs=2, dataset="cifar10")
    training = spec.training()
    rates = [learning_rate(training.schedule, p, 2, training.lr, training.milestones) for p in (0, 0.9, 1, 1.9)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001]) and training.weight_decay == 5e-4
    default = spec.search_space().default()
    assert (default["start"], default["radius"], default["form"]) == (0.0, 0.5, "at")
    assert "start" not in spec.search_space().searched and spec.forks == (0, 0)
    ours = SearchSpec(method="faal", recipe="paper", init="robust.pt", max_epochs=2, fix={"start": 0.5})
    assert ours.search_space().default()["start"] == 0.5
    assert SearchSpec(method="faal", init="robust.pt").search_space().default()["start"] == 0.9
    assert (
        SearchSpec(method="faal", recipe="paper", init="x", fix={"form": "trades"}).training().attack_start
        == "gaussian"
    )


def test_the_name_of_a_search_without_it_stays():
    assert SearchSpec(init="none").search_name == SearchSpec().search_name
    assert SearchSpec(init="a.pt").search_name != SearchSpec(init="b.pt").search_name != SearchSpec().search_name
