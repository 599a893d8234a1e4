"""What only a GPU can show; skipped without one. Needs torch and optuna alone, so it runs on a bare GPU machine."""

from dataclasses import asdict, replace

import pytest
import torch

from search_spaces import METHODS
from trainables.attack import start_point
from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.evaluate import evaluate
from trainables.fused import ConvReLU
from trainables.loop import Trainer, find
from trainables.method import Attack
from trainables.models.build import build_model
from trainables.sweep import ShiftedAttacks, points_of
from trainables.threat_model import L2

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# another head, another radius, another loss of the attack, another attack, a weight in its loss, the shared options
VARIANTS = [(name, {}, {}) for name in METHODS] + [
    ("wmmr", {"weight_attack": True}, {}),
    ("done", {"barrier": True}, {}),
    ("cfol", {"mode": "sample"}, {}),
    ("at", {}, {"awp": 0.005, "ema": 0.9, "class_weights": "effective"}),
    ("at", {}, {"attack_bn": "train"}),
    ("at", {}, {"precision": "fp32"}),
    ("at", {}, {"cuda_graph": "off"}),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    training = asdict(training_for("digits", passes=2, attack_steps=4, eval_attack=4))
    return TrialConfig("at", training=training, home=str(tmp_path_factory.mktemp("home")), max_epochs=3)


def trained_without_waiting(trainer):
    """Train three epochs, of which the third must not wait for the device."""
    trainer.run_epoch()  # attacks are recorded, which waits once
    trainer.run_epoch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        totals = trainer._train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert totals["loss"].isfinite()


def attacks(trainer):
    """What has been recorded of the training attacks."""
    return {key: made for key, made in trainer.record.made.items() if isinstance(key, Attack)}


@pytest.mark.parametrize("method, params, changes", VARIANTS, ids=lambda v: v if isinstance(v, str) else str(v or "-"))
def test_every_method_trains_without_waiting_for_the_device(config, method, params, changes):
    trainer = Trainer(replace(config, method=method, params=params, training={**config.training, **changes}))
    assert trainer.device.type == "cuda" and (trainer.autocast is torch.bfloat16) == ("precision" not in changes)
    trained_without_waiting(trainer)
    x, y = trainer.splits.train.batch(torch.arange(32, device="cuda"))
    noise = 0.01 * torch.rand_like(x)
    if "cuda_graph" in changes:
        assert not trainer.record.made
        return
    assert trainer.record.made["refresh"].graph is not None
    for attack, replayed in attacks(trainer).items():
        assert replayed.graph is not None
        trainer.attacked.refresh()
        eps = torch.linspace(0.02, 0.2, 32, device="cuda")
        for begin in (x, (x + noise).clamp(0, 1)):  # the second shows that nothing of the first has stayed
            given = x.contiguous(memory_format=torch.channels_last), y, begin, eps, attack.step * eps
            again, expected = replayed(*given), find(attack, trainer.attacked, trainer.method, *given)
            assert all(torch.equal(a, b) for a, b in zip(again, expected))
            assert (again[0] - x).abs().amax((1, 2, 3)).le(eps + 1e-6).all() and not torch.equal(again[0], begin)


def test_l2_attacks_are_recorded_too(config):
    trainer = Trainer(replace(config, threat="l2", training={**config.training, "eps": 0.5}))
    trained_without_waiting(trainer)
    ((attack, replayed),) = attacks(trainer).items()
    x, y = trainer.splits.train.batch(torch.arange(32, device="cuda"))
    eps, x = torch.linspace(0.1, 1.0, 32, device="cuda"), x.contiguous(memory_format=torch.channels_last)
    begin = start_point(x, eps, "uniform", None, L2)
    trainer.attacked.refresh()
    given = x, y, begin, eps, attack.step * eps
    again, expected = replayed(*given), find(attack, trainer.attacked, trainer.method, *given, threat=L2)
    assert all(torch.equal(a, b) for a, b in zip(again, expected))
    assert (again[0] - x).flatten(1).norm(dim=1).le(eps * (1 + 1e-5)).all() and not torch.equal(again[0], begin)


@pytest.mark.parametrize(
    "name, fused_ones", [("cnn", 3), ("resnet18:0.25", 16), ("preact-resnet18:0.25", 8), ("resnet18:0.1", 0)]
)
def test_fused_kernels_compute_what_they_replace(name, fused_ones):
    """Logits and gradients of the fused bf16 network are as near to float32's as the plain bf16 network's are."""
    torch.manual_seed(0)
    model = build_model(name, 10, (3, 32, 32)).cuda().to(memory_format=torch.channels_last)
    model.train()
    x = torch.rand(64, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        model(x)
    model.eval()
    exact, plain, fused = (
        Frozen(model, **how) for how in ({}, {"dtype": torch.bfloat16}, {"dtype": torch.bfloat16, "fused": True})
    )
    assert sum(isinstance(m, ConvReLU) for m in fused.module.modules()) == fused_ones
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    found = []
    for network in (exact, plain, fused):
        network.refresh()
        leaf = x.clone().requires_grad_(True)
        logits = network(leaf)
        (grad,) = torch.autograd.grad(logits[:, 3].sum(), leaf)
        found.append((logits.detach(), grad))
    for true, half, ours in zip(*found):
        assert (ours - true).norm() <= 1.2 * (half - true).norm() + 1e-6 < 0.3 * true.norm()


def test_what_an_attack_gave_outlasts_the_next_one(config):
    trainer = Trainer(config)
    trainer.run_epoch()
    ((attack, replayed),) = attacks(trainer).items()
    x, y = trainer.splits.train.batch(torch.arange(32, device="cuda"))
    x, eps = x.contiguous(memory_format=torch.channels_last), torch.full((32,), 0.1, device="cuda")
    first = replayed(x, y, x, eps, eps / 4)[0]
    kept = first.clone()
    replayed(x.flip(0).contiguous(memory_format=torch.channels_last), y, x, eps, eps / 4)
    assert torch.equal(first, kept)


def test_weights_that_training_moves_reach_the_recorded_attack(config):
    trainer = Trainer(config)
    trainer.run_epoch()
    ((attack, replayed),) = attacks(trainer).items()
    x, y = trainer.splits.train.batch(torch.arange(32, device="cuda"))
    given = x.contiguous(memory_format=torch.channels_last), y, x, torch.full((32,), 0.1, device="cuda")
    before = replayed(*given, given[3] / 4)[0]
    trainer.run_epoch()
    trainer.attacked.refresh()
    assert not torch.equal(before, replayed(*given, given[3] / 4)[0])


def test_recorded_evaluations_follow_the_weights(config):
    """Every epoch is judged as by an evaluation that records nothing, whole batches and the rest."""
    trainer = Trainer(replace(config, training={**config.training, "passes": 8, "precision": "fp32"}))
    for _ in range(3):
        metrics = trainer.run_epoch()
        split = replace(
            trainer.splits.val, index=trainer.splits.val.index.repeat(8), labels=trainer.splits.val.labels.repeat(8)
        )  # 7,912 images, so that whole batches are robust
        judge = Frozen(trainer.model)
        alone = evaluate(judge, split, 10, eps=0.1, steps=4)
        for _ in range(3):
            again = trainer._judge(trainer.model, split)
            for mine, other in ((again.robust, alone.robust), (again.ce_robust, alone.ce_robust)):
                assert (mine - other).abs().sum() <= 0.01 * len(split)  # some of cuDNN's sums come in any order
    evaluations = {key: made for key, made in trainer.record.made.items() if isinstance(key, tuple)}
    assert metrics["robust_acc"] > 0.3 and {length % 128 for _, _, length in evaluations} == {0}
    whole = [made for (_, _, length), made in evaluations.items() if length == 512]
    assert len(whole) == 2 and all(made.graph is not None for made in whole)


def test_the_cpu_judges_a_gpus_model_alike(config):
    """The same weights and attack on both, in float32: at most one image in fifty is judged differently."""
    trainer = Trainer(replace(config, training={**config.training, "passes": 8}))
    for _ in range(3):
        trainer.run_epoch()
    split = trainer.splits.val
    ours = evaluate(Frozen(trainer.model), split, 10, eps=0.1, steps=20)
    there = replace(split, base=split.base.cpu(), index=split.index.cpu(), labels=split.labels.cpu())
    theirs = evaluate(Frozen(trainer.model.cpu()), there, 10, eps=0.1, steps=20)
    assert ours.robust.sum() > 0.2 * len(split)
    for mine, other in ((ours.clean, theirs.clean), (ours.robust, theirs.robust)):
        assert (mine - other).abs().sum() <= 0.02 * len(split)


def test_the_cpu_sweeps_a_gpus_model_alike(config):
    """The same weights, attacks and offsets on both, in float32; on the GPU attacks are recorded."""
    trainer = Trainer(replace(config, offsets="prior", training={**config.training, "passes": 8, "precision": "fp32"}))
    for _ in range(3):
        trainer.run_epoch()
    ours, counts = trainer.curve.points, trainer.splits.class_counts
    assert len(ours) == 7 and any(key[0] == "shifted" for key in trainer.record.made if isinstance(key, tuple))
    split, seen = trainer.splits.val, []
    there = replace(split, base=split.base.cpu(), index=split.index.cpu(), labels=split.labels.cpu())
    judge, steps = Frozen(trainer.model.cpu()), trainer.training.eval_attack
    evaluate(judge, there, 10, eps=0.1, steps=steps, seen=lambda rows, logits: seen.append((rows, logits)))
    theirs = points_of("prior", ShiftedAttacks(judge, judge, there, 0.1, steps), seen, counts)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.offsets == other.offsets and mine.count == other.count
        assert sum(abs(a - b) for a, b in zip(mine.robust, other.robust)) <= 0.02 * len(split)


def test_a_checkpoint_goes_on_where_it_stood(config):
    first, second = Trainer(config), Trainer(config)
    first.run_epoch()
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters()))
    ends = [trainer.run_epoch() for trainer in (first, second)]
    # atomic sums on a GPU come in any order, so the last bits may differ, the random numbers may not
    assert ends[0]["train_loss"] == pytest.approx(ends[1]["train_loss"], rel=1e-2) and ends[1]["epoch"] == 2
