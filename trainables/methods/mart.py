"""MART (Wang et al., ICLR 2020, eq. 11): mean BCE(x') + beta * mean KL(p(x) || p(x')) (1 - p_y(x)), nothing
detached."""

from trainables.method import Batch, Method


class Mart(Method):
    name = "mart"
    form = "mart"

    def forward(self, batch: Batch):
        return self.reduce(batch)
