"""Friendly AT (Zhang et al., ICML 2020, alg. 1): the plain loss on x' of an attack that stops early.

The small noise (omega 0.001) that the authors' code adds to every step is left out.
"""

from dataclasses import replace

from trainables.method import Attack, Batch, Method


def tau_at(progress: float) -> int:
    """The published dynamic schedule at ``progress`` = epoch / all epochs: 0, then 1 from 50/120, then 2 from
    90/120."""
    return int(progress >= 50 / 120) + int(progress >= 90 / 120)


class Fat(Method):
    name = "fat"

    def attacks(self, base: Attack, epoch: int):
        dynamic = self.params.schedule == "dynamic"
        tau = tau_at(epoch / self.task.max_epochs) if dynamic else self.params.tau
        return tuple(replace(attack, stop_after=tau) for attack in super().attacks(base, epoch))

    def forward(self, batch: Batch):
        return self.reduce(batch)
