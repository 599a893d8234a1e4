"""DONE (Sow et al., ICLR 2024, eq. 5-7): the closed-form weights of KL-regularised distributionally robust training.

Without ``barrier``, the default, the adversarial image is a constant: KL-DRO weighted PGD-AT. The authors'
exact solver and constants could not be read; the compositional estimate below is the standard SCGD form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainables.losses import class_sizes, class_sums, full_precision
from trainables.method import Batch, Method, start_epoch
from trainables.threat_model import per_image
from trainables.threats import LINF


def soft_maximum(losses: Tensor, r: float) -> Tensor:
    """Scalar r log mean_i exp(losses_i / r), the worst case over weights (eq. 6); entries of -inf are left out."""
    return r * (torch.logsumexp(losses / r, 0) - losses.isfinite().sum().to(losses.dtype).log())


def dro_weights(losses: Tensor, r: float) -> Tensor:
    """(B,) exp(l_i / r) / sum_j exp(l_j / r), sum 1 (eq. 5); the gradient of ``soft_maximum``, itself without
    gradient."""
    return torch.softmax(losses.detach() / r, 0)


def running_log_mean(previous: Tensor, losses: Tensor, r: float, eta: float) -> Tensor:
    """Scalar r log u with u <- (1 - eta) u + eta mean exp(losses / r), in log space; ``previous`` = -inf: the
    first batch."""
    now = soft_maximum(losses.detach(), r)
    mixed = r * torch.logaddexp(math.log1p(-eta) + previous / r, math.log(eta) + now / r)
    return torch.where(previous.isinf(), now, mixed)


def class_risks(losses: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(K,) mean loss of each class in the batch, -inf where it is absent, and (K,) class sizes."""
    sizes = class_sizes(y, classes, losses.dtype)
    return torch.where(sizes > 0, class_sums(losses, y, classes) / sizes.clamp(min=1), -torch.inf), sizes


def implicit_term(x: Tensor, x_adv: Tensor, losses: Tensor, eps: Tensor, c: float) -> Tensor:
    """(B,) a term of value 0 whose gradient is d delta*/d theta dl/d delta for the log-barrier inner problem (eq. 7).

    delta = x_adv - x lies inside the box [max(-eps, -x), min(eps, 1 - x)]; ``losses`` (B,) were computed from
    ``x_adv``, which requires grad. With ReLU networks the Hessian is that of the barrier, diag(c / (ub - d)^2
    + c / (d - lb)^2).
    """
    (slope,) = torch.autograd.grad(losses.sum(), x_adv, create_graph=True)
    with torch.no_grad():
        d = x_adv - x
        above, below = torch.minimum(eps, 1 - x) - d, d - torch.maximum(-eps, -x)
        step = slope / (c / above.square() + c / below.square())
        step = torch.where((above > 0) & (below > 0), step, torch.zeros_like(step))
    implicit = (slope * step).flatten(1).sum(1)
    return implicit - implicit.detach()


class Done(Method):
    """sum_i w_i l_i with l_i = CE(x'_i), w_i = exp(l_i / r) / (B u): u the batch's own mean of exp(l / r), or the
    running one. ``form="trades"`` (ours): l_i = CE(x_i) + beta KL(p(x_i) || p(x'_i))."""

    name = "done"

    def __init__(self, params, task):
        super().__init__(params, task)
        if params.barrier and task.threat != LINF:
            raise ValueError(f"done with barrier=True is made for the box of linf, not for {task.threat}")
        self.register_buffer("r_log_u", torch.tensor(-torch.inf, dtype=torch.float64))
        self._next = None

    def r_at(self, epoch: int) -> float:
        p, first = self.params, start_epoch(self.params, self.task.max_epochs)
        if p.schedule == "constant":
            return p.r
        done = (epoch - first) / max(self.task.max_epochs - 1 - first, 1)
        return p.r_start * (p.r / p.r_start) ** min(max(done, 0.0), 1.0)

    def weights(self, losses: Tensor, y: Tensor, r: float) -> Tensor:
        """(B,) weights of sum 1 (about 1 with the running normaliser)."""
        risks, sizes = losses.detach(), None
        if self.params.level == "class":
            risks, sizes = class_risks(risks, y, self.task.classes)
        weights = dro_weights(risks, r)
        if self.params.normaliser == "running":
            self._next = running_log_mean(self.r_log_u, risks.double(), r, self.params.eta)
            weights = weights * ((soft_maximum(risks.double(), r) - self._next) / r).exp()
        return weights if sizes is None else (weights / sizes.clamp(min=1))[y]

    def sample_loss(self, batch: Batch) -> Tensor:
        """(B,) the losses whose worst case is trained."""
        main, regulariser = self.terms(batch)
        return main if regulariser is None else main + self.params.beta * regulariser

    def forward(self, batch: Batch):
        losses = full_precision(self.sample_loss(batch))
        if not self.started(batch.epoch):
            return batch.mean(losses)
        weights = len(losses) * self.weights(losses, batch.y, self.r_at(batch.epoch))
        loss = batch.mean(losses, weights)
        if self.params.barrier:
            loss = loss + batch.mean(self._implicit(batch), weights)
        return loss

    def _implicit(self, batch: Batch) -> Tensor:
        """One more forward pass: sign attacks end on the box's corners, where the barrier has no interior to
        move in."""
        inside = (batch.x + self.params.shrink * (batch.x_adv - batch.x)).detach().requires_grad_(True)
        eps = (self.task.eps * self.eps_scale(batch.y)).to(inside.dtype)
        losses = batch.cross_entropy(batch.forward(inside)[0])
        return implicit_term(batch.x, inside, losses, per_image(eps, inside), self.params.barrier_weight)

    def end_step(self, batch: Batch) -> None:
        if self._next is not None:
            self.r_log_u.copy_(self._next)
