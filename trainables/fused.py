"""A convolution with its bias, an addition and ReLU as one cuDNN kernel each, for a frozen network in half precision.

Without this a GPU spends a fifth of an attack on ResNet-18 reading and writing activations once more for each of the
three (benchmarks/attack_speed.py). Gradients flow to the images only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.backbones import Residual


class _ConvAddReLU(torch.autograd.Function):
    """relu(conv(x) + bias + other); ``other`` may be None."""

    @staticmethod
    def forward(ctx, x: Tensor, conv: nn.Conv2d, other: Tensor | None) -> Tensor:
        shape = conv.stride, conv.padding, conv.dilation, conv.groups
        if other is None:
            y = torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *shape)
        else:
            y = torch.cudnn_convolution_add_relu(x, conv.weight, other, 1.0, conv.bias, *shape)
        ctx.save_for_backward(x, conv.weight, y)
        ctx.shape, ctx.adds = shape, other is not None
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.shape
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        inner, _, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return inner, None, grad if ctx.adds else None


class ConvReLU(nn.Conv2d):
    """What a convolution becomes whose output goes into a ReLU."""

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return _ConvAddReLU.apply(x, self, other)


class FusedResidual(Residual):
    """A residual block whose last convolution adds the shortcut and applies the block's ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.body) - 2  # behind it is what is left of its batch norm
        return self.body[last](self.body[:last](x), self.shortcut(x))


def _fits(module: nn.Module) -> bool:
    """Whether cuDNN has a kernel for a convolution: it wants channels in eights, and no groups."""
    return (
        type(module) is nn.Conv2d
        and module.bias is not None
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.groups == 1
        and module.in_channels % 8 == 0
        and module.out_channels % 8 == 0
    )


def fuse(network: nn.Module) -> None:
    """Change ``network``, whose batch norms have been folded and replaced by `nn.Identity`, in place; its weights keep
    their names. Only `nn.Sequential` and our residual blocks are looked into."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            layers = list(module)
            for i, (conv, between, relu) in enumerate(zip(layers, layers[1:], layers[2:])):
                if _fits(conv) and isinstance(between, nn.Identity) and isinstance(relu, nn.ReLU):
                    conv.__class__, module[i + 2] = ConvReLU, nn.Identity()
        elif type(module) is Residual and _fits(module.body[-2]) and isinstance(module.body[-1], nn.Identity):
            module.body[-2].__class__, module.__class__ = ConvReLU, FusedResidual
