"""FAAL: per batch, the worst class weighting within a KL ball around uniform.

Read: github.com/TrustAI/FAAL, ft_prn.py, utils.py (the attacks), FAAL.py and the command in its README (the radius).
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Zhang et al., Towards Fairness-Aware Adversarial Learning (FAAL), CVPR 2024"
SUMMARY = "per-batch class weights: worst case in a KL ball"
# No RECIPE: the paper fine-tunes a robust checkpoint for 2 epochs (learning rate 0.01, then 0.001, weight decay 5e-4;
# second-hand), which says nothing about training from the start.


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades", "mart"), "plain base whose per-sample loss is weighted", source="code")
    radius: float = param(0.5, loguniform(0.01, 1.0), "KL(uniform || weights) allowed; 0.05: heaviest class x1.7, 0.5: x5.1", source="code")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades", "mart")})
    per_class: bool = param(False, choice(False, True), "margins of the batch's classes as they are, not times the class's images as in the authors' code; on is ours: where classes are missing from batches, theirs gives the missing ones most of the weight", source="code", searched=False)
    start: float = param(0.9, uniform(0.0, 0.98), "fraction of the epochs trained without weights first; the authors fine-tune a finished model for 2 epochs", source="ours")
