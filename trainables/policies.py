"""RandAugment (Cubuk et al. 2020) and AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019), on whole batches.

Images that draw the same operation are transformed together, by torchvision's kernels on the device; what is drawn
crosses to the host once for a batch. As in torchvision's `transforms.v2`: nearest pixels, zeros at the border, 2
operations of magnitude 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

OPERATIONS, BINS, MAGNITUDE = 2, 31, 9  # RandAugment's
POLICY_BINS = 10  # AutoAugment's: magnitudes 0 to 9
SPAN = 150 / 331  # of a side: how far a translation goes


def _affine(x: Tensor, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0), **more) -> Tensor:
    return F.affine(x, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), **more)


def _slope(m: float) -> float:
    return math.degrees(math.atan(m))


# Images (B, C, H, W) uint8 and the magnitude as `magnitude` gives it -> images.
APPLY: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda x, m: x,
    "ShearX": lambda x, m: _affine(x, shear=(_slope(m), 0.0), center=[0, 0]),
    "ShearY": lambda x, m: _affine(x, shear=(0.0, _slope(m)), center=[0, 0]),
    "TranslateX": lambda x, m: _affine(x, translate=(int(m), 0)),
    "TranslateY": lambda x, m: _affine(x, translate=(0, int(m))),
    "Rotate": lambda x, m: F.rotate(x, angle=m),
    "Brightness": lambda x, m: F.adjust_brightness(x, 1.0 + m),
    "Color": lambda x, m: F.adjust_saturation(x, 1.0 + m),
    "Contrast": lambda x, m: F.adjust_contrast(x, 1.0 + m),
    "Sharpness": lambda x, m: F.adjust_sharpness(x, 1.0 + m),
    "Posterize": lambda x, m: F.posterize(x, bits=int(m)),
    "Solarize": lambda x, m: F.solarize(x, threshold=255 * m),
    "AutoContrast": lambda x, m: F.autocontrast(x),
    "Equalize": lambda x, m: F.equalize(x),
    "Invert": lambda x, m: F.invert(x),
}
RAND = tuple(name for name in APPLY if name != "Invert")
LARGEST = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}  # of those that may go both ways; the rest is in `magnitude`
BOTH_WAYS = {*LARGEST, "TranslateX", "TranslateY", "Brightness", "Color", "Contrast", "Sharpness"}

# AutoAugment's policy for CIFAR-10: twice (operation, probability, magnitude), of which each image draws a line.
CIFAR10 = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def magnitude(name: str, level: int, bins: int, height: int, width: int) -> float:
    """The ``level``-th of ``bins`` magnitudes, from 0 on: radians' tangents, pixels, degrees, factors, bits, or a share
    of the brightest pixel."""
    if name == "Posterize":
        return float(round(8 - 4 * level / (bins - 1)))
    side = {"TranslateX": width, "TranslateY": height}.get(name)
    first, last = (1.0, 0.0) if name == "Solarize" else (0.0, LARGEST.get(name, 0.9) if side is None else SPAN * side)
    return float(torch.linspace(first, last, bins)[level])  # in float32, as theirs: pixels are rounded after it


def rand_augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Two operations of `RAND` for each image of ``x`` (B, C, H, W), float in [0, 1] in steps of 1/255, C = 1 or 3."""
    size = 2 * len(RAND)  # each both ways
    drawn = torch.randint(0, size, (OPERATIONS, len(x)), device=x.device, generator=generator).cpu()
    pixels = _to_bytes(x)
    for codes in drawn:
        pixels = _by_code(pixels, codes, lambda code: (RAND[code // 2], MAGNITUDE, BINS, bool(code % 2)))
    return pixels.to(x.dtype).div_(255)


def auto_augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """A line of `CIFAR10` for each image, as in `rand_augment`."""
    lines = torch.randint(0, len(CIFAR10), (1, len(x)), device=x.device, generator=generator)
    chance = torch.rand(4, len(x), device=x.device, generator=generator, dtype=torch.float64)
    drawn = torch.cat([lines.double(), chance]).cpu()
    lines, chance, ways, pixels = drawn[0].long(), drawn[1:3], drawn[3:] < 0.5, _to_bytes(x)
    for i in range(2):
        probability = torch.tensor([line[i][1] for line in CIFAR10], dtype=torch.float64)[lines]
        codes = torch.where(chance[i] < probability, 2 * lines + ways[i], -1)

        def operation(code: int, i: int = i) -> tuple[str, int, int, bool]:
            name, _, level = CIFAR10[code // 2][i]
            return name, level, POLICY_BINS, bool(code % 2)

        pixels = _by_code(pixels, codes, operation)
    return pixels.to(x.dtype).div_(255)


def _to_bytes(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)


def _by_code(pixels: Tensor, codes: Tensor, operation: Callable[[int], tuple[str, int, int, bool]]) -> Tensor:
    """Apply to the images of each code (B,) its ``operation``: name, level, of how many, whether the other way; below 0
    none."""
    for code in codes.unique().tolist():
        if code >= 0:
            name, level, bins, other = operation(code)
            value = magnitude(name, level, bins, *pixels.shape[-2:])
            rows = (codes == code).nonzero().squeeze(1).to(pixels.device)
            pixels[rows] = APPLY[name](pixels[rows], -value if other and name in BOTH_WAYS else value)
    return pixels
