"""LSAT: LRAT's attacks without its weights, the control that separates the two.

The paper runs it with one attack at a time; this pair is lrat's.
"""

from dataclasses import dataclass

from search_spaces.lrat import ATTACKS
from search_spaces.param import choice, param

PAPER = "Gao et al., Local Reweighting for Adversarial Training, 2021, arXiv:2106.15776, section 4"
SUMMARY = "the attacks of lrat, every weight equal"


@dataclass(frozen=True)
class Params:
    attacks: str = param("saa+cw", choice(*ATTACKS), "attacks simulated on every image; saa costs six times a pgd", source="ours", searched=False)
