"""RobustLT: the rarer a class, the larger its radius, and all radii grow with training.

Read: github.com/zhang-lilin/RobustLT, core/methods/robustlt.py, utils.py, atbsl.py and configs/cifar10lf; of the paper only
the abstract.

It is meant to be put on other methods; here it has the two of its authors' configurations that need nothing else: plain AT
(`strength` 0) and AT with balanced softmax (1). For the latter they train with AutoAugment, which `--set
augment=autoaugment` adds. On CIFAR-10-LT, ratio 50, it is said to raise AT-BSL's accuracy under AutoAttack from 34.6 to 37.5
percent, on the tail from 24.8 to 30.7 (WRN-28-10); these figures are second-hand. On balanced data the radii of all classes
are equal.
"""

from dataclasses import dataclass

from search_spaces.param import param, uniform

PAPER = "Zhang et al., Taming the Long Tail: Rebalancing AT via Adaptive Perturbation (RobustLT), CVPR 2026, arXiv:2605.13395"
SUMMARY = "class radius by sqrt(log(n_max / n_c)), growing over the epochs, with balanced softmax"
PRIOR_IN_LOSS = "the log class frequencies in its loss (balanced softmax)"

# RobustLT's code, read: github zhang-lilin/RobustLT, core/trainer/parser.py, configs/cifar10lf/robustlt_atbsl_cifar10.yaml
# and core/methods/utils.py, where attacks use the batch's statistics (the model stays in training mode, batch norm only
# stops to track), and clean images pass through batch norm though no loss reads them.
EPOCHS = 100
RECIPE = {
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "nesterov": "on",
    "milestones": "0.75,0.9",
    "attack_steps": 10,
    "step_size": 0.25,
    "attack_bn": "train",
    "clean_bn": "twice",
}


@dataclass(frozen=True)
class Params:
    spread: float = param(0.3, uniform(0.0, 0.9), "the paper's alpha: share of the radius that goes by rarity; the mean radius over the images stays eps", source="code")
    ramp: float = param(0.8, uniform(0.0, 1.0), "the paper's beta: fraction of the epochs over which the radii grow from 0 to their full size; 0 = at once", source="code")
    strength: float = param(1.0, uniform(0.0, 2.0), "factor on log class count in the loss, as in bsl; 0 = plain AT's loss", source="code", acts_as="log-prior factor")
