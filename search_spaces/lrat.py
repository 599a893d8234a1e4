"""LRAT: every (image, attack) pair is weighted by its own margin.

Read: the paper's text (its ICLR 2022 submission); there is no public code.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param

PAPER = "Gao et al., Local Reweighting for Adversarial Training, 2021, arXiv:2106.15776"
SUMMARY = "weights per image and attack, several attacks per image"
ATTACKS = ("pgd", "cw", "saa", "pgd+cw", "saa+cw", "pgd+saa", "saa+cw+pgd")

# Second-hand. The model is that of epoch 60, the best.
EPOCHS = 100
RECIPE = {"lr": 0.1, "weight_decay": 2e-4, "milestones": "0.6,0.9", "attack_steps": 10, "step_size": 0.1}


@dataclass(frozen=True)
class Params:
    attacks: str = param("saa+cw", choice(*ATTACKS), "attacks simulated on every image; saa costs six times a pgd", source="paper", searched=False)
    alpha: float = param(2.0, loguniform(0.25, 4.0), "scale of the weights alpha (1 - t)^power, t the probability margin", source="paper")
    power: float = param(0.5, loguniform(0.25, 4.0), "the paper's beta: exponent of the weights", source="paper")
    residual: str = param("c", choice("a", "b", "c"), "what carries the weight missing to `minimum`: nothing, the clean image, the SAA image", source="paper")
    minimum: float = param(0.1, loguniform(0.1, 0.6), "the paper's C: least total weight of an image", source="paper", when={"residual": ("b", "c")})
    normalise: bool = param(True, choice(True, False), "scale the total weights to mean 1 in the batch (eq. 15)", source="paper", searched=False)
