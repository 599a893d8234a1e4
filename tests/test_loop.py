"""The training loop: repeats itself, goes on bit by bit where it stopped, and says when it diverges."""

import shutil
from dataclasses import asdict, replace

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from search_spaces.training import training_for
from trainables.attack import pgd
from trainables.batches import Batches
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.evaluate import evaluate
from trainables.frozen import Frozen
from trainables.loop import Diverged, Trainer
from trainables.methods.at import At
from trainables.models import build_model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    knobs = asdict(training_for("digits", passes=1, attack_steps=3, eval_attack=3))
    return TrialConfig("srat", training=knobs, home=str(tmp_path_factory.mktemp("home")), max_epochs=3)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"awp": 0.005}], ids=["plain", "ema", "awp"])
def test_resumed_run_ends_with_the_same_weights(config, tmp_path, changes):
    config = replace(config, training={**config.training, **changes})
    straight, first = Trainer(config), Trainer(config)
    whole = [straight.run_epoch() for _ in range(3)]
    save_checkpoint(tmp_path, first, first.run_epoch())
    second = Trainer(config)
    load_checkpoint(tmp_path, second)
    rest = [second.run_epoch() for _ in range(2)]
    assert torch.equal(weights(straight), weights(second))
    assert rest[-1]["robust_acc"] == whole[-1]["robust_acc"] and second.epoch == 3
    assert changes or not torch.equal(weights(first), weights(second))


def test_seed_changes_the_run(config):
    a, b = Trainer(config), Trainer(replace(config, seed=1))
    assert not torch.equal(weights(a), weights(b))


def test_non_finite_loss_is_said(config):
    trainer = Trainer(config)
    trainer.run_epoch()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="nan in epoch 2"):
        trainer.run_epoch()


def test_metrics_are_fractions_and_worst_is_not_above_average(config):
    metrics = Trainer(config).run_epoch()
    robust = [v for k, v in metrics.items() if k.startswith("robust_acc/")]
    assert len(robust) == 10 and metrics["robust_acc"] == pytest.approx(sum(robust) / 10)
    assert metrics["worst_class_robust_acc"] == min(robust)
    assert metrics["tail_robust_acc"] == pytest.approx(sum(sorted(robust)[:3]) / 3)
    assert metrics["robust_acc_gap"] == pytest.approx(max(robust) - min(robust))
    assert metrics["robust_acc"] <= metrics["clean_acc"] and metrics["weight_ess"] == 1.0


def test_frozen_copy_gives_the_models_logits():
    torch.manual_seed(0)
    model = build_model("cnn", 10, (1, 8, 8))
    model.train()
    for _ in range(3):
        model(torch.rand(32, 1, 8, 8))
    model.eval()
    x = torch.rand(16, 1, 8, 8)
    frozen = Frozen(model)
    assert torch.allclose(frozen(x), model(x), atol=1e-5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05)
    assert not torch.allclose(frozen(x), model(x), atol=1e-3)
    assert torch.allclose(frozen.refresh()(x), model(x), atol=1e-5)
    assert not any(p.requires_grad for p in frozen.module.parameters())


def test_clamp_inside_the_graph_would_look_more_robust(config):
    """On data full of exact zeros (digits) a clamp inside the graph hides gradients: fewer images are fooled."""
    trainer = Trainer(replace(config, method="at", params={}, max_epochs=6))
    for _ in range(6):
        trainer.run_epoch()
    judge, val = Frozen(trainer.model), trainer.splits.val
    x, y = val.batch(slice(0, len(val)))
    assert (x == 0).float().mean() > 0.3

    def loss(z, t):
        return torch.nn.functional.cross_entropy(z, t, reduction="none")

    def inside(v):
        return judge(v.clamp(0, 1))

    start = x - 0.05  # outside [0, 1] wherever a pixel is 0, as a random start without projection is
    honest, _ = pgd(judge, x, y, loss, eps=0.1, step=0.025, steps=20)
    masked = start.clone()
    for _ in range(20):
        masked.requires_grad_(True)
        (g,) = torch.autograd.grad(loss(inside(masked), y).sum(), masked)
        masked = (masked.detach() + 0.025 * g.sign()).clamp(x - 0.1, x + 0.1)
    robust = {name: (judge(v.clamp(0, 1)).argmax(1) == y).float().mean().item()
              for name, v in (("honest", honest), ("masked", masked))}
    assert robust["masked"] > robust["honest"] + 0.01, robust


def test_evaluation_counts_by_hand():
    """A linear model on one pixel: class 1 where it is above 0.5; eps 0.2 fools exactly those within 0.2 of that."""
    class Split:
        x = torch.tensor([0.0, 0.2, 0.35, 0.65, 0.9, 0.2]).reshape(6, 1, 1, 1)
        labels = torch.tensor([0, 0, 0, 1, 1, 1])

        def __len__(self):
            return 6

        def batch(self, rows):
            return self.x[rows], self.labels[rows]

    def judge(x):
        score = 10 * (x.flatten(1) - 0.5)
        return torch.cat([-score, score], 1)

    result = evaluate(judge, Split(), 2, eps=0.2, steps=5)
    assert result.count.tolist() == [3, 3] and result.clean.tolist() == [3, 2]
    assert result.ce_robust.tolist() == [2, 1] and result.robust.tolist() == [2, 1]
    metrics = result.metrics(["a", "b"])
    assert metrics["robust_acc"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["worst_class_robust_acc"] == pytest.approx(1 / 3)


def test_partners_share_the_class_and_are_someone_else():
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 1])
    batches = Batches(labels, 3, 4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(7).repeat(50)
    partners = batches.partners(rows, generator)
    assert torch.equal(labels[partners], labels[rows])
    alone = rows == 3
    assert (partners[alone] == 3).all() and (partners[~alone] != rows[~alone]).all()
    assert set(partners[rows == 0].tolist()) == {2, 5}


def test_an_epoch_is_every_image_once_and_sampling_weights_draw_classes():
    labels = torch.tensor([0] * 6 + [1] * 2)
    batches = Batches(labels, 2, 4)
    generator = torch.Generator().manual_seed(0)
    method = At(None, None)
    assert sorted(torch.cat(list(batches.epoch(method, generator))).tolist()) == list(range(8))
    method.sampling_weights = lambda: torch.tensor([0.0, 1.0])
    drawn = torch.cat(list(batches.epoch(method, generator)))
    assert set(drawn.tolist()) == {6, 7}


def test_training_and_evaluation_never_touch_the_test_split(config, tmp_path):
    """With the test images destroyed on disk a trial trains and is judged as before."""
    from trainables.data import DataSpec, open_test, prepare

    (prepare("digits", tmp_path) / "test.arrow").write_bytes(b"no images here")
    trainer = Trainer(replace(config, home=str(tmp_path)))
    assert trainer.run_epoch() and not hasattr(trainer.splits, "test")
    with pytest.raises(Exception):
        open_test(DataSpec(), tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_attack_model_trains_the_same_and_compiles_once(config):
    """128 does not divide the images: the remainder waits for the next shuffle, so no batch is smaller than others."""
    knobs = {**config.training, "batch_size": 128, "attack_steps": 2}
    plain, compiled = (Trainer(replace(config, method="at", params={}, training={**knobs, "compile": c}))
                       for c in ("off", "on"))
    assert len(plain.splits.train) % 128
    counters.clear()
    graphs = []
    for _ in range(2):
        with torch._inductor.config.patch(compile_threads=1):  # a pool of compilers costs more than it saves
            losses = [trainer.run_epoch()["train_loss"] for trainer in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1] and not counters["graph_break"]
    assert torch.allclose(weights(plain), weights(compiled), atol=1e-2)
