"""What an adversary may do to an image: a ball around it, within the pixels' range. One class per norm.

Every attack, of training, evaluation and verification, moves images through a `ThreatModel` alone: it decides where
they may be, what a step of a given length along a gradient is, and what a random start is.

How to add a threat model
-------------------------
A subclass of `ThreatModel` with its four methods and AutoAttack's name of the norm; `LInf` is the example. Whatever
takes a ``threat`` (`pgd`, `apgd`, `square`, `evaluate`, `Cascade`) works with it, and `Trainer.threat` is the one that
trials train and are judged with. ``tests/test_threat_model.py`` has the L2 ball as a second one. ``eps`` is the radius
everywhere, in the unit of the norm. Two things are made for boxes: the log barrier of DONE, and the black-box probe,
whose squares are only projected on another ball (the authors have other moves for L2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor


def per_image(values: float | Tensor, x: Tensor) -> Tensor:
    """A number, or one for each image (B,), as a tensor (1 or B, 1, ...) that broadcasts over images ``x`` (B, ...)."""
    # a number is written by the device itself: a copy from the host could not be recorded (``Replayed``)
    values = values.to(x) if isinstance(values, Tensor) else x.new_full((1,), values)
    return values.reshape((-1,) + (1,) * (x.dim() - 1))


class ThreatModel(ABC):
    """The ball of ``radius`` around each of the images ``x`` (B, ...) in [0, 1]; ``radius`` is a number or (B,).

    Nothing here synchronises with the host.
    """

    norm: str  # as AutoAttack calls it: "Linf", "L2"

    def __init__(self, x: Tensor, radius: float | Tensor):
        self.x, self.radius = x, per_image(radius, x)

    @abstractmethod
    def project(self, x_adv: Tensor) -> Tensor:
        """The nearest images in ball and pixel range."""

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

    norm = "Linf"

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
