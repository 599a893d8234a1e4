"""Which models exist, without importing torch: the command line checks names before anything heavy is loaded."""

from __future__ import annotations

import math

# name: (what it is, smallest image side, largest)
MODELS: dict[str, tuple[str, int, int]] = {
    "cnn": ("small convolutional network, 3 blocks up to 16 pixels and 4 above", 8, 64),
    "resnet18": ("ResNet-18 with a 32x32 stem", 8, 64),
    "preact-resnet18": ("pre-activation ResNet-18 with a 32x32 stem", 8, 64),
    "wrn-34-10": ("WideResNet-34-10", 8, 64),
}


def parse_model(name: str) -> tuple[str, float]:
    """``"resnet18:0.5"`` as ("resnet18", 0.5). `ValueError` for a width that is no number in [0.1, 16]."""
    base, colon, suffix = str(name).partition(":")
    try:
        width = float(suffix) if colon else 1.0
    except ValueError:
        width = math.nan
    if not 0.1 <= width <= 16:
        raise ValueError(f"model {name!r} has width {suffix!r}; after the colon it takes a number from 0.1 to 16")
    return base, width
