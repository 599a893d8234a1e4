"""The schedulers, one class each: which trials stop early, at which epochs, and what the user is told about it.

How to add a scheduler
----------------------
Write one subclass of ``Scheduler`` in this file and name it in ``SCHEDULERS`` below. It needs a ``name``, a ``help``
sentence and ``decide``; ``compares``, ``levels`` and ``promote`` have defaults (asynchronous successive halving). The
command line, validation, the line that a search prints, Ray and a resume follow from that. A scheduler keeps no state
of its own: all it may look at is the rung, so that a resumed search decides as an uninterrupted one would.

tests/test_rungs.py runs its contract (``test_every_scheduler...``) on every class of the table; add a test with a
hand-computed case of your rule beside them.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, Protocol

from tuner.errors import UsageError

MEDIAN_NEEDS = 5  # other trials at a rung before their median decides
LATEST_RUNG = 0.8  # of all epochs: stopping a trial at epoch 11 of 12 saves next to nothing and loses a front point
Point = tuple[float, ...]


class Decision(StrEnum):
    """What becomes of a trial after an epoch. A paused trial keeps its checkpoint and may be promoted later."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


class Rung(Protocol):
    """What a scheduler sees of the trials that have reached one level (a number of epochs)."""

    @property
    def points(self) -> dict[int, Point]:
        """Trial -> the objectives it is ranked by, all maximised: those that the scheduler ``compares``."""

    def others(self, trial: int) -> list[Point]:
        """The points of the latest trials (by number, a bounded window) without ``trial`` itself."""

    def best(self, reduction: int, also: Iterable[int]) -> list[int]:
        """The best 1/``reduction`` of the latest trials, best first; ``also``: older trials that are ranked too."""


@dataclass(frozen=True)
class Scheduler(ABC):
    """An early-stopping rule with its options. Ray and the sampler know a scheduler by this interface alone.

    ``start``: the earliest epoch (from 0) at which a trial can begin to reweight, from which rungs count.
    ``objectives``: those of the search; ``metric``: the one that single-objective rules compare, by default the first.
    ``reduction``: eta of successive halving, the best 1/eta of a rung are promoted. ``grace``: epochs from ``start`` to
    the first rung; None: 15 % of the epochs that remain. ``on_rung``: what becomes of a trial that is not promoted,
    STOP or PAUSE. ``chosen``: whether the user asked for this scheduler by name.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    ignores: ClassVar[tuple[str, ...]] = ()  # options of ``SearchSpec`` that have no effect with it
    rungs_are_budgets: ClassVar[bool] = True  # whether a sampler's model may learn from the values at its rungs

    start: int
    max_epochs: int
    objectives: tuple[str, ...]
    metric: str | None = None
    reduction: int = 2
    grace: int | None = None
    on_rung: str = Decision.STOP
    chosen: bool = True

    @abstractmethod
    def decide(self, rung: Rung, trial: int) -> Decision:
        """What becomes of ``trial``, which has just reached ``rung`` and has a point there.

        Never asked about the default setting, nor before a trial reweights, nor once it has been let through; asked
        again when a trial that was interrupted at the rung reports the same epoch once more.
        """

    def promote(self, rung: Rung, waiting: Collection[int]) -> int | None:
        """Which of the trials that wait at ``rung`` goes on now: the best that the rung has grown enough for."""
        return next((trial for trial in rung.best(self.reduction, waiting) if trial in waiting), None)

    @property
    def compares(self) -> tuple[str, ...]:
        """The objectives by which trials are compared at a rung."""
        return (self.metric or self.objectives[0],)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The rungs, in finished epochs, ascending: ``start`` + grace * eta^k, up to 80 % of all epochs."""
        found, step = [], self._grace
        while self.start + step <= LATEST_RUNG * self.max_epochs:
            found.append(self.start + step)
            step *= self.reduction
        return tuple(found)

    @property
    def _grace(self) -> int:
        return self.grace or math.ceil(0.15 * (self.max_epochs - self.start))

    # ---- what the user is told ---------------------------------------------------------------------------------------

    def describe(self) -> str:
        """One line for the user: what is compared when, and what becomes of the others."""
        epochs = ", ".join(map(str, self.levels))
        return (
            f"scheduler {self.name} on {' and '.join(self.compares)} at epochs {epochs}: "
            f"the best 1/{self.reduction} go on, the others {self._verb}"
        )

    @property
    def _verb(self) -> str:
        return "wait" if self.on_rung == Decision.PAUSE else "stop"

    def check(self) -> None:
        """``UsageError`` where there are too few rungs to stop anything."""
        if len(self.levels) < 2:
            raise UsageError(
                f"--scheduler {self.name} has {len(self.levels)} rung{'s' * (len(self.levels) != 1)} here, but "
                f"needs 2: reweighting starts at epoch {self.start} of {self.max_epochs}, "
                f"--grace {self.grace or 'default'}, --reduction {self.reduction}; "
                "give more --max-epochs, or --scheduler none"
            )

    def without_effect(self) -> list[str]:
        """The options that were given and have no effect with this scheduler, a line each."""
        on_rung = self.on_rung if self.on_rung != Decision.STOP else None
        given = {"asha_metric": self.metric, "grace": self.grace, "on_rung": on_rung}
        return [
            f"--{option.replace('_', '-')} {value} has no effect with scheduler {self.name}"
            for option, value in given.items()
            if value and option in self.ignores
        ]


class Asha(Scheduler):
    """Asynchronous successive halving on one objective (Li et al., 2020, arXiv:1810.05934)."""

    name = "asha"
    help = "Asynchronous successive halving on one objective."

    def decide(self, rung: Rung, trial: int) -> Decision:
        """CONTINUE for the best 1/eta of the rung, and while it has fewer than eta trials: a stop cannot be undone."""
        undecided = self.on_rung == Decision.STOP and len(rung.points) < self.reduction
        if undecided or trial in rung.best(self.reduction, (trial,)):
            return Decision.CONTINUE
        return Decision(self.on_rung)


class ParetoAsha(Asha):
    """The same on all objectives at once (MO-ASHA: Schmucker et al., 2021, arXiv:2106.12639)."""

    name = "pareto-asha"
    help = "Asynchronous successive halving on all objectives: non-dominated fronts, spread out by an epsilon-net."
    ignores = ("asha_metric",)

    @property
    def compares(self) -> tuple[str, ...]:
        return self.objectives


class Median(Scheduler):
    """The median stopping rule (Golovin et al., 2017, Vizier), on one objective, after every epoch.

    A trial stands for its best epoch so far and the others for theirs (Vizier compares with running averages).
    """

    name = "median"
    help = "After every epoch, stop a trial that is below the median of the others on one objective."
    rungs_are_budgets = False  # one at every epoch, and few trials at the late ones

    @cached_property
    def levels(self) -> tuple[int, ...]:
        return tuple(range(self.start + self._grace, int(LATEST_RUNG * self.max_epochs) + 1))

    def decide(self, rung: Rung, trial: int) -> Decision:
        others = [point[0] for point in rung.others(trial)]
        if len(others) < MEDIAN_NEEDS or rung.points[trial][0] >= statistics.median(others):
            return Decision.CONTINUE
        return Decision(self.on_rung)

    def describe(self) -> str:
        return (
            f"scheduler {self.name} on {' and '.join(self.compares)} at epochs {self.levels[0]} to {self.levels[-1]}: "
            f"those below the median {self._verb}"
        )


class NoScheduler(Scheduler):
    """No early stopping."""

    name = "none"
    help = "Every trial runs to its end."
    ignores = ("asha_metric", "grace", "on_rung")

    @cached_property
    def levels(self) -> tuple[int, ...]:
        return ()

    @property
    def compares(self) -> tuple[str, ...]:
        return ()

    def decide(self, rung: Rung, trial: int) -> Decision:
        return Decision.CONTINUE

    def describe(self) -> str:
        why = "" if self.chosen else f": {self.max_epochs} epochs leave fewer than 2 rungs after the start"
        return f"scheduler {self.name}{why}; every trial runs to its end"

    def check(self) -> None:
        """It needs no rungs."""


SCHEDULERS: dict[str, type[Scheduler]] = {cls.name: cls for cls in (ParetoAsha, Asha, Median, NoScheduler)}


def choose_scheduler(name: str | None, **options) -> Scheduler:
    """The scheduler of that name with its options (see ``Scheduler``).

    Without a name: Pareto early stopping where there are two rungs for it, else none.
    """
    if name is not None:
        return SCHEDULERS[name](**options)
    default = ParetoAsha(**options, chosen=False)
    return default if len(default.levels) >= 2 else NoScheduler(**options, chosen=False)
