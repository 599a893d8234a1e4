"""Weights and margins that depend on nothing but how many training images each class has. float64, shape (K,)."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_to_classes(weights: Tensor) -> Tensor:
    """Scaled so that the K weights sum to K."""
    return weights * (len(weights) / weights.sum())


def effective_number(counts: Tensor, one_minus_beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n_c), scaled to sum K (Cui et al. 2019, eq. 2). beta = 0 gives ones, beta -> 1
    gives 1/n."""
    log_beta = torch.log1p(torch.tensor(-one_minus_beta, dtype=torch.float64, device=counts.device))
    return sum_to_classes(one_minus_beta / -torch.expm1(counts.double() * log_beta))


def inverse(counts: Tensor) -> Tensor:
    """1 / n_c, scaled to sum K."""
    return sum_to_classes(1.0 / counts.double())


def class_weights(kind: str, counts: Tensor) -> Tensor | None:
    """The shared option ``class_weights``: "none", "inverse" or "effective" (beta = 0.9999, as LDAM-DRW).

    Scaled to mean 1 over the training images: weights of sum K have a mean of 0.04 on a step of 100, which would
    train with a 23 times smaller loss (the authors of LDAM-DRW divide by the batch's sum of weights).
    """
    if kind == "none":
        return None
    require_every_class(counts, f"class_weights={kind}")
    weights = inverse(counts) if kind == "inverse" else effective_number(counts, 1e-4)
    return weights / data_mean(weights, counts)


def ldam_margins(counts: Tensor, max_margin: float) -> Tensor:
    """max_margin * n_c^(-1/4) / max_k n_k^(-1/4): the rarest class gets ``max_margin`` (Cao et al. 2019, eq. 12)."""
    margins = counts.double() ** -0.25
    return max_margin * margins / margins.max()


def log_prior(counts: Tensor) -> Tensor:
    """log n_c; a class without training images gets -inf, hence probability 0 and no gradient."""
    return counts.double().log()


def data_mean(weights: Tensor, counts: Tensor) -> Tensor:
    """Scalar: the mean of class weights over the training images, sum_c n_c w_c / sum_c n_c."""
    return (counts * weights).sum() / counts.sum()


def require_every_class(counts: Tensor, user: str) -> None:
    """``ValueError`` unless every class has a training image; ``user`` is what needs them, for the message."""
    absent = torch.nonzero(counts == 0).flatten().tolist()
    if absent:
        raise ValueError(
            f"{user} needs training images of every class, but there are none of class " + ", ".join(map(str, absent))
        )
