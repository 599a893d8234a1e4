"""DONE: instance weights from a KL-regularised worst case, in closed form.

There is no public code, and no constants of the paper could be read; that images are weighted is in its abstract.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Sow et al., Doubly Robust Instance-Reweighted AT, ICLR 2024, arXiv:2308.00311"
SUMMARY = "KL-DRO: weights proportional to exp(loss / r)"
LINF_ONLY = {"barrier": (True,)}  # the log barrier is that of a box


@dataclass(frozen=True)
class Params:
    r: float = param(5.0, loguniform(0.5, 100.0), "temperature of the weights; large = plain AT, 2 to 10 matters at batch 128", source="ours")
    level: str = param("instance", choice("instance", "class"), "whose losses are weighted: images, or class means, which is our addition", source="paper")
    schedule: str = param("constant", choice("constant", "decay"), "r over the epochs: as given, or falling log-linearly to it", source="ours", searched=False)
    r_start: float = param(100.0, loguniform(1.0, 1000.0), "r at `start` of the schedule", source="ours", when={"schedule": ("decay",)}, searched=False)
    normaliser: str = param("batch", choice("batch", "running"), "mean of exp(loss / r) over the batch, or the running compositional estimate u", source="ours", searched=False)
    eta: float = param(0.5, uniform(0.1, 0.9), "step of the running normaliser", source="ours", when={"normaliser": ("running",)})
    start: float = param(0.0, uniform(0.0, 0.9), "fraction of the epochs trained as plain AT first; the paper's is not known", source="ours", acts_as="start")
    form: str = param("at", choice("at", "trades"), "plain base under the weights; trades is our addition", source="paper", searched=False, acts_as=BASE)
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="ours", when={"form": ("trades",)}, searched=False, acts_as="KL weight")
    barrier: bool = param(False, choice(False, True), "add the implicit gradient through the log-barrier inner problem; off: the method is KL-DRO weighted PGD-AT; made for L-inf alone", source="ours", searched=False)
    barrier_weight: float = param(0.01, loguniform(1e-4, 1.0), "c of the log barrier", source="ours", when={"barrier": (True,)}, searched=False)
    shrink: float = param(0.9, uniform(0.1, 0.99), "how far inside the box the inner solution lies", source="ours", when={"barrier": (True,)}, searched=False)
