"""What weights of others' make are worth before anything is trained: how they want their pixels, and how accurate they
are on `val`. The test images stay closed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.data import Split, Splits, open_splits
from trainables.evaluate import evaluate, images_of, no_tf32
from trainables.foreign import Fitted, fit
from trainables.model_io import load_weights
from trainables.models.build import Classifier, build_model
from trainables.threat_model import find_threat_model

IMAGES = 500  # of `val` at most, spread over it: a first look
ATTACK_S = 20.0  # after which no more of them are attacked
PART = 50  # of them at a time


@dataclass(frozen=True)
class Accuracy:
    """Fractions of ``images`` of `val` that are classified right, and of ``attacked`` ones under both attacks of the
    search too."""

    images: int
    clean_acc: float
    attacked: int
    robust_acc: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def first_look(state: Mapping[str, Tensor], config: TrialConfig) -> tuple[Fitted, Accuracy]:
    """``state`` as weights of the model of ``config``, and how accurate they are on its data.

    A file that says nothing of a normalisation is tried with the pixels as they are and with the data's mean and
    standard deviation; what is more accurate is taken, and said. ``ValueError`` where the weights do not fit.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = open_splits(config.data_spec, Path(config.home), device=device)
    with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once
        model = build_model(config.model, len(splits.classes), splits.shape)
    found = fit(state, model)
    load_weights(model, found.weights)
    model.to(device).eval().requires_grad_(False)
    if not found.normalised:
        _choose_pixels(found, model, splits, _spread(splits.val, IMAGES))
    return found, look(model, splits, config)


def look(model: nn.Module, splits: Splits, config: TrialConfig) -> Accuracy:
    """How accurate a model on the device of ``splits`` is on `val`, without an attack and under the search's."""
    some = _spread(splits.val, IMAGES)
    right, training = _right(model, some), config.full_training()
    judge, begin, attacked, robust = Frozen(model), time.perf_counter(), 0, 0.0
    for part in _parts(some):
        judged = evaluate(
            judge,
            part,
            len(splits.classes),
            eps=training.eps,
            steps=training.eval_attack,
            seed=config.seed,
            threat=find_threat_model(config.threat),
        )
        attacked, robust = attacked + len(part), robust + float(judged.robust.sum())
        if time.perf_counter() - begin > ATTACK_S:
            break
    return Accuracy(len(some), right / len(some), attacked, robust / attacked)


def _choose_pixels(found: Fitted, model: Classifier, splits: Splits, some: Split) -> None:
    """Take the normalisation with which more of the images are classified right; as they are where it is all one."""
    tried = {"the pixels as they are": (model.mean.clone(), model.std.clone())}
    shape = model.mean.shape
    tried["the data's mean and std"] = tuple(model.mean.new_tensor(v).view(shape) for v in (splits.mean, splits.std))
    accuracy = {}
    for name, (mean, std) in tried.items():
        model.mean.copy_(mean), model.std.copy_(std)
        accuracy[name] = _right(model, some) / len(some)
    taken = max(accuracy, key=accuracy.__getitem__)
    for name, value in zip(("mean", "std"), tried[taken]):
        getattr(model, name).copy_(value)
        found.weights[name] = value.cpu().clone()
    each = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    found.notes.append(f"it has no normalisation; accuracy with {each}: {taken} taken")


@no_tf32()
@torch.no_grad()
def _right(model: nn.Module, some: Split) -> int:
    """How many are classified right."""
    rows = torch.arange(len(some), device=some.labels.device).split(100)
    return sum(int((model(images_of(some, part)).argmax(1) == some.labels[part]).sum()) for part in rows)


def _parts(some: Split) -> Iterator[Split]:
    """All of its images, each part spread over it."""
    steps = -(-len(some) // PART)
    for first in range(steps):
        yield Split(some.base, some.index[first::steps], some.labels[first::steps])


def _spread(split: Split, most: int) -> Split:
    """At most so many of its images, evenly spread over it."""
    rows = torch.linspace(0, len(split) - 1, min(most, len(split))).round().long().to(split.labels.device)
    return Split(split.base, split.index[rows], split.labels[rows])
