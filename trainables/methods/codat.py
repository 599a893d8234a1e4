"""CODAT (arXiv:2501.04527): mean_c R_c + sqrt(2 rho Var_c R_c) over the class risks of the batch.

The form is derived from chi-square DRO; no code was found, and taking the risks from the batch is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, Method
from trainables.methods.done import class_risks


def chi_square_weights(risks: Tensor, rho: float, clip: bool = True) -> Tensor:
    """(K,) q_c = 1/K' + sqrt(2 rho) (R_c - mean) / (K' std) over the K' classes present (risk not -inf), sum 1.

    sum_c q_c R_c is mean + sqrt(2 rho Var), and q its gradient. A q below 0 (possible from rho > 1 / (2 (K' -
    1)) on) would push a class's loss up; with ``clip`` it becomes 0 and the rest is rescaled.
    """
    present = risks.isfinite()
    n = present.sum()
    risks = torch.where(present, risks, 0.0)
    centred = torch.where(present, risks - risks.sum() / n, 0.0)
    std = (centred.square().sum() / n).sqrt()
    q = torch.where(present, (1 + (2 * rho) ** 0.5 * centred / std.clamp(min=1e-12)) / n, 0.0)
    if not clip:
        return q
    q = q.clamp(min=0)
    return q / q.sum()


class Codat(Method):
    name = "codat"

    def forward(self, batch: Batch):
        losses = batch.cross_entropy(batch.logits_adv)
        risks, sizes = class_risks(losses.detach(), batch.y, self.task.classes)
        q = chi_square_weights(risks, self.params.rho, self.params.clip)
        return batch.mean(losses, len(losses) * (q / sizes.clamp(min=1))[batch.y])
