"""SRAT: class weights switched on late, and a loss that pulls the classes' features apart.

There is no public code, and of the paper only the abstract could be read: the shape of the loss is recalled. lambda,
tau, T_d and beta were not found anywhere. What resembles LDAM-DRW (github.com/kaidic/LDAM-DRW, cifar_train.py and
losses.py) or RoBal's LDAM was chosen by us from there.
"""

from dataclasses import dataclass

from search_spaces.coordinates import BASE, CLASS_WEIGHTS, ActsAs, effective_number
from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Wang et al., Imbalanced Adversarial Training with Reweighting, 2021, arXiv:2107.13639"
SUMMARY = "deferred class weights by effective number, plus a separation loss on adversarial features"


@dataclass(frozen=True)
class Params:
    loss: str = param("ce", choice("ce", "focal", "ldam"), "classification loss L", source="second-hand")
    one_minus_beta: float = param(1e-4, loguniform(1e-5, 1.0), "1 - beta of the effective number (1-beta^n)/(1-beta); 1 = no reweighting, 0.0001 in LDAM-DRW", source="ours")
    strength: float = param(1.0, uniform(0.0, 2.0), "exponent on the class weights; 1 = as they are, 0 = none; our addition", source="ours", acts_as=ActsAs(CLASS_WEIGHTS, effective_number))
    start: float = param(0.8, uniform(0.2, 0.95), "fraction of the epochs after which the class weights apply (T_d / T; LDAM-DRW: 160 of 200)", source="ours", acts_as="start")
    sep_weight: float = param(0.5, loguniform(0.01, 4.0), "lambda, weight of the separation loss, from the first epoch that is the trial's own", source="ours", acts_as="separation weight")
    temperature: float = param(0.1, loguniform(0.05, 1.0), "tau of the separation loss", source="ours", acts_as="separation temperature")
    gamma: float = param(1.0, uniform(0.5, 5.0), "focusing exponent of the focal loss; 1 in LDAM-DRW", source="ours", when={"loss": ("focal",)})
    max_margin: float = param(0.5, uniform(0.1, 1.0), "largest LDAM margin, that of the rarest class; 0.5 in LDAM-DRW", source="ours", when={"loss": ("ldam",)})
    scale: float = param(1.0, loguniform(1.0, 6.0), "LDAM logit scale s; 1 with a plain linear head (RoBal); from 6.9 on the attack saturates and every training stayed at chance (LDAM-DRW: 30)", source="ours", when={"loss": ("ldam",)})
    form: str = param("at", choice("at", "trades"), "plain base under the weights; trades is our addition", source="second-hand", searched=False, acts_as=BASE)
    beta: float = param(6.0, loguniform(1.0, 10.0), "weight of the KL term", source="ours", when={"form": ("trades",)}, searched=False, acts_as="KL weight")
    reduction: str = param("data", choice("data", "batch"), "class weights scaled to mean 1 over the training data, or over each batch as LDAM-DRW does", source="ours", searched=False)
