"""Plain PGD adversarial training: nothing to reweight, the reference every other method is compared with."""

from dataclasses import dataclass

PAPER = "Madry et al., ICLR 2018, arXiv:1706.06083"
SUMMARY = "plain PGD adversarial training, no reweighting"


@dataclass(frozen=True)
class Params:
    pass
