"""The schedulers, one class each: which proposals train in full.

How to add a scheduler
----------------------
Write one subclass of ``Scheduler`` in this file and name it in ``SCHEDULERS`` below. It needs a ``name``, a ``help``
sentence, ``describe`` and, if it previews, ``most``. The command line, validation, the line that a search prints, Ray
and a resume follow from that. A scheduler keeps no state: which previews are promoted is a function of the history
(`tuner.results.promotion`), so that a resumed search decides as an uninterrupted one would.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tuner.errors import UsageError

SHARE = 4  # of the previews, one in so many trains in full
FIRST = 8  # previews that are in before any is promoted, or half of all: the best of few is seldom that of many
FEWEST = 4  # previews that are worth one training saved
SHORTEST = 4  # epochs: a preview trains at least one
WORTH = 2  # times as many epochs are trained without previews; where it was 1.6 these lost (docs/decisions/search.md)


@dataclass(frozen=True)
class Scheduler(ABC):
    """A rule with what it may know of the search. ``previews``: proposals that would be previewed, the default settings
    aside. ``lengths``: the epochs of a preview, and those that a training in full has after its fork, in the mean.
    ``chosen``: whether the user asked for this scheduler by name."""

    name: ClassVar[str]
    help: ClassVar[str]
    previewing: ClassVar[bool] = False  # whether a proposal is previewed before it trains in full

    max_epochs: int
    previews: int
    burn_in: str = "stem"
    lengths: tuple[float, float] = (1.0, math.inf)
    chosen: bool = True

    @property
    def possible(self) -> bool:
        """Whether there is enough of everything for previews to save something."""
        return self.previews >= FEWEST and self.max_epochs >= SHORTEST and self.burn_in == "stem"

    def most(self, previews: int) -> int:
        """How many of the best train in full, once so many previews are in."""
        return 0

    @abstractmethod
    def describe(self) -> str:
        """One line for the user."""

    def check(self) -> None:
        """``UsageError`` where it cannot be used."""


class Preview(Scheduler):
    """Proposals fork late from the stem and train a few epochs; the best 1/``SHARE`` train in full."""

    name = "preview"
    help = f"Short previews of all proposals; the best 1/{SHARE} train in full."
    previewing = True

    def most(self, previews: int) -> int:
        enough = min(FIRST, math.ceil(self.previews / 2))
        return math.ceil(previews / SHARE) if previews >= enough else 0

    def describe(self) -> str:
        return (
            f"scheduler {self.name}: {self.previews} previews, of which the best 1/{SHARE} "
            f"({self.most(self.previews)}, or more if better ones come late) train in full"
        )

    def check(self) -> None:
        if self.burn_in != "stem":
            raise UsageError(f"--scheduler {self.name} forks from the stem; --burn-in {self.burn_in} has none")
        if self.max_epochs < SHORTEST:
            raise UsageError(
                f"--scheduler {self.name} needs --max-epochs of at least {SHORTEST}, but it is {self.max_epochs}; "
                "give more, or --scheduler none"
            )


class NoScheduler(Scheduler):
    """Every trial trains in full."""

    name = "none"
    help = "Every trial trains in full."

    def describe(self) -> str:
        if self.chosen:
            why = ""
        elif self.possible:
            why = ": from their forks on, trainings are too short for previews to halve what is trained"
        else:
            why = f": previews need {FEWEST} settings beside the default, {SHORTEST} epochs and a stem"
        return f"scheduler {self.name}{why}; every trial trains in full"


SCHEDULERS: dict[str, type[Scheduler]] = {cls.name: cls for cls in (Preview, NoScheduler)}


def choose_scheduler(name: str | None, **options) -> Scheduler:
    """The scheduler of that name with its options (see ``Scheduler``); without a name, previews where they halve what
    the proposals train, else none."""
    if name is not None:
        return SCHEDULERS[name](**options)
    none = NoScheduler(**options, chosen=False)
    preview, full = none.lengths
    saves = none.possible and full >= WORTH * (preview + full / SHARE)
    return Preview(**options, chosen=False) if saves else none


def earlier_scheduler(**options) -> str:
    """The name of the scheduler that a search had, to which none was given, before their lengths counted."""
    return (Preview if NoScheduler(**options).possible else NoScheduler).name
