"""CFOL: classes are drawn (or weighted) by Exp3, more often the more often they are misclassified.

Read: the paper (gamma); github.com/LIONS-EPFL/class-focused-online-learning-code, cfol/config.py,
cfol/class_sampler.py and cmd_generator.py.
"""

from dataclasses import dataclass

from search_spaces.param import choice, loguniform, param, uniform

PAPER = "Pethick et al., Revisiting AT for the worst-performing class, TMLR 2023"
SUMMARY = "class-focused online learning: Exp3 over the classes"


@dataclass(frozen=True)
class Params:
    mode: str = param("sample", choice("sample", "reweight"), "the mixture draws the classes of a batch, or weights the loss", source="code")
    gamma: float = param(0.5, uniform(0.05, 0.95), "share of the base distribution in the mixture", source="paper")
    eta: float = param(0.01, loguniform(1e-5, 0.1), "learning rate per misclassified sample; the authors' scripts have 5e-6 on 50,000 images", source="ours")
    base: str = param("uniform", choice("uniform", "empirical"), "base distribution: uniform, or the training frequencies", source="code", searched=False)
    prior: str = param("uniform", choice("uniform", "empirical"), "distribution the online learner starts from", source="code", searched=False)
    eta_beta: float = param(0.0, uniform(0.0, 1.0), "added to every sample's update", source="code", searched=False)
