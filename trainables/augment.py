"""Augmentation as tensor code on the device, driven by a generator: no per-sample Python."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(x: Tensor, generator: torch.Generator, padding: str = "zero") -> Tensor:
    """Shift each image (B, C, H, W) along each side by up to an eighth of it (4 pixels at 32x32, 1 at 8x8).

    What moves in: zeros, or with ``padding="reflect"`` the image mirrored at its border pixels.
    """
    batch, _, height, width = x.shape
    down, across = (max(1, side // 8) for side in (height, width))
    top, left = (
        torch.randint(0, 2 * pad + 1, (batch, 1), device=x.device, generator=generator) for pad in (down, across)
    )
    rows = top + torch.arange(height, device=x.device)
    cols = left + torch.arange(width, device=x.device)
    mode = "reflect" if padding == "reflect" else "constant"
    padded = F.pad(x, (across, across, down, down), mode=mode).permute(0, 2, 3, 1)
    image = torch.arange(batch, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability one half."""
    mirror = torch.rand(len(x), device=x.device, generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], x.flip(3), x)


def augment(x: Tensor, kind: str, generator: torch.Generator, padding: str = "zero") -> Tensor:
    """``kind``: "none", "crop", "crop-flip", or what a policy adds to the last; ``padding`` as in `random_crop`."""
    if kind != "none":
        x = random_crop(x, generator, padding)
    if kind not in ("none", "crop"):
        x = random_flip(x, generator)
    if kind in POLICIES:
        from trainables import policies  # torchvision's kernels, which cost a second

        x = getattr(policies, POLICIES[kind])(x, generator)
    return x


POLICIES = {"randaugment": "rand_augment", "autoaugment": "auto_augment"}
