"""SOVR (Kanai et al., ICML 2023): the images with the smallest margin z_y - max z_k get lam * one-vs-rest,
the others CE.

No public code. The trades form (TSOVR) is ours: the same switch on the clean logits, chosen by the margin on
x', plus KL.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import kl, logit_margin, one_vs_rest
from trainables.method import Batch, Method


def smallest_margins(logits: Tensor, y: Tensor, fraction: float) -> Tensor:
    """(B,) bool: the ``round(fraction * B)`` samples whose true logit leads by least."""
    order = logit_margin(logits.detach(), y).argsort(descending=True)
    chosen = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    return chosen.index_fill(0, order[: round(fraction * len(y))], True)


class Sovr(Method):
    name = "sovr"

    def forward(self, batch: Batch):
        p = self.params
        hard = smallest_margins(batch.logits_adv, batch.y, p.fraction)
        logits = batch.logits if self.form == "trades" else batch.logits_adv
        loss = batch.mean(torch.where(hard, p.lam * one_vs_rest(logits, batch.y), batch.cross_entropy(logits)))
        if self.form == "trades":
            loss = loss + p.beta * batch.mean(kl(batch.logits, batch.logits_adv))
        return loss
