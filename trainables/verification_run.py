"""Re-testing one finished trial on the untouched test images, after retraining it with another seed if asked to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainables.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data import check, open_test
from trainables.loop import Diverged, Trainer
from trainables.model_io import load_trial
from trainables.trunk import run_to_branch
from trainables.verification import Cascade


def fingerprint(folder: str) -> str | None:
    """Of the checkpoint file: what a stored result belongs to; None where there is no file."""
    data = checkpoint_bytes(folder)
    return None if data is None else hashlib.sha256(data).hexdigest()[:16]


def train_to_end(config: TrialConfig) -> Iterator[int]:
    """Train a trial outside any search, from its checkpoint if it has one; yields the epochs done."""
    trainer, folder = Trainer(config), config.folder
    if load_checkpoint(folder, trainer) is None:
        run_to_branch(trainer)
    while trainer.epoch < config.max_epochs:
        save_checkpoint(folder, trainer, trainer.run_epoch())
        yield trainer.epoch


def retest(config: TrialConfig, attack: str, *, retrain: bool = False, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Yields ``{"epoch": n}`` while it trains, ``{"stage": ...}`` after each attack, and last ``{"result": ...}``, or
    ``{"failed": reason}`` where the retrained trial diverged."""
    torch.set_num_threads(max(1, threads))
    if retrain:
        try:
            yield from ({"epoch": n} for n in train_to_end(config))
        except Diverged as error:
            yield {"failed": str(error)}
            return
    begin, folder, home = time.perf_counter(), config.folder, Path(config.home)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, about = load_trial(folder, home, config.dataset)
    split = open_test(config.data_spec, home, device)
    training = config.full_training()
    cascade = Cascade(
        model.to(device), split, attack, eps=training.eps, search_steps=training.eval_attack, threat=Trainer.threat
    )
    for stage in cascade.run():
        yield {"stage": vars(stage)}
    yield {
        "result": {
            "labels": split.labels.cpu().numpy(),
            "broken_by": cascade.broken_by.numpy(),
            "stages": [vars(s) for s in cascade.stages],
            "alarms": cascade.alarms,
            "classes": about["architecture"]["classes"],
            "train_counts": check(config.data_spec, home).counts["train"],
            "eps": training.eps,
            "epoch": about["epoch"],
            "checkpoint": fingerprint(folder),
            "device": device,
            "torch": torch.__version__,
            "seconds": round(time.perf_counter() - begin, 2),
        }
    }
