"""FAIR-TAT: attacks towards the classes that others are mistaken for, within a radius by class accuracy.

Read: github.com/TejaswiniMedi/FAIR-TAT, target_train_new.py, Targeted_attack.py, utils.py and the commands in its README; of the
paper only the abstract.

Its authors' TRIX (arXiv:2507.07768) attacks strong classes towards a target and weak ones without: no code was found, and what
tells the two apart could not be read, so TRIX is left out.
"""

from dataclasses import dataclass

from search_spaces.param import choice, param, uniform

PAPER = "Medi et al., FAIR-TAT: Improving Model Fairness Using Targeted Adversarial Training, WACV 2025, arXiv:2410.23142"
SUMMARY = "targeted attacks, towards classes by how often they are predicted wrongly, and CFA's class radius"

# FAIR-TAT's code, read: github TejaswiniMedi/FAIR-TAT, target_train_new.py and utils.py (a descendant of CFA's). It attacks in
# train-mode batch norm.
EPOCHS = 200
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "milestones": "0.5,0.75",
    "padding": "reflect",
    "attack_steps": 10,
    "step_size": 0.25,
    "attack_bn": "train",
}


@dataclass(frozen=True)
class Params:
    targets: str = param("confusion", choice("confusion", "uniform"), "how targets are drawn: by the softmax of sharpness * share of all wrong predictions, or uniformly", source="code")
    sharpness: float = param(2.0, uniform(0.0, 20.0), "factor in that softmax", source="code", when={"targets": ("confusion",)})
    class_eps: bool = param(True, choice(True, False), "radius (lambda_r + class accuracy) * eps; the accuracy of the last epoch's attacks", source="code", searched=False)
    lambda_r: float = param(0.5, uniform(0.2, 1.0), "base of the radius factor", source="code", when={"class_eps": (True,)}, acts_as="radius base")
