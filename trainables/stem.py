"""The stem: plain AT, or the base of the method's form, trained once for all trials that fork from it, whatever their
method. What a method does acts from its fork.

Several trials, searches, methods and machines may need the same stem at once. The process that holds its lock trains
one epoch and releases it, so any other can go on where one was killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch

from search_spaces import METHODS
from trainables.attack_copy import fast_dtype
from trainables.config import TrialConfig
from trainables.data.extra import extra_content
from trainables.data.store import content, prepare
from trainables.loop import Trainer
from trainables.models.names import MODELS, parse_model
from trainables.stem_store import StemStore
from trainables.threats import THREATS

FORMAT = 4  # raise it when the files' content changes: old stems are then not found
PLAIN = "at"  # the method
WAIT_S = 2.0  # for an epoch of the stem that another process trains, before the driver hears of it
PACKAGE = Path(__file__).parent
# Files that do not decide a plain epoch's bits. Every other file counts, so a new one cannot be forgotten: counting too
# many only trains a stem once more.
APART = {
    "called.py",
    "checkpoint.py",
    "config.py",
    "curve.py",
    "first_look.py",
    "foreign.py",
    "gpu_packing.py",
    "gpu_use.py",
    "head_repair.py",
    "initial.py",
    "model_io.py",
    "offsets.py",
    "ray_adapter.py",
    "saved.py",
    "square.py",
    "storage.py",
    "sweep.py",
    "stem.py",
    "stem_store.py",
    "verification.py",
    "verification_run.py",
}


@lru_cache
def code_version(method: str) -> str:
    """A hash of the source files that a training of this method depends on; even the edit of a comment changes it."""
    plug_in = METHODS.plug_in(method)
    digest = hashlib.sha256(plug_in.mark.encode() if plug_in else b"")
    for file in sources(method):
        digest.update(str(file.relative_to(PACKAGE)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(method: str) -> list[Path]:
    """The source files of this project that a training of this method depends on."""
    methods, apart = PACKAGE / "methods", {PACKAGE / name for name in APART}
    common = [f for f in PACKAGE.rglob("*.py") if f.parent != methods and f not in apart]
    if method == "fairfront":  # made of the others
        return sorted({*common, *methods.glob("*.py")})
    own = () if METHODS.plug_in(method) else (methods / f"{method}.py",)
    return sorted({*common, methods / "__init__.py", *own})


def stem_config(config: TrialConfig, form: str = PLAIN) -> TrialConfig:
    """The trial that the stem of ``config`` is, on the same data, with the same model and seed: plain AT, or the base
    of another ``form`` of loss (TRADES, MART) with its default weight. From plain AT a few epochs do not lead there:
    DAFA's default setting on digits has a hypervolume of 0.55 on `test` from TRADES, of 0.25 from plain AT."""
    training = {**config.stem, "head_repair": "none"}  # which comes after the training
    alone = {"fork": 0, "cool_down": None, "stem": {}, "trial": -1, "folder": None, "objectives": ()}
    return dataclasses.replace(config, method=form, params={}, training=training, **alone)


def data_key(config: TrialConfig) -> dict:
    """Everything that decides which images a trial trains and is judged on."""
    return {
        # not their name: a copy has another
        "data": content(prepare(config.dataset, Path(config.home), config.data_spec.reading)),
        "imbalance": config.imbalance,
        "data_seed": config.split_seed,
        "val_fraction": config.val_fraction,
        "val_per_class": config.val_per_class,
        **_extra_key(config),
    }


def _extra_key(config: TrialConfig) -> dict:
    content = extra_content(config.data_spec, Path(config.home))
    return {"extra": content, "extra_ratio": config.extra_ratio} if content else {}


def stem_key(trainer: Trainer) -> dict:
    """Everything that a stem's weights and metrics depend on; its hash is the stem's name."""
    config = stem_config(trainer.config, trainer.method.form)
    training = config.full_training()
    key = {
        "format": FORMAT,
        "base": config.method,
        "head": trainer.method.head,
        "val_losses": trainer.method.needs_val_losses,  # the evaluation then draws other random numbers
        **data_key(config),
        "seed": config.seed,
        "model": config.model,
        "threat": config.threat,
        "training": dataclasses.asdict(training),
        "max_epochs": config.max_epochs,
        "torch": ".".join(torch.__version__.split(".")[:2]),
        "device": trainer.device.type,
        "precision": str(fast_dtype(training.precision, trainer.device, trainer.splits.shape)),
        "code": code_version(config.method),
    }
    if model := MODELS.plug_in(parse_model(config.model)[0]):
        key["model_code"] = model.mark
    if threat := THREATS.plug_in(config.threat):
        key["threat_code"] = threat.mark
    if config.init:
        key["init"] = config.init
    if config.processes > 1:  # sums are taken in parts
        key["processes"] = config.processes
    if trainer.device.type == "cpu":  # both change the order of sums, hence the last bits
        key |= {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
    return key


def key_hash(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


class Fork:
    """A trial on its way to the epoch where it leaves the stem. ``advance`` until ``ready``, then ``leave``."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.epoch = trainer, trainer.config.fork
        key = stem_key(trainer)
        self.name = key_hash(key)
        self.store = StemStore(trainer.config.home, trainer.config.storage, self.name)
        self.store.describe(key)
        self.outdated = 0 if self.store.epochs() else self.store.outdated(key)  # stems that do not fit, to be told
        self._stem: Trainer | None = None
        self._epochs: list[dict] = []  # metrics of every epoch of self._stem, for the trials that fork
        self._rolling: int | None = None  # a file of ours that no trial needs: removed when the next is written

    def ready(self) -> bool:
        return self.epoch in self.store.epochs()

    def advance(self, wait_s: float = WAIT_S) -> int | None:
        """Train one epoch of the stem and return its number; None: another process still trains it after ``wait_s``
        seconds."""
        deadline = time.monotonic() + wait_s
        while not self.ready():
            with self.store.lock() as mine:
                if mine and not self.ready():
                    return self._train_one()
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return None

    def missing(self) -> Iterator[int]:
        """Train here and now what no other process trains of the stem; yields the epochs that this one trained."""
        while not self.ready():
            if (trained := self.advance()) is not None:
                yield trained

    def leave(self) -> list[dict] | None:
        """Put the trial where the stem is; the metrics of every epoch so far.

        None: the file was damaged. It has been removed, and the fork is no longer ``ready``.
        """
        state = self.store.read(self.epoch)
        if state is None:
            return None
        self.trainer.fork(state)
        self._stem = None
        return [{**metrics, "stem": True} for metrics in state["epochs"]]

    def _train_one(self) -> int:
        self._go_to(self.epoch - 1)
        self._epochs.append(self._stem.run_epoch())
        epoch, stats = self._stem.epoch, self._stem.stats
        about = {"epochs": self._epochs, "stats": {f.name: getattr(stats, f.name) for f in dataclasses.fields(stats)}}
        self.store.write(epoch, {**self._stem.state_dict(), **about})
        if self._rolling is not None:
            self.store.remove(self._rolling)
        self._rolling = epoch if epoch < min(self.epoch, self.trainer.config.stem_from) else None
        return epoch

    def _go_to(self, latest: int) -> None:
        """Our trainer of the stem at the longest trajectory stored that is not past ``latest``."""
        for epoch in sorted((e for e in self.store.epochs() if e <= latest), reverse=True):
            if self._stem is not None and self._stem.epoch == epoch:
                return
            state = self.store.read(epoch)
            if state is not None:
                break
        else:
            epoch, state = 0, None
        self._stem = self._new_stem()
        self._epochs, self._rolling = [], None
        if state is not None:
            self._stem.load_state_dict(state)
            self._epochs = state["epochs"]

    def _new_stem(self) -> Trainer:
        method = self.trainer.method
        stem = Trainer(stem_config(self.trainer.config, method.form), self.trainer.device, head=method.head)
        stem.method.needs_val_losses = method.needs_val_losses
        return stem


def spare_fork(trainer: Trainer, seed: int) -> Fork:
    """The way to the same trial's fork under another seed."""
    return Fork(Trainer(dataclasses.replace(trainer.config, seed=seed, folder=None), trainer.device))


def open_fork(trainer: Trainer) -> Fork | None:
    """The way to the trial's fork; None for a trial that trains alone or is past it already."""
    return None if trainer.epoch or not trainer.config.fork else Fork(trainer)


def run_to_fork(trainer: Trainer) -> list[dict]:
    """Train or load the stem here and now and leave it; its epochs' metrics (none for a trial that trains alone)."""
    fork = open_fork(trainer)
    past = None if fork else []
    while past is None:
        for _ in fork.missing():
            pass
        past = fork.leave()
    return past
