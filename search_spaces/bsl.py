"""AT with balanced softmax: the class frequencies are added to the logits of the training loss.

Read: github.com/NISPLab/AT-BSL, at_bsl_loss.py, train_at_bsl_cifar10.py.

Its paper's gain is in the augmentation on top, which is off here unless `--set augment=autoaugment` asks for it: the code
trains with AutoAugment unless told otherwise, RandAugment(2, 8) or none (`augment=randaugment` is torchvision's, (2, 9)).
The balanced softmax alone is said to match RoBal, with augmentation to gain 6.66 points of accuracy under AutoAttack over it
(WRN-34-10); a reproduction on CIFAR-10-LT, ratio 50, has 33.0 percent without and 33.8 with RandAugment (ResNet-18). These
figures are second-hand.
"""

from dataclasses import dataclass

from search_spaces.param import param, uniform

PAPER = "Yue et al., Revisiting AT under Long-Tailed Distributions (AT-BSL), CVPR 2024"
SUMMARY = "balanced softmax: cross-entropy of logits + log class count"
PRIOR_IN_LOSS = "the log class frequencies in its loss (balanced softmax)"


@dataclass(frozen=True)
class Params:
    strength: float = param(1.0, uniform(0.0, 2.0), "factor on log class count; 1 = balanced softmax, 0 = plain AT", source="code", acts_as="log-prior factor")
