"""WAT: hedge over the classes and their average, driven by validation losses.

Read: github.com/boqili/WAT, worst_class_adversarial_train.py.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param, uniform

PAPER = "Li and Liu, WAT: Improve the Worst-class Robustness in AT, AAAI 2023, arXiv:2302.04025"
SUMMARY = "class weights by hedge on validation TRADES losses"

# Those of TRADES, of which its code is a copy (second-hand): see search_spaces/trades.py.
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
    eta: float = param(0.1, loguniform(0.01, 1.0), "learning rate of the hedge", source="code")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code")
    memory: float = param(1.0, uniform(0.9, 1.0), "factor on the past validation losses per epoch; 1 = never forget, as theirs; less is our addition", source="code")
