"""Plain PGD-AT: mean cross-entropy on adversarial examples (Madry et al., ICLR 2018, eq. 2.1)."""

from trainables.method import Batch, Method


class At(Method):
    name = "at"

    def forward(self, batch: Batch):
        return batch.mean(batch.cross_entropy(batch.logits_adv))
