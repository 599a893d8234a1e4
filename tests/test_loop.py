"""The training loop: repeats itself, goes on bit by bit where it stopped, and says when it diverges."""

import copy
import math
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from trainables.attack import pgd, start_point
from trainables.attack_copy import Frozen
from trainables.averages import warmed_up
from trainables.batches import Batches
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.evaluate import Evaluation, evaluate
from trainables.loop import Diverged, Trainer
from trainables.losses import cross_entropy
from trainables.method import Attack
from trainables.methods.at import At
from trainables.models.build import build_model
from trainables.sgd import SGD


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=3, eval_attack=3))
    home = str(tmp_path_factory.mktemp("home"))
    few = {"imbalance": "exp:40", "val_per_class": 20}  # half as many images
    return TrialConfig("srat", training=training, home=home, max_epochs=3, **few)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.slow
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


def test_confusion_is_counted_by_true_class(config):
    trainer = Trainer(config)
    trainer.run_epoch()
    assert torch.equal(trainer.stats.train_confusion.sum(1), trainer.stats.train_count)
    assert trainer.stats.train_count.unique().numel() > 1


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
    frozen.refresh()
    assert torch.allclose(frozen(x), model(x), atol=1e-5)
    assert not any(p.requires_grad for p in frozen.module.parameters())


@pytest.mark.slow
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
    robust = {
        name: (judge(v.clamp(0, 1)).argmax(1) == y).float().mean().item()
        for name, v in (("honest", honest), ("masked", masked))
    }
    assert robust["masked"] > robust["honest"] + 0.01, robust


def test_where_attacks_start():
    generator = torch.Generator().manual_seed(0)
    x = torch.full((4, 1, 32, 32), 0.5)
    x[3] = 0.0
    eps = torch.tensor([0.05, 0.1, 0.2, 0.1]).reshape(4, 1, 1, 1)
    begin = start_point(x, eps, "none", generator)
    assert torch.equal(begin, x) and begin is not x
    moved = start_point(x, eps, "uniform", generator) - x
    for share, radius in zip(moved[:3], (0.05, 0.1, 0.2)):  # each image's own ball, evenly filled: std eps / sqrt(3)
        assert -radius <= share.min() < -0.99 * radius and 0.99 * radius < share.max() <= radius + 1e-7
        assert share.std().item() == pytest.approx(radius / 3**0.5, rel=0.05)
    assert moved[3].min() == 0 and moved[3].max() > 0.099  # and in [0, 1]
    noise = start_point(x, eps, "gaussian", generator) - x  # as in TRADES: neither eps nor the borders play a part
    assert noise.std().item() == pytest.approx(0.001, rel=0.05) and noise[3].min() < 0
    with pytest.raises(ValueError, match="'normal'; choose one of: none, uniform, gaussian"):
        start_point(x, eps, "normal")


class Pixels:
    """Six images of one pixel."""

    x = torch.tensor([0.0, 0.2, 0.35, 0.65, 0.9, 0.2]).reshape(6, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])

    def __len__(self):
        return 6

    def batch(self, rows):
        return self.x[rows], self.labels[rows]


def above_half(x, scale=10):
    """Class 1 where the pixel is above 0.5."""
    score = scale * (x.flatten(1) - 0.5)
    return torch.cat([-score, score], 1)


@pytest.mark.parametrize("batch_size", [512, 4, 1])
def test_evaluation_counts_by_hand(batch_size):
    """A linear model on one pixel: eps 0.2 fools exactly those within 0.2 of the border."""
    result = evaluate(above_half, Pixels(), 2, eps=0.2, steps=5, batch_size=batch_size)
    assert result.count.tolist() == [3, 3] and result.clean.tolist() == [3, 2] and result.kl.tolist() == [0, 0]
    assert result.ce_robust.tolist() == [2, 1] and result.robust.tolist() == [2, 1]
    asked = evaluate(above_half, Pixels(), 2, eps=0.2, steps=5, batch_size=batch_size, with_kl=True)
    for name in ("count", "clean", "ce_robust", "robust", "ce"):
        assert torch.equal(getattr(asked, name), getattr(result, name))
    right = lambda x, y: 1 / (1 + math.exp(20 * (0.5 - x) * (2 * y - 1)))  # noqa: E731
    ce, kl = [0.0, 0.0], [0.0, 0.0]
    for x, y, moved in zip(Pixels.x.flatten().tolist(), Pixels.labels.tolist(), (0.2, 0.4, 0.55, 0.45, 0.7, 0.0)):
        p, q = right(x, y), right(moved, y)  # every image is attacked, the one that is wrong already too
        ce[y] -= math.log(p)
        kl[y] += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert result.ce.tolist() == pytest.approx(ce, rel=1e-5) and asked.kl.tolist() == pytest.approx(kl, rel=1e-5)
    metrics = result.metrics(["a", "b"], [3, 3])
    assert metrics["robust_acc"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["worst_class_robust_acc"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("batch_size, sizes", [(8, [6, 4]), (4, [4, 1, 3]), (2, [2, 2, 1, 2, 1]), (100, [25, 25])])
def test_recorded_batches_are_filled_up_to_quarters_and_no_image_counts_twice(batch_size, sizes):
    """CE-PGD sees the five images of six that are right, margin-PGD the three that survive it."""
    seen = []

    class Recording:
        on = True

        def __call__(self, key, function):
            return lambda *given: seen.append((key, {len(t) for t in given})) or function(*given)

    result = evaluate(above_half, Pixels(), 2, eps=0.2, steps=5, batch_size=batch_size, record=Recording())
    assert result.ce_robust.tolist() == [2, 1] and result.robust.tolist() == [2, 1]
    assert [lengths for _, lengths in seen] == [{n} for n in sizes]
    # a recording for each loss and length, and no two in one
    assert all(attacked is above_half and {length} == lengths for (attacked, _, length), lengths in seen)
    assert seen[0][0][1] is not seen[-1][0][1]


@pytest.mark.parametrize("tau, reached", [(0, 0.55), (1, 0.65), (2, 0.75), (None, 0.85)])
def test_friendly_attack_stops_tau_steps_after_the_first_mistake(tau, reached):
    """From 0.45 in steps of 0.1, wrong from 0.55 on; the image beside it, never wrong, goes on to its border."""
    x, y = torch.tensor([0.45, 0.1]).reshape(2, 1, 1, 1), torch.tensor([0, 0])
    found, survived = pgd(
        above_half, x, y, cross_entropy, eps=torch.tensor([0.4, 0.3]), step=0.1, steps=5, stop_after=tau
    )
    assert found.flatten().tolist() == pytest.approx([reached, 0.4]) and survived.tolist() == [1, 5]


def test_evaluation_steps_are_two_and_a_half_radii_in_all():
    """eps 0.2 and 5 steps: 0.1 each, so a start anywhere in the ball reaches its border."""
    seen = []

    def attacked(x):
        seen.append(x.detach())
        return above_half(x)

    evaluate(above_half, Pixels(), 2, eps=0.2, steps=5, attacked=attacked, batch_size=6)
    assert len(seen) == 10 and len({len(x) for x in seen[:5]}) == len({len(x) for x in seen[5:]}) == 1
    moves = torch.stack(seen[:5]).diff(dim=0).abs()
    assert moves.max().item() == pytest.approx(0.1) and len(seen[0]) == 5 > len(seen[5])


def test_a_masked_model_shows_in_the_gap():
    """Logits times 1e4: the softmax is saturated, so cross-entropy leaves images where its random start put them."""

    class Close(Pixels):  # the third and fourth are fooled in the ball's outermost 2.5 %, where no start will be
        x = torch.tensor([0.0, 0.2, 0.31, 0.69, 0.9, 0.2]).reshape(6, 1, 1, 1)

    copy = lambda x: above_half(x, 1e4)  # noqa: E731
    result = evaluate(copy, Close(), 2, eps=0.2, steps=5)
    assert result.robust.tolist() == [2, 1] and result.ce_robust.tolist() == [3, 2]
    assert result.metrics(["a", "b"], [3, 3])["masking_gap"] == pytest.approx(1 / 3)
    quick = evaluate(above_half, Close(), 2, eps=0.2, steps=5, attacked=copy)  # a copy finds, the model judges
    assert quick.ce_robust.tolist() == [3, 2] and quick.robust.tolist() == [2, 1] and quick.ce.sum() < 10


def test_metrics_by_hand():
    """Class c has no images. By training images the classes are a, c, b, d: the thirds are a, then c and b, then d.
    Of 3 classes the worst 30 % are one; of 10 they are three."""
    known = {"count": [10, 10, 0, 20], "clean": [9, 8, 0, 10], "ce_robust": [6, 5, 0, 8], "robust": [5, 4, 0, 2]}
    known = {name: torch.tensor(value, dtype=torch.float64) for name, value in known.items()}
    metrics = Evaluation(**known, ce=torch.zeros(4), kl=torch.zeros(4)).metrics(["a", "b", "c", "d"], [6, 3, 5, 1])
    assert metrics == pytest.approx(
        {
            "clean_acc": 2.2 / 3,
            "robust_acc": 1 / 3,
            "natural_robust_acc": (6 * 0.5 + 3 * 0.4 + 1 * 0.1) / 10,
            "worst_class_clean_acc": 0.5,
            "worst_class_robust_acc": 0.1,
            "tail_robust_acc": 0.1,
            "many_robust_acc": 0.5,
            "medium_robust_acc": 0.4,
            "few_robust_acc": 0.1,
            "robust_acc_gap": 0.4,
            "nsd": ((1 / 6) ** 2 + (1 / 15) ** 2 + (7 / 30) ** 2) ** 0.5 / 3**0.5 * 3,
            "masking_gap": 0.5 / 3,
            "clean_acc/a": 0.9,
            "clean_acc/b": 0.8,
            "clean_acc/d": 0.5,
            "robust_acc/a": 0.5,
            "robust_acc/b": 0.4,
            "robust_acc/d": 0.1,
        }
    )
    ten = {name: torch.full((10,), 10.0) for name in ("count", "clean", "ce_robust", "ce", "kl")}
    metrics = Evaluation(**ten, robust=torch.tensor([9.0, 1, 8, 7, 2, 7, 7, 6, 7, 7])).metrics(
        list("0123456789"), [1] * 10
    )
    assert metrics["tail_robust_acc"] == pytest.approx(0.3)


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


@pytest.mark.process
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_attack_model_trains_the_same_and_compiles_once(config):
    """128 does not divide the images: the remainder waits for the next shuffle, so no batch is smaller than others."""
    training = {**config.training, "batch_size": 128, "attack_steps": 2}
    plain, compiled = (
        Trainer(replace(config, method="at", params={}, training={**training, "compile": c})) for c in ("off", "on")
    )
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


def test_sgd_is_torchs_to_the_bit():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    theirs, idle = copy.deepcopy(ours), torch.nn.Parameter(torch.ones(2))
    a = SGD([idle, *ours.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-2, fused=False)
    b = torch.optim.SGD([idle, *theirs.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-2)
    for step in range(6):
        x, lr = torch.randn(5, 1, 8, 8), 0.1 / (1 + step)
        a.lr = b.param_groups[0]["lr"] = lr
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        if step == 3:  # as from a checkpoint
            a.load_state_dict(copy.deepcopy(a.state_dict()))
        pairs = zip(ours.parameters(), theirs.parameters())
        assert all(p.isfinite().all() and torch.equal(p, q) for p, q in pairs), step
    assert torch.equal(idle, torch.ones(2)) and a.state_dict()["momentum"][0] is None


def test_training_does_not_import_the_compiler(tmp_path):
    code = (
        "import sys; from trainables.config import TrialConfig; from trainables.loop import Trainer; "
        "from trainables.datasets import training_for; "
        "training = vars(training_for('digits', passes=1, attack_steps=1, eval_attack=1)); "
        f"Trainer(TrialConfig('srat', {{}}, training, home={str(tmp_path)!r}, max_epochs=3)).run_epoch(); "
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120) == "[]\n"


def test_the_average_forgets_the_random_weights_at_once(config):
    """min(decay, (1 + t) / (10 + t)) for step t, by hand over one epoch's steps."""
    assert [warmed_up(0.9, t) for t in (0, 8, 80, 81)] == [0.1, 0.5, 0.9, 0.9]
    trainer = Trainer(replace(config, training={**config.training, "ema": 0.999}))
    seen, step = [weights(trainer)], trainer._step
    trainer._step = lambda *a: (step(*a), seen.append(weights(trainer)))[0]
    trainer.run_epoch()
    average = seen[0]
    for t, now in enumerate(seen[1:]):
        average = average + (1 - (1 + t) / (10 + t)) * (now - average)
    found = torch.cat([p.flatten() for p in trainer.average.model.parameters()])
    torch.testing.assert_close(found, average)


def test_two_averages_are_refused(config):
    with pytest.raises(ValueError, match="cfa with average=fawa keeps a weight average of its own, so ema must be 0"):
        Trainer(replace(config, method="cfa", training={**config.training, "ema": 0.9}))


def test_an_attack_goes_towards_the_labels_that_a_method_draws(config, monkeypatch):
    trainer, targets = Trainer(replace(config, method="fairtat", params={})), []
    draw = trainer.method.attack_labels
    monkeypatch.setattr(trainer.method, "attack_labels", lambda *given: targets.append(draw(*given)) or targets[-1])
    x, y = trainer.splits.train.batch(torch.arange(32))
    trainer.attacked.refresh()
    found, _ = trainer._attack(Attack(3, 0.25, "none"), x, y, torch.Generator().manual_seed(0))
    before, after = (cross_entropy(trainer.attacked(images), targets[0]) for images in (x, found))
    assert (targets[0] != y).all() and (after < before).all()


@pytest.mark.parametrize("method, follows", [("cfa", False), ("dafa", True)])
def test_whose_step_follows_the_radius(config, monkeypatch, method, follows):
    """CFA's authors keep the step of 2/255 where a class's radius shrinks, DAFA's scale it."""
    trainer, seen = Trainer(replace(config, method=method)), {}
    trainer.method.eps_scale = lambda y: 0.5 + y / 10
    monkeypatch.setattr("trainables.loop.pgd", lambda *a, **k: (seen.update(k), pgd(*a, **k))[1])
    trainer.run_epoch()
    eps, step = trainer.training.eps, trainer.training.step_size
    ratio = seen["step"] / seen["eps"]
    assert torch.allclose(ratio, torch.tensor(step)) == follows
    assert follows or torch.allclose(seen["step"], torch.tensor(step * eps))


@pytest.mark.slow
@pytest.mark.parametrize("params, averaged", [({"threshold": 0.3}, False), ({"average": "ema"}, True)])
def test_a_weight_average_that_took_no_epoch_is_not_what_is_judged(config, params, averaged):
    """CFA's gate, out of reach in three short epochs: the trained model counts, not that of the first epoch."""
    gated, plain = (Trainer(replace(config, method="cfa", params=p)) for p in (params, {"average": "none"}))
    last = [[t.run_epoch() for _ in range(3)][-1] for t in (gated, plain)]
    assert (gated.final_model is not gated.model) == averaged
    assert (last[0]["clean_acc"] == last[1]["clean_acc"]) != averaged
    assert bool(gated.method.notes()) != averaged
