"""Work for a GPU, recorded once and replayed: a small network's kernels end sooner than Python launches the next.

Needs what a CUDA graph needs: fixed shapes, no waiting for the device, and nothing read but the arguments and tensors
that stay where they are (weights and buffers that are updated in place).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Work = Callable[..., tuple[Tensor, ...] | None]


class Replayed:
    """``function(*tensors) -> tensors or None``, to the bit: its first call runs it (libraries warm up, compilers
    compile), the second records it, all later ones replay that. Every call's arguments have the first one's shapes."""

    def __init__(self, function: Work, pool):
        self.function, self.pool, self.warm = function, pool, False
        self.graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...] | None:
        if not self.warm:
            self.warm = True
            return self.function(*inputs)
        if self.graph is None:
            self._inputs = [torch.empty_like(t) for t in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=self.pool):
                self._outputs = self.function(*self._inputs)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self._outputs and tuple(t.clone() for t in self._outputs)  # any replay may write over them


class Recorder:
    """``recorder(key, function)`` is ``function``; where ``on``, it is recorded under ``key``, and the first one stays.

    All that a recorder holds shares memory, so nothing of it may run at the same time.
    """

    def __init__(self, on: bool):
        self.on = on
        self.pool = torch.cuda.graph_pool_handle() if on else None
        self.made: dict[Hashable, Replayed] = {}

    def __call__(self, key: Hashable, function: Work) -> Work:
        if not self.on:
            return function
        if key not in self.made:
            self.made[key] = Replayed(function, self.pool)
        return self.made[key]
