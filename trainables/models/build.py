"""One class around every backbone, and the function that builds it from a name.

Shapes: B batch, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.check import check_model
from trainables.models.names import TIMM, find_model, parse_model


class CosineHead(nn.Module):
    """Logits = scale * cosine between features and class weights; plus a bias only where offsets are folded in."""

    def __init__(self, features: int, classes: int, scale: float = 10.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.register_parameter("bias", None)
        self.scale = scale
        nn.init.normal_(self.weight)

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, K)"""
        logits = self.scale * F.linear(F.normalize(z), F.normalize(self.weight))
        return logits if self.bias is None else logits + self.bias


HEADS = {"linear": nn.Linear, "cosine": CosineHead}


class Classifier(nn.Module):
    """``forward(x) = head(features(x))`` for x (B, C, H, W) in [0, 1]; mean and std are buffers, not parameters."""

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        """(B, D) input of the head."""
        return self.backbone((x - self.mean) / self.std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits."""
        return self.head(self.features(x))


def build_model(
    name: str,
    classes: int,
    shape: tuple[int, int, int],
    *,
    head: str = "linear",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """A new model with random weights (torch's global generator: seed it first).

    ``name``: one of `MODELS`, ``wrn-D-W``, a torchvision classification model or ``timm:NAME``; own models take a
    width, ``"resnet18:0.5"``. ``mean``, ``std``: per channel for pixels in [0, 1], as `Splits` has them; 0.5 and 0.25
    if not given. `ValueError` for an unknown name, a shape the model cannot take, an unknown head or a wrong number of
    channels.
    """
    check_model(name, shape)
    if head not in HEADS:
        raise ValueError(f"head {head!r} is not allowed; it takes {' or '.join(HEADS)}")
    channels = shape[0]
    mean, std = mean or [0.5] * channels, std or [0.25] * channels
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"mean {list(mean)} and std {list(std)} do not fit; "
            f"each needs {channels} number(s), one per channel, and std must be positive"
        )
    base, width = parse_model(name)
    if base.startswith(TIMM):
        from trainables.models.timm_models import timm_backbone

        backbone, features = timm_backbone(base, shape)
    elif row := find_model(base):
        backbone, features = resolve_name(row.build)(shape, width, *row.sizes)
    else:
        from trainables.models.torchvision_models import torchvision_backbone  # heavy, and rarely needed

        backbone, features = torchvision_backbone(base)
    return Classifier(backbone, HEADS[head](features, classes), mean, std)


def conv_bn_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of every convolution whose output goes into one batch norm and nowhere else: they can be folded
    in eval mode.

    Known by construction, not by tracing: neighbours in an `nn.Sequential`, and convN/bnN of torchvision's
    ResNets. A batch norm in front of a convolution (pre-activation) is not listed, nor are subclasses, which do more
    (timm's activate, or standardise weights).
    """
    pairs, resnet = [], sys.modules.get("torchvision.models.resnet")  # not imported: no model has its blocks
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        named = dict(module.named_children())
        if isinstance(module, nn.Sequential):
            candidates = list(zip(named, list(named)[1:]))
        elif resnet and isinstance(module, (resnet.ResNet, resnet.BasicBlock, resnet.Bottleneck)):
            candidates = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if f"conv{i}" in named]
        else:
            continue
        pairs += [
            (dot + conv, dot + bn)
            for conv, bn in candidates
            if type(named[conv]) is nn.Conv2d and type(named[bn]) is nn.BatchNorm2d
        ]
    return pairs
