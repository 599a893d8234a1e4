"""CODAT: chi-square DRO over the classes, mean plus a multiple of the standard deviation of the class risks.

No code was found, and of the paper only the abstract was read.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param

PAPER = "Towards Fair Class-wise Robustness: Class Optimal Distribution AT, 2025, arXiv:2501.04527"
SUMMARY = "mean + sqrt(2 rho variance) of the class risks"


@dataclass(frozen=True)
class Params:
    rho: float = param(0.1, loguniform(0.001, 1.0), "radius of the chi-square ball over the classes", source="ours")
    clip: bool = param(True, choice(True, False), "a class far below the mean risk gets weight 0 instead of a negative one", source="ours", searched=False)
