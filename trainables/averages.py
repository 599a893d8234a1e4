"""Shared options that act on the weights: moving averages, and adversarial weight perturbation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class WeightAverage:
    """A running average of a model, batch norm buffers included: average <- decay * average + (1 - decay) * model."""

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1.0 - decay)
            else:
                mine.copy_(theirs)


def warmed_up(decay: float, step: int) -> float:
    """The decay for the 0-based ``step``: at most (1 + step) / (10 + step), so that the random weights a training
    starts from are forgotten at once. With a constant 0.999 they still make up 64 % of the average after 448 steps."""
    return min(decay, (1 + step) / (10 + step))


Gradients = Sequence[Tensor | None]


def perturbed_weights(
    model: nn.Module, loss: Callable[[], Tensor], gamma: float, added: Callable[[Gradients], Gradients] = tuple
) -> list[tuple[Tensor, Tensor]]:
    """Adversarial weight perturbation (Wu et al., NeurIPS 2020, eq. 8-10), one step, applied in place.

    Every weight matrix w moves by ``gamma * |w| * g / |g|`` with g the gradient of ``loss()``, of which this process
    may have a part that ``added`` completes. Returns the pairs (weight, move); subtracting each move restores the
    model.
    """
    weights = [p for p in model.parameters() if p.dim() > 1 and p.requires_grad]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:  # this pass must not touch the running statistics
        m.momentum = 0.0
    grads = added(torch.autograd.grad(loss(), weights, allow_unused=True))
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum
    moves = []
    with torch.no_grad():
        for w, g in zip(weights, grads):
            if g is not None:
                move = gamma * w.norm() * g / (g.norm() + 1e-12)
                w.add_(move)
                moves.append((w, move))
    return moves
