"""REAT: balanced softmax, an attack that favours rarely predicted classes, and a feature term for the tail.

Read: github.com/GuanlinLee/REAT, loss_functions.py.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param

PAPER = "Li et al., Alleviating the Effect of Data Imbalance on AT (REAT), 2023, arXiv:2307.10205"
SUMMARY = "balanced softmax plus a feature term for tail classes"
PRIOR_IN_LOSS = "the log class frequencies in its loss (balanced softmax)"


@dataclass(frozen=True)
class Params:
    tail_weight: float = param(1.0, loguniform(0.01, 10.0), "weight of the tail feature term", source="code")
    attack_weights: bool = param(True, choice(True, False), "weight the attack's loss by 1 / effective number of predictions; a sign attack with eval batch norm does not feel it", source="code", searched=False)
