"""FAIR-TAT (Medi et al., WACV 2025, as in the authors' code): mean CE(x'), x' attacked towards a class drawn by its
share of the false predictions, within (lambda + class accuracy) eps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.method import Batch, EpochStats, Method
from trainables.methods.cfa import calibrated


def target_probs(false_positives: Tensor, sharpness: float) -> Tensor:
    """(K,) softmax of sharpness * the class's share of all false predictions; uniform where there are none."""
    return (sharpness * false_positives / false_positives.sum().clamp(min=1)).softmax(0)


def other_class(probs: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) a class drawn by ``probs`` (K,) for each label in ``y`` (B,), never the label itself."""
    return torch.multinomial(probs.expand(len(y), -1).scatter(1, y[:, None], 0.0), 1, generator=generator)[:, 0]


class Fairtat(Method):
    """The attack lowers the cross-entropy towards its target; the loss is that of plain AT. Targets are drawn anew for
    every image and step. Accuracy and false predictions are those of the epoch before; before the first, targets are
    uniform and radii eps. As in CFA the attack's step stays whatever the radius."""

    name = "fairtat"
    steps_with_radius = False

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("robust_acc", torch.full((task.classes,), torch.nan, dtype=torch.float64))
        self.register_buffer("probs", torch.full((task.classes,), 1 / task.classes, dtype=torch.float64))

    def end_epoch(self, stats: EpochStats) -> None:
        self.robust_acc.copy_(stats.train_robust_acc())
        if self.params.targets == "confusion":
            self.probs.copy_(target_probs(stats.train_predicted - stats.train_robust, self.params.sharpness))

    def attack_labels(self, y: Tensor, generator: torch.Generator) -> Tensor:
        return other_class(self.probs, y, generator)

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        return -F.cross_entropy(logits_adv, y, reduction="none")

    def eps_scale(self, y: Tensor) -> Tensor:
        if not self.params.class_eps:
            return super().eps_scale(y)
        return calibrated(self.params.lambda_r, self.robust_acc)[y]

    def forward(self, batch: Batch) -> Tensor:
        return batch.mean(batch.cross_entropy(batch.logits_adv))
