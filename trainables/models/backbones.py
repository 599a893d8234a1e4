"""The own backbones: (B, C, H, W) normalised -> (B, D). Small images keep their resolution in the stem.

A convolution with its batch norm are neighbours in an `nn.Sequential`, which is what `conv_bn_pairs` reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]


def _scaled(channels: int, width: float) -> int:
    return max(4, round(channels * width))


def _conv(cin: int, cout: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)


def cnn(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """conv-BN-ReLU blocks, then a 2x2 grid of averages: one global average is too little for 8x8 images.

    Up to 16 pixels: 16, 32, 64 channels, strides 1, 2, 2. Above: 32, 64, 128, 128, strides 1, 2, 2, 2.
    """
    small = max(shape[1:]) <= 16
    stages = ((16, 1), (32, 2), (64, 2)) if small else ((32, 1), (64, 2), (128, 2), (128, 2))
    layers: list[nn.Module] = []
    cin = shape[0]
    for channels, stride in stages:
        cout = _scaled(channels, width)
        layers += [_conv(cin, cout, stride), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
        cin = cout
    # a stride-2 convolution turns n into ceil(n / 2): two of them leave 8x8 images at 2x2 already
    if tuple(shape[1:]) != (8, 8):
        layers.append(nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten()), 4 * cin


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)), He et al. 2015."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(cin, cout, stride),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
            _conv(cout, cout),
            nn.BatchNorm2d(cout),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(_conv(cin, cout, stride, 1), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.body(x) + self.shortcut(x))


class PreActivation(nn.Module):
    """BN-ReLU before each convolution, He et al. 2016; a block that changes the shape projects what its first
    ReLU gives."""

    activation: type[nn.Module] = nn.ReLU

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.pre = nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            _conv(cin, cout, stride), nn.BatchNorm2d(cout), nn.ReLU(inplace=True), _conv(cout, cout)
        )
        self.shortcut = None if stride == 1 and cin == cout else _conv(cin, cout, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pre(x)
        return self.body(h) + (x if self.shortcut is None else self.shortcut(h))


class SamePad(nn.Module):
    """Zeros around (B, C, H, W) as TensorFlow's ``SAME`` adds them for a 3x3 convolution: one on each side, but with a
    stride of 2 an even side gets them at its end alone."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        top, left = (1 if self.stride == 1 else side % 2 for side in x.shape[2:])
        return F.pad(x, (left, 1, top, 1))


class DeepMind(PreActivation):
    """The same with Swish, and padded by `SamePad`."""

    activation = nn.SiLU

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__(cin, cout, stride)
        self.pre = nn.Sequential(nn.BatchNorm2d(cin), nn.SiLU(inplace=True))
        self.body = nn.Sequential(
            SamePad(stride),
            nn.Conv2d(cin, cout, 3, stride, bias=False),
            nn.BatchNorm2d(cout),
            nn.SiLU(inplace=True),
            _conv(cout, cout),
        )


def _stages(block: Callable[[int, int, int], nn.Module], cin: int, widths: list[int], blocks: int) -> list[nn.Module]:
    """``blocks`` blocks per width; every stage but the first halves the resolution."""
    layers = []
    for stage, cout in enumerate(widths):
        for i in range(blocks):
            layers.append(block(cin, cout, 2 if stage and not i else 1))
            cin = cout
    return layers


def resnet18(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """ResNet-18 as adversarial training uses it on 32x32: 3x3 stride-1 stem, no max-pool."""
    widths = [_scaled(c, width) for c in (64, 128, 256, 512)]
    stem = [_conv(shape[0], widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
    blocks = _stages(Residual, widths[0], widths, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def preact_resnet18(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Pre-activation ResNet-18 with the final BN-ReLU (Rice et al. 2020)."""
    widths = [_scaled(c, width) for c in (64, 128, 256, 512)]
    return _preactivation(shape, widths[0], widths, 2), widths[-1]


def wrn(shape: Shape, width: float, depth: int, widen: int) -> tuple[nn.Module, int]:
    """WideResNet-depth-widen without dropout (TRADES), with its He initialisation."""
    return _wide(shape, width, depth, widen, PreActivation)


def dm_wrn(shape: Shape, width: float, depth: int, widen: int) -> tuple[nn.Module, int]:
    """The same of Gowal et al. 2020, arXiv:2010.03593, as most of RobustBench's best models are."""
    return _wide(shape, width, depth, widen, DeepMind)


def _wide(shape: Shape, width: float, depth: int, widen: int, block: type[PreActivation]) -> tuple[nn.Module, int]:
    widths = [_scaled(widen * c, width) for c in (16, 32, 64)]
    backbone = _preactivation(shape, 16, widths, (depth - 4) // 6, block)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone, widths[-1]


def _preactivation(
    shape: Shape, stem: int, widths: list[int], blocks: int, block: type[PreActivation] = PreActivation
) -> nn.Sequential:
    last = [nn.BatchNorm2d(widths[-1]), block.activation(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(_conv(shape[0], stem), *_stages(block, stem, widths, blocks), *last)
