"""LSAT (Gao et al., arXiv:2106.15776): mean cross-entropy over all images and attacks; LRAT with w = 1 and C < 1."""

from trainables.method import Attack, Batch, Method
from trainables.methods.lrat import simulated


class Lsat(Method):
    name = "lsat"

    def attacks(self, base: Attack, epoch: int):
        return simulated(self.params.attacks, base)

    def forward(self, batch: Batch):
        losses = [batch.mean(batch.cross_entropy(a.logits)) for a in batch.adversaries]
        return sum(losses) / len(losses)
