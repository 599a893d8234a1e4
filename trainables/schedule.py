"""The learning rate over the epochs, each schedule as a plain function of the progress."""

from __future__ import annotations

import math

LATE = (100 / 110, 105 / 110)  # Pang et al., ICLR 2021; early drops overfit (Rice et al., ICML 2020)
EARLY = (0.75, 0.9)
LONG = 20  # epochs from which the last drops leave whole epochs to train
NEAR = 0.05  # epochs: a fraction has few digits, so a drop as near as this to a whole epoch is at it


def drop_epochs(milestones: str, max_epochs: int) -> list[float]:
    """After how many epochs the learning rate drops: ``milestones`` are fractions such as ``0.6,0.9``, or ``auto``.

    0.833 of 120 is 100, not 99.96. A drop need not be at a whole epoch: 0.9 of 12 is 10.8, within the 11th.
    """
    if milestones == "auto":
        shares = LATE if max_epochs >= LONG else EARLY
    else:
        shares = tuple(float(part) for part in milestones.split(","))
    epochs = [share * max_epochs for share in shares]
    return [float(round(epoch)) if abs(epoch - round(epoch)) < NEAR else epoch for epoch in epochs]


def learning_rate(schedule: str, progress: float, max_epochs: int, peak: float, milestones: str = "auto") -> float:
    """The learning rate after ``progress`` epochs (0 .. ``max_epochs``), of which ``peak`` is the largest."""
    done = progress / max_epochs
    match schedule:
        case "piecewise":
            drops = sum(progress >= epoch for epoch in drop_epochs(milestones, max_epochs))
            return peak * 10.0**-drops
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "onecycle":
            return peak * (done / 0.3 if done < 0.3 else (1 - done) / 0.7)
        case _:
            return peak
