"""Focal: images of which the model is unsure weigh more."""

from dataclasses import dataclass

from search_spaces.param import param, uniform

PAPER = "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002"
SUMMARY = "instance weights (1 - p_y)^gamma of the adversarial prediction"
METHOD = "tuner_example.focal"


@dataclass(frozen=True)
class Params:
    gamma: float = param(2.0, uniform(0.0, 5.0), "focusing exponent; 0 = plain AT", source="paper")
