"""EWAT: instance weights by the entropy of the adversarial prediction.

No code was found; the formula is recalled, not read.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param, uniform

PAPER = "Kim et al., Entropy Weighted Adversarial Training, ICML 2021 workshop"
SUMMARY = "instance weights proportional to the entropy of the adversarial prediction"


@dataclass(frozen=True)
class Params:
    strength: float = param(1.0, uniform(0.0, 1.0), "share of the entropy weights, the rest is 1", source="second-hand", acts_as="entropy share")
    temperature: float = param(1.0, loguniform(0.1, 10.0), "temperature of the prediction whose entropy is taken", source="second-hand")
