"""DAFA (Lee et al., ICLR 2024, eq. 5): what a hard class gains in weight and radius, its easier neighbours lose."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.method import Batch, EpochStats, Method, start_epoch


def similarity_weights(similarity: Tensor, lam: float) -> Tensor:
    """(K,) class weights from ``similarity`` (K, K), row i the mean softmax of adversarial images of class i.

    w_i = 1 + sum over j != i of lam S_ij S_jj where S_ii < S_jj (i is harder), else -lam S_ji S_ii. The sum
    is K without ties; with a tie both classes lose, as in the authors' code.
    """
    own = similarity.diagonal()
    harder = own[:, None] < own[None, :]
    moves = torch.where(harder, similarity * own[None, :], -similarity.T * own[:, None])
    return 1 + lam * moves.fill_diagonal_(0).sum(1)


class Dafa(Method):
    """trades: mean w_y CE(x) + beta mean KL (unweighted); at: mean w_y CE(x'). Radius w_y eps, step w_y step.

    Weights are computed once, at the end of the last epoch before ``start``, and never below ``floor``. The
    authors' AT code follows its class-wise attack step with a plain one, which cancels radii above eps; ours
    does not.
    """

    name = "dafa"

    def __init__(self, params, task):
        super().__init__(params, task)
        self.register_buffer("class_weights", torch.ones(task.classes, dtype=torch.float64))
        # how many weights the floor has raised
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))

    def end_epoch(self, stats: EpochStats) -> None:
        if self.frozen or stats.epoch + 1 < start_epoch(self.params, self.task.max_epochs):
            return
        similarity = stats.train_probs / stats.train_count.clamp(min=1)[:, None]
        weights = similarity_weights(similarity, self.params.lam)
        self.clipped.fill_(int((weights < self.params.floor).sum()))
        self.class_weights.copy_(weights.clamp(min=self.params.floor))
        self.frozen.fill_(True)

    def notes(self) -> list[str]:
        """What to tell the user after training."""
        if not self.clipped:
            return []
        p = self.params
        return [
            f"{int(self.clipped)} class weights were raised to floor={p.floor:g}: lam={p.lam:g} "
            "would have made them smaller or negative"
        ]

    def eps_scale(self, y: Tensor) -> Tensor:
        return self.class_weights[y]

    def forward(self, batch: Batch):
        return self.reduce(batch, self.class_weights[batch.y])  # ones until frozen
