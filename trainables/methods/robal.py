"""RoBal (Wu et al., CVPR 2021, eq. 7-9): margins and priors by class count on a cosine classifier, plus KL.

At test time the authors also subtract 0.1 times the prior; the model is evaluated without that here.
"""

from __future__ import annotations

from torch import Tensor

from trainables.losses import kl, ldam_logits
from trainables.method import Batch, Method

SCALE = 10.0  # the authors' s, and the factor of the cosine head


def count_margins(counts: Tensor, margin: float, tau: float, scale: float) -> Tensor:
    """(K,) margin + tau log(n_c / n_min) / scale, on the cosine."""
    counts = counts.double()
    return margin + tau * (counts / counts.min()).log() / scale


class Robal(Method):
    """mean CE(s (cos - m_y) + tau_b log(n / N)) on x' + beta mean KL(p(x) || p(x')), p = softmax(s cos), s =
    10."""

    head = "cosine"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        counts = task.class_counts.double()
        self.register_buffer("margins", count_margins(counts, params.margin, params.margin_tau, SCALE))
        self.register_buffer("prior", params.prior_tau * (counts / counts.sum()).log())

    def forward(self, batch: Batch):
        z = batch.logits_adv
        shifted = ldam_logits(z, batch.y, SCALE * self.margins, 1.0) + self.prior.to(z.dtype)
        return batch.mean(batch.cross_entropy(shifted)) + self.params.beta * batch.mean(kl(batch.logits, z))
