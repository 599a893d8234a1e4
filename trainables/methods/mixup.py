"""Domain Mixup (Zhong and Tandon, arXiv:2411.14424): attack and train on a x_i + (1 - a) x_j with y_i = y_j."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, Method
from trainables.threat_model import per_image


def mixed(x: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """(B, ...) share * x + (1 - share) * partners with ``share`` (B,); convex, so it stays in [0, 1]."""
    return torch.lerp(partners, x, per_image(share, x))


def beta_shares(n: int, q: float, generator: torch.Generator) -> Tensor:
    """(n,) draws from Beta(q, q), as the ratio of gamma draws, on the generator's device."""
    shape = torch.full((2, n), q, dtype=torch.float64, device=generator.device)
    # private, but the only one that takes a generator
    first, second = torch._standard_gamma(shape, generator=generator).clamp(min=1e-300)
    return first / (first + second)


class Mixup(Method):
    """The label is not mixed, the ball is around the mixed image, evaluation is on unmixed images."""

    name = "mixup"
    needs_partners = True

    def mix(self, x: Tensor, y: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
        p = self.params
        if p.kind == "beta":
            return mixed(x, partners, beta_shares(len(x), p.q, generator))
        return mixed(x, partners, torch.full((len(x),), p.share, device=x.device))

    def forward(self, batch: Batch):
        return batch.mean(batch.cross_entropy(batch.logits_adv))
