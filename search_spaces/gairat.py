"""GAIRAT: the fewer attack steps an image survives, the more it weighs.

Read: github.com/zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training, GAIRAT.py.
"""

from dataclasses import dataclass

from search_spaces.param import choice, param, uniform

PAPER = "Zhang et al., Geometry-aware Instance-reweighted AT, ICLR 2021, arXiv:2010.01736"
SUMMARY = "instance weights by the number of attack steps survived"

# GAIRAT's code, read: github zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training, GAIRAT.py, where at least 110
# epochs are trained (with fewer it drops at 30 % and 60 %). Its third drop only halves the learning rate; here it divides
# by 10 as the others. It reports the best epoch.
EPOCHS = 120
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 2e-4,
    "milestones": "0.5,0.75,0.917",  # 60, 90 and 110 of 120; the weights start with the first drop (59 in the code)
    "attack_steps": 10,
    "step_size": 0.226,  # 0.007 of 0.031
}


@dataclass(frozen=True)
class Params:
    start: float = param(0.5, uniform(0.0, 0.8), "fraction of the epochs trained as plain AT first (60 of 120)", source="code", acts_as="start")
    func: str = param("tanh", choice("tanh", "sigmoid", "discrete"), "weight as a function of the steps survived", source="code")
    lam: float = param(-1.0, uniform(-3.0, 3.0), "Lambda: larger = flatter weights", source="code", when={"func": ("tanh", "sigmoid")}, acts_as="geometry lambda")
    schedule: str = param("fixed", choice("fixed", "linear"), "Lambda over the epochs after `start`", source="code", when={"func": ("tanh", "sigmoid")}, searched=False)
    lam_max: float = param(3.0, uniform(-3.0, 10.0), "Lambda at epoch 0 of the linear schedule; theirs is infinite, which gives NaN", source="ours", when={"schedule": ("linear",)}, searched=False)
