"""DAFA: class weights and radii from the similarity between classes, set once after a warm-up.

Read: github.com/rucy74/DAFA, arguments.py and utils.py.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Lee et al., DAFA: Distance-Aware Fair Adversarial Training, ICLR 2024"
SUMMARY = "class weights and radii from class similarity, frozen after a warm-up"


@dataclass(frozen=True)
class Params:
    form: str = param("trades", choice("at", "trades"), "plain base", source="code", burn_in=True)
    lam: float = param(1.0, loguniform(0.2, 3.0), "how far weights move from 1 (CIFAR-10: 1, CIFAR-100, STL-10: 1.5)", source="code")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="code", when={"form": ("trades",)}, burn_in=True)
    start: float = param(0.636, uniform(0.3, 0.8), "fraction of the epochs before the weights are computed (70 of 110)", source="code")
    floor: float = param(0.3, uniform(0.01, 1.0), "smallest weight; a large lam would make some negative", source="ours", searched=False)
