"""TAET (Yu-Hang et al., CVPR 2025, as in the authors' code): clean cross-entropy first, then alpha mean_c L_c + beta
var_c L_c + gamma sum_c (L_c / sum L)^2 of the class losses L_c."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from trainables.losses import class_sizes, class_sums
from trainables.method import Attack, Batch, Method


def equalisation(risks: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """Scalar from the class losses ``risks`` (K,). The variance is the biased one (divided by K)."""
    shares = risks / (risks.sum() + 1e-10)
    return alpha * risks.mean() + beta * risks.var(correction=0) + gamma * shares.square().sum()


class Taet(Method):
    """L_c is the mean CE(x') of the batch's images of class c; 0, as published, for a class that is absent."""

    name = "taet"

    def clean_stage(self, epoch: int) -> bool:
        return epoch < round(self.params.clean * self.task.max_epochs)

    def attacks(self, base: Attack, epoch: int) -> Sequence[Attack]:
        """An attack without steps leaves the image as it is."""
        return (replace(base, steps=0, start="none") if self.clean_stage(epoch) else base,)

    def forward(self, batch: Batch) -> Tensor:
        losses = batch.cross_entropy(batch.logits_adv)
        if self.clean_stage(batch.epoch):
            return batch.mean(losses)
        classes = self.task.classes
        sizes = class_sizes(batch.y, classes, losses.dtype).clamp(min=1)
        even = len(losses) / (classes * sizes)  # with these weights the mean of the batch is that of the classes
        risks = class_sums(batch.weighted(losses, even[batch.y]), batch.y, classes) * (classes / len(losses))
        return equalisation(risks, self.params.alpha, self.params.beta, self.params.gamma)
