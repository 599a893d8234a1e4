"""The trunk: what trials have in common before they reweight is trained once, and each trial branches from it.

Several trials, searches, methods and machines may need the same trunk at once. The process that holds its lock trains
one epoch and releases it, so any other can go on where one was killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import time
from functools import lru_cache
from pathlib import Path

import torch

from search_spaces import METHODS
from trainables.config import TrialConfig
from trainables.data.store import prepare
from trainables.loop import Trainer
from trainables.method import EpochStats
from trainables.methods import method_class
from trainables.trunk_store import TrunkStore

FORMAT = 1  # raise it when the files' content changes: old trunks are then not found
PACKAGE = Path(__file__).parent
# Files that do not decide a plain epoch's bits. Every other file counts, so a new one cannot be forgotten: counting too
# many only trains a trunk once more.
APART = {
    "checkpoint.py",
    "config.py",
    "curve.py",
    "gpu_packing.py",
    "model_io.py",
    "offsets.py",
    "ray_adapter.py",
    "saved.py",
    "square.py",
    "storage.py",
    "sweep.py",
    "trunk.py",
    "trunk_store.py",
    "verification.py",
    "verification_run.py",
}


@lru_cache
def code_version(base: str) -> str:
    """A hash of the source files that a trunk of this base method depends on; even the edit of a comment changes it."""
    digest = hashlib.sha256((METHODS.source(base) or "").encode())  # a plug-in's package and version
    for file in sources(base):
        digest.update(str(file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file.name).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(base: str) -> list[Path]:
    """The source files that a trunk of this base method depends on; of a plug-in's only the file of its class."""
    methods, apart = PACKAGE / "methods", {PACKAGE / name for name in APART}
    common = [f for f in PACKAGE.rglob("*.py") if f.parent != methods and f not in apart]
    if base == "fairfront":  # made of the others
        return sorted({*common, *methods.glob("*.py")})
    plug_in = METHODS.source(base) is not None
    own = Path(inspect.getfile(method_class(base))) if plug_in else methods / f"{base}.py"
    return sorted({*common, methods / "__init__.py", own})


def base_config(trainer: Trainer) -> TrialConfig:
    """The trial that the trunk is: same data, model, seed and training, but the method's base."""
    name, params = ("at", {}) if trainer.config.trunk.startswith("at:") else trainer.method.burn_in()
    return dataclasses.replace(
        trainer.config, method=name, params=params, trunk="none", trial=-1, folder=None, objectives=()
    )


def data_key(config: TrialConfig) -> dict:
    """Everything that decides which images a trial trains and is judged on."""
    return {
        "data": prepare(config.dataset, Path(config.home)).name,
        "imbalance": config.imbalance,
        "data_seed": config.split_seed,
        "val_fraction": config.val_fraction,
        "val_per_class": config.val_per_class,
    }


def trunk_key(trainer: Trainer) -> dict:
    """Everything that a trunk's weights and metrics depend on; its hash is the trunk's name."""
    config, base = trainer.config, base_config(trainer)
    key = {
        "format": FORMAT,
        "base": base.method,
        "params": base.params,
        "head": trainer.method.head,
        "val_losses": trainer.method.needs_val_losses,  # the evaluation then draws other random numbers
        **data_key(config),
        "seed": config.seed,
        "model": config.model,
        "training": dataclasses.asdict(trainer.training),
        "max_epochs": config.max_epochs,
        "torch": ".".join(torch.__version__.split(".")[:2]),
        "device": trainer.device.type,
        "precision": str(trainer.autocast),
        "code": code_version(base.method),
    }
    if trainer.device.type == "cpu":  # both change the order of sums, hence the last bits
        key |= {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
    return key


def key_hash(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


class Branch:
    """A trial on its way to the epoch where it leaves its trunk. ``advance`` until ``ready``, then ``leave``."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.epoch = trainer, trainer.config.branch_epoch()
        # an epoch-wise weight average needs the weights after every epoch, all others only the last
        every = trainer.method.averages_epochs and not trainer.config.trunk.startswith("at:")
        self.needed = range(1, self.epoch + 1) if every else (self.epoch,)
        key = trunk_key(trainer)
        self.name = key_hash(key)
        self.store = TrunkStore(trainer.config.home, trainer.config.storage, self.name)
        self.store.describe(key)
        self.outdated = 0 if self.store.epochs() else self.store.outdated(key)  # trunks that do not fit, to be told
        self._trunk: Trainer | None = None
        self._epochs: list[dict] = []  # of self._trunk: metrics and stats of every epoch, for the trials that branch
        self._rolling: int | None = None  # a file of ours that no trial needs: removed when the next is written

    def ready(self) -> bool:
        return self._missing() is None

    def _missing(self) -> int | None:
        there = self.store.epochs()
        return next((e for e in self.needed if e not in there), None)

    def advance(self, wait_s: float = 2.0) -> int | None:
        """Train one epoch of the trunk and return its number; None: another process still trains it after ``wait_s``
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

    def leave(self) -> list[dict] | None:
        """Put the trial where it would be had it trained alone; the metrics of every epoch so far.

        None: a file was damaged. It has been removed, and the branch is no longer ``ready``.
        """
        if any(self.store.read(e) is None for e in self.needed[:-1]):
            return None
        state = self.store.read(self.epoch)
        if state is None:
            return None
        trainer, past = self.trainer, []
        late = trainer.config.trunk.startswith("at:")  # the method knows nothing of the epochs before it began
        for entry in state["epochs"][-1:] if late else state["epochs"]:
            stats = EpochStats(**entry["stats"])
            trainer.method.end_epoch(stats)
            if trainer.method.averages_epochs:
                trainer.model.load_state_dict(self.store.read(stats.epoch + 1)["model"])
                if judged := trainer._average(stats, None):
                    entry["metrics"].update(judged.metrics(trainer.splits.classes, trainer.splits.class_counts))
        past = [{**entry["metrics"], "trunk": True} for entry in state["epochs"]]
        trainer.load_state_dict(
            {
                **state,
                "method": trainer.method.state_dict(),
                "average": state["average"] if trainer.training.ema else None,
            }
        )
        self._trunk = None
        return past

    def _train_one(self) -> int:
        target = self._missing()
        self._go_to(target - 1)
        metrics = self._trunk.run_epoch()
        stats = {f.name: getattr(self._trunk.stats, f.name) for f in dataclasses.fields(EpochStats)}
        self._epochs.append({"metrics": metrics, "stats": stats})
        epoch = self._trunk.epoch
        self.store.write(epoch, {**self._trunk.state_dict(), "epochs": self._epochs})
        if self._rolling is not None:
            self.store.remove(self._rolling)
        keep_from = min(self.needed[0], self.trainer.config.trunk_from or self.needed[0])
        self._rolling = epoch if epoch < keep_from else None
        return epoch

    def _go_to(self, latest: int) -> None:
        """Our trunk trainer at the longest trajectory stored that is not past ``latest``."""
        for epoch in sorted((e for e in self.store.epochs() if e <= latest), reverse=True):
            if self._trunk is not None and self._trunk.epoch == epoch:
                return
            state = self.store.read(epoch)
            if state is not None:
                break
        else:
            epoch, state = 0, None
        self._trunk = self._new_trunk()
        self._epochs, self._rolling = [], None
        if state is not None:
            self._trunk.load_state_dict(state)
            self._epochs = state["epochs"]

    def _new_trunk(self) -> Trainer:
        trunk = Trainer(base_config(self.trainer), self.trainer.device, head=self.trainer.method.head)
        trunk.method.needs_val_losses = self.trainer.method.needs_val_losses
        return trunk


def open_branch(trainer: Trainer) -> Branch | None:
    """The way to the trial's branch point; None for a trial that trains alone or is past it already."""
    if trainer.epoch or not trainer.config.branch_epoch():
        return None
    return Branch(trainer)


def run_to_branch(trainer: Trainer) -> list[dict]:
    """Train or load the trunk here and now and leave it; its epochs' metrics (none for a trial that trains alone)."""
    branch = open_branch(trainer)
    past = None if branch else []
    while past is None:
        while not branch.ready():
            branch.advance()
        past = branch.leave()
    return past
