"""WAT (Li and Liu, AAAI 2023, alg. 1): exponential weights over C class experts and one for the average."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, EpochStats, Method


def validation_cost(sums: Tensor, counts: Tensor) -> Tensor:
    """(C+1,) cost of each expert from per-class sums (C,) of a validation loss and its images per class (C,).

    cost_c is the class mean; last entry: the plain mean. The authors divide by N / C, which is the same for a balanced
    validation; otherwise it would favour frequent classes.
    """
    means = sums / counts.clamp(min=1)
    return torch.cat([means, (sums.sum() / counts.sum())[None]])


def hedge_weights(total_cost: Tensor, eta: float) -> Tensor:
    """(C+1,) proportional to exp(eta * total_cost), scaled to sum C; the maximum is subtracted first."""
    return (len(total_cost) - 1) * torch.softmax(eta * total_cost, 0)


class Wat(Method):
    """mean v_y L + v_C mean L with L = CE(x) + beta KL; before the first validation every v is 1, as
    published. Validation's KL is that of the evaluation's CE-PGD example; the authors attack with TRADES' KL."""

    name = "wat"
    form = "trades"
    needs_val_losses = True

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("total_cost", torch.zeros(task.classes + 1, dtype=torch.float64))
        self.register_buffer("expert_weights", torch.ones(task.classes + 1, dtype=torch.float64))

    def update(self, cost: Tensor) -> None:
        """Take in one validation's ``cost`` (C+1,)."""
        self.total_cost.mul_(self.params.memory).add_(cost.to(self.total_cost))
        self.expert_weights.copy_(hedge_weights(self.total_cost, self.params.eta))

    def end_epoch(self, stats: EpochStats) -> None:
        self.update(validation_cost(stats.val_ce + self.params.beta * stats.val_kl, stats.val_count))

    def forward(self, batch: Batch):
        weights = self.expert_weights[batch.y] + self.expert_weights[-1]
        return self.reduce(batch, weights, weights)
