"""A fast stand-in for the model while it is attacked or judged: evaluation mode, no parameter gradients, batch norm
folded into the convolutions, channels_last, and bf16 where the device has it, there with ``trainables.fused``.

The weights are those of the last ``refresh``; folding changes logits by rounding only. See docs/decisions.md.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trainables.fused import fuse
from trainables.models.build import conv_bn_pairs


class Frozen:
    """Callable like the model: x (B, C, H, W) in [0, 1] -> logits (B, K) in float32 (float64 if the model is)."""

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype | None = None, batch_stats: bool = False, fused: bool = False
    ):
        """``batch_stats``: batch norm uses the batch's statistics, nothing is folded; running ones stay as they are.
        ``fused``: use cuDNN's fused kernels, on a GPU in half precision."""
        self.source = model
        self.dtype = dtype
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.module.train(batch_stats)
        self.pairs = [] if batch_stats else conv_bn_pairs(model)
        for layer in self.module.modules():
            if batch_stats and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = 0.0
        for conv_name, bn_name in self.pairs:
            conv = self.module.get_submodule(conv_name)
            if conv.bias is None:
                conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
            self.module.set_submodule(bn_name, nn.Identity())
        folded = {n for pair in self.pairs for n in pair}
        self.module.to(memory_format=torch.channels_last)
        if dtype is not None:  # but pixels are normalised before they are rounded, which keeps more of a small step
            self.module.backbone.to(dtype)
            self.module.head.to(dtype)
        if fused:
            fuse(self.module.backbone)
        mine, theirs = self.module.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        plain = [k for k in mine if k.rpartition(".")[0] not in folded]
        self._mine, self._theirs = [mine[k].data for k in plain], [theirs[k].data for k in plain]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights."""
        if self._mine:
            torch._foreach_copy_(self._mine, self._theirs)
        for conv_name, bn_name in self.pairs:
            conv, bn = self.source.get_submodule(conv_name), self.source.get_submodule(bn_name)
            target = self.module.get_submodule(conv_name)
            scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
            target.weight.copy_(conv.weight * scale[:, None, None, None])
            shift = -bn.running_mean if conv.bias is None else conv.bias - bn.running_mean
            target.bias.copy_(bn.bias + shift * scale)

    def __call__(self, x: Tensor) -> Tensor:
        if self.dtype is None:
            return self.module(x)
        pixels = (x - self.module.mean) / self.module.std
        return self.module.head(self.module.backbone(pixels.to(self.dtype))).float()


def fast_dtype(precision: str, device: torch.device, shape: tuple[int, int, int]) -> torch.dtype | None:
    """The arithmetic of training and attack: bf16 or None, the model's own.

    "auto" is bf16 on a GPU that has it, and on a CPU whose instructions have it for images above 16 pixels: below, the
    cost is per call and nothing is gained (benchmarks/attack_speed.py).
    """
    pays = precision == "bf16"
    if precision == "auto" and device.type == "cuda":
        pays = torch.cuda.is_bf16_supported()
    elif precision == "auto" and device.type == "cpu":
        pays = native_bf16() and max(shape[1:]) > 16
    return torch.bfloat16 if pays else None


def native_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself; emulated, it is slower than float32."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":  # also when the user has switched it off
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
