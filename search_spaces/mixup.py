"""Domain Mixup: images of one class are mixed, then attacked. The paper's constants are not known: defaults are ours."""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Zhong and Tandon, Learning Fair Robustness via Domain Mixup, 2024, arXiv:2411.14424"
SUMMARY = "same-class mixup before the attack"


@dataclass(frozen=True)
class Params:
    kind: str = param("beta", choice("beta", "fixed"), "share a of the image itself: drawn per image from Beta(q, q), or fixed", source="ours")
    q: float = param(1.0, loguniform(0.1, 10.0), "shape of the Beta distribution; 1 = uniform", source="ours", when={"kind": ("beta",)})
    share: float = param(0.5, uniform(0.5, 1.0), "fixed share of the image itself", source="ours", when={"kind": ("fixed",)})
