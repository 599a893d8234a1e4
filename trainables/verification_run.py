"""Testing a finished trial on the untouched test images, with post-hoc offsets or without, after training it anew with
another seed if asked to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.checkpoint import checkpoint_bytes, load_checkpoint, read_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.curve import Curve
from trainables.data import Split, digest, open_test
from trainables.loop import Diverged, Trainer
from trainables.model_io import load_trial
from trainables.offsets import NONE, Offsets
from trainables.stem import open_fork, run_to_fork
from trainables.threat_model import find_threat_model
from trainables.verification import Cascade


def fingerprint(folder: str) -> str | None:
    """sha256 of the checkpoint file: what a stored result belongs to; None where there is no file."""
    data = checkpoint_bytes(folder)
    return None if data is None else hashlib.sha256(data).hexdigest()


def train_to_end(config: TrialConfig) -> Iterator[int]:
    """Train a trial outside any search, from its checkpoint if it has one; yields the epochs done."""
    yield from (step["epoch"] for step in steps_to_end(config) if "epoch" in step)


def steps_to_end(config: TrialConfig, device: str | None = None) -> Iterator[dict[str, Any]]:
    """The same on ``device``, by default a GPU where there is one; yields ``{"stem": name}`` of a trial that forks from
    one, ``{"stem_epoch": n}`` after each of its epochs that had to be trained, and ``{"epoch": n}`` after each of the
    trial's own."""
    trainer, folder = Trainer(config, device), config.folder
    past = load_checkpoint(folder, trainer)
    if past is None:
        if fork := open_fork(trainer):
            yield {"stem": fork.name}
            yield from ({"stem_epoch": number} for number in fork.missing())
        past = run_to_fork(trainer)
    while trainer.epoch < config.last_epoch:
        metrics = trainer.run_epoch()
        save_checkpoint(folder, trainer, metrics, past)
        past.append(metrics)
        yield {"epoch": trainer.epoch}


def refitted(folder: str, offsets: Offsets) -> Offsets:
    """The offsets of the model in ``folder`` at the same tau: those of single classes are fitted to each model."""
    state = read_checkpoint(folder)
    if not offsets.tau or state is None or not state.get("curve"):
        return offsets
    points = Curve.of(state["curve"]).points
    return next((point.offsets for point in points if point.offsets.tau == offsets.tau), NONE)


def retest(
    config: TrialConfig, attack: str, offsets: Sequence[Offsets] = (NONE,), *, retrain: bool = False, threads: int = 1
) -> Iterator[dict[str, Any]]:
    """Yields ``{"epoch": n}`` while it trains. Then for each of ``offsets``, whose place is ``at``, ``{"stage": ...,
    "at": i}`` after each attack and ``{"result": ..., "at": i}``. Or ``{"failed": reason}`` where the retrained trial
    diverged."""
    torch.set_num_threads(max(1, threads))
    if retrain:
        try:
            yield from ({"epoch": n} for n in train_to_end(config))
        except Diverged as error:
            yield {"failed": str(error)}
            return
    for at, wanted in enumerate(offsets):
        found = refitted(config.folder, wanted) if retrain else wanted
        for event in _test(config, attack, found):
            yield {**event, "at": at}


def _test(config: TrialConfig, attack: str, offsets: Offsets) -> Iterator[dict[str, Any]]:
    model, about = load_trial(config.folder, Path(config.home), config.dataset, offsets)
    classes, counts = about["architecture"]["classes"], about["train_counts"]
    yield from test_model(
        model, config, attack, classes=classes, train_counts=counts, epoch=about["epoch"], offsets=offsets
    )


def test_model(
    model: nn.Module,
    config: TrialConfig,
    attack: str,
    *,
    classes: Sequence[str],
    train_counts: Sequence[int],
    epoch: int = 0,
    offsets: Offsets = NONE,
) -> Iterator[dict[str, Any]]:
    """The stages and the result of `retest` for ``model``, whose checkpoint lies in the folder of ``config``."""
    begin, home, training = time.perf_counter(), Path(config.home), config.full_training()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    split = open_test(config.data_spec, home, device)
    cascade = Cascade(
        model.to(device),
        split,
        attack,
        eps=training.eps,
        search_steps=training.eval_attack,
        threat=find_threat_model(config.threat),
    )
    for stage in cascade.run():
        yield {"stage": vars(stage)}
    yield {
        "result": {
            "labels": split.labels.cpu().numpy(),
            "broken_by": cascade.broken_by.numpy(),
            **tracks_said(split),
            "stages": [vars(s) for s in cascade.stages],
            "alarms": cascade.alarms,
            "offsets": offsets.to_dict(),
            "classes": list(classes),
            "train_counts": list(train_counts),
            "data": digest(split),
            "threat": config.threat,
            "eps": training.eps,
            "search_steps": training.eval_attack,
            "epoch": epoch,
            "checkpoint": fingerprint(config.folder),
            "device": device,
            "versions": versions(attack),
            "seconds": round(time.perf_counter() - begin, 2),
        }
    }


def tracks_said(split: Split) -> dict[str, Any]:
    """What a result says of the test images' tracks: ``tracks`` (N,), where they are known; ``hidden_tracks`` where
    training images are frames of tracks, but nothing says which test images are of one. Else nothing."""
    if split.groups is not None:
        return {"tracks": split.groups.cpu().numpy()}
    return {"hidden_tracks": True} if split.hides_tracks else {}


def machine(device: str | None) -> dict[str, str]:
    """What decides about last bits beside versions: the kind of device and of processor. ``device``: as above."""
    if device != "cpu" and torch.cuda.is_available():
        return {"device": "cuda", "processor": torch.cuda.get_device_name()}
    return {"device": "cpu", "processor": torch.backends.cpu.get_cpu_capability()}


def versions(attack: str) -> dict[str, str]:
    """Of the packages that an attack is computed with."""
    return {name: version(name) for name in ("torch", *(["pyautoattack"] if attack == "autoattack" else []))}
