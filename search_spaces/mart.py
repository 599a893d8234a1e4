"""MART: boosted cross-entropy, and a divergence weighted by how unsure the model is on the clean image.

Read: github.com/YisenWang/MART, train_resnet.py and train_wideresnet.py.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param

PAPER = "Wang et al., ICLR 2020"
SUMMARY = "boosted cross-entropy plus KL weighted by misclassification"


@dataclass(frozen=True)
class Params:
    beta: float = param(5.0, loguniform(1.0, 10.0), "weight of the KL term (ResNet-18: 5, WRN: 6)", source="code")
