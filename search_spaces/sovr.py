"""SOVR: one-vs-the-rest loss for the images with the smallest logit margins.

No code was found; form, M and lambda are recalled, not read.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Kanai et al., One-vs-the-Rest Loss to Focus on Important Samples in AT, ICML 2023"
SUMMARY = "one-vs-rest loss on the images with the smallest margins"


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades"), "SOVR, or TSOVR with the TRADES attack and regulariser, whose exact form is ours", source="second-hand", acts_as=BASE)
    fraction: float = param(0.4, uniform(0.1, 0.7), "share of the batch that gets the one-vs-rest loss (M)", source="second-hand")
    lam: float = param(0.5, uniform(0.1, 1.0), "weight of the one-vs-rest loss", source="second-hand")
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="second-hand", when={"form": ("trades",)}, acts_as="KL weight")
