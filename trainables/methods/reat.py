"""REAT (Li et al., 2023): balanced softmax, rebalanced attack loss, tail feature alignment (TAIL).

TAIL is per pair here. The authors' code asks for an unreduced KL in a way torch reads as "mean", so that
their pair weights multiply one number; the size of the term, a mean over the feature dimensions, is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.class_weights import log_prior, sum_to_classes
from trainables.losses import full_precision
from trainables.method import Batch, EpochStats, Method
from trainables.methods.bsl import balanced_logits


def tail_classes(counts: Tensor) -> Tensor:
    """(K,) bool: the rarest K - 1 - 2 floor(K / 3) classes, at least one (for ten classes three; ties: the
    last ones)."""
    size = max(len(counts) - 1 - 2 * (len(counts) // 3), 1)
    tail = torch.zeros(len(counts), dtype=torch.bool)
    tail[counts.cpu().argsort(descending=True, stable=True)[-size:]] = True
    return tail


def tail_term(features: Tensor, y: Tensor, tail: Tensor, weights: Tensor) -> Tensor:
    """Scalar: mean over tail anchors b and samples j of s (w_b + w_j) KL(softmax f_b || softmax f_j) / D, f_b detached.

    ``features`` (B, D), ``tail`` and ``weights`` (K,); s = -1 within the class (it spreads out), +1 across.
    No tail anchor: 0.
    """
    log_q = F.log_softmax(full_precision(features), dim=1)
    p = log_q.detach().exp()
    divergence = (p * log_q.detach()).sum(1, keepdim=True) - p @ log_q.T
    sign = 1 - 2 * (y[:, None] == y[None, :]).to(p.dtype)
    w = weights[y].to(p.dtype)
    anchors = tail[y].to(p.dtype)
    per_anchor = (sign * (w[:, None] + w[None, :]) * divergence).mean(1) / features.shape[1]
    return (anchors * per_anchor).sum() / anchors.sum().clamp(min=1)


def prediction_weights(predicted: Tensor, counts: Tensor) -> Tensor:
    """(K,) 1 / E_c scaled to sum K, E_c = (1 - b^m_c) / (1 - b), b = (n_c - 1) / n_c, m_c adversarial
    predictions as c."""
    n = counts.double()
    effective = n * (1 - ((n - 1) / n) ** predicted.to(n))
    return sum_to_classes(1 / (effective + 1e-5))


class Reat(Method):
    name = "reat"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        counts = task.class_counts
        self.register_buffer("prior", log_prior(counts))
        self.register_buffer("counts", counts.double())
        self.register_buffer("tail", tail_classes(counts).to(counts.device))
        self.register_buffer("rarity", (counts.sum() / counts.double()).sqrt())
        self.register_buffer("attack_weights", prediction_weights(counts, counts))

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        loss = super().inner_loss(logits_adv, y, logits_clean)
        return self.attack_weights[y].to(loss.dtype) * loss if self.params.attack_weights else loss

    def end_epoch(self, stats: EpochStats) -> None:
        self.attack_weights.copy_(prediction_weights(stats.train_predicted.to(self.counts), self.counts))

    def forward(self, batch: Batch):
        loss = batch.mean(batch.cross_entropy(balanced_logits(batch.logits_adv, self.prior)))
        return loss + self.params.tail_weight * tail_term(batch.features_adv, batch.y, self.tail, self.rarity)
