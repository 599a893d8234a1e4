"""PGD adversarial training as the public method repositories write it: what the speed core is measured against.

float32, contiguous images, one model that is switched between evaluation and training mode, and `loss.backward()` in
the attack, which also computes the gradient of every parameter and throws it away.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def naive_attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    model.eval()
    x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        model.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        x_adv = x_adv.detach() + step * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach()


def naive_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """One training step; the loss, without a synchronisation."""
    x_adv = naive_attack(model, x, y, eps, step, steps)
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x_adv), y)
    loss.backward()
    optimizer.step()
    return loss.detach()
