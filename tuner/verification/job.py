"""One model to test, and where its result is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainables.config import TrialConfig
from trainables.offsets import NONE, Offsets
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.search_spec import SearchSpec


class Tested(Protocol):
    """What a report and a certificate are of: a search, or a model that no search made."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> SearchSpec: ...

    @property
    def folder(self) -> Path: ...


@dataclass(frozen=True)
class Job:
    """One model to test: the search's own trial or, where ``seed`` is given, the same setting trained anew with it.

    ``role`` and ``also`` as in `tuner.verification.rows`.
    """

    trial: int
    config: TrialConfig
    path: Path  # of the result, without suffix
    seed: int | None = None
    offsets: Offsets = NONE
    role: str = "front"
    also: tuple[str, ...] = ()
    title: str | None = None  # of a model that no search made
    published: str | None = None  # SHA-256 of its file, which others have

    @property
    def name(self) -> str:
        """For people: ``trial 3``, ``trial 3@0.75`` with offsets, ``no search``."""
        return self.title or name_of(self.trial, self.offsets.tau)

    @property
    def label(self) -> str:
        return self.name + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def json(self) -> Path:  # not `with_suffix`, for which 3@0.75 has one already
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def flags(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parquet")

    @property
    def key(self) -> tuple[int, float]:
        """Of the point, whatever the seed."""
        return self.trial, self.offsets.tau


def name_of(trial: int, tau: float) -> str:
    """A point's name for people."""
    return ("no search" if trial == NO_SEARCH else f"trial {trial}") + (f"@{tau:g}" if tau else "")
