"""Our own models, one row each, without importing torch: the command line checks names before anything heavy is loaded.

How to add a model
------------------
torchvision's classification models need no row: they are known by their own names. A model of our own is one row of
`BUILT_IN` and the function that it names, ``build(shape, width)`` with ``shape`` (C, H, W) and ``width`` a factor on
the channels (and the row's ``sizes``). It returns the backbone, (B, C, H, W) normalised -> (B, D), and D;
`trainables.models.build` adds normalisation and head. Where a convolution and its batch norm are neighbours in an
``nn.Sequential``, attacks run with the two folded into one. A row of ``tests/test_models.py`` runs the tests that every
model passes.

Another installed package offers a row by an entry point of the group ``tuner.models``, ``NAME = "package.module:ROW"``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.number import number
from search_spaces.plug_ins import Table, Unusable


@dataclass(frozen=True)
class Model:
    """One row. Sides are of the image, in pixels."""

    about: str
    smallest: int
    largest: int
    build: str  # "package.module:function", imported when a model is built
    sizes: tuple[int, ...] = ()  # further arguments of that function, from the name: depth and width of a WideResNet


BUILT_IN: dict[str, Model] = {
    "cnn": Model(
        "small convolutional network, 3 blocks up to 16 pixels and 4 above", 8, 64, "trainables.models.backbones:cnn"
    ),
    "resnet18": Model("ResNet-18 with a 32x32 stem", 8, 64, "trainables.models.backbones:resnet18"),
    "preact-resnet18": Model(
        "pre-activation ResNet-18 with a 32x32 stem", 8, 64, "trainables.models.backbones:preact_resnet18"
    ),
    "wrn-34-10": Model(
        "WideResNet of depth 34 and width 10; wrn-D-W for others", 8, 64, "trainables.models.backbones:wrn", (34, 10)
    ),
    "dm-wrn-28-10": Model(
        "the same in DeepMind's form (Swish, padded as in TensorFlow); dm-wrn-D-W for others",
        8,
        64,
        "trainables.models.backbones:dm_wrn",
        (28, 10),
    ),
    "vit-tiny": Model("vision transformer of DeiT-Ti's size, 8x8 patches", 8, 64, "trainables.models.vit:vit_tiny"),
}
TIMM = "timm:"  # before the name of a model of timm


def check_row(row: Any) -> None:
    """``Unusable`` unless another package's row can be used as one of ours."""
    if not isinstance(row, Model) or not isinstance(row.about, str):
        raise Unusable("it must be a trainables.models.names.Model that says what it is")
    if not isinstance(row.build, str) or ":" not in row.build:
        raise Unusable('its build must be "package.module:function"')
    if not all(isinstance(side, int) for side in (row.smallest, row.largest)) or not 1 <= row.smallest <= row.largest:
        raise Unusable("its smallest and largest must be sides of an image in pixels")


MODELS: Table[Model] = Table("model", "tuner.models", BUILT_IN, check_row, lambda row: (row.build.partition(":")[0],))


_SIZES = re.compile(r"((?:dm-)?wrn)-(\d{1,3})-(\d{1,2})")


def find_model(base: str) -> Model | None:
    """The row of a model of our own, or the one made from a WideResNet's name; None for any other name.

    `ValueError` for a WideResNet that there is not: its depth is 6n + 4 (Zagoruyko & Komodakis 2016).
    """
    if base in MODELS or not (found := _SIZES.fullmatch(base)):
        return MODELS.get(base)
    depth, width = int(found[2]), int(found[3])
    if depth < 10 or (depth - 4) % 6 or not 1 <= width <= 32:
        raise ValueError(
            f"model {base!r} is no WideResNet; in {found[1]}-D-W the depth D is 10, 16, 22, 28, 34, ... and the width "
            "W 1 to 32"
        )
    row = next(row for name, row in BUILT_IN.items() if name.startswith(f"{found[1]}-"))
    return replace(row, sizes=(depth, width))


def parse_model(name: str) -> tuple[str, float]:
    """``"resnet18:0.5"`` as ("resnet18", 0.5); a name of timm's has no width. `ValueError` for a width that is no
    number in [0.1, 16]."""
    if str(name).startswith(TIMM):
        return str(name), 1.0
    base, colon, suffix = str(name).partition(":")
    try:
        width = number(suffix) if colon else 1.0
    except ValueError:
        width = math.nan
    if not 0.1 <= width <= 16:
        raise ValueError(f"model {name!r} has width {suffix!r}; after the colon it takes a number from 0.1 to 16")
    return base, width
