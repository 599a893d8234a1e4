"""The speed core keeps its promises without a stopwatch: no gradients of parameters, no host synchronisation, the
arithmetic that was asked for, and the same robust accuracy in bf16. Figures are in benchmarks/."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces import METHODS
from trainables.attack_copy import Frozen, fast_dtype, native_bf16
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.evaluate import evaluate
from trainables.fused import ConvReLU
from trainables.loop import Trainer
from trainables.models.build import build_model

CPU, SMALL, PHOTO = torch.device("cpu"), (1, 8, 8), (3, 32, 32)
aten = torch.ops.aten
# Each of these makes the host wait for a GPU: their result's value or shape is needed at once.
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.equal,
    aten.bincount,
    aten.is_nonzero,
}


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that would synchronise with a GPU, boolean indexing included."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        masked = any(m is not None and m.dtype in (torch.bool, torch.uint8) for m in masks)
        assert func.overloadpacket not in WAITS and not masked, f"{func} synchronises with the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    return TrialConfig("at", training=training, home=str(tmp_path_factory.mktemp("home")), max_epochs=4)


VARIANTS = [(name, {}, {}) for name in METHODS] + [
    ("at", {}, {"awp": 0.005, "ema": 0.9, "class_weights": "effective"}),
    ("cfol", {"mode": "sample"}, {}),
    ("done", {"barrier": True}, {}),
    ("done", {"level": "class"}, {}),
    ("mixup", {"kind": "beta"}, {}),
    ("srat", {"loss": "ldam"}, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize("method, params, changes", VARIANTS, ids=lambda v: v if isinstance(v, str) else str(v or "-"))
def test_no_synchronisation_inside_the_training_loop(config, monkeypatch, method, params, changes):
    training = {**config.training, "batch_size": 512, **changes}
    trainer = Trainer(replace(config, method=method, params=params, training=training))
    trainer.epoch = 3  # late, when every deferred weight acts
    for name in ("tolist", "cpu", "numpy", "item"):  # not every one of these passes the dispatcher on a CPU
        monkeypatch.setattr(torch.Tensor, name, lambda *a, name=name, **k: pytest.fail(f".{name}() synchronises"))
    with NoWaiting():
        totals = trainer._train()
    monkeypatch.undo()
    assert totals["loss"].isfinite()


def test_the_detector_detects():
    with NoWaiting(), pytest.raises(AssertionError, match="synchronises"):
        torch.ones(3)[torch.ones(3) > 0]
    with NoWaiting(), pytest.raises(AssertionError, match="synchronises"):
        torch.ones(()).item()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attacks_compute_no_parameter_gradients(config, precision):
    trainer = Trainer(replace(config, training={**config.training, "precision": precision}))
    x, y = trainer.splits.train.batch(slice(0, 8))
    trainer.attacked(x.requires_grad_(True)).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in trainer.attacked.module.parameters())
    trainer._step(torch.arange(8), torch.Generator().manual_seed(0))
    assert all(p.grad is None and not p.requires_grad for p in trainer.attacked.module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, fused_ones",
    [("cnn", 3), ("resnet18:0.25", 16), ("preact-resnet18:0.25", 8), ("resnet18:0.1", 0), ("vgg11_bn", 7)],
)
def test_fusing_changes_no_number(monkeypatch, name, fused_ones):
    """cuDNN's kernels, here in torch's words: the rewritten network has the plain one's logits and gradients."""
    conv = torch.nn.functional.conv2d
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda x, w, b, *shape: conv(x, w, b, *shape).relu())
    monkeypatch.setattr(
        torch,
        "cudnn_convolution_add_relu",
        lambda x, w, z, alpha, b, *shape: (conv(x, w, b, *shape) + alpha * z).relu(),
    )
    torch.manual_seed(0)
    model, x = build_model(name, 10, PHOTO).train(), torch.rand(8, *PHOTO)
    model(x)
    found = []
    for network in (Frozen(model), Frozen(model, fused=True)):
        with torch.no_grad():  # the weights that count are those of the last refresh
            next(model.parameters()).mul_(1.1)
        network.refresh()
        leaf = x.clone().requires_grad_(True)
        logits = network(leaf)
        found.append((logits, *torch.autograd.grad(logits[:, 3].sum(), leaf)))
        with torch.no_grad():
            next(model.parameters()).div_(1.1)
    assert sum(isinstance(m, ConvReLU) for m in network.module.modules()) == fused_ones
    for plain, fused in zip(*found):
        assert plain.abs().max() > 0 and torch.allclose(plain, fused, rtol=1e-4, atol=1e-6)


def test_precision_is_honoured(config):
    assert fast_dtype("fp32", CPU, PHOTO) is None and fast_dtype("bf16", CPU, SMALL) is torch.bfloat16
    assert fast_dtype("auto", CPU, SMALL) is None  # nothing to gain, so nothing is risked
    assert fast_dtype("auto", CPU, PHOTO) is (torch.bfloat16 if native_bf16() else None)
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        trainer = Trainer(replace(config, training={**config.training, "precision": precision}))
        assert next(trainer.attacked.module.parameters()).dtype is expected
        assert trainer.attacked.module.mean.dtype is torch.float32  # pixels are rounded after normalisation
        assert all(p.dtype is torch.float32 for p in trainer.model.parameters())
        seen = []
        trainer.model.backbone[0].register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.dtype))
        assert trainer._forward(trainer.splits.train.batch(slice(0, 4))[0])[0].dtype is torch.float32
        assert seen == [expected]


@pytest.mark.slow
def test_bf16_resumes_bit_by_bit(config):
    config = replace(config, training={**config.training, "precision": "bf16"})
    straight, first, second = Trainer(config), Trainer(config), Trainer(config)
    straight.run_epoch()
    first.run_epoch()
    straight.run_epoch()
    second.load_state_dict(first.state_dict())
    second.run_epoch()
    assert all(torch.equal(a, b) for a, b in zip(straight.model.parameters(), second.model.parameters()))


@pytest.mark.slow
def test_bf16_attack_judged_in_fp32_finds_as_much(config):
    """The same model, attacked through its bf16 copy and through itself: within 2 points of each other."""
    training = asdict(training_for("digits", passes=2, attack_steps=5))
    trainer = Trainer(replace(config, training=training))
    for _ in range(4):
        trainer.run_epoch()
    judge, quick = Frozen(trainer.model), Frozen(trainer.model, dtype=torch.bfloat16)
    found = [evaluate(judge, trainer.splits.val, 10, eps=0.1, steps=20, attacked=a) for a in (judge, quick)]
    exact, fast = (r.robust.sum().item() / r.count.sum().item() for r in found)
    assert exact > 0.2 and abs(exact - fast) <= 0.02, (exact, fast)
