"""The one evaluation: an image counts as robust only if it survives CE-PGD and then margin-PGD.

Each attack runs only on the images that are still classified right, in full batches; predictions are judged in float32.
The gap between CE-PGD alone and both attacks is reported because a large one means that a loss masks its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainables.attack import pgd, start_point
from trainables.class_metrics import class_metrics
from trainables.cuda_graph import Recorder
from trainables.losses import cross_entropy, logit_margin
from trainables.threat_model import LInf, ThreatModel

Forward = Callable[[Tensor], Tensor]
Seen = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Evaluation:
    """Per-class counts, (K,) float64 on the CPU."""

    count: Tensor
    clean: Tensor  # classified right without an attack
    ce_robust: Tensor  # of these, right under CE-PGD
    robust: Tensor  # of these, right under margin-PGD too
    ce: Tensor  # sum of the clean cross-entropy
    kl: Tensor  # sum of KL(p(x) || p(x')) on the CE-PGD example; only filled if asked for

    def metrics(self, classes: list[str], train_counts: Sequence[int]) -> dict[str, float]:
        """`class_metrics` of these counts, and ``masking_gap``: what margin-PGD takes from CE-PGD's survivors (a mean
        over the classes). ``train_counts``: training images of each class."""
        there = self.count > 0
        gap = ((self.ce_robust - self.robust) / self.count)[there].mean().item()
        counts = (t.tolist() for t in (self.count, self.clean, self.robust))
        return {**class_metrics(classes, train_counts, *counts), "masking_gap": gap}


LOSSES = (cross_entropy, logit_margin)  # of the two attacks, in their order


@contextmanager
def no_tf32():
    """float32 proper: torch lets a GPU's convolutions round their input to 10 bits unasked."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@no_tf32()
@torch.no_grad()
def evaluate(
    judge: Forward,
    split,
    classes: int,
    *,
    eps: float,
    steps: int,
    attacked: Forward | None = None,
    batch_size: int = 512,
    with_kl: bool = False,
    seed: int = 0,
    record: Recorder = Recorder(on=False),
    threat: type[ThreatModel] = LInf,
    seen: Seen = lambda rows, logits: None,
) -> Evaluation:
    """Judge a ``Split`` under both attacks, ``steps`` each with step 2.5 eps / steps from a uniform random start.

    ``judge`` gives float32 logits; ``attacked`` (default: the same) may be a faster copy that only finds the examples.
    ``with_kl``: CE-PGD runs on every image, right or wrong, for methods that train on validation losses. ``record``:
    where attacks are recorded from one evaluation to the next; if it is on, batches are filled up to quarters. ``seen``
    is told the rows (B,) and logits (B, K) of everything judged: first all images, then what the attacks found.
    """
    attacked, y = attacked or judge, split.labels
    generator = torch.Generator(device=y.device).manual_seed(seed)
    count, clean, ce_robust, robust, ce, kl = torch.zeros(6, classes, dtype=torch.float64, device=y.device)
    everyone = torch.arange(len(split), device=y.device)
    logits = torch.cat([judge(images_of(split, rows)) for rows in everyone.split(batch_size)])
    seen(everyone, logits)
    right = logits.argmax(1) == y
    count.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))
    clean.index_add_(0, y, right.double())
    ce.index_add_(0, y, cross_entropy(logits, y).double())
    todo = everyone if with_kl else everyone[right]
    for loss, survivors in zip(LOSSES, (ce_robust, robust)):
        left = todo[:0]
        for rows in todo.split(batch_size) if len(todo) else ():
            tried = filled(rows, max(1, batch_size // 4)) if record.on else rows
            x, find = images_of(split, tried), partial(_attack, attacked, loss, eps, steps, threat)
            find = record((attacked, loss, len(tried)), find)
            (x_adv,) = find(x, y[tried], start_point(x, eps, "uniform", generator, threat))
            logits_adv = judge(x_adv[: len(rows)])
            seen(rows, logits_adv)
            if with_kl and loss is cross_entropy:
                p, q = logits[rows].log_softmax(1), logits_adv.log_softmax(1)
                kl.index_add_(0, y[rows], (p.exp() * (p - q)).sum(1).double())
            left = torch.cat([left, rows[(logits_adv.argmax(1) == y[rows]) & right[rows]]])
        todo = left
        survivors.index_add_(0, y[todo], torch.ones(len(todo), dtype=torch.float64, device=y.device))
    return Evaluation(*(t.cpu() for t in (count, clean, ce_robust, robust, ce, kl)))


def filled(rows: Tensor, unit: int) -> Tensor:
    """``rows`` and, up to a multiple of ``unit``, the first one again and again: recorded attacks have few shapes."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % unit)])


def images_of(split, rows: Tensor) -> Tensor:
    """(B, C, H, W) float32 in [0, 1] of the split's ``rows`` (B,), channels last."""
    return split.batch(rows)[0].contiguous(memory_format=torch.channels_last)


def _attack(
    forward: Forward, loss, eps: float, steps: int, threat: type[ThreatModel], x: Tensor, y: Tensor, begin: Tensor
) -> tuple[Tensor]:
    step = 2.5 * eps / steps
    return pgd(forward, x, y, loss, eps=eps, step=step, steps=steps, x_start=begin, threat=threat)[:1]
