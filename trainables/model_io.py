"""A finished trial's model, read from its checkpoint, and written so that others can use it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.checkpoint import NAME, DamagedCheckpoint, read_checkpoint
from trainables.config import TrialConfig
from trainables.data import DataError, Summary
from trainables.data import check as check_data
from trainables.files import naming
from trainables.method import Task
from trainables.methods import build_method
from trainables.models.build import Classifier, build_model
from trainables.offsets import NONE, Offsets
from trainables.reading import Damaged, one_line, read_bytes, read_json, shaped
from trainables.storage import below

LARGEST = 2**34  # bytes of a model's weights
WEIGHTS = "model.safetensors"  # their name in an export
ARCHITECTURE = {"model": str, "head": str, "classes": [str], "shape": [int], "mean": [float], "std": [float]}


def load_trial(
    folder: str | Path, home: Path, dataset: str | None = None, offsets: Offsets = NONE, *, which: str = "last"
) -> tuple[nn.Module, dict[str, Any]]:
    """The model that the trial's metrics speak of (the weight average where it keeps one) in evaluation mode on the
    CPU, with ``offsets`` in its head, and what describes it: ``architecture``, ``config``, ``train_counts`` (K,),
    ``epoch`` and ``weights``.

    ``which``: after the "last" epoch, or after the "best" one (the largest sum of the search's objectives).

    ``dataset``: where its data are now. The place that a checkpoint names is not trusted: it may come from elsewhere.

    ``DamagedCheckpoint`` where the checkpoint is missing, cut or altered; ``ValueError`` where it has no best epoch, or
    for another ``which``.
    """
    if which not in ("last", "best"):
        raise ValueError(f"which={which!r} is not allowed; it takes last or best")
    state = read_checkpoint(folder)
    if state is None:
        raise DamagedCheckpoint(f"checkpoint {below(folder, NAME)!r} is missing")
    best = state.get("best")
    if which == "best" and best is None:
        raise ValueError(f"checkpoint {below(folder, NAME)!r} keeps its last epoch alone: an earlier version wrote it")
    try:
        return _trial(state, home, dataset, offsets, best if which == "best" else None)
    except DataError:  # of the data, not of the checkpoint
        raise
    except Exception as error:
        raise DamagedCheckpoint(
            f"checkpoint {below(folder, NAME)!r} holds no model for these data ({one_line(error)})"
        ) from error


def _trial(
    state: dict[str, Any], home: Path, dataset: str | None, offsets: Offsets, best: dict[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """What `load_trial` returns, of the last epoch or of the ``best``."""
    config = TrialConfig.of({**state["config"], **({"dataset": dataset} if dataset else {})})
    summary = check_data(replace(config.data_spec, extra="none"), home)  # which a model does not need
    about = architecture(config, summary)
    model = build(about)
    weights = best["model"] if best else state["average"] or state["model"]
    averaged = best["average"] if best else bool(state["average"])
    load_weights(model, weights)
    if config.init:  # with a normalisation of their own, not that of the data
        about |= {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")}
    add_offsets(model, offsets.values)
    about["head_bias"] = model.head.bias is not None
    return model, {
        "architecture": about,
        "train_counts": summary.counts["train"],
        "config": state["config"],
        "epoch": best["epoch"] if best else state["epoch"],
        "weights": "average" if averaged else "last",
    }


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """``ValueError`` or ``RuntimeError`` where they are not the model's, or are no finite numbers."""
    model.load_state_dict(weights)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"weights {name} are not all finite numbers")


def add_offsets(model: Classifier, values: Sequence[float]) -> None:
    """Fold offsets of the logits (K,) into the head's bias, in place; a head without a bias gets one. None: nothing."""
    if not values:
        return
    offsets = model.head.weight.new_tensor(values)
    bias = offsets if model.head.bias is None else model.head.bias.detach() + offsets
    model.head.bias = nn.Parameter(bias, requires_grad=False)


def architecture(config: TrialConfig, summary: Summary) -> dict[str, Any]:
    """All that is needed to build the empty model."""
    training = config.full_training()
    task = Task(torch.as_tensor(summary.counts["train"]), config.max_epochs, training.eps, training.attack_steps)
    head = build_method(config.method, config.params, task).head
    return {
        "model": config.model,
        "head": head,
        "classes": summary.classes,
        "shape": list(summary.shape),
        "mean": summary.mean,
        "std": summary.std,
    }


def build(about: dict[str, Any]) -> Classifier:
    """The empty model of an `architecture`; ``head_bias``: whether its head has a bias, which exports of version 0.1
    leave to the head."""
    with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once
        model = build_model(
            about["model"],
            len(about["classes"]),
            tuple(about["shape"]),
            head=about["head"],
            mean=about["mean"],
            std=about["std"],
        )
    if about.get("head_bias") and model.head.bias is None:
        add_offsets(model, [0.0] * len(about["classes"]))
    return model.eval().requires_grad_(False)


def write_weights(model: nn.Module, folder: Path, shape: list[int]) -> None:
    """``model.safetensors``, and ``model.pt2``: the whole computation, for torch alone; any batch size.

    Only the first is safe to load from anybody: torch unpickles what a ``.pt2`` holds and evaluates its expressions.
    ``OSError`` names the file that cannot be written; torch's own writer would end the process.
    """
    from safetensors.torch import save

    weights, whole = save({k: v.contiguous() for k, v in model.state_dict().items()}), io.BytesIO()
    program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, whole)
    for name, data in ((WEIGHTS, weights), ("model.pt2", whole.getbuffer())):
        with naming(folder / name):
            (folder / name).write_bytes(data)


def load_model(folder: str | Path) -> nn.Module:
    """The exported model in evaluation mode: images (B, C, H, W), float32 in [0, 1] -> logits (B, K). Only numbers and
    JSON are read, so no file in the folder runs code.

    ``Damaged``, one sentence, where the folder holds no such model; ``OSError`` where a file cannot be opened.
    """
    from safetensors.torch import load

    folder = Path(folder)
    about, weights = read_json(folder / "model.json"), read_bytes(folder / WEIGHTS, LARGEST)
    try:
        if not shaped(about, {"architecture": ARCHITECTURE}):
            raise ValueError("model.json describes no model")
        model = build(about["architecture"])
        load_weights(model, load(weights))
        return model
    except Exception as error:
        raise Damaged(f"{str(folder)!r} holds no model of tuner export ({one_line(error)})") from error
