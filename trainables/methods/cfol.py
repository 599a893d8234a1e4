"""CFOL (Pethick et al., TMLR 2023, alg. 1): log-weights over the classes, updated after every batch,
importance weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.class_weights import require_every_class
from trainables.losses import class_sums
from trainables.method import Batch, Method


def mixture(log_weights: Tensor, base: Tensor, gamma: float) -> Tensor:
    """(K,) gamma * base + (1 - gamma) * softmax(log_weights)."""
    return gamma * base + (1 - gamma) * torch.softmax(log_weights, 0)


def updated(log_weights: Tensor, wrong: Tensor, y: Tensor, p: Tensor, eta: float, eta_beta: float = 0.0) -> Tensor:
    """(K,) log_weights + sum over the samples of class c of (eta * wrong_i + eta_beta) / p_c; ``wrong`` (B,)
    is 0 or 1."""
    return log_weights + class_sums(eta * wrong.to(p) + eta_beta, y, len(p)) / p


class Cfol(Method):
    """sample: classes are drawn from the mixture, loss the plain mean CE(x'). reweight: images are drawn from
    the base distribution and weigh K * mixture_y, with the mixture from before this batch."""

    name = "cfol"

    def __init__(self, params, task):
        super().__init__(params, task)
        if "empirical" in (params.base, params.prior):
            require_every_class(task.class_counts, "cfol with an empirical distribution")
        fractions = {
            "empirical": task.class_counts.double() / task.class_counts.sum(),
            "uniform": torch.full((task.classes,), 1 / task.classes, dtype=torch.float64),
        }
        self.register_buffer("base", fractions[params.base])
        start = fractions["empirical"].log() if params.prior == "empirical" else torch.zeros_like(self.base)
        self.register_buffer("log_weights", start)

    def mixture(self) -> Tensor:
        """(K,) gamma * base + (1 - gamma) * softmax(w)."""
        return mixture(self.log_weights, self.base, self.params.gamma)

    def sampling_weights(self) -> Tensor:
        return self.base if self.params.mode == "reweight" else self.mixture()

    def forward(self, batch: Batch):
        weights = None
        if self.params.mode == "reweight":
            mixed = self.mixture()
            weights = len(mixed) * mixed[batch.y]
        return batch.mean(batch.cross_entropy(batch.logits_adv), weights)

    def end_step(self, batch: Batch) -> None:
        wrong = batch.logits_adv.detach().argmax(1) != batch.y
        self.log_weights.copy_(
            updated(self.log_weights, wrong, batch.y, self.sampling_weights(), self.params.eta, self.params.eta_beta)
        )
