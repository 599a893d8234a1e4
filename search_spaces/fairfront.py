"""Our own family: instance weight x class weight x class radius x regulariser; its corners are the published methods.

Its defaults are ours even where another method's authors publish the same value.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE, CLASS_WEIGHTS, ActsAs, effective_number
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "this project"
SUMMARY = "one family of instance weight, class weight, radius and regulariser"

PRIOR_IN_LOSS = "the log class frequencies in its loss where logit_prior is above 0"
STEM = {"val_losses": {"class_weight": ("hedge",)}}
_REGULARISED = {"form": ("trades", "mart")}
_TERMS = choice("both", "main", "regulariser")


@dataclass(frozen=True)
class Params:
    form: str = param("at", choice("at", "trades", "mart"), "plain base and its regulariser", source="ours", acts_as=BASE)
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the regulariser", source="ours", when=_REGULARISED, acts_as="KL weight")
    start: float = param(0.5, uniform(0.0, 0.9), "fraction of the epochs trained as the plain base first", source="ours", acts_as="start")

    instance: str = param("none", choice("none", "geometry", "sigmoid", "exponential", "entropy"), "instance weight of GAIRAT, MAIL, WMMR, EWAT", source="ours")
    instance_on: str = param("both", _TERMS, "terms the instance weight multiplies", source="ours", when={**_REGULARISED, "instance": ("geometry", "sigmoid", "exponential", "entropy")})
    lam: float = param(-1.0, uniform(-3.0, 3.0), "flatness of the geometry weights (GAIRAT)", source="ours", when={"instance": ("geometry",)}, acts_as="geometry lambda")
    func: str = param("tanh", choice("tanh", "sigmoid", "discrete"), "weight as a function of the steps survived (GAIRAT)", source="ours", when={"instance": ("geometry",)}, searched=False)
    slope: float = param(10.0, loguniform(1.0, 20.0), "slope of the sigmoid weights (MAIL)", source="ours", when={"instance": ("sigmoid",)}, acts_as="margin slope")
    bias: float = param(-0.5, uniform(-1.5, 0.5), "bias of the sigmoid weights (MAIL)", source="ours", when={"instance": ("sigmoid",)}, acts_as="margin bias")
    alpha: float = param(0.5, loguniform(0.1, 5.0), "sharpness of the exponential weights (WMMR)", source="ours", when={"instance": ("exponential",)}, acts_as="margin exponent")
    detach: bool = param(True, choice(True, False), "no gradient through the exponential weights (WMMR's code: it flows)", source="ours", when={"instance": ("exponential",)}, searched=False)
    strength: float = param(1.0, uniform(0.0, 1.0), "share of the entropy weights (EWAT)", source="ours", when={"instance": ("entropy",)}, acts_as="entropy share")

    class_weight: str = param("none", choice("none", "prior", "hedge", "ball", "similarity", "dual"), "class weight of SRAT, WAT, FAAL, DAFA, FRL", source="ours")
    class_on: str = param("both", _TERMS, "terms the class weight multiplies", source="ours", when={**_REGULARISED, "class_weight": ("prior", "hedge", "ball", "similarity", "dual")})
    power: float = param(1.0, uniform(0.0, 2.0), "exponent of the effective-number weights (SRAT)", source="ours", when={"class_weight": ("prior",)}, acts_as=ActsAs(CLASS_WEIGHTS, effective_number))
    eta: float = param(0.1, loguniform(0.01, 1.0), "learning rate of the hedge (WAT)", source="ours", when={"class_weight": ("hedge",)}, acts_as="hedge rate")
    ball: float = param(0.5, loguniform(0.01, 1.0), "radius of the KL ball (FAAL)", source="ours", when={"class_weight": ("ball",)}, acts_as="KL-ball radius")
    similarity: float = param(1.0, loguniform(0.2, 3.0), "lambda of the class similarity weights (DAFA)", source="ours", when={"class_weight": ("similarity",)}, acts_as="similarity lambda")
    rate: float = param(0.05, loguniform(0.01, 0.2), "step of the dual ascent (FRL)", source="ours", when={"class_weight": ("dual",)}, acts_as="dual rate")

    class_radius: str = param("none", choice("none", "accuracy", "similarity", "dual"), "class radius of CFA, DAFA, FRL", source="ours")
    radius_base: float = param(0.5, uniform(0.2, 1.5), "radius factor at class accuracy 0 (CFA)", source="ours", when={"class_radius": ("accuracy",)}, acts_as="radius base")
    radius_slope: float = param(1.0, uniform(-1.0, 1.0), "its change with class accuracy; 1 = CFA, negative favours hard classes", source="ours", when={"class_radius": ("accuracy",)})
    radius_similarity: float = param(1.0, loguniform(0.2, 3.0), "lambda of the class similarity radii (DAFA)", source="ours", when={"class_radius": ("similarity",)}, acts_as="similarity lambda")
    margin_rate: float = param(0.2, loguniform(0.05, 0.5), "step of the dual ascent on the radii (FRL)", source="ours", when={"class_radius": ("dual",)}, acts_as="dual radius rate")

    class_beta: bool = param(False, choice(False, True), "share of the KL term by class accuracy, total weight 1 (CFA)", source="ours", when={"form": ("trades",)})
    beta_base: float = param(0.5, uniform(0.2, 1.0), "its base (CFA's lambda_2)", source="ours", when={"class_beta": (True,)}, acts_as="KL-weight base")
    logit_prior: float = param(0.0, uniform(0.0, 2.0), "factor on log class count added to the adversarial logits; 1 = balanced softmax", source="ours", when={"form": ("at",)}, acts_as="log-prior factor")
    separation: bool = param(False, choice(False, True), "add SRAT's separation loss", source="ours")
    sep_weight: float = param(0.5, loguniform(0.01, 4.0), "weight of the separation loss", source="ours", when={"separation": (True,)}, acts_as="separation weight")
    temperature: float = param(0.1, loguniform(0.05, 1.0), "temperature of the separation loss", source="ours", when={"separation": (True,)}, acts_as="separation temperature")
    average: str = param("none", choice("none", "fawa"), "weight average of the epochs that pass the gate (CFA)", source="ours", searched=False)
    decay: float = param(0.88, uniform(0.8, 0.95), "share the average keeps per epoch", source="ours", when={"average": ("fawa",)}, acts_as="average decay")
    threshold: float = param(0.2, uniform(0.05, 0.3), "smallest worst-class validation robust accuracy that enters the average", source="ours", when={"average": ("fawa",)}, acts_as="average gate")
