"""TAET: clean training first, then an adversarial loss that evens out the classes' losses.

Read: github.com/BuhuiOK/TAET-Two-Stage-Adversarial-Equalization-Training-on-Long-Tailed-Distributions, code/HARL.py and
code/TAET/TAET.ipynb; of the paper only the abstract.

The authors train ResNet-50 on images enlarged to 224x224, and judge on a test set that is long-tailed too. A preview, which
forks from the stem, has plain AT in place of the clean stage; full trainings have it.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param, uniform

PAPER = "Yu-Hang et al., TAET: Two-Stage Adversarial Equalization Training on Long-Tailed Distributions, CVPR 2025, arXiv:2503.01924"
SUMMARY = "clean stage, then mean, variance and concentration of the class losses"

# TAET's code, read: the notebook. Its step of 0.003 at a radius of 0.031.
EPOCHS = 100
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "milestones": "0.75,0.9",
    "attack_steps": 10,
    "step_size": 0.097,
    "attack_start": "gaussian",
}


@dataclass(frozen=True)
class Params:
    clean: float = param(0.4, uniform(0.0, 0.6), "fraction of the epochs trained on clean images first (40 of 100)", source="code")
    alpha: float = param(0.1, loguniform(0.01, 1.0), "weight of the mean of the class losses", source="code")
    beta: float = param(0.1, loguniform(0.01, 1.0), "weight of their variance", source="code")
    gamma: float = param(0.1, loguniform(0.01, 1.0), "weight of the sum of squares of their shares", source="code")
