"""The goal of a search: its objectives as the sampler and the scheduler see them, and its constraints.

Reports always show the plain metrics; only the values that the sampler and the scheduler decide by may be smoothed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from search_spaces.number import number
from trainables.class_metrics import frequency_groups
from tuner.errors import UsageError

NATURAL, WORST = "natural_robust_acc", "worst_class_robust_acc"
BY_FREQUENCY = ("many_robust_acc", "medium_robust_acc", "few_robust_acc")  # only where training images are imbalanced
METRICS = ("clean_acc", "robust_acc", NATURAL, WORST, "tail_robust_acc", *BY_FREQUENCY, "worst_class_clean_acc")
BOUNDED = (*METRICS, "robust_acc_gap", "nsd", "train_loss", "weight_ess")  # metrics that a constraint may bound
SHOWN = ("robust_acc", WORST, "clean_acc")  # beside any objectives


def shown_metrics(objectives: Iterable[str]) -> tuple[str, ...]:
    """The metrics that reports show of a trial: the objectives, then the class mean, the worst class and ``clean_acc``
    where they are none."""
    return tuple(dict.fromkeys([*objectives, *SHOWN]))


@dataclass(frozen=True)
class Constraint:
    """``metric >= bound`` (``sign`` 1) or ``metric <= bound`` (``sign`` -1)."""

    metric: str
    sign: int
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{'>=' if self.sign > 0 else '<='}{self.bound:g}"

    def violation(self, metrics: dict[str, Any]) -> float:
        """At most 0 where the constraint holds (Optuna's convention); 1 where the metric is missing or NaN."""
        value = metrics.get(self.metric)
        return 1.0 if value is None or math.isnan(value) else self.sign * (self.bound - value)


def parse_constraint(text: str, flag: str = "--constraint") -> Constraint:
    """``clean_acc>=0.8`` -> a ``Constraint``. ``UsageError`` names the ``flag``, what is wrong and what is allowed."""
    match = re.fullmatch(r"\s*([\w/]+)\s*(>=|<=)\s*(\S.*?)\s*", str(text))
    if not match:
        raise UsageError(f"{flag} {text!r} is not allowed; write METRIC>=VALUE or METRIC<=VALUE")
    name, sign, bound = match.groups()
    if name not in BOUNDED:
        raise UsageError(f"{flag} {text!r} names no metric; choose one of: {', '.join(sorted(BOUNDED))}")
    try:
        value = number(bound)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not allowed: {bound!r} is not a number") from None
    if name in METRICS and not 0 <= value <= 1:
        raise UsageError(f"{flag} {text!r} is not allowed: {name} is a share from 0 to 1")
    return Constraint(name, 1 if sign == ">=" else -1, value)


def parse_constraints(texts: Sequence[str]) -> tuple[Constraint, ...]:
    """All of them; ``UsageError`` also where two of them exclude each other."""
    found = [parse_constraint(text) for text in texts]
    for (low, least), (high, most) in permutations(zip(texts, found), 2):
        if least.metric == most.metric and least.sign > most.sign and least.bound > most.bound:
            raise UsageError(f"--constraint {low!r} and {high!r} exclude each other")
    return tuple(found)


def parse_smoothing(text: str | None) -> float | None:
    """``cvar:0.2`` -> 0.2, the share of the classes whose mean replaces the worst class."""
    if text is None:
        return None
    kind, _, share = str(text).partition(":")
    try:
        value = number(share)
    except ValueError:
        value = math.nan
    if kind != "cvar" or not 0 < value <= 1:
        raise UsageError(f"--smooth-worst {text!r} is not allowed; write cvar:SHARE, a share of the classes in (0, 1]")
    return value


@dataclass(frozen=True)
class Goal:
    """``objectives`` are maximised. ``smooth``: the worst class is replaced by the mean of that share of worst classes
    (the conditional value at risk)."""

    objectives: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()
    smooth: float | None = None

    def point(self, metrics: dict[str, Any], objectives: Sequence[str] | None = None) -> tuple[float, ...]:
        """The objectives (or those named) as sampler and scheduler see them; NaN where one is missing."""
        return tuple(self._value(metrics, name) for name in objectives or self.objectives)

    def check_measured(self, train_counts: Sequence[int]) -> None:
        """``UsageError`` where an objective or a constraint has no value on data with so many training images of each
        class."""
        for name in (*self.objectives, *(c.metric for c in self.constraints)):
            if name in BY_FREQUENCY and not frequency_groups(train_counts):
                raise UsageError(
                    f"{name} has no value here: it needs at least three classes that differ in their training images; "
                    "choose another metric or an imbalance"
                )

    def _value(self, metrics: dict[str, Any], name: str) -> float:
        if name == WORST and self.smooth:
            classes = sorted(v for k, v in metrics.items() if k.startswith("robust_acc/"))
            if classes:
                worst = classes[: max(1, round(self.smooth * len(classes)))]
                return sum(worst) / len(worst)
        value = metrics.get(name)
        return math.nan if value is None else float(value)

    def violations(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Constraint by name -> violation, at most 0 where it holds."""
        return {str(c): c.violation(metrics) for c in self.constraints}

    def feasible(self, metrics: dict[str, Any]) -> bool:
        return all(c.violation(metrics) <= 0 for c in self.constraints)

    def without_effect(self) -> list[str]:
        """A line where the smoothing changes no objective."""
        if self.smooth is None or WORST in self.objectives:
            return []
        return [f"--smooth-worst cvar:{self.smooth:g} has no effect: {WORST} is no objective"]
