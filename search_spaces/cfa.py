"""CFA: class-wise calibrated radius and regularisation, and a weight average gated by the worst class.

Read: github.com/PKU-ML/CFA, train.py, and the command in its README (the gate's threshold).
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Wei et al., CFA: Class-wise Calibrated Fair Adversarial Training, CVPR 2023"
SUMMARY = "class radius and class beta from training robust accuracy, worst-class gated weight average"
_AVERAGED = {"average": ("ema", "fawa")}

# CFA's code, read: github PKU-ML/CFA, train.py and attack.py (padding: second-hand). Its TRADES form, which is the default,
# attacks in evaluation mode, its AT form in train-mode batch norm. It keeps the epochs with the largest average + worst
# class, as `best_epoch` does.
EPOCHS = 200
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "milestones": "0.5,0.75",
    "padding": "reflect",
    "attack_steps": 10,
    "step_size": 0.25,
    "clean_bn": "twice",
}
RECIPE_OF_FORM = {"at": {"attack_bn": "train"}}


@dataclass(frozen=True)
class Params:
    form: str = param("trades", choice("at", "trades"), "plain base", source="code", acts_as=BASE)
    class_eps: bool = param(True, choice(True, False), "radius (lambda_1 + class accuracy) * eps (CCM)", source="code", searched=False)
    lambda_1: float = param(0.5, uniform(0.2, 1.0), "base of the radius factor", source="code", when={"class_eps": (True,)}, acts_as="radius base")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, acts_as="KL weight")
    class_beta: bool = param(True, choice(True, False), "regularisation (lambda_2 + class accuracy) * beta (CCR)", source="code", when={"form": ("trades",)}, searched=False)
    lambda_2: float = param(0.5, uniform(0.2, 1.0), "base of the beta factor", source="code", when={"class_beta": (True,)}, acts_as="KL-weight base")
    average: str = param("fawa", choice("none", "ema", "fawa"), "weight average per epoch: none, every epoch, or only epochs that pass the gate", source="code", searched=False)
    decay: float = param(0.88, uniform(0.8, 0.95), "share the average keeps per epoch", source="code", when=_AVERAGED, acts_as="average decay")
    threshold: float = param(0.24, uniform(0.05, 0.3), "smallest worst-class validation accuracy under CE-PGD that enters the average (their code's default: 0.24, their README's command for form at: 0.2)", source="code", when={"average": ("fawa",)}, by={"form": {"at": 0.2}}, acts_as="average gate")
    start: float = param(0.05, uniform(0.0, 0.3), "fraction of the epochs before the class-wise calibration (10 of 200)", source="code", acts_as="start")
