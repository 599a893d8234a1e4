"""TRADES: clean cross-entropy plus a divergence between clean and adversarial predictions.

Read: github.com/yaodongyu/TRADES, train_trades_cifar10.py.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param

PAPER = "Zhang et al., ICML 2019, arXiv:1901.08573"
SUMMARY = "clean cross-entropy plus KL between clean and adversarial prediction"
STEM = {"form": "trades"}

# TRADES' code, read: github yaodongyu/TRADES, train_trades_cifar10.py and trades.py. It counts epochs from 1, so that its
# drops are one epoch earlier, and stops after epoch 76 of 100, one after the first drop: its model is that of epoch 76.
EPOCHS = 100
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 2e-4,
    "milestones": "0.75,0.9",
    "attack_steps": 10,
    "step_size": 0.226,  # 0.007 of 0.031
    "clean_bn": "twice",
}


@dataclass(frozen=True)
class Params:
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term (the paper's 1/lambda)", source="code", acts_as="KL weight")
