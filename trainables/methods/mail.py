"""MAIL (Wang et al., NeurIPS 2021, eq. 9): w_i = sigmoid(slope (margin_i + bias)), margins on the adversarial
logits."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import prob_margin, to_mean_one
from trainables.method import Batch, Method


def margin_weights(logits_adv: Tensor, y: Tensor, slope: float, bias: float, normalise: bool = False) -> Tensor:
    """(B,) 3 sigmoid(slope (max_{k != y} p_k - p_y + bias)), no gradient; with ``normalise`` scaled to mean 1
    instead of 3x.

    The 3 is the authors' code, where the result is named normalised but is not.
    """
    weights = torch.sigmoid(slope * (prob_margin(logits_adv.detach(), y) + bias))
    return to_mean_one(weights) if normalise else 3 * weights


class Mail(Method):
    """at: mean w CE(x'); trades: mean CE(x) + beta mean w KL; mart: mean w BCE(x') + beta * the unweighted KL term."""

    name = "mail"

    def weights(self, batch: Batch) -> Tensor:
        p = self.params
        return margin_weights(batch.logits_adv, batch.y, p.slope, p.bias, p.normalise)

    def forward(self, batch: Batch):
        if not self.started(batch.epoch):
            return self.reduce(batch)
        weights = self.weights(batch)
        return self.reduce(batch, None, weights) if self.form == "trades" else self.reduce(batch, weights)
