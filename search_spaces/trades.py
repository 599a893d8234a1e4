"""TRADES: clean cross-entropy plus a divergence between clean and adversarial predictions.

Read: github.com/yaodongyu/TRADES, train_trades_cifar10.py.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param

PAPER = "Zhang et al., ICML 2019, arXiv:1901.08573"
SUMMARY = "clean cross-entropy plus KL between clean and adversarial prediction"


@dataclass(frozen=True)
class Params:
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term (the paper's 1/lambda)", source="code")
