"""RoBal (Wu et al., CVPR 2021, eq. 7-9): margins and priors by class count on a cosine classifier, plus KL.

The authors' scale s is part of the cross-entropy alone: they train a head of scale 1, so the attack and the KL term
see plain cosines (at s = 10 the KL would be some 50 times as large); only at test time is the head's scale 10. At test
time they also subtract 0.1 times the prior; the model is evaluated without that here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.losses import kl, ldam_logits
from trainables.method import Batch, Method

SCALE = 10.0  # the authors' s, and the factor of the cosine head


def count_margins(counts: Tensor, margin: float, tau: float, scale: float) -> Tensor:
    """(K,) margin + tau log(n_c / n_min) / scale, on the cosine."""
    counts = counts.double()
    return margin + tau * (counts / counts.min()).log() / scale


class Robal(Method):
    """mean CE(s (cos - m_y) + tau_b log(n / N)) on x' + beta mean KL(p(x) || p(x')), s = 10, p = softmax(cos);
    the attack maximises -log p_y."""

    name = "robal"
    head = "cosine"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        counts = task.class_counts.double()
        self.register_buffer("margins", count_margins(counts, params.margin, params.margin_tau, SCALE))
        self.register_buffer("prior", params.prior_tau * (counts / counts.sum()).log())

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        return F.cross_entropy(logits_adv / SCALE, y, reduction="none")

    def forward(self, batch: Batch):
        z = batch.logits_adv
        shifted = ldam_logits(z, batch.y, SCALE * self.margins, 1.0) + self.prior.to(z.dtype)
        divergence = kl(batch.logits / SCALE, z / SCALE)
        return batch.mean(batch.cross_entropy(shifted)) + self.params.beta * batch.mean(divergence)
