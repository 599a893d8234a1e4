"""Batches, statistics and parameter draws for the tests of the methods: lopsided on purpose, float64 unless
told."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from search_spaces import method_space
from search_spaces.param import params_of
from trainables.method import Adversary, Attack, Batch, EpochStats, Method, Task
from trainables.methods import build_method

COUNTS = (60, 30, 12, 5)
EPOCHS, BASE = 20, Attack(steps=10, step=0.25)
TASK = Task(torch.tensor(COUNTS), EPOCHS, 8 / 255, BASE.steps)
D = torch.float64


def t(*values):
    return torch.tensor(values, dtype=D)


def log(*p):
    """Logits whose softmax is p."""
    return torch.tensor(p, dtype=D).log()


def close(a, b, **tolerance):
    torch.testing.assert_close(torch.as_tensor(a, dtype=D), torch.as_tensor(b, dtype=D), **tolerance)


def make(name: str, task: Task = TASK, **values) -> Method:
    return build_method(name, values, task)


def make_batch(
    method: Method,
    y: list[int] | None = None,
    *,
    seed: int = 0,
    epoch: int = EPOCHS - 1,
    dtype=torch.float64,
    logits: Tensor | None = None,
    order: Tensor | None = None,
    **fields,
) -> Batch:
    """A random batch as the loop would hand it over; ``order`` permutes it. Every logit tensor requires
    grad."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 0, 1, 2, 0, 1, 3, 0, 1, 2, 0] if y is None else y)
    n, k = len(labels), method.task.classes
    order = torch.arange(n) if order is None else order

    def draw(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=g, dtype=torch.float64).to(dtype)[order].requires_grad_()

    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64).to(dtype)[order]
    found = []
    for _ in method.attacks(BASE, epoch):
        survived = torch.randint(0, BASE.steps + 1, (n,), generator=g)[order]
        shift = (torch.rand(x.shape, generator=g, dtype=torch.float64).to(dtype)[order] * 2 - 1) * TASK.eps
        found.append(Adversary((x + shift).clamp(0, 1), draw(k) * 2 if logits is None else logits, draw(7), survived))
    clean = (draw(k) * 2 if logits is None else logits.flip(0), draw(7))
    net = torch.randn(9, k, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    return Batch(
        x,
        labels[order],
        found,
        epoch,
        EPOCHS,
        lambda: clean,
        lambda z: ((z.flatten(1) @ net).tanh(), z.flatten(1)),
        **fields,
    )


def loss_and_grads(method: Method, batch: Batch) -> list[Tensor]:
    """Loss and its gradients with respect to the first adversary's and the clean logits (zeros where
    unused)."""
    inputs = [batch.logits_adv, batch.forward_clean()[0]]
    loss = method(batch)
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [loss, *(torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, found))]


def make_stats(epoch: int, *, seed: int = 0, val: tuple[int, ...] = (20, 20, 20, 20)) -> EpochStats:
    """Plausible, uneven counts: the rare classes are the hard ones."""
    made = _stats(epoch, seed, val)
    tensors = {name: value.clone() for name, value in vars(made).items() if isinstance(value, Tensor)}
    return replace(made, **tensors)  # a method may keep and change them


@cache
def _stats(epoch: int, seed: int, val: tuple[int, ...]) -> EpochStats:
    g = torch.Generator().manual_seed(1000 + seed + epoch)
    n, v = torch.tensor(COUNTS).double(), torch.tensor(val).double()
    k = len(n)
    skill = torch.tensor([0.9, 0.7, 0.4, 0.2]).double() * (0.9 + 0.1 * torch.rand(k, generator=g).double())
    probs = torch.softmax(torch.randn(k, k, generator=g).double() + 2 * skill.diag(), 1) * n[:, None]
    return EpochStats(
        epoch,
        train_count=n,
        train_robust=(n * skill).floor(),
        train_probs=probs,
        train_predicted=probs.sum(0).round(),
        train_confusion=probs.round(),
        val_count=v,
        val_clean=(v * skill.sqrt()).floor(),
        val_ce_robust=(v * skill.sqrt() ** 1.5).floor(),
        val_robust=(v * skill).floor(),
        val_ce=v * -skill.log(),
        val_kl=v * (1 - skill),
    )


def trained(method: Method, epochs: int = EPOCHS - 1) -> Method:
    """The method after the bookkeeping of ``epochs`` epochs of one step each."""
    for epoch in range(epochs):
        batch = make_batch(method, epoch=epoch, seed=epoch)
        method(batch)
        method.end_step(batch)
        stats = make_stats(epoch)
        method.end_epoch(stats)
        method.average_decay(stats)
    return method


def random_params(name: str, rng: random.Random, *, all_of_them: bool = False) -> dict:
    """One draw of every active parameter that a search would vary (or of all)."""
    values: dict = {}
    params = params_of(method_space(name).Params)
    for key, param in params.items():
        known = {**{k: p.default for k, p in params.items() if k not in values and p.active(values)}, **values}
        if param.active(known) and (param.searched or all_of_them):
            values[key] = draw_from(param.range, rng)
    return values


def draw_from(dist, rng: random.Random):
    if isinstance(dist, CategoricalDistribution):
        return rng.choice(dist.choices)
    if isinstance(dist, IntDistribution):
        return rng.randint(dist.low, dist.high)
    assert isinstance(dist, FloatDistribution)
    if dist.log:
        return min(max(math.exp(rng.uniform(math.log(dist.low), math.log(dist.high))), dist.low), dist.high)
    return rng.uniform(dist.low, dist.high)
