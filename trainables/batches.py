"""Which images a training step sees: shuffled epochs, same-class partners, or classes drawn by the method."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Batches:
    """Row numbers of a training split's batches, drawn on the split's device by a generator.

    A pass is a fresh shuffle cut into equal batches; the remainder waits for the next shuffle, so that shapes stay
    fixed. A split smaller than one batch is one batch. An epoch is ``passes`` passes.
    """

    def __init__(self, labels: Tensor, classes: int, batch_size: int, passes: int = 1):
        self.labels, self.passes = labels, passes
        self.batch_size = min(batch_size, len(labels))
        self.by_class = labels.argsort(stable=True)
        self.counts = torch.bincount(labels, minlength=classes)
        self.offsets = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size * self.passes

    def epoch(self, method, generator: torch.Generator) -> Iterator[Tensor]:
        """One epoch's batches (B,). A method with ``sampling_weights`` draws every batch anew, class by class."""
        for _ in range(self.passes):
            order = torch.randperm(len(self.labels), device=self.labels.device, generator=generator)
            for i in range(len(self) // self.passes):
                weights = method.sampling_weights()
                rows = order[i * self.batch_size : (i + 1) * self.batch_size]
                yield rows if weights is None else self._of_classes(weights, generator)

    def _of_classes(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        weights = torch.where(self.counts > 0, weights.to(self.labels.device), 0.0)
        y = torch.multinomial(weights, self.batch_size, replacement=True, generator=generator)
        return self._one_of(y, self.counts[y], generator)

    def _one_of(self, y: Tensor, choices: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand(len(y), device=y.device, generator=generator, dtype=torch.float64)
        return self.by_class[self.offsets[y] + (draw * choices).long()]

    def partners(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """For each row another row of the same class, drawn from the whole split; itself only if it is alone."""
        y = self.labels[rows]
        other = self._one_of(y, (self.counts[y] - 1).clamp(min=1), generator)
        last = self.by_class[self.offsets[y] + self.counts[y] - 1]
        return torch.where(other == rows, last, other)
