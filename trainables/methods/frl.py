"""FRL (Xu et al., ICML 2021, alg. 1 and 2): fairness constraints on validation errors, solved by dual ascent
per epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import to_mean_one
from trainables.method import Batch, EpochStats, Method, start_epoch


def ascend(lam: Tensor, gap: Tensor, rate: float, limit: float) -> Tensor:
    """(K,) max(lam + rate * gap, 0), rescaled to sum ``limit`` where the sum is larger."""
    lam = (lam + rate * gap).clamp(min=0)
    total = lam.sum()
    return torch.where(total > limit, lam * (limit / total.clamp(min=1e-30)), lam)


def weights_of(lam: Tensor) -> Tensor:
    """(K,) 1/K + lam_c - (1/K) sum lam: class weights of sum 1."""
    return (1 - lam.sum()) / len(lam) + lam


def radius_of(lam: Tensor, largest: float) -> Tensor:
    """(K,) factor on the radius, exp(2 lam) clipped to [0.98, largest]."""
    return (2 * lam).exp().clamp(0.98, largest)


class Frl(Method):
    """mean W_y CE(x) + beta * mean V_y KL, with W_y and V_y scaled to mean 1 in each batch.

    Remargin moves the weights of the clean error and, in place of those of the boundary error, the radii. Only the
    weights' dual variables are clamped and limited, as in the authors' code. Their attack with radii
    steps by a quarter of the batch's largest radius; ours by the same fraction of each sample's own radius as
    everywhere.
    """

    name = "frl"
    form = "trades"

    def __init__(self, params, task):
        super().__init__(params, task)
        for name in ("clean", "boundary", "remargin"):
            self.register_buffer(f"lam_{name}", torch.zeros(task.classes, dtype=torch.float64))

    def update(self, clean_error: Tensor, boundary_error: Tensor, mean_clean: Tensor, mean_boundary: Tensor) -> None:
        """One dual step from per-class errors (K,) and the overall ones (scalars). boundary = clean minus
        robust accuracy."""
        p = self.params
        clean_gap = clean_error - mean_clean - p.bound_clean
        boundary_gap = boundary_error - mean_boundary - p.bound_boundary
        self.lam_clean.copy_(ascend(self.lam_clean, clean_gap, p.rate, p.limit))
        if p.mode != "remargin":
            self.lam_boundary.copy_(ascend(self.lam_boundary, boundary_gap, 2 * p.rate, p.limit))
        if p.mode != "reweight":
            self.lam_remargin += p.margin_rate * boundary_gap

    def end_epoch(self, stats: EpochStats) -> None:
        if stats.epoch + 1 < start_epoch(self.params, self.task.max_epochs):
            return
        to = self.lam_clean.device
        clean, robust = stats.val_clean_acc().to(to), stats.val_robust_acc().to(to)
        mean_clean, mean_robust = clean.mean(), robust.mean()  # over the classes, of which `val` has unequal numbers
        self.update(1 - clean, clean - robust, 1 - mean_clean, mean_clean - mean_robust)

    def class_weights(self) -> dict[str, Tensor]:
        """(K,) class weights, sum 1, of the two terms."""
        return {"weight_clean": weights_of(self.lam_clean), "weight_boundary": weights_of(self.lam_boundary)}

    def eps_scale(self, y: Tensor) -> Tensor:
        return radius_of(self.lam_remargin, self.params.max_radius)[y]

    def forward(self, batch: Batch):
        clean, boundary = self.class_weights().values()
        return self.reduce(batch, to_mean_one(clean[batch.y]), to_mean_one(boundary[batch.y]))
