"""Square Attack (Andriushchenko et al., ECCV 2020, alg. 1 to 3) with the margin loss: black-box, so masked gradients do
not stop it. In a box (L-infinity) it tries squares of one colour, in an L2 ball small mountains and valleys.

Short runs serve as a probe; the full attack of 5,000 queries is part of `--attack autoattack`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.losses import logit_margin
from trainables.threat_model import L2, LInf, ThreatModel, direction, length

P_INIT = 0.8
# share of the pixels that change, halved at these of 10,000 queries (the authors' schedule, rescaled to ``queries``)
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # L2: the first try has so many of them along a side


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
    """(B,) bool, which of the images ``x`` (B, C, H, W) a random search in the balls of radius ``eps`` finds
    misclassified, ``queries`` of them for each image. A threat model other than `L2` gets the squares of +-``eps``,
    projected."""
    moves = (Mountains if issubclass(threat, L2) else Squares)(eps, generator)
    best = threat(x, eps).project(moves.first(x))
    margin = logit_margin(forward(best), y)
    for query in range(queries):
        left = (margin <= 0).nonzero().squeeze(1)
        if not len(left):
            break
        share = P_INIT / 2 ** sum(query * 10_000 / queries > at for at in HALVINGS)
        standing = x[left]
        moved = threat(standing, eps).project(moves.next(standing, best[left], share))
        new = logit_margin(forward(moved), y[left])
        better = new > margin[left]
        best[left] = torch.where(better[:, None, None, None], moved, best[left])
        margin[left] = torch.where(better, new, margin[left])
    return margin > 0


class Squares:
    """The tries of alg. 2. ``first`` and ``next`` give images (B, C, H, W), from images ``x`` and the ``best`` tries of
    them so far; ``share`` of the pixels may change."""

    def __init__(self, eps: float, generator: torch.Generator | None):
        self.eps, self.generator = eps, generator

    def first(self, x: Tensor) -> Tensor:
        """Vertical stripes."""
        b, c, _, w = x.shape
        return x + self.eps * self.signs(x, b, c, 1, w)

    def next(self, x: Tensor, best: Tensor, share: float) -> Tensor:
        b, c, h, w = x.shape
        columns, lines = torch.arange(w, device=x.device), torch.arange(h, device=x.device)
        side = min(max(round((share * h * w) ** 0.5), 1), h - 1, w - 1) or 1
        top, start = self.places(x, side)
        inside = ((lines >= top[:, None]) & (lines < top[:, None] + side))[:, None, :, None] & (
            (columns >= start[:, None]) & (columns < start[:, None] + side)
        )[:, None, None, :]
        return torch.where(inside, x + self.eps * self.signs(x, b, c, 1, 1), best)

    def signs(self, x: Tensor, *shape: int) -> Tensor:
        """-1 or 1, at random."""
        return torch.rand(shape, device=x.device, generator=self.generator).round_().mul_(2).sub_(1)

    def places(self, x: Tensor, side: int) -> Tensor:
        """(2, B) int64: upper line and left column of a square for each image."""
        b, _, h, w = x.shape
        places = torch.rand(2, b, device=x.device, generator=self.generator)
        return (places * torch.tensor([[h - side + 1], [w - side + 1]], device=x.device)).long()


class Mountains(Squares):
    """The tries of alg. 3: a mountain beside a valley in one window, paid for with what another window has moved."""

    def first(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        side = max(1, min(h, w) // TILES)
        moved = torch.zeros_like(x)
        for top in range(0, h - side + 1, side):
            for left in range(0, w - side + 1, side):
                moved[:, :, top : top + side, left : left + side] = self.turned(x, side) * self.signs(x, b, c, 1, 1)
        return x + self.eps * direction(moved)

    def next(self, x: Tensor, best: Tensor, share: float) -> Tensor:
        b, c, h, w = x.shape
        side = max(round((share * h * w) ** 0.5), 3) // 2 * 2 + 1
        side = min(side, h, w)
        moved = best - x
        here, there = (window(moved, side, *self.places(x, side)) for _ in range(2))
        either = torch.zeros_like(moved, dtype=torch.bool)
        either[here] = either[there] = True
        budget = flat_length(moved * either).square() + (self.eps**2 - length(moved).square()).clamp(min=0) / c
        new = self.turned(x, side) * self.signs(x, b, c, 1, 1) + flat_direction(moved[here])
        moved[there] = 0
        moved[here] = flat_direction(new) * budget.sqrt()
        return x + self.eps * direction(moved)

    def turned(self, x: Tensor, side: int) -> Tensor:
        """(B, 1, side, side): the mountain beside the valley, or above it, at random."""
        beside = mountain_and_valley(side).to(x)
        turn = torch.rand((len(x), 1, 1, 1), device=x.device, generator=self.generator) > 0.5
        return torch.where(turn, beside.T, beside)


def window(x: Tensor, side: int, top: Tensor, left: Tensor) -> tuple[Tensor, ...]:
    """The index of a square for each image of ``x`` (B, C, H, W): ``x[window]`` is (B, C, side, side)."""
    along = torch.arange(side, device=x.device)
    images, channels = (torch.arange(n, device=x.device) for n in x.shape[:2])
    lines, columns = top[:, None] + along, left[:, None] + along
    return images[:, None, None, None], channels[:, None, None], lines[:, None, :, None], columns[:, None, None, :]


def flat_length(x: Tensor) -> Tensor:
    """(B, C, 1, 1) Euclidean lengths of the planes of ``x`` (B, C, H, W)."""
    return torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)


def flat_direction(x: Tensor) -> Tensor:
    """Each plane with length 1."""
    return x / flat_length(x).clamp(min=1e-12)


def mountain_and_valley(side: int) -> Tensor:
    """(side, side) of length 1: a mountain in the upper half, a valley in the lower (the paper's eta)."""
    upper = side // 2
    both = torch.cat([pyramid(upper, side), -pyramid(side - upper, side)])
    return both / both.norm()


def pyramid(height: int, width: int) -> Tensor:
    """(height, width) of length 1: rectangles that grow by one pixel on each side, the k-th 1 / k^2 high, summed."""
    found = torch.zeros(height, width)
    at, left = height // 2, width // 2
    for k in range(max(at, left) + 1):
        found[max(at - k, 0) : at + k + 1, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** 2
    return found / found.norm() if height else found
