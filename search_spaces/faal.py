"""FAAL: per batch, the worst class weighting within a KL ball around uniform.

Read: github.com/TrustAI/FAAL, ft_prn.py, utils.py (the attacks), FAAL.py and run_prn.py (recipe and radius).
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Zhang et al., Towards Fairness-Aware Adversarial Learning (FAAL), CVPR 2024"
SUMMARY = "per-batch class weights: worst case in a KL ball"
# run_prn.py: a robust model is trained on, 2 epochs with learning rate 0.01 and 0.001, reweighted from the start; TRADES'
# and MART's forms attack from x + 0.001 N(0, 1) (utils.py), and AT's form passes clean images through batch norm too, though
# its loss does not read them (ft_prn.py). Their logs choose the epoch on the test images.
EPOCHS = 2
RECIPE = {"lr": 0.01, "milestones": "0.5", "weight_decay": 5e-4}
RECIPE_OF_FORM = {"at": {"clean_bn": "twice"}, "trades": {"attack_start": "gaussian"}, "mart": {"attack_start": "gaussian"}}
FINE_TUNING = {"start": 0.0}  # of `Params`, under --recipe paper: the paper begins with a trained model (--init)


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades", "mart"), "plain base whose per-sample loss is weighted", source="code", acts_as=BASE)
    radius: float = param(0.5, loguniform(0.01, 1.0), "KL(uniform || weights) allowed; 0.05: heaviest class x1.7, 0.5: x5.1", source="code", acts_as="KL-ball radius")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades", "mart")}, acts_as="KL weight")
    per_class: bool = param(False, choice(False, True), "margins of the batch's classes as they are, not times the class's images as in the authors' code; on is ours: where classes are missing from batches, theirs gives the missing ones most of the weight", source="code", searched=False)
    start: float = param(0.9, uniform(0.0, 0.98), "fraction of the epochs trained without weights first; the authors fine-tune a finished model for 2 epochs", source="ours", acts_as="start")
