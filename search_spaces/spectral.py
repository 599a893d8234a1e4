"""Confusional spectral regularisation: lower the largest singular value of the robust confusion matrix.

Read: github.com/Alexkael/CONFUSIONAL-SPECTRAL-REGULARIZATION, CIFAR10_TRADES_fairness/train_fair.py, trades_fair.py; of the
paper only the abstract.

Before each of its two epochs their code counts confusion by a pass of its own (CE-PGD, evaluation mode, the label's logit
lowered by a tenth); here the adversarial images of the epoch before are counted, which costs nothing. The matrix has rates,
theirs counts: the same where classes have equally many images. Fine-tuning WRN-34-10 by TRADES for two epochs is said to
raise the worst class under AutoAttack from 23.2 to 36.3 percent, the average falling from 52.5 to 51.6; these figures are
second-hand.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Jin et al., Enhancing Robust Fairness via Confusional Spectral Regularization, ICLR 2025, arXiv:2501.13273"
SUMMARY = "weights by (predicted, true) class along the leading singular pair of the robust confusion matrix"
# train_fair.py: a finished robust model is trained on, 2 epochs with learning rate 0.001. Nothing is counted before the first
# epoch here, so in it all weights are 1; `--max-epochs 3` has as many epochs with weights as theirs.
EPOCHS = 2
RECIPE = {"lr": 0.001, "schedule": "constant", "weight_decay": 5e-4}
FINE_TUNING = {"start": 0.0}  # of `Params`, under --recipe paper: the paper begins with a trained model (--init)


@dataclass(frozen=True)
class Params:
    form: str = param("trades", choice("at", "trades"), "plain base; the authors have TRADES, with and without weight perturbation", source="code", acts_as=BASE)
    share: float = param(0.3, uniform(0.0, 1.0), "weight of the spectral term; the base's cross-entropy has the rest", source="code")
    scale: float = param(2.0, loguniform(0.5, 8.0), "largest of the weights, less 0.01, the smallest", source="code")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, acts_as="KL weight")
    start: float = param(0.9, uniform(0.0, 0.98), "fraction of the epochs trained without the term first; the authors fine-tune a finished model for 2 epochs", source="ours", acts_as="start")
