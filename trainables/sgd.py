"""Stochastic gradient descent with momentum: torch's own update without the class around it.

A ``torch.optim.SGD`` imports torch's compiler, which costs every process that trains seconds and memory; the function
that the class calls does not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """To the bit what ``torch.optim.SGD`` does with ``momentum``, ``weight_decay``, ``nesterov`` and ``fused``; ``lr``
    may change."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        fused: bool,
        nesterov: bool = False,
    ):
        self.params, self.lr, self.momentum, self.weight_decay = list(params), lr, momentum, weight_decay
        self.fused, self.nesterov = fused, nesterov
        self.buffers: list[Tensor | None] = [None] * len(self.params)

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        live = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, buffers = [self.params[i] for i in live], [self.buffers[i] for i in live]
        sgd(
            params,
            [p.grad for p in params],
            buffers,
            foreach=False if self.fused else None,
            fused=self.fused,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
        )
        for i, buffer in zip(live, buffers):
            self.buffers[i] = buffer

    def state_dict(self) -> dict:
        return {"momentum": list(self.buffers)}

    def load_state_dict(self, state: dict) -> None:
        """Copies, on the device of the parameters."""
        kept = zip(state["momentum"], self.params, strict=True)
        self.buffers = [None if b is None else b.to(p.device, copy=True) for b, p in kept]
