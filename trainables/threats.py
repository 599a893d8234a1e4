"""The threat models by name: how ``--threat`` is written, and how reports call them. Needs no torch: the command line
reads and checks names. What an attack does in each is its class, such as those of `trainables.threat_model`.

Another installed package offers a row by an entry point of the group ``tuner.threats``, ``NAME =
"package.module:ROW"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search_spaces.number import NUMBER, number
from search_spaces.plug_ins import Table, Unusable

LINF = "linf"  # the one that holds where nothing is said


@dataclass(frozen=True)
class Norm:
    """One row: how reports call it, and the largest distance between two images of ``values`` numbers in [0, 1]: no
    radius is larger. ``model``: its `ThreatModel`, "package.module:Class", imported where something is attacked."""

    shown: str
    farthest: Callable[[int], float]
    model: str


def check_row(row: Any) -> None:
    """``Unusable`` unless another package's row can be used as one of ours."""
    if not isinstance(row, Norm) or not isinstance(row.shown, str):
        raise Unusable("it must be a trainables.threats.Norm that says how reports call it")
    if not isinstance(row.model, str) or ":" not in row.model:
        raise Unusable('its model must be "package.module:Class"')
    if not callable(row.farthest) or not row.farthest(64) > 0:
        raise Unusable("its farthest must be a function of an image's number of values")


BUILT_IN = {
    LINF: Norm("L-inf", lambda values: 1.0, "trainables.threat_model:LInf"),
    "l2": Norm("L2", math.sqrt, "trainables.threat_model:L2"),
}
THREATS: Table[Norm] = Table("threat", "tuner.threats", BUILT_IN, check_row, lambda row: (row.model.partition(":")[0],))
SMALLEST = 1e-4  # radius


def pattern() -> str:
    """What ``--threat`` looks like. L-inf alone may leave its radius to the data set or to ``eps``."""
    return rf"^({LINF}|({'|'.join(THREATS)}):\s*{NUMBER}\s*)$"


def _allowed() -> str:
    more = "".join(f", or {name}:RADIUS" for name in THREATS if name not in BUILT_IN)
    return f"it takes linf:RADIUS such as linf:8/255, or l2:RADIUS such as l2:0.5{more}"


@dataclass(frozen=True)
class Threat:
    """A norm by its name in `THREATS`, and the radius; None: the training setting ``eps``."""

    name: str = LINF
    radius: float | None = None

    def __str__(self) -> str:
        return self.name if self.radius is None else f"{self.name}:{self.radius!r}"

    @property
    def shown(self) -> str:
        return THREATS[self.name].shown


def parse_threat(text: str) -> Threat:
    """``linf``, ``linf:8/255``, ``l2:0.5`` or so of a plug-in's; ``ValueError``, one sentence, for anything else."""
    name, colon, radius = text.partition(":")
    if text == LINF:
        return Threat()
    try:
        given = number(radius)
    except ValueError:
        given = math.nan
    THREATS.refuse_broken(name)
    if name not in THREATS or not colon or math.isnan(given):
        raise ValueError(f"--threat {text!r} is not allowed; {_allowed()}")
    if given < SMALLEST or (name == LINF and given > 1):
        most = " and at most 1" if name == LINF else ""
        raise ValueError(
            f"--threat {text!r} is not allowed; pixels are in [0, 1] and a radius is at least {SMALLEST:g}{most}"
        )
    return Threat(name, given)


def check_radius(threat: Threat, shape: tuple[int, ...]) -> None:
    """``ValueError`` where the ball around any image of ``shape`` (C, H, W) holds all images."""
    most = THREATS[threat.name].farthest(math.prod(shape))
    if threat.radius is not None and threat.radius > most:
        size = "x".join(map(str, shape))
        raise ValueError(
            f"--threat {str(threat)!r} is not allowed; no two images of {size} values in [0, 1] are farther apart than "
            f"{most:.4g}"
        )
