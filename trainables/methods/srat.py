"""SRAT: class weights by effective number switched on late, and a separation loss on adversarial features.

Wang et al., Imbalanced Adversarial Training with Reweighting, arXiv:2107.13639. Of the paper only the
abstract could be read: the shape of the objective is recalled, lambda, tau, T_d, beta and the reduction are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import losses
from trainables.class_weights import data_mean, effective_number, ldam_margins, sum_to_classes
from trainables.method import Batch, Method


def supcon(
    features: Tensor,
    y: Tensor,
    temperature: float,
    *,
    base_temperature: float | None = None,
    anchors: int | None = None,
) -> Tensor:
    """Scalar supervised contrastive loss (Khosla et al. 2020, eq. 2) of unit vectors ``features`` (N, D) with
    labels (N,).

    Mean over the anchors (the first ``anchors`` rows, default all) of
    -(temperature / base_temperature) * mean over positives p of
        log( exp(s_ap / temperature) / sum_{k != a} exp(s_ak / temperature) ),
    where ``base_temperature`` defaults to ``temperature``. An anchor without a positive adds 0, counts
    in the mean, and stays in the others' denominators.
    """
    n = len(features) if anchors is None else anchors
    similarity = features[:n] @ features.T / temperature
    self_mask = torch.eye(len(features), dtype=torch.bool, device=features.device)[:n]
    positive = (y[:n, None] == y[None, :]) & ~self_mask
    others = similarity.masked_fill(self_mask, torch.finfo(similarity.dtype).min)
    log_prob = similarity - others.logsumexp(1, keepdim=True)
    per_anchor = (log_prob * positive).sum(1) / positive.sum(1).clamp(min=1)
    return -(temperature / (base_temperature or temperature)) * per_anchor.mean()


def separation_loss(features: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Scalar: ``supcon`` of the L2-normalised features (B, D), in float32 or better (half precision overflows
    at tau 0.1)."""
    return supcon(F.normalize(losses.full_precision(features), dim=1), y, temperature)


def deferred_weights(counts: Tensor, one_minus_beta: float, strength: float) -> Tensor:
    """(K,) effective-number weights to the power ``strength``, scaled to sum K."""
    return sum_to_classes(effective_number(counts, one_minus_beta) ** strength)


class Srat(Method):
    """(1/N) sum_i [ w_{y_i} L(x'_i) + lambda Lsep(x'_i) ], w = 1 before ``start``, Lsep on throughout.

    The weights are divided by their mean over the TRAINING DATA. "They sum to K" is not enough: at step
    imbalance 100 such weights average 0.044 over the images, and the mean over the batch would shrink the
    classification loss 23-fold against Lsep and the weight decay in the epoch the weights set in.
    ``reduction="batch"`` divides by the batch's sum of weights instead, as LDAM-DRW does.
    ``form="trades"`` (ours): w_{y_i} [ L(x_i) + beta KL(p(x_i) || p(x'_i)) ] in place of w_{y_i} L(x'_i).
    """

    name = "srat"
    needs_every_class = True

    def __init__(self, params, task):
        super().__init__(params, task)
        counts = task.class_counts.double()
        weights = deferred_weights(counts, params.one_minus_beta, params.strength)
        self.register_buffer("class_weights", weights)
        self.register_buffer("data_mean", data_mean(self.class_weights, counts))
        self.register_buffer("margins", ldam_margins(counts, params.max_margin))

    def class_loss(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B,) L of logits (B, K): cross-entropy, focal or LDAM."""
        if self.params.loss == "ldam":
            return batch.cross_entropy(losses.ldam_logits(logits, batch.y, self.margins, self.params.scale))
        ce = batch.cross_entropy(logits)
        return losses.focal(ce, self.params.gamma) if self.params.loss == "focal" else ce

    def sample_loss(self, batch: Batch) -> Tensor:
        """(B,) what the class weights weight."""
        if self.form == "at":
            return self.class_loss(batch, batch.logits_adv)
        return self.class_loss(batch, batch.logits) + self.params.beta * losses.kl(batch.logits, batch.logits_adv)

    def forward(self, batch: Batch) -> Tensor:
        loss = self.sample_loss(batch)
        if self.started(batch.epoch):
            weights = self.class_weights[batch.y]
            scale = weights.mean() if self.params.reduction == "batch" else self.data_mean
            loss = batch.mean(loss, weights / scale)
        else:
            loss = batch.mean(loss)
        if self.params.sep_weight == 0:
            return loss
        separation = separation_loss(batch.features_adv, batch.y, self.params.temperature)
        return loss + self.params.sep_weight * separation
