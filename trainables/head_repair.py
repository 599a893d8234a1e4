"""Repair of a trained model's head, by the training setting ``head_repair``: class weight vectors of one length, or an
epoch of sharpness-aware tuning of the head alone.

Adversarial training leaves strong classes long weight vectors and weak ones short ones (second-hand: reviews of an ICLR
2026 submission, openreview df4mr7eQg7); the features are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.method import Batch
from trainables.sgd import SGD

RHO = 0.05  # radius of the move (Foret et al.'s default)
SLOWER = 0.1  # the tuning's learning rate as a fraction of the training's, ours


def equal_norms(model: nn.Module) -> nn.Module:
    """The head's rows at equal length, that of their mean; changed in place (Kang et al. 2020, tau-normalisation with
    tau 1, here with the bias left as it is)."""
    weight = linear_head(model).weight.data
    norms = weight.norm(dim=1, keepdim=True)
    weight.mul_(norms.mean() / norms)
    return model


def linear_head(model: nn.Module) -> nn.Linear:
    """The model's head; ``ValueError`` unless it is linear, e.g. cosine: its rows have one length already."""
    if type(model.head) is not nn.Linear:
        raise ValueError(f"a head {type(model.head).__name__} has no norms to repair")
    return model.head


def sharpest_move(weight: Tensor, grad: Tensor, rho: float = RHO) -> Tensor:
    """(K, D) rho r_k grad_k / |grad|, r = K softmax(-|weight_k|): the ascent step of sharpness-aware minimisation
    (Foret et al., ICLR 2021, eq. 2), longer for classes with short ``weight`` vectors (K, D).

    The scaling by class is second-hand. Where all vectors have one length it is plain SAM.
    """
    radius = len(weight) * (-weight.norm(dim=1, keepdim=True)).softmax(0)
    return rho * radius * grad / (grad.norm() + 1e-12)


def tune_head(model: nn.Module, batches: Iterable[Batch], *, lr: float, momentum: float, weight_decay: float) -> None:
    """Sharpness-aware minimisation of the head's loss over ``batches`` with their adversarial features, in place: the
    gradient is taken where `sharpest_move` leads. ``batches`` is asked for the next one after the head has changed."""
    head = linear_head(model)
    weight, bias = (p.detach().clone().requires_grad_() for p in (head.weight, head.bias))
    optimizer = SGD([weight, bias], lr=lr, momentum=momentum, weight_decay=weight_decay, fused=False)

    def gradients(batch: Batch, weight: Tensor) -> tuple[Tensor, ...]:
        logits = F.linear(batch.features_adv, weight, bias)
        return torch.autograd.grad(batch.mean(batch.cross_entropy(logits)), (weight, bias))

    for batch in batches:
        move = sharpest_move(weight.detach(), gradients(batch, weight)[0])
        weight.grad, bias.grad = gradients(batch, (weight.detach() + move).requires_grad_())
        optimizer.step()
        head.weight.data.copy_(weight.detach())
        head.bias.data.copy_(bias.detach())
