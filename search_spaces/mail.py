"""MAIL: instance weights by the probability margin on the adversarial image.

Read: github.com/QizhouWang/MAIL, train.py, mail_loss.py and the commands in its README (slope, bias).
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Wang et al., Probabilistic Margins for Instance Reweighting in AT, NeurIPS 2021"
SUMMARY = "instance weights: a sigmoid of the probability margin"

# MAIL's code, read: github QizhouWang/MAIL, train.py and mail_loss.py; its epochs count from 0 and the first 76 have no
# weights, one more than are trained at the full learning rate.
EPOCHS = 120
RECIPE = {
    "batch_size": 128,
    "lr": 0.01,
    "weight_decay": 3.5e-3,
    "milestones": "0.625,0.75,0.833",  # 75, 90 and 100 of 120
    "attack_steps": 10,
    "step_size": 0.226,  # 0.007 of 0.031
    "attack_start": "gaussian",
}


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades", "mart"), "plain base whose adversarial part is weighted", source="code", acts_as=BASE)
    slope: float = param(10.0, loguniform(1.0, 20.0), "sharpness of the weight curve (at: 10, trades: 2, nothing published for mart)", source="code", by={"form": {"trades": 2.0}}, acts_as="margin slope")
    bias: float = param(-0.5, uniform(-1.5, 0.5), "added to the margin (at: -0.5, trades: 0, nothing published for mart)", source="code", by={"form": {"trades": 0.0}}, acts_as="margin bias")
    beta: float = param(5.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades", "mart")}, acts_as="KL weight")
    start: float = param(0.633, uniform(0.3, 0.7), "fraction of the epochs trained without weights first (76 of 120)", source="code", acts_as="start")
    normalise: bool = param(False, choice(False, True), "scale the weights to mean 1 in the batch (our addition) instead of times 3", source="code", searched=False)
