"""Post-hoc class offsets: numbers added to a trained model's logits, one for each class. No torch.

They shift the decision from well-represented classes to weak ones without any training. ``prior`` is logit adjustment
(Menon et al. 2021, arXiv:2007.07314, eq. 9): minus tau times the logarithm of the class's share of the training images,
moved to 0 for the largest class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables.class_metrics import imbalanced

KINDS = ("none", "prior", "classes")
TAUS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of `prior`, beside 0, which is `none`


@dataclass(frozen=True)
class Offsets:
    """``values``: (K,), added to the logits; empty for ``none``. ``tau``: how far along its curve the point lies, 0 for
    the model as it was trained; with ``prior`` the factor of the equation."""

    kind: str = "none"
    tau: float = 0.0
    values: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As histories, reports and `--json` hold it."""
        return {"kind": self.kind, "tau": self.tau, "values": list(self.values)}

    @classmethod
    def of(cls, stored: dict[str, Any] | None) -> Offsets:
        """From `to_dict`; None (a front from before there were offsets) is ``none``. ``ValueError`` for others."""
        if not stored:
            return cls()
        offsets = cls(stored["kind"], stored["tau"], tuple(stored.get("values", ())))
        if offsets.kind not in KINDS or not all(map(math.isfinite, (offsets.tau, *offsets.values))):
            raise ValueError(f"{str(stored)[:80]!r} are no offsets")
        return offsets


NONE = Offsets()


def prior(train_counts: Sequence[int], tau: float) -> Offsets:
    """``-tau * log(n_c / n_max)`` for each class c: 0 for the largest, positive for the others."""
    largest = max(train_counts)
    return Offsets("prior", tau, tuple(-tau * math.log(n / largest) for n in train_counts))


def kind_for(asked: str, train_counts: Sequence[int], val_counts: Sequence[int]) -> str:
    """What ``--offsets`` means for data with so many images of each class, to train and to judge, (K,) each; where they
    are frames of tracks, ``val_counts`` are tracks.

    ``auto`` is ``prior`` where training images are imbalanced, else ``classes``: half of the images that judge fit
    these, the other half judges. Where a class has only one, ``auto`` is ``none``, and ``classes`` a ``ValueError``.
    """
    halved = min(val_counts) >= 2
    if asked == "classes" and not halved:
        raise ValueError("offsets 'classes' is not allowed here: a class has fewer than two images, or tracks, in val")
    if asked != "auto":
        return asked
    if imbalanced(train_counts):
        return "prior"
    return "classes" if halved else "none"
