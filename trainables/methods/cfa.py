"""CFA (Wei et al., CVPR 2023): class-wise radius (eq. 6), class-wise beta (eq. 8), fairness-aware weight
average (alg. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, EpochStats, Method


def calibrated(base: float, robust_acc: Tensor) -> Tensor:
    """(K,) base + class accuracy, the factor on eps or beta; 1 for a class whose accuracy is not known yet (NaN)."""
    return torch.where(robust_acc.isnan(), torch.ones_like(robust_acc), base + robust_acc)


def mixing(beta: Tensor) -> Tensor:
    """beta / (1 + beta): the share of the KL term in a loss of total weight 1."""
    return beta / (1 + beta)


class Cfa(Method):
    """trades: mean[(1 - b_y) CE(x) + b_y KL], b_y = beta_y / (1 + beta_y), so plain TRADES / (1 + beta)
    before ``start``; at: mean CE(x'), where only the radius changes. Note the sign: easy classes get the
    larger radius, opposite to DAFA; the attack's step stays, as in the authors' code.
    """

    name = "cfa"
    steps_with_radius = False

    def __init__(self, params, task):
        super().__init__(params, task)
        unknown = torch.full((task.classes,), torch.nan, dtype=torch.float64)
        self.register_buffer("robust_acc", unknown)  # of training, previous epoch
        self.register_buffer("averaging", torch.zeros((), dtype=torch.bool))

    def class_eps(self) -> Tensor:
        """(K,) factor on the radius."""
        known = self.robust_acc if self.params.class_eps else torch.full_like(self.robust_acc, torch.nan)
        return calibrated(self.params.lambda_1, known)

    def class_beta(self) -> Tensor:
        """(K,) b_c, the share of the KL term."""
        known = self.robust_acc if self.params.class_beta else torch.full_like(self.robust_acc, torch.nan)
        return mixing(self.params.beta * calibrated(self.params.lambda_2, known))

    def eps_scale(self, y: Tensor) -> Tensor:
        return self.class_eps()[y]

    def forward(self, batch: Batch):
        main, regulariser = self.terms(batch)
        if regulariser is None:
            return batch.mean(main)
        share = self.class_beta()[batch.y]
        return batch.mean(main, 1 - share) + batch.mean(regulariser, share)

    def end_epoch(self, stats: EpochStats) -> None:
        if self.started(stats.epoch + 1):
            self.robust_acc.copy_(stats.train_robust_acc())

    @property
    def averages_epochs(self) -> bool:
        return self.params.average != "none"

    def average_decay(self, stats: EpochStats) -> float | None:
        """None until an epoch has passed: the official code would judge an average that is still random. The gate is
        asked here, since ``end_epoch`` hears of the stem's last epoch too, which is in no average."""
        if not self.averages_epochs:
            return None
        worst = (stats.val_ce_robust / stats.val_count.clamp(min=1)).min()  # as published: under CE-PGD alone
        passed = self.params.average == "ema" or bool(worst >= self.params.threshold)
        keep = self.params.decay if self.averaging else 0.0  # the first that passes is copied
        self.averaging |= passed
        return (keep if passed else 1.0) if self.averaging else None

    def notes(self) -> list[str]:
        if not self.averages_epochs or self.averaging:
            return []
        return [
            f"no epoch reached threshold={self.params.threshold:g} on the worst class of val, so the weights were "
            "not averaged"
        ]
