"""The trunk in a search: when it is used, what the history and the result say of it, and that it changes no value."""

import json
from dataclasses import asdict

import pytest
import torch

from tests.conftest import SMALL, tuner, tuner_here
from trainables.checkpoint import read_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.ray_adapter import TrialActor
from tuner.errors import UsageError
from tuner.report.progress import trunk_line
from tuner.results.history import History
from tuner.spec.epoch_plan import burn_in_reach
from tuner.spec.search_spec import SearchSpec

SRAT = {"loss": "ce", "sep_weight": 0.5, "temperature": 0.1}
SEARCH = [
    "search",
    "--method",
    "srat",
    "--trials",
    3,
    "--sampler",
    "random",
    *SMALL,
    "--max-epochs",
    6,
    "--json",
    *(part for name, value in SRAT.items() for part in ("--fix", f"{name}={value}")),
]


def spec(**fields):
    return SearchSpec(**{"method": "gairat", "max_epochs": 10, **fields})


# ---- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, first, last, line",
    [
        ({}, 0, 8, "0 to 8 epochs are trained once"),
        ({"fix": {"start": 0.4}}, 4, 4, "first 4 epochs are trained once"),
        ({"fix": {"start": 0.0}}, 0, 0, "gairat reweights from the first epoch"),
        ({"fix": {"start": 0.0}, "trunk": "at:3"}, 3, 3, "every trial starts from 3 epochs of plain AT"),
        ({"space": {"start": [0.2, 0.7]}}, 2, 7, "first 2 to 7 epochs"),
        ({"trunk": "none"}, 0, 0, "--no-trunk"),
        ({"space": {"lr": [0.01, 0.1]}}, 0, 0, "before the reweighting starts (lr)"),
        ({"method": "srat"}, 0, 0, "before the reweighting starts (loss, sep_weight"),
        ({"method": "srat", "fix": SRAT}, 2, 9, "2 to 9"),
        ({"method": "mail"}, 0, 0, "before the reweighting starts (form, beta)"),
        ({"method": "mail", "fix": {"form": "at"}}, 3, 7, "3 to 7"),
        (
            {"method": "faal", "fix": {"form": "at", "start": 0.98}},
            9,
            9,
            "first 9 epochs",
        ),  # the last is the trial's own
        ({"method": "wat"}, 0, 0, "wat reweights from the first epoch"),
        ({"method": "wat", "trunk": "at:2", "space": {"lr": [0.01, 0.1]}}, 2, 2, "2 epochs of plain AT"),
    ],
)
def test_when_a_search_has_a_trunk(fields, first, last, line):
    s = spec(**fields)
    assert (s.epoch_plan.trunk_epochs, s.epoch_plan.latest_branch) == (first, last)
    assert line in trunk_line(s)


def test_reach_names_what_is_searched_before_the_start():
    assert burn_in_reach(spec(method="cfa").search_space()) == ["form", "beta"]
    assert burn_in_reach(spec(method="cfa", fix={"form": "at"}).search_space()) == []


@pytest.mark.parametrize("trunk", ["at:0", "at:10", "at:", "at:-1", "at:2.5", "trades:3", "on", None, 3])
def test_wrong_trunk_is_said(trunk):
    with pytest.raises(UsageError, match="--trunk takes auto, none or at:N with N from 1 to 9"):
        spec(method="wat", trunk=trunk)


def test_at_n_is_for_methods_that_act_at_once():
    with pytest.raises(UsageError, match="gairat has a start of its own"):
        spec(trunk="at:3")


def test_storage_that_nothing_opens_is_said(tmp_path):
    done = tuner_here("search", "--method", "gairat", "--storage", "gopher://x", "--home", tmp_path)
    assert done.returncode == 2 and "storage 'gopher://x' cannot be opened" in done.stderr


def test_name_changes_with_the_results_only():
    assert spec().hash() == spec(trunk="none").hash() == spec(storage="/x").hash()
    assert len({spec(method="wat", **more).hash() for more in ({}, {"trunk": "at:3"}, {"trunk": "at:4"})}) == 3
    assert SearchSpec.from_yaml(spec(trunk="none").to_yaml()) == spec(trunk="none")


# ---- the actor -------------------------------------------------------------------------------------------------------


@pytest.fixture
def actor_config(tmp_path):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    trial = TrialConfig(
        "gairat", training=training, home=str(tmp_path), max_epochs=4, trunk="auto", folder=str(tmp_path / "t")
    )
    return {"trial": trial.to_dict(), "threads": 1}


def test_actor_reports_every_epoch_of_the_trunk_once(actor_config):
    actor = TrialActor(actor_config)
    reports = [actor.step() for _ in range(5)]
    assert [r.get("trunk", {}).get("trained") for r in reports[:2]] == [1, 2] and reports[0]["metrics"] is None
    branch = reports[2]["trunk"]
    assert [m["epoch"] for m in branch["past"]] == [1, 2]
    assert [r["metrics"]["epoch"] for r in reports[2:]] == [2, 3, 4]
    assert [r["done"] for r in reports] == [False] * 4 + [True]
    assert read_checkpoint(actor.trainer.config.folder)["epoch"] == 4


def test_paused_at_the_trunks_end_goes_on_without_saying_it_twice(actor_config):
    first = TrialActor(actor_config)
    for _ in range(3):
        first.step()
    saved = first.save_checkpoint("")
    second = TrialActor(actor_config)
    second.load_checkpoint(saved)
    assert second.step()["metrics"]["epoch"] == 3


def test_killed_before_its_branch_was_heard_says_it_again(actor_config):
    first = TrialActor(actor_config)
    for _ in range(3):
        first.step()
    assert [m["epoch"] for m in TrialActor(actor_config).step()["trunk"]["past"]] == [1, 2]


# ---- a real search ---------------------------------------------------------------------------------------------------


def test_search_with_a_trunk_finds_the_same_front_with_fewer_epochs(tmp_path):
    alone = tuner(*SEARCH, "--no-trunk", "--name", "alone", "--home", tmp_path)
    shared = tuner(*SEARCH, "--name", "shared", "--home", tmp_path)
    again = tuner(*SEARCH, "--trials", 1, "--name", "again", "--home", tmp_path)
    results = [json.loads(done.stdout) for done in (alone, shared)]
    assert [r["state"] for r in results] == ["finished"] * 2
    assert results[0]["front"] == results[1]["front"]
    whole = (3 + 1) * 6  # three trials, and plain AT as the reference, which has no trunk
    assert (results[0]["epochs_trained"], results[0]["epochs_saved"]) == (whole, 0)
    assert results[0]["no_search"] == results[1]["no_search"] and results[0]["no_search"]
    histories = [History(tmp_path / "searches" / name) for name in ("alone", "shared")]
    left = [t.trunk_epochs for t in histories[1].trials.values()]
    assert left == [round(t.params["start"] * 6) for t in histories[0].trials.values()]
    assert results[1]["epochs_saved"] == sum(left) - max(left) > 0
    assert json.loads(again.stdout)["epochs_saved"] == left[0], "a later search finds the trunk"
    assert all(r["epochs_trained"] + r["epochs_saved"] == whole for r in results)
    assert "trained once for all trials" in shared.stderr and "no trunk: --no-trunk" in alone.stderr
    for a, b in zip(*(h.trials.values() for h in histories)):
        assert [m["epoch"] for m in b.epochs] == [1, 2, 3, 4, 5, 6]
        assert [bool(m.get("trunk")) for m in b.epochs] == [e < b.trunk_epochs for e in range(6)]
        for name in ("robust_acc", "worst_class_robust_acc", "train_loss", "weight_ess"):
            assert [m[name] for m in a.epochs] == [m[name] for m in b.epochs]


def test_two_searches_at_once_train_the_trunk_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    fixed = [*SEARCH, "--fix", "start=0.67", "--trials", 2, "--home", tmp_path]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda name: tuner(*fixed, "--name", name), ("one", "two")))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    results = [json.loads(d.stdout) for d in done]
    assert [r["state"] for r in results] == ["finished"] * 2 and results[0]["front"] == results[1]["front"]
    searches = [History(tmp_path / "searches" / name) for name in ("one", "two")]
    trained = [t.trunk_trained for search in searches for t in search.trials.values()]
    assert sum(trained) == 4
