"""DAFA: class weights and radii from the similarity between classes, set once after a warm-up.

Read: github.com/rucy74/DAFA, arguments.py and utils.py.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Lee et al., DAFA: Distance-Aware Fair Adversarial Training, ICLR 2024"
SUMMARY = "class weights and radii from class similarity, frozen after a warm-up"

# DAFA's code, read: github rucy74/DAFA, train.py, arguments.py and losses.py; its epochs count from 1, so that its drops are
# one epoch earlier. It passes clean images through batch norm once. ``attack_start`` is for the AT form: attacks on the
# KL divergence start so anyway.
EPOCHS = 110
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "nesterov": "on",
    "milestones": "0.909,0.9545",  # 100 and 105 of 110
    "attack_steps": 10,
    "step_size": 0.226,  # 0.007 of 0.031
    "attack_start": "gaussian",
}


@dataclass(frozen=True)
class Params:
    form: str = param("trades", choice("at", "trades"), "plain base", source="code", acts_as=BASE)
    lam: float = param(1.0, loguniform(0.2, 3.0), "how far weights move from 1 (CIFAR-10: 1, CIFAR-100, STL-10: 1.5)", source="code", acts_as="similarity lambda")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, acts_as="KL weight")
    start: float = param(0.636, uniform(0.3, 0.8), "fraction of the epochs before the weights are computed (70 of 110)", source="code", acts_as="start")
    floor: float = param(0.3, uniform(0.01, 1.0), "smallest weight; a large lam would make some negative", source="ours", searched=False)
