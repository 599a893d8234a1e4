"""Per-sample losses and margins shared by the methods, as pure functions.

Shapes: B batch, K classes. Every function works in the precision it is given, but never below float32: an
exponential of a loss, or MART's 1.0001 - p, means nothing in half precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(t: Tensor) -> Tensor:
    """float32, or float64 where the input already is."""
    return t if t.dtype == torch.float64 else t.float()


def kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """(B,) KL(softmax(p) || softmax(q)) from (B, K) logits; gradient flows into both sides (TRADES does not detach)."""
    log_p = F.log_softmax(full_precision(logits_p), dim=1)
    log_q = F.log_softmax(full_precision(logits_q), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def true_prob(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) softmax probability of the label."""
    return F.softmax(full_precision(logits), dim=1).gather(1, y[:, None]).squeeze(1)


def _without_label(t: Tensor, y: Tensor, fill: float) -> Tensor:
    return t.scatter(1, y[:, None], fill)


def wrong_class(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) the most probable class other than the label."""
    return _without_label(logits, y, float("-inf")).argmax(1)


def nearest_class(logits: Tensor, y: Tensor, margin: float = 0.1) -> Tensor:
    """(B,) the predicted class once the label's logit is ``1 - margin`` times itself: wrong, or nearly so, unless it is
    the label (Jin et al., ICLR 2025, as their code has it: a negative logit grows)."""
    label = y[:, None]
    return logits.scatter(1, label, (1 - margin) * logits.gather(1, label)).argmax(1)


def prob_margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) largest wrong probability minus the true one, in [-1, 1]; positive = misclassified (MAIL, FAAL)."""
    probs = F.softmax(full_precision(logits), dim=1)
    with torch.no_grad():  # which two, without a graph: WMMR has this in every step of its attack
        pair = torch.stack((wrong_class(probs, y), y), 1)
    wrong, true = probs.gather(1, pair).unbind(1)
    return wrong - true


def prob_shortfall(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) 1 - (true probability - largest wrong one), in [0, 2], without cancellation where the model is sure."""
    wrong = _without_label(F.softmax(full_precision(logits), dim=1), y, 0.0)
    return wrong.sum(1) + wrong.amax(1)


def logit_margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) largest wrong logit minus the true one: what a margin (CW) attack maximises; positive = misclassified."""
    return _without_label(logits, y, float("-inf")).amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) -log softmax(logits)_y."""
    return F.cross_entropy(logits, y, reduction="none")


# What ``Attack.loss`` names, besides the method's own loss.
ATTACK_LOSSES = {"ce": cross_entropy, "margin": logit_margin}


def mart_margin_term(logits_adv: Tensor, y: Tensor) -> Tensor:
    """(B,) -log(1.0001 - q_k*), q_k* the largest wrong adversarial probability: what MART adds to the cross-entropy."""
    probs = F.softmax(full_precision(logits_adv), dim=1)
    return -torch.log(1.0001 - probs.gather(1, wrong_class(logits_adv, y)[:, None]).squeeze(1) + 1e-12)


def mart_regulariser(logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
    """(B,) KL(p || q) (1.0000001 - p_y), p clean and q adversarial; nothing detached (MART, eq. 11).

    Uses log(q + 1e-12) as the authors' code does.
    """
    log_p = F.log_softmax(full_precision(logits), dim=1)
    q = F.softmax(full_precision(logits_adv), dim=1)
    divergence = (log_p.exp() * (log_p - torch.log(q + 1e-12))).sum(1)
    return divergence * (1.0000001 - true_prob(logits, y))


def one_vs_rest(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) softplus(-z_y) + sum over the other classes of softplus(z_k) (SOVR, Kanai et al. 2023)."""
    logits = full_precision(logits)
    rest = F.softplus(logits).sum(1)
    true = logits.gather(1, y[:, None]).squeeze(1)
    return F.softplus(-true) + rest - F.softplus(true)


def focal(ce: Tensor, gamma: float) -> Tensor:
    """(B,) (1 - p)^gamma * ce with p = exp(-ce) of the unweighted cross-entropy; the factor carries gradient.

    Weights belong outside. LDAM-DRW forms p from the already weighted loss and so counts a weight twice.
    """
    return (-torch.expm1(-full_precision(ce))).clamp(min=1e-12) ** gamma * ce


def ldam_logits(logits: Tensor, y: Tensor, margins: Tensor, scale: float) -> Tensor:
    """(B, K) scale * (logits - m_y on the true class), the input of LDAM's cross-entropy (Cao et al. 2019, eq. 13)."""
    shift = torch.zeros_like(logits).scatter(1, y[:, None], margins.to(logits.dtype)[y][:, None])
    return scale * (logits - shift)


def to_mean_one(weights: Tensor) -> Tensor:
    """(B,) weights scaled to mean 1 over the batch, however small they are; of mean 0, e.g. all zero, they become
    ones."""
    mean = weights.mean()
    return torch.where(mean == 0, torch.ones_like(weights), weights / mean)


def class_sums(values: Tensor, y: Tensor, classes: int) -> Tensor:
    """(K,) sum of per-sample ``values`` (B,) over each class of the batch."""
    return torch.zeros(classes, dtype=values.dtype, device=values.device).index_add(0, y, values)


def class_sizes(y: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(K,) how many samples of each class the batch has."""
    return class_sums(torch.ones(len(y), dtype=dtype, device=y.device), y, classes)
