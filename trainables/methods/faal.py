"""FAAL (Zhang et al., CVPR 2024, eq. 5): class weights that maximise the batch's margin violation in a KL ball."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import class_sizes, class_sums, prob_margin
from trainables.method import Batch, Method

# Every round keeps one of GRID - 1 cells of log(s), so 7 rounds narrow [-250, 60] to 4e-15, the precision of float64.
GRID, ROUNDS = 257, 7


def class_margins(logits_adv: Tensor, y: Tensor) -> Tensor:
    """(K,) mean over the batch's samples of each class of max_{k != y} p_k - p_y; -1 for a class that is absent."""
    classes = logits_adv.shape[1]
    margins = prob_margin(logits_adv.detach(), y).double()
    sizes = class_sizes(y, classes, torch.float64)
    return torch.where(sizes > 0, class_sums(margins, y, classes) / sizes.clamp(min=1), -1.0)


def _divergence(gaps: Tensor, log_s: Tensor) -> Tensor:
    """(G,) KL(uniform || p), p proportional to 1 / (1 + gap / s), for log s (G,)."""
    ratio = 1 + gaps / log_s.exp()[:, None]
    return ratio.log().mean(1) + ratio.reciprocal().mean(1).log()


def worst_case_weights(gains: Tensor, radius: float) -> Tensor:
    """(K,) argmax_p sum_c p_c gains_c over the simplex subject to KL(uniform || p) <= radius.

    Stationarity gives p_c proportional to 1 / (mu - gains_c) with mu > max gains, and the divergence falls as
    mu grows, so mu is found by bisection, 256 cells at a time because calls are what costs (the authors call a
    cone solver on the CPU for this). float64, no host synchronisation.
    """
    if radius == 0:  # rounding of the divergence would move the weights by 1e-9
        return torch.full_like(gains, 1 / len(gains), dtype=torch.float64)
    gaps = gains.double().max() - gains.double()
    low, high = gaps.new_full((1,), -250.0), gaps.new_full((1,), 60.0)  # log of s = mu - max gains
    fractions = torch.linspace(0, 1, GRID, dtype=torch.float64, device=gains.device)
    for _ in range(ROUNDS):
        grid = low + fractions * (high - low)
        outside = _divergence(gaps, grid) > radius
        first = outside.sum().clamp(1, GRID - 1).reshape(1)  # the first grid point inside the ball
        low, high = grid[first - 1], grid[first]
    inverse = 1 / (1 + gaps / high.exp())
    return inverse / inverse.sum()


class Faal(Method):
    """(K/B) sum_i p_{y_i} L_i, p from the batch's class margins times class sizes; weights carry no gradient.

    Batch frequency enters twice, in the solver's objective and in the sum, as in the authors' code; with
    ``per_class`` in the sum alone. The mart form attacks as the trades form does, as in the authors' code.
    """

    name = "faal"

    @property
    def attack_form(self) -> str:
        return "at" if self.form == "at" else "trades"

    def class_weights(self, batch: Batch) -> Tensor:
        """(K,) p, sum 1."""
        classes = batch.logits_adv.shape[1]
        margins = class_margins(batch.logits_adv, batch.y)
        if not self.params.per_class:
            margins = margins * class_sizes(batch.y, classes, torch.float64)
        return worst_case_weights(margins, self.params.radius)

    def forward(self, batch: Batch):
        if not self.started(batch.epoch):
            return self.reduce(batch)
        p = self.class_weights(batch)
        weights = len(p) * p[batch.y]
        return self.reduce(batch, weights, weights)
