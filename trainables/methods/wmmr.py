"""WMMR (Zeng et al., AAAI 2021): w_i = exp(-alpha m_i), m_i = p_y - max_{k != y} p_k on the adversarial logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses import full_precision, prob_margin, wrong_class
from trainables.method import Batch, Method


def exponential_weights(logits_adv: Tensor, y: Tensor, alpha: float) -> Tensor:
    """(B,) exp(alpha (max_{k != y} p_k - p_y)), in [e^-alpha, e^alpha]; carries gradient, as in the authors' code."""
    return (alpha * prob_margin(logits_adv, y)).exp()


def weighted_cross_entropy(logits_adv: Tensor, y: Tensor, alpha: float) -> Tensor:
    """(B,) ``exponential_weights`` times cross-entropy, both from one softmax: every step of the attack has this."""
    with torch.no_grad():
        wrong = wrong_class(logits_adv, y)
    log_p = F.log_softmax(full_precision(logits_adv), dim=1)
    ce, other = (F.nll_loss(log_p, k, reduction="none") for k in (y, wrong))
    return (alpha * ((-other).exp() - (-ce).exp())).exp() * ce


class Wmmr(Method):
    """at: mean w CE(x'); trades: mean CE(x) + beta mean w KL. In their code the gradient flows through w:
    ``detach``."""

    name = "wmmr"

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        if self.params.weight_attack and self.form == "at":
            return weighted_cross_entropy(logits_adv, y, self.params.alpha)
        loss = super().inner_loss(logits_adv, y, logits_clean)
        if not self.params.weight_attack:
            return loss
        return exponential_weights(logits_adv, y, self.params.alpha) * loss

    def forward(self, batch: Batch):
        main, regulariser = self.terms(batch)
        weights = exponential_weights(batch.logits_adv, batch.y, self.params.alpha)
        detach = self.params.detach
        if regulariser is None:
            return batch.mean(main, weights, detach=detach)
        return batch.mean(main) + self.params.beta * batch.mean(regulariser, weights, detach=detach)
