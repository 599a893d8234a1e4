"""EWAT (Kim et al., 2021): w_i proportional to the entropy of p(x'_i). No public code: the scaling to mean 1
is ours."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.losses import full_precision, to_mean_one
from trainables.method import Batch, Method


def entropy_weights(logits_adv: Tensor, strength: float = 1.0, temperature: float = 1.0) -> Tensor:
    """(B,) 1 - strength + strength * H(softmax(z / temperature)) / batch mean of it; mean 1, no gradient."""
    log_p = F.log_softmax(full_precision(logits_adv.detach()) / temperature, dim=1)
    return 1 - strength + strength * to_mean_one(-(log_p.exp() * log_p).sum(1))


class Ewat(Method):
    name = "ewat"

    def forward(self, batch: Batch):
        p = self.params
        return self.reduce(batch, entropy_weights(batch.logits_adv, p.strength, p.temperature))
