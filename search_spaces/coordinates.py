"""Coordinates: what a hyperparameter moves, by a name that methods share.

Two methods may call one thing differently (CFA's ``lambda_1``, FAIR-TAT's ``lambda_r``) or one name may be two things
(DAFA's ``lam``, GAIRAT's). A parameter that names its coordinate, `param(..., acts_as="KL weight")`, can take over
what a search of another method found there (``tuner search --warm-start``). It names one only where the equations are
the same, whatever the default. Training settings (`search_spaces.training`) are the same in all methods: each is its own
coordinate. To add one, write a line below and name it in two methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASE = "plain base"
CLASS_WEIGHTS = "log class-weight ratio"

COORDINATES = {
    BASE: "the plain loss and attack underneath: PGD-AT, TRADES or MART",
    "KL weight": "weight of the plain base's divergence between clean and adversarial prediction",
    "start": "fraction of the epochs that are the plain base's; from there on the method acts",
    CLASS_WEIGHTS: "log(largest / smallest weight of a class's loss), of weights that depend on class counts alone",
    "log-prior factor": "factor on the log class counts that are added to the logits of the training loss",
    "separation weight": "weight of SRAT's separation loss",
    "separation temperature": "temperature of SRAT's separation loss",
    "geometry lambda": "GAIRAT's Lambda: larger = flatter weights by the steps that an image survives",
    "margin slope": "slope of MAIL's sigmoid weights of the probability margin",
    "margin bias": "bias of MAIL's sigmoid weights of the probability margin",
    "margin exponent": "alpha of WMMR's weights exp(-alpha * probability margin)",
    "entropy share": "share of EWAT's entropy weights",
    "hedge rate": "learning rate of WAT's hedge on cumulated validation losses",
    "KL-ball radius": "FAAL's radius of the ball around uniform class weights",
    "similarity lambda": "DAFA's lambda: how far class similarity moves class weights or radii from 1",
    "dual rate": "step of FRL's dual ascent on the class weights",
    "dual radius rate": "step of FRL's dual ascent on the class radii",
    "radius base": "CFA's lambda_1 in the class radius (lambda_1 + class accuracy) * eps",
    "KL-weight base": "CFA's lambda_2 in the class's KL weight (lambda_2 + class accuracy) * beta",
    "average decay": "share that CFA's weight average keeps per epoch",
    "average gate": "worst-class validation accuracy from which an epoch enters CFA's weight average",
}
# A coordinate that means the same only where the other one agrees: MART's divergence is not TRADES'.
BESIDE = {"KL weight": BASE}

Values = Mapping[str, Any]  # of a setting's parameters
Counts = Sequence[int]  # training images of each class


@dataclass(frozen=True)
class ActsAs:
    """The coordinate of a parameter: its value, or with a ``unit`` so many times its value.

    ``unit`` is a function of the setting's other parameters and of the class counts. Where it is 0 (class weights on
    balanced data) the parameter does not act, and takes nothing over.
    """

    name: str
    unit: Callable[[Values, Counts], float] | None = None

    def coordinate(self, value: Any, values: Values, counts: Counts) -> Any:
        """What ``value`` is as a coordinate, beside ``values``."""
        return value if self.unit is None else value * self.unit(values, counts)

    def value(self, coordinate: Any, values: Values, counts: Counts) -> Any:
        """The inverse; None where the parameter does not act."""
        if self.unit is None:
            return coordinate
        unit = self.unit(values, counts)
        return coordinate / unit if unit else None


def effective_number(values: Values, counts: Counts) -> float:
    """log(E(n_max) / E(n_min)) with E(n) = (1 - beta^n) / (1 - beta), the effective number (Cui et al. 2019, eq. 2).

    Class weights 1 / E(n_c), to the power of the parameter, have so many times it as the log of their largest ratio,
    however they are scaled. ``one_minus_beta`` is the setting's, else LDAM-DRW's 0.0001. 0 where a class has no image.
    """
    one_minus_beta = values.get("one_minus_beta", 1e-4)
    if one_minus_beta >= 1 or not min(counts):  # E is 1 for all classes, or 0 for one
        return 0.0
    few, many = (-math.expm1(n * math.log1p(-one_minus_beta)) for n in (min(counts), max(counts)))
    return math.log(many / few)
