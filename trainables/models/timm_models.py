"""timm's models by their own names, ``timm:NAME``, where timm is installed. Imported only for such a name."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from trainables.models.names import TIMM


class Flat(nn.Module):
    """A model of timm without its head: (B, C, H, W) -> (B, D)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).flatten(1)


def timm_backbone(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """The model ``timm:NAME`` with random weights, made for images of ``shape`` (C, H, W) where it depends on their
    size, and the number of its features.

    `ValueError` where timm is not installed, has no such model, or it does not take such images.
    """
    if not find_spec("timm"):
        raise ValueError(f"model {name!r} needs the package timm; pip install 'robust-tuner[timm]'")
    import timm

    bare = name.removeprefix(TIMM)
    if not timm.is_model(bare):
        raise ValueError(f"model {name!r} is unknown: timm {timm.__version__} has no model {bare!r}")
    made = {"pretrained": False, "num_classes": 0, "in_chans": shape[0]}
    try:
        try:
            net = timm.create_model(bare, img_size=shape[1:], **made)
        except TypeError:  # a model for images of any size has no such argument
            net = timm.create_model(bare, **made)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = Flat(net).eval()(torch.zeros(1, *shape)).shape[1]
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"model {name!r} does not take images of {shape[1]}x{shape[2]} pixels: {error}") from None
    return Flat(net.train()), features
