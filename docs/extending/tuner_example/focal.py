"""Mean of w CE(x') with w = (1 - p_y(x'))^gamma of mean 1 (Lin et al., eq. 4, on adversarial images)."""

from trainables.losses import full_precision
from trainables.method import Method


class Focal(Method):
    name = "focal"

    def forward(self, batch):
        p = full_precision(batch.logits_adv.detach()).softmax(1).gather(1, batch.y[:, None])[:, 0]
        weights = (1 - p).clamp(min=1e-6) ** self.params.gamma
        return batch.mean(batch.cross_entropy(batch.logits_adv), weights / weights.mean())
