"""Trainings of the parts, resumable at every epoch, and what a trained model withstands, chunk by chunk."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.setup import Setup, forked_at
from benchmarks.live_problem import Job
from benchmarks.live_stages import Line, Memo, Result, Stage, kind_of
from trainables.curve import Curve
from trainables.data import DataSpec, Split, open_splits, open_test
from trainables.model_io import add_offsets
from trainables.threat_model import find_threat_model
from trainables.verification import Cascade


class Models(Memo):
    """A memo of stages that tells the ledger how long they took, and gives the models. ``epochs``: images and
    seconds of those that were trained here, with their judging and the state's file."""

    def __init__(self, setup: Setup):
        super().__init__(setup.work, setup.device)
        self.ledger, self.epochs = setup.ledger, list[tuple[int, float]]()

    def place_of(self, line: Line) -> Path:
        """Where a line's states are."""
        return self._place(line)

    def model(self, line: Line, epoch: int) -> nn.Module:
        """A copy of the line's model after ``epoch`` epochs, its weight average where it keeps one."""
        with self._locked(line) as place:
            return copy.deepcopy(self._trainer(line, epoch, place).final_model).eval().requires_grad_(False)

    def _save(self, trainer: Any, metrics: list[dict[str, Any]], place: Path) -> None:
        begin = time.perf_counter()
        super()._save(trainer, metrics, place)
        saved = time.perf_counter() - begin
        images = len(trainer.splits.train) * trainer.training.passes
        self.epochs.append((images, sum(m["train_s"] + m["eval_s"] for m in metrics) + saved))
        self.ledger.took("train", *self.epochs[-1])

    def _curve(self, line: Line, epoch: int, kind: str, split: str, place: Path) -> Curve:
        kind = kind_of(kind, open_splits(line.config.data_spec, Path(line.config.home), str(self.device)))
        if (place / f"{split}-{epoch:04d}-{kind}.json").exists():
            return super()._curve(line, epoch, kind, split, place)
        with self.ledger.timed("sweep", 1):
            return super()._curve(line, epoch, kind, split, place)


def plain(models: Models, job: Job, epochs: int | None = None) -> tuple[Line, Result]:
    """Plain AT, and its curve on `val` where it is trained to its end: the reference, and the stem of a front."""
    line = job.stem(job.spec(), val_losses=True)
    result = Result(())
    for epoch in range(epochs or line.last):
        result = models.run(Stage(line, epoch, epoch + 1, keep=forked_at(epoch + 1, line.last)))
        if result.failed:
            return line, result
    return line, result if epochs else models.run(Stage(line, line.last, line.last, judge="auto"))


@dataclass(frozen=True)
class Target:
    """A model to attack: its ``key`` in the ledger, what else a row says of it, and how it is made."""

    key: dict[str, Any]
    about: dict[str, Any]
    make: Callable[[], nn.Module]

    @cached_property
    def model(self) -> nn.Module:
        return self.make()


def fingerprint(model: nn.Module) -> str:
    """Tells trainings apart that began alike: on a GPU they end in other last bits."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def with_offsets(model: nn.Module, values: Iterable[float]) -> nn.Module:
    add_offsets(model, tuple(values))
    return model


def chunk(test: Split, number: int, images: int, chunks: int) -> Split:
    """Every n-th image from another start: images of all classes, for they are stored class by class."""
    stride = max(1, len(test) // images)
    rows = slice(number * max(1, stride // chunks), None, stride)
    return Split(test.base, test.index[rows][:images], test.labels[rows][:images])


def attack_all(setup: Setup, targets: list[Target], attacks: tuple[str, ...]) -> None:
    """Rows of all ``targets``, a chunk of the test images after the other, so that whatever stops it leaves models that
    were attacked on the same images."""
    test = open_test(DataSpec(setup.dataset), setup.home, setup.device)
    for attack in attacks:
        if attack == "autoattack" and not find_spec("pyautoattack"):
            print("no AutoAttack: the package pyautoattack is missing", flush=True)
            continue
        images, chunks = getattr(setup.size, attack)
        for number in range(chunks):
            some = chunk(test, number, images, chunks)
            for target in targets:
                key = {**target.key, "attack": attack, "chunk": number}
                row = setup.ledger.once(attack, len(some), lambda t=target, s=some, a=attack: attacked(t, s, a), **key)
                print(f"{key}: {sum(row['robust'])} of {sum(row['count'])} withstand it", flush=True)


def attacked(target: Target, split: Split, attack: str) -> dict[str, Any]:
    """Images of each class, those classified right, and those that withstand the attack too, (K,) each."""
    config = target.about["config"]
    training = config.full_training()
    model = target.model.to(split.labels.device)
    threat = find_threat_model(config.threat)
    cascade = Cascade(model, split, attack, eps=training.eps, search_steps=training.eval_attack, threat=threat)
    stages = [vars(stage) for stage in cascade.run()]
    labels = split.labels.cpu()
    classes = target.about["classes"]

    def of_each(mask: torch.Tensor) -> list[int]:
        return torch.bincount(labels[mask], minlength=classes).tolist()

    about = {name: value for name, value in target.about.items() if name not in ("config", "classes")}
    about["weights"] = fingerprint(model)
    counted = {
        "count": of_each(cascade.robust | True),
        "clean": of_each(cascade.clean),
        "robust": of_each(cascade.robust),
    }
    return {**about, **counted, "stages": stages, "alarms": cascade.alarms}


def left(setup: Setup, keys: Sequence[dict[str, Any]], attacks: tuple[str, ...]) -> list[tuple[str, float]]:
    """The work of the first chunk of which a row is missing; empty where none is."""
    for attack in attacks:
        images, chunks = getattr(setup.size, attack)
        for number in range(chunks):
            if missing := sum(setup.ledger.find(**key, attack=attack, chunk=number) is None for key in keys):
                return [(attack, images * missing)]
    return []
