"""Small helpers of the oracle harness: tensors from JSON, batches from logits, the toy networks of the attack
files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import method_space
from trainables.method import Adversary, Batch, EpochStats, Method, Task
from trainables.methods import method_class

EPOCHS = 200  # length of the pretended run


class Unknown(Exception):
    """A method or kind of case this harness has no code for."""


RUN: dict[tuple[str, str | None], Callable[[dict, dict], dict]] = {}


def oracle(method: str, kind: str | None = None):
    def keep(function):
        RUN[method, kind] = function
        return function

    return keep


def find(method: str, kind: str | None):
    if (method, kind) in RUN:
        return RUN[method, kind]
    kinds = [k for m, k in RUN if m == method]
    if not kinds:
        raise Unknown(f"unknown method {method!r}; known: {', '.join(sorted({m for m, _ in RUN}))}")
    raise Unknown(f"unknown kind {kind!r} of method {method}; known: {', '.join(map(str, kinds))}")


def known(value, what: str, meanings: Sequence | dict):
    """``value`` if it is one of ``meanings``, translated where they are a dict; else ``Unknown``: a name that the
    code under test does not know must never fall to whatever it does otherwise."""
    if value not in meanings:
        raise Unknown(f"unknown {what} {value!r}; known: {', '.join(map(str, meanings))}")
    return meanings[value] if isinstance(meanings, dict) else value


def width(inputs: dict, key: str = "logits_adv") -> int:
    return len(inputs[key][0])


def numbers(value):
    """JSON's "inf", "nan" and null as floats, at any depth."""
    if isinstance(value, (list, tuple)):
        return [numbers(v) for v in value]
    return math.nan if value is None else float(value)


def tensor(value, *, grad: bool = False) -> Tensor:
    return torch.tensor(numbers(value), dtype=torch.float64, requires_grad=grad)


def labels(value) -> Tensor:
    return torch.tensor(value, dtype=torch.int64)


def build(
    name: str,
    classes: int,
    *,
    counts: Sequence[int] | None = None,
    start: int = 0,
    steps: int = 10,
    eps: float = 8 / 255,
    epochs: int = EPOCHS,
    **values,
) -> Method:
    """A method in float64. ``values`` go in unchecked: oracles may lie outside the ranges a search would
    use."""
    params = method_space(name).Params
    if "start" in params.__dataclass_fields__:
        values["start"] = start / epochs
    counts = torch.tensor(counts or [100] * classes, dtype=torch.float64)  # a file may give frequencies
    task = Task(counts if (counts % 1).any() else counts.long(), epochs, eps, steps)
    return method_class(name)(params(**values), task).double()


def batch(
    y,
    adv: Sequence[Tensor],
    clean: Tensor | None = None,
    *,
    features: Tensor | None = None,
    survived=None,
    epoch: int = EPOCHS - 1,
) -> Batch:
    y, blank = labels(y), torch.zeros(len(y), 1, dtype=torch.float64)
    features = blank if features is None else features
    survived = torch.zeros(len(y), dtype=torch.int64) if survived is None else labels(survived)
    adversaries = [Adversary(blank, logits, features, survived) for logits in adv]
    return Batch(blank, y, adversaries, epoch, EPOCHS, lambda: (clean, features))


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """d loss / d each input, zero where it does not appear."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found)]


def loss_and_gradients(method: Method, inputs: dict, *, suffix: str = "", epoch: int = EPOCHS - 1) -> dict:
    """loss, grad_logits_adv and grad_logits_nat of one batch, as the files name them."""
    adv = tensor(inputs["logits_adv"], grad=True)
    clean = tensor(inputs.get("logits_nat", inputs["logits_adv"]), grad=True)
    loss = method(batch(inputs["y"], [adv], clean, survived=inputs.get("kappa"), epoch=epoch))
    g_adv, g_clean = gradients(loss, adv, clean)
    return {f"loss{suffix}": loss, f"grad_logits_adv{suffix}": g_adv, f"grad_logits_nat{suffix}": g_clean}


def stats(classes: int, *, epoch: int = 0, **known) -> EpochStats:
    """Statistics of an epoch, zero (counts: one) where not given, so that a sum is also an accuracy."""
    zero, one = torch.zeros(classes, dtype=torch.float64), torch.ones(classes, dtype=torch.float64)
    fields = dict(
        train_count=one,
        train_robust=zero,
        train_probs=torch.zeros(classes, classes, dtype=torch.float64),
        train_predicted=zero,
        train_confusion=torch.zeros(classes, classes, dtype=torch.float64),
        val_count=one,
        val_clean=zero,
        val_ce_robust=zero,
        val_robust=zero,
        val_ce=zero,
        val_kl=zero,
    )
    return EpochStats(epoch, **{**fields, **known})


class Network:
    """The attack files' network: flatten, linear layers with ReLU between; remembers the smallest gradient it
    met."""

    def __init__(self, spec: dict, scale: float = 1.0):
        self.layers = [(tensor(w), tensor(b)) for w, b in zip(spec["W"], spec["b"])]
        self.scale, self.min_abs_grad = scale, math.inf

    def __call__(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(self._see)
        h = x.flatten(1)
        for i, (w, b) in enumerate(self.layers):
            h = F.linear(h.relu() if i else h, w, b)
        return h

    def _see(self, grad: Tensor) -> None:
        self.min_abs_grad = min(self.min_abs_grad, float(grad.abs().min()) * self.scale)
