"""RoBal (Wu et al., CVPR 2021, eq. 7-9): margins and priors by class count on a cosine classifier, plus KL.

At test time the authors also subtract 0.1 times the prior; the model is evaluated without that here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses import kl, ldam_logits
from trainables.method import Batch, Method


def count_margins(counts: Tensor, margin: float, tau: float, scale: float) -> Tensor:
    """(K,) margin + tau log(n_c / n_min) / scale, on the cosine."""
    counts = counts.double()
    return margin + tau * (counts / counts.min()).log() / scale


class Robal(Method):
    """mean CE(s (cos - m_y) + tau_b log(n / N)) on x' + beta mean KL(p(x) || p(x')), p = softmax(s cos)."""

    head = "cosine"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        counts = task.class_counts.double()
        self.register_buffer("margins", count_margins(counts, params.margin, params.margin_tau, params.scale))
        self.register_buffer("prior", params.prior_tau * (counts / counts.sum()).log())

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        return F.cross_entropy(self.params.scale * logits_adv, y, reduction="none")

    def forward(self, batch: Batch):
        p = self.params
        shifted = ldam_logits(batch.logits_adv, batch.y, self.margins, p.scale) + self.prior.to(batch.logits_adv.dtype)
        loss = batch.mean(batch.cross_entropy(shifted))
        return loss + p.beta * batch.mean(kl(p.scale * batch.logits, p.scale * batch.logits_adv))
