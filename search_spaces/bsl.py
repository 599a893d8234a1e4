"""AT with balanced softmax: the class frequencies are added to the logits of the training loss.

Read: github.com/NISPLab/AT-BSL, at_bsl_loss.py.
"""

from dataclasses import dataclass

from search_spaces.param import param, uniform

PAPER = "Yue et al., Revisiting AT under Long-Tailed Distributions (AT-BSL), CVPR 2024"
SUMMARY = "balanced softmax: cross-entropy of logits + log class count"
PRIOR_IN_LOSS = "the log class frequencies in its loss (balanced softmax)"


@dataclass(frozen=True)
class Params:
    strength: float = param(1.0, uniform(0.0, 2.0), "factor on log class count; 1 = balanced softmax, 0 = plain AT", source="code")
