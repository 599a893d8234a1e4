"""A vision transformer (Dosovitskiy et al. 2021) with the sizes of DeiT-Ti (Touvron et al. 2021), for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
DEPTH, HEAD = 12, 64  # layers; features of a head
TOKENS = 8  # patches along a side of the image: 4 pixels at 32x32


class Attention(nn.Module):
    """Self-attention of all patches, (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, dim))


class Layer(nn.Module):
    """Attention, then two linear layers on each patch alone, each added to what comes in."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """(B, C, H, W) normalised -> (B, D): the mean over the patches. A side that is no multiple of the patch is padded
    with zeros."""

    def __init__(self, shape: Shape, dim: int, heads: int):
        super().__init__()
        channels, *sides = shape
        self.patch = max(1, round(max(sides) / TOKENS))
        across, along = (-(-side // self.patch) for side in sides)
        self.padding = (0, along * self.patch - sides[1], 0, across * self.patch - sides[0])
        self.embed = nn.Conv2d(channels, dim, self.patch, self.patch)
        self.place = nn.Parameter(torch.empty(1, across * along, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.place, std=0.02)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.pad(x, self.padding)).flatten(2).transpose(1, 2)
        return self.norm(self.layers(x + self.place)).mean(1)


def vit_tiny(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """192 features in 3 heads; ``width`` scales both."""
    heads = max(1, round(3 * width))
    return VisionTransformer(shape, heads * HEAD, heads), heads * HEAD
