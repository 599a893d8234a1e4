"""AT-BSL (Yue et al., CVPR 2024, eq. 3; Ren et al. 2020): mean CE(z(x') + log n). The attack and evaluation
use plain z."""

from __future__ import annotations

from torch import Tensor

from trainables.class_weights import log_prior
from trainables.method import Batch, Method


def balanced_logits(logits: Tensor, prior: Tensor, strength: float = 1.0) -> Tensor:
    """(B, K) logits + strength * log n_c; a class without training images gets -inf: probability and gradient 0."""
    return logits + strength * prior.to(logits.dtype) if strength else logits


class Bsl(Method):
    name = "bsl"

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("prior", log_prior(task.class_counts))

    def forward(self, batch: Batch):
        shifted = balanced_logits(batch.logits_adv, self.prior, self.params.strength)
        return batch.mean(batch.cross_entropy(shifted))
