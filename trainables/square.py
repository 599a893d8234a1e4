"""Square Attack (Andriushchenko et al., ECCV 2020, alg. 1 and 2: L-infinity) with the margin loss: black-box, so masked
gradients do not stop it.

Short runs serve as a probe; the full attack of 5,000 queries is part of `--attack autoattack`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.losses import logit_margin
from trainables.threat_model import LInf, ThreatModel

P_INIT = 0.8
# share of the pixels that change, halved at these of 10,000 queries (the authors' schedule, rescaled to ``queries``)
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@torch.no_grad()
def square(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int,
    generator: torch.Generator | None = None,
    threat: type[ThreatModel] = LInf,
) -> Tensor:
    """(B,) bool, which of the images ``x`` (B, C, H, W) a random search finds misclassified: squares of +-``eps``,
    projected on the ball of that radius, ``queries`` of them for each image."""
    b, c, h, w = x.shape

    def signs(*shape) -> Tensor:
        return torch.rand(shape, device=x.device, generator=generator).round_().mul_(2).sub_(1).mul_(eps)

    best = threat(x, eps).project(x + signs(b, c, 1, w))  # vertical stripes
    margin = logit_margin(forward(best), y)
    columns, lines = torch.arange(w, device=x.device), torch.arange(h, device=x.device)
    for query in range(queries):
        left = (margin <= 0).nonzero().squeeze(1)
        if not len(left):
            break
        share = P_INIT / 2 ** sum(query * 10_000 / queries > at for at in HALVINGS)
        side = min(max(round((share * h * w) ** 0.5), 1), h - 1, w - 1) or 1
        top, start = (
            torch.rand(2, len(left), device=x.device, generator=generator)
            * torch.tensor([[h - side + 1], [w - side + 1]], device=x.device)
        ).long()
        inside = ((lines >= top[:, None]) & (lines < top[:, None] + side))[:, None, :, None] & (
            (columns >= start[:, None]) & (columns < start[:, None] + side)
        )[:, None, None, :]
        standing = x[left]
        moved = torch.where(inside, standing + signs(len(left), c, 1, 1), best[left])
        moved = threat(standing, eps).project(moved)
        new = logit_margin(forward(moved), y[left])
        better = new > margin[left]
        best[left] = torch.where(better[:, None, None, None], moved, best[left])
        margin[left] = torch.where(better, new, margin[left])
    return margin > 0
