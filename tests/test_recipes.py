"""Whose training settings trials have: common ones or the paper's, and those of searches stored before."""

import json
import sys
from pathlib import Path

import pytest

from search_spaces import METHODS, epochs_of, recipe_of
from search_spaces.param import coerce, params_of
from search_spaces.registry import Unusable, check_space
from search_spaces.training import Training
from trainables.config import TrialConfig
from trainables.method import start_epoch
from trainables.schedule import drop_epochs
from tuner.cli import main
from tuner.errors import UsageError
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec

# Epochs, the epochs of the drops, learning rate and weight decay, as the authors' code has them.
PUBLISHED = {
    "trades": (100, [75, 90], 0.1, 2e-4),
    "wat": (100, [75, 90], 0.1, 2e-4),
    "mart": (120, [75, 90, 100], 0.01, 3.5e-3),
    "mail": (120, [75, 90, 100], 0.01, 3.5e-3),
    "gairat": (120, [60, 90, 110], 0.1, 2e-4),
    "lrat": (100, [60, 90], 0.1, 2e-4),
    "cfa": (200, [100, 150], 0.1, 5e-4),
    "dafa": (110, [100, 105], 0.1, 5e-4),
    "fairtat": (200, [100, 150], 0.1, 5e-4),
    "robustlt": (100, [75, 90], 0.1, 5e-4),
    "taet": (100, [75, 90], 0.1, 5e-4),
    "faal": (2, [1], 0.01, 5e-4),
    "spectral": (2, [], 0.001, 5e-4),
}
FROM = {"faal": "robust.pt", "spectral": "robust.pt"}  # what authors begin with who train a robust model on


@pytest.mark.parametrize("method", PUBLISHED)
def test_recipe_is_the_published_one(method):
    epochs, drops, lr, decay = PUBLISHED[method]
    init = FROM.get(method, "none")
    training = SearchSpec(method=method, recipe="paper", dataset="cifar10", imbalance="none", init=init).training()
    assert (training.lr, training.weight_decay) == (lr, decay) and epochs_of(method) == epochs
    assert training.schedule == ("piecewise" if drops else "constant")
    assert not drops or drop_epochs(training.milestones, epochs) == drops
    assert training.eps == pytest.approx(8 / 255)
    assert (training.attack_bn == "train") == (method in ("fairtat", "robustlt"))
    assert (training.nesterov == "on") == (method in ("dafa", "robustlt"))
    assert (training.padding == "reflect") == (method in ("cfa", "fairtat"))
    assert (training.clean_bn == "twice") == (method in ("trades", "cfa", "robustlt"))  # WAT's code reuses its logits
    assert (training.attack_start == "gaussian") == (method in ("mart", "mail", "dafa", "taet"))
    if method == "lrat":
        assert (training.attack_steps, training.step_size) == (10, 0.1)


# GAIRAT's weights start with the first drop; MAIL's code trains epochs 0 to 75 without any, and drops at 75.
@pytest.mark.parametrize("method, start", [("mail", 76), ("gairat", 60)])
def test_weights_start_where_the_authors_code_lets_them(method, start):
    params = METHODS[method].Params()
    assert start_epoch(params, epochs_of(method)) == start


def test_cfa_attacks_in_the_batch_norm_mode_of_its_form():
    """Its code leaves the model in training mode for PGD and calls `eval` for TRADES (attack.py)."""
    for form, mode in (("trades", "eval"), ("at", "train"), ("AT", "train")):
        assert SearchSpec(method="cfa", recipe="paper", fix={"form": form}).training().attack_bn == mode
    several = SearchSpec(method=("cfa", "trades"), recipe="paper")
    assert {several.of(name).training().attack_bn for name in several.methods} == {"eval"}
    assert SearchSpec(method="cfa", recipe="paper", space={"form": "at"}).training().attack_bn == "train"
    assert SearchSpec(method="cfa", fix={"form": "at"}).training().attack_bn == "eval"  # common to all methods
    own = SearchSpec(method="cfa", recipe="paper", fix={"form": "at"}, set={"attack_bn": "eval"})
    assert own.training().attack_bn == "eval"


def test_faals_at_form_alone_has_one_more_pass_of_clean_images():
    """Its code computes their logits in every form (ft_prn.py); the loss of the others reads them."""
    given = {"method": "faal", "recipe": "paper", "init": "robust.pt"}
    forms = {form: SearchSpec(**given, fix={"form": form}).training().clean_bn for form in ("at", "trades", "mart")}
    assert forms == {"at": "twice", "trades": "once", "mart": "once"}


def test_cfa_gate_has_the_published_threshold_of_its_form():
    space = SearchSpec(method="cfa").search_space()
    assert space.default()["threshold"] == 0.24
    assert SearchSpec(method="cfa", fix={"form": "at"}).search_space().default()["threshold"] == 0.2


def test_every_recipe_holds_settings_in_their_type():
    known = params_of(Training)
    assert set(PUBLISHED) == {name for name in METHODS if recipe_of(name)}
    for name in PUBLISHED:
        assert {k: coerce(known[k], v) for k, v in recipe_of(name).items()} == recipe_of(name)
        assert not {"eps", "passes", "eval_attack", "augment"} & set(recipe_of(name))  # the data's


def test_order_is_dataset_recipe_set_fix():
    digits = SearchSpec(method="trades", recipe="paper").training()
    assert (digits.eps, digits.passes, digits.augment, digits.eval_attack) == (0.1, 8, "crop", 20)  # the dataset's
    assert (digits.lr, digits.batch_size) == (0.1, 128)  # the recipe's: the dataset's are 0.05 and 32
    assert SearchSpec(method="trades").training().lr == 0.05
    changed = SearchSpec(method="trades", recipe="paper", set={"lr": 0.3, "batch_size": 64}, fix={"lr": 0.2}).training()
    assert (changed.lr, changed.batch_size, changed.weight_decay) == (0.2, 64, 2e-4)


def test_the_first_trial_is_the_papers_where_a_setting_is_searched():
    space = {"lr": [0.001, 0.1], "weight_decay": [1e-4, 5e-3]}
    paper = SearchSpec(method="mart", recipe="paper", space=space).search_space().default()
    assert paper == {"beta": 5.0, "lr": 0.01, "weight_decay": 3.5e-3}
    assert SearchSpec(method="mart", space=space).search_space().default()["lr"] == 0.05  # of digits


def test_the_first_trial_has_the_datasets_value_where_a_setting_is_searched():
    """The dataset's and what --set says, not the common default."""
    space = {"lr": [0.01, 0.2], "passes": [1, 8], "batch_size": [16, 64], "augment": ["none", "crop"]}
    plain = SearchSpec(method="trades").training()
    first = SearchSpec(method="trades", space=space).search_space().default()
    assert all(first[name] == getattr(plain, name) for name in space)
    chosen = SearchSpec(method="trades", space=space, set={"lr": 0.03}).search_space().default()
    assert (chosen["lr"], chosen["passes"]) == (0.03, 8)
    former = SearchSpec.from_stored("method: trades\nspace: {lr: [0.01, 0.2]}")  # whose trial 0 had the common one
    assert former.search_space().default()["lr"] == 0.1


def test_a_method_without_one_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tuner", "search", "--method", "srat", "--recipe", "paper", "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "srat" in said
    assert "cfa, dafa, faal, fairtat, gairat, lrat, mail, mart, robustlt, spectral, taet, trades, wat" in said
    with pytest.raises(UsageError, match="not possible with at, "):
        SearchSpec(method=("trades", "at"), recipe="paper")


def run_of(spec, home):
    return SearchRun(spec, Home(home), spec.search_name, History(None))


def test_each_method_has_its_own_recipe(tmp_path):
    spec = SearchSpec(method=("mart", "trades"), recipe="paper", dataset="cifar10", set={"passes": 2})
    found = {}
    for number, method in enumerate(spec.methods):
        record = TrialRecord(number, spec.of(method).search_space().default(), method)
        found[method] = trial_config(run_of(spec, tmp_path), record).full_training()
    assert [found[m].lr for m in ("mart", "trades")] == [0.01, 0.1] and found["mart"].passes == 2
    shared = spec.shared_training()
    assert (
        "lr" not in shared and "milestones" not in shared and shared["momentum"] == 0.9 and shared["batch_size"] == 128
    )
    searched = SearchSpec(method="srat", space={"lr": [0.01, 0.2]}).shared_training()
    assert "lr" not in searched and searched["momentum"] == 0.9, "MLflow said the default's value of the search"


def test_a_search_stored_before_goes_on_as_it_was(tmp_path):
    folder = tmp_path / "searches" / "old"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("method: trades\ndataset: cifar10\nmax_epochs: 40\nname: old\n")
    old = load_search(Home(tmp_path), "old").spec
    assert old.training().milestones == "0.75,0.9" and drop_epochs(old.training().milestones, 40) == [30, 36]
    new = SearchSpec(method="trades", dataset="cifar10", max_epochs=40, name="old")
    assert new.training().milestones == "auto" and drop_epochs("auto", 40) == pytest.approx([400 / 11, 420 / 11])
    (folder / "spec.yaml").write_text(old.to_yaml())  # as the driver writes it when the search goes on
    again = load_search(Home(tmp_path), "old").spec
    assert again == old and again.training().milestones == "0.75,0.9"
    assert again.identity() == old.identity() != new.identity()
    (folder / "spec.yaml").write_text(new.to_yaml())
    assert load_search(Home(tmp_path), "old").spec.training().milestones == "auto"
    with pytest.raises(UsageError, match="unknown recipe 'former'; choose one of: common, paper"):
        SearchSpec.from_yaml("recipe: former")
    assert SearchSpec.from_stored("{method: trades, set: {milestones: 0.5}}").training().milestones == "0.5"


def test_a_trial_knows_the_objectives(tmp_path):
    spec = SearchSpec(objectives=("clean_acc", "robust_acc"))
    record = TrialRecord(0, spec.search_space().default(), "srat")
    config = trial_config(run_of(spec, tmp_path), record)
    assert TrialConfig.of(json.loads(json.dumps(config.to_dict()))).objectives == ["clean_acc", "robust_acc"]
    assert config.objectives == ("clean_acc", "robust_acc")


@pytest.mark.parametrize("recipe", [5, {"rate": 1}, {"lr": "0.1"}, {"lr": 5.0}])
def test_a_plug_in_with_a_wrong_recipe_is_not_used(recipe):
    class Space:
        PAPER = SUMMARY = "a line"
        Params = METHODS["trades"].Params
        RECIPE = recipe

    with pytest.raises((Unusable, ValueError)):
        check_space(Space)
    Space.RECIPE = {"lr": 0.1, "milestones": "0.5"}
    check_space(Space)


def test_tuner_space_shows_it(capsys, monkeypatch):
    def shown(*args):
        monkeypatch.setattr(sys, "argv", ["tuner", "space", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        return capsys.readouterr().out

    assert json.loads(shown("mart", "--json"))["recipe"]["weight_decay"] == 3.5e-3
    assert json.loads(shown("srat", "--json"))["recipe"] is None
    text = shown("mart")
    assert "--recipe paper" in text and "milestones 0.625,0.75,0.833" in text and "120 epochs" in text
    assert "--recipe" not in shown("srat")
    begins = "lr 0.001, schedule constant, weight_decay 0.0005, start 0.0; 2 epochs from a trained model (--init)\n"
    assert begins in shown("spectral")


def test_each_recipe_has_its_source_beside_it():
    for name in PUBLISHED:
        lines = Path(METHODS[name].__file__).read_text().splitlines()
        at = lines.index(f"EPOCHS = {epochs_of(name)}")
        assert lines[at - 1].startswith("# ")
