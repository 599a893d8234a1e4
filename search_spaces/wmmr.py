"""WMMR: weighted minimax risk, instance weights exponential in the margin.

Read: github.com/huiminzeng/WeightedTraining_AAAI, AT_base/train_at_cifar10.py, AT_base/trainers/trainer.py,
AT_base/attacks/pgd.py, TRADES_base/train_trades_cifar10.py and trades.py.

Where it weights, their trades.py leaves the loop of the attack (`break`) before its first step, and so trains on x + 0.001
N(0, 1); the trades form here attacks.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param

PAPER = "Zeng et al., Are Adversarial Examples Created Equal? A Learnable Weighted Minimax Risk, AAAI 2021"
SUMMARY = "instance weights exp(-alpha * probability margin)"


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades"), "plain base", source="code", acts_as=BASE)
    alpha: float = param(0.5, loguniform(0.1, 5.0), "sharpness of the weights (at: 0.5, trades: 2)", source="code", by={"form": {"trades": 2.0}}, acts_as="margin exponent")
    beta: float = param(5.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, acts_as="KL weight")
    detach: bool = param(False, choice(False, True), "no gradient through the weights (their code: it flows)", source="code", searched=False)
    weight_attack: bool = param(True, choice(True, False), "the attack maximises the weighted loss too, as in their code of the at form", source="code", searched=False)
