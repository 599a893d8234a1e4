"""GAIRAT (Zhang et al., ICLR 2021, eq. 6): w_i decreases with kappa_i, the attack steps the image survived."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import to_mean_one
from trainables.method import Batch, Method


def geometry_weights(kappa: Tensor, steps: int, lam: float, func: str) -> Tensor:
    """(B,) weights of mean 1 from ``kappa`` (B,) in 0..steps.

    With a = lam + 5 (1 - kappa / h), h = floor(steps / 2): tanh (1 + tanh a) / 2, sigmoid sigma(a), discrete
    (steps + 1 - kappa) / (steps + 1). ``lam`` = inf gives ones. For steps = 1 h is 1/2, where theirs divides
    by 0.
    """
    kappa = kappa.double()
    if func == "discrete":
        return to_mean_one((steps + 1 - kappa) / (steps + 1))
    half = steps // 2 or 0.5
    argument = lam + 5 * (half - kappa) / half
    return to_mean_one((1 + torch.tanh(argument)) / 2 if func == "tanh" else torch.sigmoid(argument))


def lambda_at(epoch: int, epochs: int, lam: float, lam_max: float) -> float:
    """Lambda of the 1-based ``epoch`` on the line from ``lam_max`` (epoch 0) to ``lam`` (last epoch)."""
    return lam_max - epoch / epochs * (lam_max - lam)


class Gairat(Method):
    name = "gairat"

    def weights(self, batch: Batch) -> Tensor:
        p, lam = self.params, self.params.lam
        if p.schedule == "linear":
            lam = lambda_at(batch.epoch + 1, self.task.max_epochs, lam, p.lam_max)
        return geometry_weights(batch.survived, self.task.attack_steps, lam, p.func)

    def forward(self, batch: Batch):
        return self.reduce(batch, self.weights(batch) if self.started(batch.epoch) else None)
