"""WAT: hedge over the classes and their average, driven by validation losses.

Read: github.com/boqili/WAT, worst_class_adversarial_train.py.
"""

from dataclasses import dataclass

from search_spaces import trades
from search_spaces.param import loguniform, param, uniform

PAPER = "Li and Liu, WAT: Improve the Worst-class Robustness in AT, AAAI 2023, arXiv:2302.04025"
SUMMARY = "class weights by hedge on validation TRADES losses"
STEM = {"form": "trades", "val_losses": True}

# WAT's code, read: github boqili/WAT, worst_class_adversarial_train.py and attack_generator.py. The settings are those of
# TRADES (search_spaces/trades.py), but it trains all epochs and passes clean images through batch norm once.
EPOCHS = 100
RECIPE = {name: value for name, value in trades.RECIPE.items() if name != "clean_bn"}


@dataclass(frozen=True)
class Params:
    eta: float = param(0.1, loguniform(0.01, 1.0), "learning rate of the hedge", source="code", acts_as="hedge rate")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", acts_as="KL weight")
    memory: float = param(1.0, uniform(0.9, 1.0), "factor on the past validation losses per epoch; 1 = never forget, as theirs; less is our addition", source="code")
