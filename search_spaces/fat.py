"""Friendly AT: stop the attack a few steps after it first succeeds.

Read: github.com/zjfheart/Friendly-Adversarial-Training, FAT.py and FAT_for_TRADES.py.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, integer, loguniform, param

PAPER = "Zhang et al., Attacks Which Do Not Kill Training Make Adversarial Learning Stronger, ICML 2020"
SUMMARY = "attack stopped tau steps after the image is first misclassified"


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades"), "plain base: PGD-AT or TRADES", source="code", acts_as=BASE)
    schedule: str = param("dynamic", choice("dynamic", "fixed"), "tau 0, 1, 2 from epochs 0, 50, 90 of 120 on, or one value", source="code")
    tau: int = param(3, integer(0, 10), "steps taken after the first misclassification", source="second-hand", when={"schedule": ("fixed",)})
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, acts_as="KL weight")
