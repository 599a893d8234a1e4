"""torchvision's classification models by their own names, cut into backbone and head. Made for 224x224: small
images may be too small for some, which `check_torchvision` finds out without computing anything (meta
tensors)."""

from __future__ import annotations

import torch
import torchvision.models
from torch import Tensor, nn

from trainables.models.names import MODELS, find_model


class RGB(nn.Module):
    """The backbone as it is, for grey images repeated to three channels."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1)).flatten(1)


def torchvision_backbone(name: str) -> tuple[nn.Module, int]:
    """The model without its last linear layer, and the number of features that layer took."""
    auxiliary = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **auxiliary)
    # its classifier is a convolution; pooled features and a linear head do the same
    if name.startswith("squeezenet"):
        net.classifier = nn.AdaptiveAvgPool2d(1)
        return RGB(net), 512
    path, last = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    net.set_submodule(path, nn.Identity())
    return RGB(net), last.in_features


def _fits(name: str, shape: tuple[int, int, int], device: str) -> bool:
    try:
        with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
            backbone, features = torchvision_backbone(name)
            return backbone.eval()(torch.empty(2, *shape)).shape == (2, features)
    except NotImplementedError:  # also a RuntimeError, but about the device
        raise
    except (RuntimeError, AssertionError, ValueError):
        return False


def check_own_name(name: str, package: str) -> None:
    """`ValueError` where a plug-in's model would take the place of one of torchvision's."""
    if name in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"model {name!r} of {package} is not used: torchvision has a model of this name")


def check_torchvision(name: str, width: float, shape: tuple[int, int, int]) -> None:
    """`ValueError` unless torchvision has a classification model of this name that takes images of ``shape``."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        same = name.lower().replace("_", "-")
        meant = f", did you mean {same!r}?" if same != name and find_model(same) else ""
        raise ValueError(
            f"unknown model {name!r}{meant}; it takes {', '.join(MODELS)} or the name of a torchvision classification "
            f"model such as mobilenet_v3_small, a WideResNet of another size (wrn-D-W), or timm:NAME"
        )
    if width != 1:
        raise ValueError(f"model '{name}:{width:g}' is not allowed; only {', '.join(MODELS)} take a width")
    try:
        fits = _fits(name, shape, "meta")
    except NotImplementedError:  # RegNet's constructor reads values of tensors
        fits = _fits(name, shape, "cpu")
    if not fits:
        raise ValueError(
            f"model {name!r} does not take images of {shape[1]}x{shape[2]} pixels; "
            f"it takes larger ones (torchvision's are made for 224x224), "
            f"or use {', '.join(MODELS)}"
        )
