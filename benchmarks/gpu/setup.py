"""What a run of `benchmarks.gpu` is: its sizes, where things lie, and the search that its parts share."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.ledger import Ledger
from benchmarks.live_problem import Job, Problem
from benchmarks.synthetic import thinned
from trainables.data import prepare
from trainables.data.spec import class_counts, parse_imbalance
from tuner.files import write_atomically
from tuner.spec.epoch_plan import PREVIEW_FORK

START = 0.8  # of the epochs: where full trainings of a front leave plain AT, so that one costs a fifth of a training


def forked_at(epoch: int, epochs: int) -> bool:
    """Whether trials of a front leave the stem after this many epochs, or between: then its state is kept."""
    return round(PREVIEW_FORK * epochs) <= epoch <= round(START * epochs)


@dataclass(frozen=True)
class Size:
    """How much is done. ``largest``: training images of the largest class; ``tests``: of all classes.

    ``autoattack`` and ``apgd``: images of a chunk, which is stored when it is done, and how many chunks are attacked.
    ``claims``: epochs and images of a run there. ``cases``: of `attack_speed`, and images of `evaluation_cost`.
    """

    name: str
    model: str
    epochs: int
    largest: int
    tests: int
    autoattack: tuple[int, int]
    apgd: tuple[int, int]
    settings: tuple[str, ...] = ("none", "exp:50", "step:100")
    seeds: int = 3
    methods: tuple[str, ...] = ("srat", "done", "dafa", "cfa", "fairfront")
    trials: int = 9  # of a front: the methods' default settings, and previews, of which the best trains in full
    verified: int = 3  # points of a front
    training: dict[str, Any] = field(default_factory=dict)
    claims: tuple[int, int] = (10, 20_000)
    claims_made: int = 6  # the first so many of the papers'
    live: tuple[str, int, int] = ("srat-cifar10", 16, 30)  # problem, trials, epochs
    cases: list | None = None
    rounds: int = 3
    images: int = 1000


FULL = Size("full", "resnet18", 30, 4700, 10_000, autoattack=(250, 4), apgd=(1000, 10))
TINY = Size(
    "tiny",
    "cnn",
    4,
    115,
    359,
    autoattack=(6, 1),
    apgd=(6, 1),
    settings=("none", "exp:50"),
    seeds=1,
    verified=2,
    training={"passes": 1, "attack_steps": 1, "eval_attack": 1, "batch_size": 128, "eps": 0.3},
    claims=(1, 0),
    claims_made=1,
    live=("srat", 2, 4),
    cases=[("cnn", 8, 1, 32)],
    rounds=1,
    images=100,
)


@dataclass(frozen=True)
class Setup:
    """A run. ``out``: rows and small files; ``work``: data, states of trainings and models, which are large."""

    size: Size
    out: Path
    work: Path
    ledger: Ledger
    data: Path | None = None  # train.parquet and test.parquet of CIFAR-10; the tiny size has its own
    form: str = "at"  # of the front's methods that have a choice

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def files(self) -> Path | None:
        """The data in ``work``: a data set is named after its files' times, and states after their data set, so both
        have to stay when ``data`` is brought anew."""
        return self.work.absolute() / "data" / "files" if self.data else None

    @property
    def dataset(self) -> str:
        return f"parquet:{self.files}" if self.files else "digits"

    @property
    def home(self) -> Path:
        return self.work / "home"

    @property
    def undecoded(self) -> list[tuple[str, float]]:
        """The work of decoding the images, where this ``work`` has none."""
        return [] if any((self.home / "datasets").glob("*")) else [("data", 1)]

    def open_data(self) -> None:
        with self.ledger.timed("data", 1) if self.undecoded else contextlib.nullcontext():
            if self.data and self.files and not (self.files / "test.parquet").exists():
                for name in ("train.parquet", "test.parquet"):  # the last one says that both are there
                    write_atomically(self.files / name, (self.data / name).read_bytes())
            prepare(self.dataset, self.home)

    def thinned(self, images: int) -> str:
        """A data set of a part of the training images, complete or absent."""
        assert self.files
        folder = self.files.with_name(f"thinned-{images}")
        if not folder.exists():
            thinned(self.files, aside := folder.with_name(f"{folder.name}.part"), images)
            aside.rename(folder)
        return f"parquet:{folder}"

    def job(self, setting: str, seed: int, methods: tuple[str, ...] | str = "at") -> Job:
        """Searches and plain trainings of the parts are of one kind: what both train alike is trained once."""
        size = self.size
        fix = {} if methods == "at" else {"form": self.form}
        how = {"imbalance": setting, "fix": fix, "set": size.training, "model": size.model, "epochs": size.epochs}
        problem = Problem(methods, **how)
        return Job(problem, seed, trials=size.trials, home=str(self.home), dataset=self.dataset)

    def images(self, setting: str) -> int:
        """Training images of a setting."""
        kind, ratio = parse_imbalance(setting)
        return sum(class_counts(self.size.largest, 10, kind, 1 / ratio))
