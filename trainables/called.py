"""A model that a function of the user's own returns: `module:function`, or `FILE.py:function`. Code, which is run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import open_splits
from trainables.first_look import Accuracy, look
from trainables.reading import named_line

CALL = re.compile(r"(?P<file>.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")


@dataclass(frozen=True)
class Called:
    """``network``: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode. ``digest``: SHA-256 of its
    parameters and buffers; of its code nothing is known."""

    network: nn.Module
    digest: str
    parameters: int


def is_call(text: str) -> bool:
    """Whether it names a function, not a file."""
    return CALL.fullmatch(text) is not None and not os.path.exists(text)


def call(text: str) -> Called:
    """The model that the function ``text`` returns when it is called without arguments; ``ValueError``, one sentence,
    where there is none."""
    found = CALL.fullmatch(text)
    try:
        module = (
            _of_file(Path(found["file"])) if found["file"].endswith(".py") else importlib.import_module(found["file"])
        )
        network = getattr(module, found["function"])()
    except (Exception, SystemExit) as error:  # it may raise anything
        raise ValueError(f"{text!r} returns no model ({named_line(error)[:300]})") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{text!r} returns {type(network).__name__}; it takes a torch.nn.Module")
    network = network.eval().requires_grad_(False)
    return Called(network, _digest(network), sum(p.numel() for p in network.parameters()))


def _of_file(file: Path):
    """The module in a file, which finds those beside it."""
    name = f"of_the_user_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # last: none of its files is taken for a library
    spec.loader.exec_module(module)
    return module


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
            digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_look_at(called: Called, config: TrialConfig) -> tuple[Accuracy, list[str]]:
    """How accurate it is on the data of ``config``, and its logits of a few images, rounded: what tells it from other
    code with the same weights. ``ValueError``, one sentence, unless it gives logits of its classes, each image's its
    own and with a gradient for its pixels."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = open_splits(config.data_spec, Path(config.home), device=device)
    network, k = called.network.to(device), len(splits.classes)
    x, _ = splits.val.batch(slice(0, 4))
    try:
        with torch.no_grad():
            logits = network(x)
            alone = network(x[:1])
        with torch.enable_grad():
            attackable = network(x.clone().requires_grad_())
    except Exception as error:
        raise ValueError(f"it does not take images of shape {tuple(x.shape)} ({named_line(error)[:300]})") from error
    if not isinstance(logits, Tensor) or logits.shape != (len(x), k) or not logits.is_floating_point():
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"it gives {shape} for {len(x)} images of {k} classes, not logits of shape ({len(x)}, {k})")
    if not logits.isfinite().all():
        raise ValueError("its logits are not all finite numbers")
    if not attackable.requires_grad:
        raise ValueError("its logits have no gradient for the pixels, which attacks need; is its forward in no_grad?")
    if not torch.allclose(logits[:1], alone, rtol=1e-3, atol=1e-4):
        raise ValueError("its logits of an image depend on the other images of a batch, or on chance")
    return look(network, splits, config), [f"{value:.3g}" for value in logits.flatten().tolist()]
