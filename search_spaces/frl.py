"""Fair robust learning: class weights and radii by dual ascent on the validation errors.

Read: github.com/hannxu123/fair_robust, frlrw.py, frlrmrw.py and utils_frl2.py.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Xu et al., To be Robust or to be Fair, ICML 2021, arXiv:2010.06121"
SUMMARY = "class weights and radii by dual ascent on validation errors"
STEM = {"form": "trades"}
_RADII = {"mode": ("remargin", "both")}
_BOUND = {"mode": {"remargin": 0.07, "both": 0.07}}


@dataclass(frozen=True)
class Params:
    mode: str = param("reweight", choice("reweight", "remargin", "both"), "what answers a class's boundary error: loss weights, attack radii, both (clean error: always weights)", source="code")
    bound_clean: float = param(0.1, uniform(0.0, 0.15), "tolerated excess of a class's clean error over the average (with radii: 0.07)", source="code", by=_BOUND)
    bound_boundary: float = param(0.1, uniform(0.0, 0.15), "tolerated excess of its boundary error, clean minus robust accuracy (with radii: 0.07)", source="code", by=_BOUND)
    rate: float = param(0.05, loguniform(0.01, 0.2), "step of the dual ascent on the weights; theirs is halved every 40 epochs, ours is not", source="code", acts_as="dual rate")
    margin_rate: float = param(0.2, loguniform(0.05, 0.5), "step of the dual ascent on the radii", source="code", when=_RADII, acts_as="dual radius rate")
    limit: float = param(0.5, uniform(0.2, 1.0), "largest sum of the dual variables of the weights", source="code")
    max_radius: float = param(3.0, uniform(1.0, 4.0), "largest factor on the radius", source="code", when=_RADII, searched=False)
    beta: float = param(1.5, loguniform(1.0, 6.0), "weight of the KL term", source="code", acts_as="KL weight")
    start: float = param(0.5, uniform(0.0, 0.9), "fraction of the epochs trained as TRADES first; the authors fine-tune a finished robust model", source="ours", acts_as="start")
