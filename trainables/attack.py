"""The one attack of training and evaluation: projected gradient ascent (PGD) in the ball of a `ThreatModel`.

Conventions, because published codes differ in them: the first iterate is ``x_start`` as it is given (``start_point``
says which lie in the ball); a step ends with the projection on the ball and on [0, 1], outside the autograd graph (a
clamp inside it zeroes the gradient at exact 0 and 1 pixels and looks like robustness); the last iterate is returned.
Parameter gradients are never computed. The caller decides the batch norm mode of ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.threat_model import LInf, ThreatModel, per_image


def start_point(
    x: Tensor,
    eps: float | Tensor,
    start: str,
    generator: torch.Generator | None = None,
    threat: type[ThreatModel] = LInf,
) -> Tensor:
    """Where the attack on ``x`` (B, ...) begins; ``ValueError`` for another ``start`` than these:

    "none" at x; "uniform" in the ball of radius ``eps`` (a number or (B,)) and in [0, 1]; "gaussian" x + 0.001 N(0, 1),
    unclipped as TRADES has it (attacks on the KL divergence need it: its gradient vanishes at x).
    """
    if start == "none":
        return x.clone()
    if start == "uniform":
        return threat(x, eps).start(generator)
    if start == "gaussian":
        return x + 0.001 * torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
    raise ValueError(f"unknown attack start {start!r}; choose one of: none, uniform, gaussian")


def pgd(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    eps: float | Tensor,
    step: float | Tensor,
    steps: int,
    x_start: Tensor | None = None,
    stop_after: int | None = None,
    threat: type[ThreatModel] = LInf,
) -> tuple[Tensor, Tensor]:
    """Maximise ``loss(forward(x'), y)`` over the balls of radius ``eps`` by ``steps`` steps (Madry et al., ICLR 2018).

    ``x`` (B, ...) in [0, 1]; ``loss`` gives (B,); ``eps`` and ``step`` are a number or (B,), in the unit of the
    norm; ``x_start`` defaults to ``x``. With ``stop_after`` = tau a sample is frozen once it has been misclassified at
    tau + 1 iterates (Friendly AT, Zhang et al., ICML 2020).

    Returns ``x'`` and ``survived`` (B,) int64: how many of the iterates 0 .. steps-1 were classified right (GAIRAT's
    kappa).
    """
    ball, step = threat(x, eps), per_image(step, x)
    x_adv = (x if x_start is None else x_start).detach().clone()
    survived = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    wrong = torch.zeros_like(survived)
    for _ in range(steps):
        x_adv.requires_grad_(True)
        with torch.enable_grad():
            logits = forward(x_adv)
            losses = loss(logits, y)
            (grad,) = torch.autograd.grad(losses.sum(), x_adv)  # a gradient given for each would import sympy: 0.6 s
        with torch.no_grad():
            right = logits.argmax(1) == y
            survived += right
            size = step
            if stop_after is not None:
                wrong += ~right
                size = step * per_image(wrong <= stop_after, x)
            x_adv = ball.step(x_adv, grad, size)
    return x_adv.detach(), survived
