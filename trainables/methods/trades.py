"""TRADES (Zhang et al., ICML 2019, eq. 5): mean CE(x) + beta * mean KL(p(x) || p(x')), nothing detached."""

from trainables.method import Batch, Method


class Trades(Method):
    name = "trades"
    form = "trades"

    def forward(self, batch: Batch):
        return self.reduce(batch)
