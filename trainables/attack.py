"""The one attack of training and evaluation: projected gradient ascent in the L-infinity ball.

Conventions, because published codes differ in them: the first iterate is ``x_start`` as it is given (``start_point``
says which lie in the ball); a step is ``x + step * sign(gradient)`` with sign(0) = 0, then projection on the ball, then
on [0, 1]; the projection is outside the autograd graph (a clamp inside it zeroes the gradient at exact 0 and 1 pixels
and looks like robustness); the last iterate is returned. Parameter gradients are never computed. The caller decides the
batch norm mode of ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def start_point(x: Tensor, eps: Tensor, start: str, generator: torch.Generator | None = None) -> Tensor:
    """Where the attack begins: "none" at x; "uniform" in the ball and in [0, 1]; "gaussian" x + 0.001 N(0, 1),
    unclipped as published (KL attacks need it: their gradient vanishes at x)."""
    if start == "none":
        return x.clone()
    if start == "uniform":
        noise = torch.rand(x.shape, device=x.device, dtype=x.dtype, generator=generator) * 2 - 1
        return (x + eps * noise).clamp_(0, 1)
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
) -> tuple[Tensor, Tensor]:
    """Maximise ``loss(forward(x'), y)`` over ``|x' - x| <= eps`` by ``steps`` signed steps.

    ``x`` (B, ...) in [0, 1]; ``loss`` gives (B,); ``eps`` and ``step`` are a number or (B,), in pixel units;
    ``x_start`` defaults to ``x``. With ``stop_after`` = tau a sample is frozen once it has been misclassified at
    tau + 1 iterates (Friendly AT, Zhang et al. 2020).

    Returns ``x'`` and ``survived`` (B,) int64: how many of the iterates 0 .. steps-1 were classified right (GAIRAT's
    kappa).
    """
    shape = (-1,) + (1,) * (x.dim() - 1)
    # a number is written by the device itself: a copy from the host could not be recorded (``Replayed``)
    eps, step = (v.to(x) if isinstance(v, Tensor) else x.new_full((1,), v) for v in (eps, step))
    eps, step = eps.reshape(shape), step.reshape(shape)
    low, high = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
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
            direction = grad.sign()
            if stop_after is not None:
                wrong += ~right
                direction *= (wrong <= stop_after).to(grad.dtype).reshape(shape)
            x_adv = torch.addcmul(x_adv, direction, step).clamp_(low, high)
    return x_adv.detach(), survived
