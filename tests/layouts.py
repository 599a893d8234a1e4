"""Networks written down again with the names of the public codes, for tests that load their weights into ours.

Read in RobustBench's model zoo (architectures/wide_resnet.py, resnet.py, dm_wide_resnet.py, utils_architectures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2 if padding is None else padding, bias=False)


class TradesBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout)
        self.convShortcut = conv(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        beside = x if self.convShortcut is None else self.convShortcut(out)
        return beside + self.conv2(F.relu(self.bn2(self.conv1(out))))


class Group(nn.Module):
    def __init__(self, block, name: str, cin: int, cout: int, blocks: int, stride: int):
        super().__init__()
        layers = [block(cin if i == 0 else cout, cout, stride if i == 0 else 1) for i in range(blocks)]
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        (inside,) = self.children()
        return inside(x)


class TradesWideResNet(nn.Module):
    """``unused``: with the layers that TRADES' code has and never calls. ``mu``: normalisation as Rice2020's."""

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3, unused: bool = False, mu=None):
        super().__init__()
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = conv(channels, 16)
        self.block1 = Group(TradesBlock, "layer", widths[0], widths[1], n, 1)
        if unused:
            self.sub_block1 = Group(TradesBlock, "layer", widths[0], widths[1], n, 1)
        self.block2 = Group(TradesBlock, "layer", widths[1], widths[2], n, 2)
        self.block3 = Group(TradesBlock, "layer", widths[2], widths[3], n, 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)
        if mu is not None:
            self.register_buffer("mu", torch.full((1, channels, 1, 1), mu))
            self.register_buffer("sigma", torch.full((1, channels, 1, 1), mu / 2))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mu) / self.sigma if hasattr(self, "mu") else x
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class DeepMindBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(cin), conv(cin, cout, stride=stride, padding=0)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(cout), conv(cout, cout)
        self.shortcut = conv(cin, cout, 1, stride) if cin != cout else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.batchnorm_0(x))
        beside = x if self.shortcut is None else self.shortcut(out)
        out = F.pad(out, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))
        return beside + self.conv_1(F.silu(self.batchnorm_1(self.conv_0(out))))


class DeepMindWideResNet(nn.Module):
    def __init__(self, depth: int, width: int, classes: int, channels: int = 3):
        super().__init__()
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.init_conv = conv(channels, 16)
        groups = [Group(DeepMindBlock, "block", *widths[i : i + 2], n, 2 if i else 1) for i in range(3)]
        self.layer = nn.Sequential(*groups)
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.silu(self.batchnorm(self.layer(self.init_conv(x)))).mean((2, 3)))


class CifarBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, cout, stride=stride), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = conv(cout, cout), nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class CifarPreActBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout)
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(conv(cin, cout, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        beside = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + beside


class CifarResNet18(nn.Module):
    """``pre``: pre-activation. ``widths``: channels of the four stages."""

    def __init__(self, widths: tuple[int, ...], classes: int, channels: int = 3, pre: bool = False):
        super().__init__()
        self.pre, block = pre, CifarPreActBlock if pre else CifarBlock
        self.conv1 = conv(channels, widths[0])
        if not pre:
            self.bn1 = nn.BatchNorm2d(widths[0])
        before = (widths[0], *widths)
        for i in range(4):
            stride = 2 if i else 1
            layers = nn.Sequential(block(before[i], widths[i], stride), block(widths[i], widths[i], 1))
            self.add_module(f"layer{i + 1}", layers)
        if pre:
            self.bn = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x if self.pre else F.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = F.relu(self.bn(x)) if self.pre else x
        return self.linear(x.mean((2, 3)))


class Scaled(nn.Module):
    """RobustBench's ``normalize_model``: a layer ``normalize`` in front of ``model``."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.normalize, self.model = nn.Module(), model
        for name, values in (("mean", mean), ("std", std)):
            self.normalize.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.normalize.mean) / self.normalize.std)


def published(folder: Path, x: Tensor, y: Tensor, widths: Sequence[int], steps: int) -> tuple[nn.Module, Path]:
    """A public model of one-channel images ``x``, trained for a moment so that it is better than chance, and its file
    in RobustBench's layout."""
    torch.manual_seed(0)
    model = Scaled(CifarResNet18(widths, 10, channels=1), [0.3], [0.4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        rows = torch.randperm(len(y))[:128]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "robust.pt")
    return model.eval(), folder / "robust.pt"


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """With weights and statistics as after a training, so that a wrong layer is seen."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
    return model.eval()
