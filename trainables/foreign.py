"""Weights that no search of ours made: a state dict as authors publish them and RobustBench lists them.

`read_state` opens the file, `fit` puts what it holds into a model of ours under our names. Nothing in a file is run:
torch's own loader for numbers alone, or safetensors. What a file calls a layer is known by the layouts of the public
codes: TRADES' WideResNet (RobustBench's too), the ResNet-18 and pre-activation ResNet-18 of pytorch-cifar, DeepMind's
models, and torchvision's and timm's own names.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from trainables.checkpoint import numbers_in
from trainables.model_io import LARGEST, WEIGHTS
from trainables.models.backbones import DeepMind, PreActivation, Residual
from trainables.models.build import Classifier
from trainables.reading import Damaged, intact, one_line, read_bytes, read_json, shaped

# Where checkpoints keep the weights, the first that is there: an average of ours before the last weights.
INSIDE = ("average", "state_dict", "model_state_dict", "model", "net")
SCALING = {"mean": "std", "mu": "sigma"}  # names of a normalisation's two parts: pixels in [0, 1], (x - mean) / std
UNUSED = ("sub_block1.",)  # TRADES' code has these layers and never calls them
COUNTER = "num_batches_tracked"  # of a batch norm, which no evaluation reads; files of old torch lack it
SHOWN = 3  # names in a sentence

# A layer's path in a public code -> what it is. Blocks: stage and block from 1 and 0; `at` is what is inside.
BLOCKS = (
    (re.compile(r"(?:layer|block)(?P<stage>\d+)\.(?:layer\.)?(?P<block>\d+)\.(?P<at>.+)"), 0),
    (re.compile(r"layer_(?P<stage>\d+)\.(?P<block>\d+)\.(?P<at>.+)"), 1),  # DeepMind's ResNets count from 0
    (re.compile(r"layer\.(?P<stage>\d+)\.block\.(?P<block>\d+)\.(?P<at>.+)"), 1),  # and their WideResNets
)
IN_BLOCK = {
    "conv1": ("conv1", "conv_0", "conv_2d_1"),
    "conv2": ("conv2", "conv_1", "conv_2d_2"),
    "bn1": ("bn1", "batchnorm_0"),
    "bn2": ("bn2", "batchnorm_1"),
    "shortcut": ("shortcut.0", "shortcut", "convShortcut", "downsample.0"),
    "shortcut bn": ("shortcut.1", "downsample.1"),
}
ALONE = {
    "first conv": ("conv1", "init_conv", "conv_2d"),
    "bn": ("bn1", "bn", "batchnorm", "norm"),  # after the first convolution, or before the head
    "head": ("linear", "fc", "logits", "classifier", "head"),
}
OURS = {
    Residual: {
        "body.0": "conv1",
        "body.1": "bn1",
        "body.3": "conv2",
        "body.4": "bn2",
        "shortcut.0": "shortcut",
        "shortcut.1": "shortcut bn",
    },
    PreActivation: {"pre.0": "bn1", "body.0": "conv1", "body.1": "bn2", "body.3": "conv2", "shortcut": "shortcut"},
    DeepMind: {"pre.0": "bn1", "body.1": "conv1", "body.2": "bn2", "body.4": "conv2", "shortcut": "shortcut"},
}
# Names that DeepMind's code alone has. Its tensors fit others' models and the other way round, where they pad and
# activate otherwise: such a model loads, and classifies at random.
DEEPMINDS = re.compile(r"init_conv\.|conv_2d\.|layer_0\.|layer\.\d+\.block\.")


@dataclass
class Fitted:
    """``weights``: a state dict of the model, with its normalisation. ``notes``: what was done, in sentences.
    ``normalised``: whether the file says how its model normalises; if not, pixels are taken as they are."""

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    normalised: bool = False


@dataclass(frozen=True)
class Read:
    """``state``: the tensors of a file by their names there. ``digest``: its SHA-256. ``notes``: what was opened to get
    to them, in sentences."""

    state: dict[str, Tensor]
    digest: str
    notes: tuple[str, ...] = ()


def read_state(path: str | Path) -> Read:
    """What a file of torch or safetensors holds.

    ``Damaged`` where the file is too large, or holds no tensors or anything beside numbers, or is the export of a model
    whose head is not linear; ``OSError`` where it cannot be opened.
    """
    read = state_in(read_bytes(path, LARGEST), str(path))
    if (head := _head_of_export(Path(path))) != "linear":  # with offsets in its bias, its tensors fit a linear one
        raise Damaged(f"{str(path)!r} is the export of a model with a {head} head, which is not read as one of others")
    return read


def _head_of_export(weights: Path) -> str:
    """What ``model.json`` beside weights says, if these are of an export; else linear, as public models are."""
    about = intact(lambda: read_json(weights.with_name("model.json"))) if weights.name == WEIGHTS else None
    return about["architecture"]["head"] if shaped(about, {"architecture": {"head": str}}) else "linear"


def state_in(data: bytes, name: str) -> Read:
    """The same of a file's bytes; ``name`` is for its errors."""
    try:
        held = load(data) if data[8:9] == b"{" else numbers_in(data)
    except Exception as error:
        raise Damaged(
            f"{name!r} holds no weights that can be loaded safely ({_reason(error)}); what is needed is a state "
            "dict alone, as torch.save(model.state_dict(), FILE) writes it"
        ) from None
    where, state = _tensors(held)
    if not state:
        raise Damaged(f"{name!r} holds no state dict: tensors by their names, or such a dictionary inside another")
    odd = next((key for key, value in state.items() if not _plain(value)), None)
    if odd is not None:
        raise Damaged(f"{name!r} cannot be used: its tensor {odd[:80]!r} is no plain array of real numbers")
    inside = (f"read under {'.'.join(where)!r}",) if where else ()
    return Read(state, hashlib.sha256(data).hexdigest(), inside)


def _plain(value: Tensor) -> bool:
    """Not sparse, quantised, complex, or without its numbers."""
    return (
        value.layout == torch.strided and value.device.type == "cpu" and not (value.is_quantized or value.is_complex())
    )


def _reason(error: Exception) -> str:
    """torch's sentence without the advice, most of which is to load without safety."""
    found = re.search(r"Unsupported (?:global|class|operand)[^.]*|GLOBAL \S+", text := one_line(error))
    return found[0] if found else text.partition(". ")[0][:120]


def _tensors(held: object) -> tuple[list[str], dict[str, Tensor]]:
    """The state dict in a loaded file, and the keys that lead to it."""
    where: list[str] = []
    while isinstance(held, Mapping):
        state = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
        inside = [key for key, value in held.items() if isinstance(value, Mapping) and value]
        key = next((k for k in INSIDE if k in inside), inside[0] if len(inside) == 1 and not state else None)
        if key is None:
            return where, state
        where.append(str(key))
        held = held[key]
    return where, {}


def fit(state: Mapping[str, Tensor], model: Classifier) -> Fitted:
    """What ``state`` holds as weights of ``model``, which itself is not changed.

    ``ValueError``, one sentence, where names are left over or missing, or sizes differ.
    """
    wanted = model.state_dict()
    if set(state) - {"head.bias"} == set(wanted) - {"head.bias"}:  # a model of ours
        found = Fitted(dict(state), normalised=True)
    else:
        found = _renamed(dict(state), model)
    _check(found.weights, wanted)
    found.weights = {name: value.detach().to(wanted[name].dtype).clone() for name, value in found.weights.items()}
    for name in wanted:
        if name.endswith(COUNTER):
            found.weights.setdefault(name, torch.zeros_like(wanted[name]))
    if not (found.weights["std"] > 0).all():
        raise ValueError("its normalisation divides by a number that is not positive")
    return found


def _renamed(state: dict[str, Tensor], model: Classifier) -> Fitted:
    channels = model.mean.shape[1]
    state, prefix = _without_prefix(state)
    if scaling := _normalisation(state, channels):
        state, more = _without_prefix({name: value for name, value in state.items() if name not in scaling})
        prefix += more
    unused = [name for name in state if name.startswith(UNUSED)]
    state = {name: value for name, value in state.items() if name not in unused}
    names = _names(state, model)
    counts = Counter(names.values())
    if twice := [name for name in state if counts[names[name]] > 1]:
        raise ValueError(f"two of its tensors are {names[twice[0]]}: {_some(twice)}")
    mean, std = scaling.values() if scaling else (torch.zeros(channels), torch.ones(channels))
    weights = {names[old]: value for old, value in state.items()}
    for name, value in (("mean", mean), ("std", std)):
        weights[name] = value.detach().float().flatten().expand(channels).reshape(1, channels, 1, 1)
    return Fitted(weights, _told(prefix, unused, scaling, names), bool(scaling))


def _told(prefix: str, unused: list[str], scaling: dict[str, Tensor], names: dict[str, str]) -> list[str]:
    """What was done to a file, in sentences."""
    told = [f"prefix {prefix!r} taken off"] if prefix else []
    if unused:
        told.append(f"{len(unused)} tensors left out, which its code never uses: {_some(unused)}")
    if scaling:
        mean, std = map(_numbers, scaling.values())
        told.append(f"normalisation of the file kept: mean {mean}, std {std}")
    if renamed := {old: new for old, new in names.items() if old != new}:
        old = next(iter(renamed))
        told.append(f"{len(renamed)} keys renamed: {old} -> {renamed[old]}" + (", ..." if len(renamed) > 1 else ""))
    return told


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The same without the first parts (``module.``, ``model.``) that all names share, and those parts."""
    prefix = ""
    while state:
        first = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(first) and name != first for name in state):
            break
        state = {name.removeprefix(first): value for name, value in state.items()}
        prefix += first
    return state, prefix


def _normalisation(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Mean and standard deviation by their names, in this order; empty where the file has none."""
    for name, value in state.items():
        before, _, last = name.rpartition(".")
        partner = f"{before}.{SCALING.get(last)}".removeprefix(".")
        if last in SCALING and partner in state and {value.numel(), state[partner].numel()} <= {1, channels}:
            return {name: value, partner: state[partner]}
    return {}


def _names(state: Mapping[str, Tensor], model: Classifier) -> dict[str, str]:
    """Our name of each of the file's; one that is not known is left as it is."""
    ours = dict(_layers(model))
    if not ours:  # a library's model: its own names below ours, and a head that was cut off
        return _of_library(state, model)
    of = {layer: path for path, layer in ours.items()}
    theirs, dm = any(map(DEEPMINDS.match, state)), any(type(c) is DeepMind for c in model.backbone.children())
    if theirs != dm:
        raise ValueError(
            "its layers have the names of DeepMind's code, whose WideResNets are dm-wrn-D-W here"
            if theirs
            else "its layers do not have the names of DeepMind's code, of which the model is; without dm- it is TRADES'"
        )
    names = {}
    for name in state:
        path, _, last = name.rpartition(".")
        layer = _layer(path)
        names[name] = f"{of[layer]}.{last}" if layer in of else name
    return names


def _layers(model: Classifier) -> Iterator[tuple[str, str]]:
    """(path, what it is) of every layer with weights of a backbone whose layout public codes share; else nothing."""
    stage = block = 0
    if not any(type(child) in OURS for child in model.backbone.children()):
        return
    yield "head", "head"
    for number, child in model.backbone.named_children():
        path = f"backbone.{number}"
        if isinstance(child, nn.Conv2d):
            yield path, "first conv"
        elif isinstance(child, nn.BatchNorm2d):
            yield path, "bn"
        elif type(child) in OURS:
            begins = not stage or isinstance(child.shortcut, (nn.Conv2d, nn.Sequential))
            stage, block = (stage + 1, 0) if begins else (stage, block + 1)
            for inner, layer in OURS[type(child)].items():
                yield f"{path}.{inner}", f"{stage} {block} {layer}"


def _layer(path: str) -> str | None:
    """What a public code calls ``path``; None where it is not known."""
    for pattern, from_zero in BLOCKS:
        if found := pattern.fullmatch(path):
            inner = next((layer for layer, names in IN_BLOCK.items() if found["at"] in names), None)
            return f"{int(found['stage']) + from_zero} {found['block']} {inner}"
    return next((layer for layer, names in ALONE.items() if path in names), None)


def _of_library(state: Mapping[str, Tensor], model: Classifier) -> dict[str, str]:
    """Names below ours; the one layer that is not there is the head, which ours has apart."""
    inside = model.state_dict()
    found = {n: next((p + n for p in ("backbone.net.", "backbone.") if p + n in inside), n) for n in state}
    apart = {name.rpartition(".")[0] for name, ours in found.items() if name == ours}
    if len(apart) == 1:
        (path,) = apart
        found |= {n: "head." + n.rpartition(".")[2] for n, ours in found.items() if n == ours and n.startswith(path)}
    return found


def _check(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """``ValueError`` with all that does not fit."""
    _check_classes(weights, wanted)
    wrong = []
    missing = [name for name in wanted if name not in weights and not name.endswith(COUNTER)]
    unexpected = [name for name in weights if name not in wanted]
    sizes = [n for n, w in weights.items() if n in wanted and w.shape != wanted[n].shape]
    if missing:
        wrong.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        wrong.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if sizes:
        name = sizes[0]
        shapes = f"{name} is {_shape(weights[name])} there, {_shape(wanted[name])} here"
        wrong.append(f"{len(sizes)} of another shape ({shapes})")
    if wrong:
        raise ValueError(f"its tensors are not those of the model: {'; '.join(wrong)}")


def _check_classes(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """``ValueError`` where the head is of another number of classes, which says more than its shape."""
    if "head.weight" in weights and weights["head.weight"].dim() == 2:
        theirs, ours = len(weights["head.weight"]), len(wanted["head.weight"])
        if theirs != ours:
            raise ValueError(f"its head has {theirs} classes, the data have {ours}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _numbers(values: Tensor) -> str:
    return " ".join(f"{v:.4g}" for v in values.flatten().tolist())
