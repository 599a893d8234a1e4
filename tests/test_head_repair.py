"""Repair of a trained model's head: what it does to the weights, and that what is judged is what is exported."""

import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search_spaces import METHODS, head_of
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.head_repair import RHO, equal_norms, sharpest_move, tune_head
from trainables.loop import Trainer
from trainables.method import Adversary, Batch
from trainables.methods import method_class
from trainables.model_io import load_trial
from trainables.models.build import build_model
from trainables.stem import Fork, run_to_fork
from tuner.cli import main
from tuner.errors import UsageError
from tuner.report.model_card import card_markdown
from tuner.spec.search_spec import SearchSpec
from tuner.testing.batches import close

EPOCHS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    home = str(tmp_path_factory.mktemp("home"))
    return TrialConfig("at", training=training, home=home, max_epochs=EPOCHS, offsets="prior")


def repaired(config, kind, **more):
    return replace(config, training={**config.training, "head_repair": kind, **more})


def run(config):
    trainer = Trainer(config)
    return trainer, [trainer.run_epoch() for _ in range(trainer.epoch, config.last_epoch)]


@pytest.fixture(scope="module")
def plain(config):
    return run(config)


def norms(trainer):
    return trainer.final_model.head.weight.norm(dim=1)


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_head_norms_are_equal_afterwards():
    model = build_model("cnn", 2, (1, 8, 8))
    weight = torch.zeros_like(model.head.weight)
    weight[0, 0], weight[1, 1] = 3.0, 1.0
    model.head.weight.data.copy_(weight)
    bias = model.head.bias.clone()
    equal_norms(model)
    assert model.head.weight[0, 0] == 2 and model.head.weight[1, 1] == 2 and model.head.weight.count_nonzero() == 2
    assert torch.equal(model.head.bias, bias)
    with pytest.raises(ValueError, match="no norms"):
        equal_norms(build_model("cnn", 2, (1, 8, 8), head="cosine"))


def test_the_move_is_sams_and_longer_for_short_class_vectors():
    """Lengths log 3 and 0: softmax(-|w|) = 1/4, 3/4, times two classes. The gradient has length 5."""
    weight, grad = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    close(sharpest_move(weight.double(), grad.double(), 0.1), [[0.1 * 0.5 * 0.6, 0.0], [0.0, 0.1 * 1.5 * 0.8]])
    even = torch.eye(2).double()
    close(sharpest_move(even, grad.double(), 0.1), 0.1 * grad.double() / 5)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4).double()


def test_tuning_takes_the_gradient_where_the_move_leads():
    """One step of plain gradient descent, by hand with torch's cross-entropy."""
    torch.manual_seed(0)
    model, features, y = Model(), torch.randn(5, 3).double(), torch.tensor([0, 1, 2, 3, 0])
    weight, bias = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    blank = torch.zeros(5, 1)
    shared = torch.tensor([0.5, 1.0, 1.0, 2.0]).double()
    adversary = Adversary(blank, blank, features, blank)
    batch = Batch(blank, y, [adversary], 0, 1, lambda: None, class_weights=shared, label_smoothing=0.1)

    def gradients(w, b):
        w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
        losses = F.cross_entropy(F.linear(features, w, b), y, reduction="none", label_smoothing=0.1)
        return torch.autograd.grad((shared[y] * losses).mean(), (w, b))

    g = gradients(weight, bias)[0]
    length = weight.norm(dim=1, keepdim=True)
    moved = weight + RHO * 4 * torch.softmax(-length, 0) * g / g.norm()
    want_weight, want_bias = gradients(moved, bias)
    tune_head(model, [batch], lr=0.5, momentum=0.9, weight_decay=0.0)
    close(model.head.weight.detach(), weight - 0.5 * want_weight)
    close(model.head.bias.detach(), bias - 0.5 * want_bias)


# ---- in a training ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["norm", "sam"])
def test_only_the_head_of_the_last_epoch_changes(config, plain, kind):
    (trainer, rows), (unrepaired, before) = run(repaired(config, kind)), plain
    ours, theirs = trainer.model.state_dict(), unrepaired.model.state_dict()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == ({"head.weight"} if kind == "norm" else {"head.weight", "head.bias"})
    clock = ("train_s", "eval_s")
    assert [{k: v for k, v in r.items() if k not in clock} for r in rows[:-1]] == [
        {k: v for k, v in r.items() if k not in clock} for r in before[:-1]
    ]
    if kind == "norm":
        assert norms(trainer).std() < 1e-6 < norms(unrepaired).std()
        torch.testing.assert_close(norms(trainer).mean(), norms(unrepaired).mean())


def test_tuning_lowers_the_heads_adversarial_loss(config):
    """Of a model whose head has learnt nothing, on the same attacked images before and after."""
    trainer = Trainer(repaired(config, "sam"))
    nn.init.zeros_(trainer.model.head.weight)
    batch = next(trainer._attacked_features(trainer.model))
    before = batch.mean(batch.cross_entropy(trainer.model.head(batch.features_adv)))
    trainer._repair_head()
    after = batch.mean(batch.cross_entropy(trainer.model.head(batch.features_adv)))
    assert after < before


def test_each_batch_is_attacked_with_the_present_head(config):
    """The second batch is drawn after the head has changed; otherwise it is the same."""
    images = []
    for change in (False, True):
        trainer = Trainer(repaired(config, "sam"))
        batches = trainer._attacked_features(trainer.model)
        next(batches)
        if change:
            trainer.model.head.weight.data.neg_()
        images.append(next(batches).x_adv)
    assert not torch.equal(*images)


@pytest.mark.slow
@pytest.mark.parametrize("kind, more", [("norm", {}), ("sam", {}), ("norm", {"ema": 0.9})], ids=str)
def test_what_is_judged_is_what_is_kept(config, tmp_path, kind, more):
    """Metrics and curve are of the repaired model, which the checkpoint gives back; a killed last epoch repeats to the
    bit."""
    config = replace(repaired(config, kind, **more), folder=str(tmp_path))
    trainer = Trainer(config)
    save_checkpoint(config.folder, trainer, trainer.run_epoch())
    again = Trainer(config)
    load_checkpoint(config.folder, again)
    rows = [t.run_epoch() for t in (trainer, again)]
    assert torch.equal(norms(trainer), norms(again))
    save_checkpoint(config.folder, trainer, rows[0])
    model, about = load_trial(tmp_path, Path(config.home))
    assert torch.equal(model.head.weight, trainer.final_model.head.weight)
    assert about["config"]["training"]["head_repair"] == kind
    judged = trainer._judge(model.to(memory_format=torch.channels_last))
    found = judged.metrics(trainer.splits.classes, trainer.splits.class_counts)
    assert found == {name: rows[0][name] for name in found}
    assert trainer.curve == again.curve


def test_the_stem_knows_nothing_of_the_repair(config):
    """Trials with and without it share one stem, and its last epoch is unrepaired."""
    forks = replace(config, fork=1, stem=config.training)
    with_repair = replace(
        forks, training={**config.training, "head_repair": "norm"}, stem=repaired(config, "norm").training
    )
    assert Fork(Trainer(forks)).name == Fork(Trainer(with_repair)).name
    trainer = Trainer(with_repair)
    run_to_fork(trainer)
    assert norms(trainer).std() > 1e-6
    trainer.run_epoch()
    assert norms(trainer).std() < 1e-6


def test_a_preview_ends_with_the_repair_too(config):
    preview = replace(repaired(config, "norm"), max_epochs=9, fork=1, stem=config.training, cool_down=1)
    trainer = Trainer(preview)
    run_to_fork(trainer)
    trainer.run_epoch()
    assert norms(trainer).std() < 1e-6 and trainer.curve


@pytest.mark.parametrize("kind, epoch, said", [("norm", 4, True), ("norm", 3, False), ("none", 4, False)])
def test_the_card_of_an_exported_model_says_it(kind, epoch, said):
    """Of the best epoch only where that is the last one."""
    metrics = {"split": "val", "attack": "PGD", "eps": 0.1}
    metrics |= dict.fromkeys(("robust_acc", "worst_class_robust_acc", "clean_acc", "robust_acc/a", "clean_acc/a"), 0.5)
    card = card_markdown(
        {
            "architecture": {"model": "cnn", "classes": ["a"], "shape": [1, 8, 8]},
            "training": {"dataset": "digits", "imbalance": "none", "seed": 0, "head_repair": kind},
            **{"search": "s", "trial": 1, "pick": "knee", "method": "at", "params": {}, "weights": "last"},
            **{"epochs": epoch, "spec": {"max_epochs": 4}, "code": "c", "torch": "t", "metrics": [metrics]},
        }
    )
    assert ("their head repaired (`head_repair=norm`)" in card) == said


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_the_spaces_say_whose_head_is_not_linear():
    assert {m for m in METHODS if head_of(m) != method_class(m).head} == set()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"set": {"head_repair": "sam"}}, True),
        ({"fix": {"head_repair": "sam"}}, True),
        ({"space": {"head_repair": ["none", "sam"]}, "method": ("dafa", "robustlt")}, True),
        *(
            ({"set": {"head_repair": "norm"}}, False),
            ({"space": {"head_repair": ["none", "norm"]}}, False),
            ({}, False),
        ),
    ],
    ids=str,
)
def test_a_search_says_that_an_epoch_of_tuning_is_in_no_cost(given, said):
    assert any("which neither cost nor" in note for note in SearchSpec(**given).notes) is said


@pytest.mark.parametrize(
    "given",
    [{"set": {"head_repair": "norm"}}, {"fix": {"head_repair": "sam"}}, {"space": {"head_repair": ["none", "sam"]}}],
)
def test_a_cosine_head_is_refused(given):
    with pytest.raises(UsageError, match="head_repair=(norm|sam|searched) is not allowed with robal: its cosine head"):
        SearchSpec(method="robal", **given)
    SearchSpec(method="at", **given)


def test_the_command_line_refuses_it_in_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tuner", "search", "--method", "robal", "--set", "head_repair=sam", "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1


def test_a_trainer_refuses_a_cosine_head_before_it_trains(config):
    with pytest.raises(ValueError, match="no norms"):
        Trainer(replace(repaired(config, "norm"), method="robal"))
