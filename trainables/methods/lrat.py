"""LRAT (Gao et al., arXiv:2106.15776, eq. 7, 11, 12, 15): weights per image and attack by the probability margin."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainables.losses import prob_shortfall
from trainables.method import Attack, Batch, Method

LOSSES = {"pgd": "ce", "cw": "margin", "saa": "dlr-targeted"}


def simulated(names: str, base: Attack) -> tuple[Attack, ...]:
    """The attacks of a list such as "saa+cw", with the configured steps; SAA, which adapts its step, takes
    twice as many.

    The paper's are 10 steps of eps / 10 for pgd and cw and 20 for saa with 3 targets.
    """
    return tuple(
        replace(base, loss=LOSSES[name], steps=base.steps * (2 if name == "saa" else 1)) for name in names.split("+")
    )


def pair_weights(shortfall: Tensor, alpha: float, power: float) -> Tensor:
    """(M, B) w_ij = alpha (1 - t_ij)^power from the shortfall 1 - t_ij (M attacks, B images), clamped at 0 (eq. 12)."""
    return alpha * shortfall.clamp(min=0) ** power


def residual_weights(weights: Tensor, minimum: float) -> Tensor:
    """(B,) [C - sum_j w_ij]_+ from weights (M, B)."""
    return (minimum - weights.sum(0)).clamp(min=0)


class Lrat(Method):
    """mean_i { [C - sum_j w_ij]_+ CE(x*_i) + sum_j w_ij CE(x_ij) }; x* is nothing, x or the SAA image
    (appendix B a, b, c).

    The weights are constants for the gradient and are normalised per batch; the paper says neither, both are
    its natural reading. Where SAA is among the attacks its image serves as x* too, else it is one more
    attack, the last.
    """

    name = "lrat"

    def attacks(self, base: Attack, epoch: int):
        found = simulated(self.params.attacks, base)
        return found + simulated("saa", base) if self._extra else found

    @property
    def _extra(self) -> bool:
        return self.params.residual == "c" and "saa" not in self.params.attacks.split("+")

    def residual_logits(self, batch: Batch) -> Tensor:
        """(B, K) logits of x*."""
        if self.params.residual == "b":
            return batch.logits
        return batch.adversaries[-1 if self._extra else self.params.attacks.split("+").index("saa")].logits

    def weights(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(M, B) pair weights and (B,) residual weights, no gradient, normalised if asked."""
        p = self.params
        pairs = batch.adversaries[:-1] if self._extra else batch.adversaries
        shortfall = torch.stack([prob_shortfall(a.logits.detach(), batch.y) for a in pairs])
        weights = pair_weights(shortfall, p.alpha, p.power)
        residual = residual_weights(weights, p.minimum if p.residual != "a" else 0.0)
        scale = (residual + weights.sum(0)).mean().clamp(min=1e-30) if p.normalise else 1.0
        return weights / scale, residual / scale

    def forward(self, batch: Batch):
        weights, residual = self.weights(batch)
        loss = sum(batch.mean(batch.cross_entropy(a.logits), w) for a, w in zip(batch.adversaries, weights))
        if self.params.residual != "a":
            loss = loss + batch.mean(batch.cross_entropy(self.residual_logits(batch)), residual)
        batch.weights = weights.sum(0) + residual  # what `weight_ess` should describe
        return loss
