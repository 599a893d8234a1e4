"""Confusional spectral regularisation (Jin et al., ICLR 2025, as in the authors' code): images weigh by how much their
confusion adds to the spectral norm of the robust confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, EpochStats, Method, start_epoch

SMALLEST = 0.01


def spectral_weights(confusion: Tensor, scale: float) -> Tensor:
    """(K, K) weights of (predicted, true) class: u v^T of the leading singular pair, moved and stretched to
    [0.01, scale + 0.01].

    ``confusion`` (K, K) has in column j the shares of class j that are predicted as each class; its diagonal is not
    read. u v^T is the gradient of the largest singular value. Without any confusion there is none: ones.
    """
    confusion = confusion - confusion.diagonal().diag()
    if not confusion.any():
        return torch.ones_like(confusion)
    left, _, right = torch.linalg.svd(confusion)
    pair = torch.outer(left[:, 0], right[0])
    return scale * (pair - pair.min()) / (pair.max() - pair.min()) + SMALLEST


class Spectral(Method):
    """(1 - share) mean CE(x) + beta mean KL + share mean w CE(x'), w by the predicted class of x' and y; at: CE(x')
    in the first term and no KL.

    Their third term is the divergence from w one-hot(y), which differs by w log w: it has no gradient. w is renewed
    after every epoch from its `EpochStats.train_confusion`.
    """

    name = "spectral"

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("weights", torch.ones(task.classes, task.classes, dtype=torch.float64))

    def end_epoch(self, stats: EpochStats) -> None:
        if stats.epoch + 1 < start_epoch(self.params, self.task.max_epochs):
            return
        rates = stats.train_confusion / stats.train_count.clamp(min=1)[:, None]
        self.weights.copy_(spectral_weights(rates.T, self.params.scale))

    def forward(self, batch: Batch):
        if not self.started(batch.epoch):
            return self.reduce(batch)
        share, logits = self.params.share, batch.logits_adv
        weights = self.weights[logits.argmax(1), batch.y]
        base = self.reduce(batch, torch.full_like(weights, 1 - share))
        return base + batch.mean(batch.cross_entropy(logits), share * weights)
