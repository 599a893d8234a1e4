"""RobustLT (Zhang et al., CVPR 2026, as in the authors' code): class radii (1 - a) + t sqrt(log(n_max / n_c)), times a
ramp over the epochs and eps; the loss is that of AT-BSL."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.class_weights import data_mean, log_prior
from trainables.method import Batch, EpochStats, Method
from trainables.methods.bsl import balanced_logits


def rarity_radius(counts: Tensor, spread: float) -> Tensor:
    """(K,) factors on the radius, float64: 1 - spread for the most frequent class, more for rarer ones; mean 1 over the
    images. ``counts`` (K,), none of them 0. Ones where all are equal: nothing is rare there (their code: NaN)."""
    rarity = (counts.max().double().log() - counts.double().log()).sqrt()
    mean = data_mean(rarity, counts)
    return 1 - spread + spread * rarity / mean if mean else torch.ones_like(rarity)


def ramp_up(epoch: int, epochs: float) -> float:
    """min(epoch / epochs, 1) for the 0-based ``epoch``; 1 if ``epochs`` is 0."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


class Robustlt(Method):
    """mean CE(z(x') + strength log n), x' within ramp * radius_y * eps, by a step of the same fraction of it.

    In the first epoch the radius is 0, as published. Attacks start in each image's own ball as everywhere; in the
    authors' code within eps, from where the first step leads into the ball.
    """

    name = "robustlt"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("prior", log_prior(task.class_counts))
        self.register_buffer("radius", rarity_radius(task.class_counts, params.spread))
        self.register_buffer("ramp", torch.zeros((), dtype=torch.float64))
        self._grow(0)

    def _grow(self, epoch: int) -> None:
        self.ramp.fill_(ramp_up(epoch, self.params.ramp * self.task.max_epochs))

    def end_epoch(self, stats: EpochStats) -> None:
        self._grow(stats.epoch + 1)

    def eps_scale(self, y: Tensor) -> Tensor:
        return (self.ramp * self.radius)[y]

    def forward(self, batch: Batch):
        shifted = balanced_logits(batch.logits_adv, self.prior, self.params.strength)
        return batch.mean(batch.cross_entropy(shifted))
