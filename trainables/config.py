"""What one trial is told: a plain dictionary that travels through Ray, read back as a ``TrialConfig``. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from search_spaces.resolve import resolve
from search_spaces.training import Training
from trainables.data.spec import DataSpec, Reading
from trainables.threats import LINF

BEFORE = {"val_per_class": 0}  # what a checkpoint means that was written before there was such a field


@dataclass(frozen=True)
class TrialConfig:
    """``params``: the method's hyperparameters; ``training``: the common ones where they differ from `Training`'s."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    dataset: str = "digits"
    imbalance: str = "exp:10"
    model: str = "cnn"
    _: KW_ONLY  # what follows grows
    threat: str = LINF  # norm of the ball whose radius is ``training``'s eps: a name of `trainables.threats`
    max_epochs: int = 12
    seed: int = 0  # initial weights, order of the images, attacks
    data_seed: int | None = None  # the split and its thinning; None: as ``seed``
    home: str = "tuner-home"
    trial: int = 0
    objectives: tuple[str, ...] = ()  # metrics whose largest sum makes the best epoch; none: only the last is kept
    folder: str | None = None  # path or URL where the trial keeps its checkpoint; None: nowhere
    fork: int = 0  # how many epochs come from the stem, which is plain AT; 0: the trial trains alone
    stem: dict[str, Any] = field(default_factory=dict)  # the stem's training, as ``training``
    spare_seeds: tuple[int, ...] = ()  # whose stems are trained while another process trains this one: replicates' own
    stem_from: int = 1  # the earliest fork of the search: of the stem's epochs before, none is kept
    cool_down: int | None = None  # of a preview: epochs from the fork, over which the learning rate falls to 0
    storage: str | None = None  # path or URL where nodes share stems and data; None: the home
    init: str | None = None  # name of the weights to start from (`trainables.initial`); None: random ones
    offsets: str = "none"  # over which post-hoc class offsets the trained model is swept: none, prior, classes or auto
    val_fraction: float = 0.2  # this and the next: see ``DataSpec``
    val_per_class: int = 300
    image_size: int = 0  # this and the next two: see ``Reading``
    test_split: str = "test"
    groups: str = "auto"
    extra: str = "none"  # more images to train on: see ``DataSpec``
    extra_ratio: float = 0.0  # their share of a batch
    processes: int = 1  # that train the trial together (`trainables.data_parallel`)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> TrialConfig:
        """From a checkpoint, which another version of this code may have written: fields it alone knew are left out,
        and fields that it did not know mean what it did (``BEFORE``)."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{**BEFORE, **{k: v for k, v in stored.items() if k in known}})

    @property
    def split_seed(self) -> int:
        """The seed of ``data_spec``."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def data_spec(self) -> DataSpec:
        """The trial's images."""
        reading = Reading(self.image_size, self.test_split, self.groups)
        return DataSpec(
            self.dataset, self.imbalance, self.split_seed, self.val_fraction, self.val_per_class, reading, self.extra
        )

    def full_training(self) -> Training:
        """``training`` completed with the defaults."""
        return Training(**self.training)

    @property
    def last_epoch(self) -> int:
        """The epoch with which the training ends."""
        return self.max_epochs if self.cool_down is None else self.fork + self.cool_down

    def own_from(self) -> int:
        """The first 0-based epoch in which the method acts: from there the best one is chosen."""
        start = resolve(self.method, self.params).get("start", 0.0)
        return max(self.fork, min(round(start * self.max_epochs), self.last_epoch - 1))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
