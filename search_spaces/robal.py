"""RoBal: cosine classifier with class-dependent margins and prior, plus a KL regulariser.

Read: github.com/wutong16/Adversarial_Long-Tail, configs/CIFAR10_LT/cifar10_LT0.02_pgdat_robal_N_train.yaml (variant N).
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param, uniform

PAPER = "Wu et al., Adversarial Robustness under Long-Tailed Distribution, CVPR 2021"
SUMMARY = "cosine classifier, class margins and logit prior for long tails"
STEM = {"head": "cosine"}
PRIOR_IN_LOSS = "class margins and the log class frequencies in its loss"


@dataclass(frozen=True)
class Params:
    margin: float = param(0.1, uniform(0.0, 0.3), "margin subtracted from the true class's cosine (logits are 10 * cosine)", source="code")
    margin_tau: float = param(0.0, uniform(0.0, 0.5), "margin per log(n_c / n_min), divided by the scale (variant N: 0, R: 0.3)", source="code")
    prior_tau: float = param(1.2, uniform(0.0, 2.0), "factor on the log class frequency added to the logits (variant N: 1.2, R: 1.5)", source="code", acts_as="log-prior factor")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code")
