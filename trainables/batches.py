"""Which images a training step sees: shuffled epochs, same-class partners, or classes drawn by the method."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Batches:
    """Row numbers of a training split's batches, drawn on the split's device by a generator.

    A pass is a fresh shuffle cut into equal batches; the remainder waits for the next shuffle, so that shapes stay
    fixed. A split smaller than one batch is one batch. An epoch is ``passes`` passes.

    With ``extra``, the labels of more images, each batch has ``share`` of them in place of as many of the split's own,
    each once before any comes again (Gowal et al., NeurIPS 2021); their rows are counted on from the split's. An epoch
    keeps the length that it has without them, so of the split a pass sees a part, another one each time.
    """

    def __init__(
        self,
        labels: Tensor,
        classes: int,
        batch_size: int,
        passes: int = 1,
        extra: Tensor | None = None,
        share: float = 0.0,
    ):
        self.labels, self.passes = labels, passes
        self.batch_size = min(batch_size, len(labels))
        self.own = OfClasses(labels, classes)
        self.extra, self.extras = None, 0
        if extra is not None:
            self.labels = torch.cat([labels, extra])
            self.extra = OfClasses(extra, classes, first=len(labels))
            self.extras = min(max(round(share * self.batch_size), 1), self.batch_size - 1)

    def __len__(self) -> int:
        return len(self.own.labels) // self.batch_size * self.passes

    def epoch(self, method, generator: torch.Generator) -> Iterator[Tensor]:
        """One epoch's batches (B,). A method with ``sampling_weights`` draws every batch anew, class by class."""
        own, more = self.batch_size - self.extras, self._extra_rows(generator)
        for _ in range(self.passes):
            order = torch.randperm(len(self.own.labels), device=self.labels.device, generator=generator)
            for i in range(len(self) // self.passes):
                weights = method.sampling_weights()
                rows = order[i * own : (i + 1) * own]
                if self.extras:
                    rows = torch.cat([rows, next(more)])
                yield rows if weights is None else self._of_classes(weights, generator)

    def _extra_rows(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Rows of extra images without end, as many at a time as a batch has."""
        waiting = self.labels[:0]
        while self.extras:
            while len(waiting) < self.extras:
                order = torch.randperm(len(self.extra.labels), device=self.labels.device, generator=generator)
                waiting = torch.cat([waiting, self.extra.first + order])
            yield waiting[: self.extras]
            waiting = waiting[self.extras :]

    def _of_classes(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """A batch of classes drawn by ``weights`` (K,); its last images are extra ones, where the class has any."""
        weights = torch.where(self.own.counts > 0, weights.to(self.labels.device), 0.0)
        y = torch.multinomial(weights, self.batch_size, replacement=True, generator=generator)
        rows = self.own.one_of(y, self.own.counts[y], generator)
        if not self.extras:
            return rows
        there = self.extra.counts[y[-self.extras :]] > 0
        some = torch.where(there, y[-self.extras :], self.extra.labels[0])
        more = self.extra.one_of(some, self.extra.counts[some], generator)
        return torch.cat([rows[: -self.extras], torch.where(there, more, rows[-self.extras :])])

    def partners(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """For each row another row of the same class, drawn from the whole split; itself only if it is alone. An extra
        image's is of the split, too."""
        y = self.labels[rows]
        alone = (self.own.counts[y] - 1).clamp(min=1)
        choices = torch.where(rows < len(self.own.labels), alone, self.own.counts[y]) if self.extras else alone
        other = self.own.one_of(y, choices, generator)
        last = self.own.by_class[self.own.offsets[y] + self.own.counts[y] - 1]
        return torch.where(other == rows, last, other)


class OfClasses:
    """Images by their labels (N,); their rows are counted from ``first``. ``counts`` (K,)."""

    def __init__(self, labels: Tensor, classes: int, first: int = 0):
        self.labels, self.first = labels, first
        self.by_class = labels.argsort(stable=True)
        self.counts = torch.bincount(labels, minlength=classes)
        self.offsets = self.counts.cumsum(0) - self.counts

    def one_of(self, y: Tensor, choices: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) the row of an image of each class ``y`` (B,), one of the first ``choices`` (B,) of it."""
        draw = torch.rand(len(y), device=y.device, generator=generator, dtype=torch.float64)
        return self.first + self.by_class[self.offsets[y] + (draw * choices).long()]
