"""What an adversary may do to an image: a ball around it, within the pixels' range. One class per norm.

Every attack, of training, evaluation and verification, moves images through a `ThreatModel` alone: it decides where
they may be, what a step of a given length along a gradient is, and what a random start is.

How to add a threat model
-------------------------
A subclass of `ThreatModel` with its four methods and its names, and a row of `trainables.threats`, which says how
``--threat`` and reports call it, and names the class; `LInf` and `L2` are the examples. Whatever takes
a ``threat`` (`pgd`, `apgd`, `square`, `evaluate`, `Cascade`) works with it, and `Trainer.threat` is the one that a
trial trains and is judged with. ``eps`` is the radius everywhere, in the unit of the norm. Two things are made for a
norm: the log barrier of DONE (boxes alone), and the moves of the black-box probe (`trainables.square`). An image's
point must not depend on the other images: several processes share a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pkgutil import resolve_name

import torch
from torch import Tensor

from trainables.reading import named_line
from trainables.threats import THREATS


def per_image(values: float | Tensor, x: Tensor) -> Tensor:
    """A number, or one for each image (B,), as a tensor (1 or B, 1, ...) that broadcasts over images ``x`` (B, ...)."""
    # a number is written by the device itself: a copy from the host could not be recorded (``Replayed``)
    values = values.to(x) if isinstance(values, Tensor) else x.new_full((1,), values)
    return values.reshape((-1,) + (1,) * (x.dim() - 1))


class ThreatModel(ABC):
    """The ball of ``radius`` around each of the images ``x`` (B, ...) in [0, 1]; ``radius`` is a number or (B,).

    Nothing here synchronises with the host.
    """

    name: str  # in ``--threat``: "linf", "l2"
    norm: str = ""  # as AutoAttack calls it: "Linf", "L2"; empty: it knows no such ball

    def __init__(self, x: Tensor, radius: float | Tensor):
        self.x, self.radius = x, per_image(radius, x)

    @abstractmethod
    def project(self, x_adv: Tensor) -> Tensor:
        """Into the ball, then into the pixel range, which leads no image out of the ball again."""

    @abstractmethod
    def step(self, x_adv: Tensor, grad: Tensor, size: Tensor) -> Tensor:
        """From ``x_adv`` the step of length ``size`` (1 or B, 1, ...) that gains most along ``grad``, projected. No
        gradient, no step."""

    @abstractmethod
    def start(self, generator: torch.Generator | None = None) -> Tensor:
        """A random point of each ball, uniform, clipped to the pixel range."""

    @abstractmethod
    def border(self, generator: torch.Generator | None = None) -> Tensor:
        """A random point at distance ``radius`` from each image, not clipped: where AutoAttack's APGD starts."""


class LInf(ThreatModel):
    """Every pixel may change by ``radius``, in units of the pixels' range [0, 1]."""

    name, norm = "linf", "Linf"

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest pixels (B, ...)."""
        return (self.x - self.radius).clamp_(0, 1), (self.x + self.radius).clamp_(0, 1)

    def project(self, x_adv: Tensor) -> Tensor:
        return x_adv.clamp(*self.bounds)

    def step(self, x_adv: Tensor, grad: Tensor, size: Tensor) -> Tensor:
        """``size`` times the sign of the gradient, sign(0) = 0 (Madry et al., ICLR 2018)."""
        return torch.addcmul(x_adv, grad.sign(), size).clamp_(*self.bounds)

    def start(self, generator: torch.Generator | None = None) -> Tensor:
        return (self.x + self.radius * self._noise(generator)).clamp_(0, 1)

    def border(self, generator: torch.Generator | None = None) -> Tensor:
        """Noise scaled so that its largest value is the radius."""
        noise = self._noise(generator)
        return self.x + self.radius * noise / per_image(noise.abs().flatten(1).amax(1), noise)

    def _noise(self, generator: torch.Generator | None) -> Tensor:
        return torch.rand(self.x.shape, device=self.x.device, dtype=self.x.dtype, generator=generator) * 2 - 1


class L2(ThreatModel):
    """The change of an image, as a vector of all its values, may have the Euclidean length ``radius``."""

    name, norm = "l2", "L2"

    def project(self, x_adv: Tensor) -> Tensor:
        """Towards the image, then into the pixel range, as AutoAttack does: not always the nearest point of both."""
        moved = x_adv - self.x
        shrink = (self.radius / length(moved).clamp(min=SMALL)).clamp(max=1)
        return torch.addcmul(self.x, moved, shrink).clamp_(0, 1)

    def step(self, x_adv: Tensor, grad: Tensor, size: Tensor) -> Tensor:
        """``size`` along the gradient, whatever its length (Madry et al., ICLR 2018)."""
        return self.project(torch.addcmul(x_adv, direction(grad), size))

    def start(self, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball of d dimensions: a uniform direction, and a share u^(1 / d) of the radius."""
        dimensions = self.x[0].numel()
        share = torch.rand(len(self.x), device=self.x.device, dtype=self.x.dtype, generator=generator)
        reach = self.radius * per_image(share ** (1 / dimensions), self.x)
        return torch.addcmul(self.x, self._direction(generator), reach).clamp_(0, 1)

    def border(self, generator: torch.Generator | None = None) -> Tensor:
        """A uniform direction, ``radius`` long."""
        return torch.addcmul(self.x, self._direction(generator), self.radius)

    def _direction(self, generator: torch.Generator | None) -> Tensor:
        return direction(torch.randn(self.x.shape, device=self.x.device, dtype=self.x.dtype, generator=generator))


SMALL = 1e-12  # a length that counts as none


def length(v: Tensor) -> Tensor:
    """(B, 1, ...) the Euclidean lengths of ``v`` (B, ...)."""
    return torch.linalg.vector_norm(v, dim=tuple(range(1, v.dim())), keepdim=True)


def direction(v: Tensor) -> Tensor:
    """``v`` (B, ...) with length 1; where it is 0 it stays 0. However small: the gradient of a model that is sure has
    values whose squares are 0 in float32."""
    largest = v.abs().amax(dim=tuple(range(1, v.dim())), keepdim=True)
    v = v / largest.clamp(min=torch.finfo(v.dtype).tiny)
    return v / length(v).clamp(min=SMALL)


def find_threat_model(name: str) -> type[ThreatModel]:
    """The class of a row of `THREATS`; ``ValueError`` in one sentence where a plug-in's cannot be used."""
    row, package = THREATS[name], THREATS.source(name)
    try:
        found = resolve_name(row.model)
        if not issubclass(found, ThreatModel) or found.name != name:
            raise TypeError(f"{row.model} is no subclass of trainables.threat_model.ThreatModel with name = {name!r}")
        return found
    except Exception as error:  # a plug-in's module may raise anything
        if package is None:
            raise
        raise ValueError(f"threat {name!r} of {package} cannot be used: {named_line(error)}") from error
