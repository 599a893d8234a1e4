"""What a point of each class costs along a front, and which classes pay it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuner.results.pareto import row_label
from tuner.results.search_run import SearchRun
from tuner.spec.objectives import NATURAL

PREFIX = "robust_acc/"
AVERAGES = (NATURAL, "robust_acc")
PAYERS = 2  # named at most


@dataclass(frozen=True)
class Price:
    """From the row with the best average to the one in which the class is best, as judged on `val`, in percentage
    points: ``gain`` of the class's robust accuracy; ``price`` of the first objective for each of them; ``payers``:
    class -> what it loses for each of them, those that lose most first. ``of``, ``by``: the two rows."""

    name: str
    gain: float
    price: float
    payers: dict[str, float]
    of: str
    by: str

    @property
    def words(self) -> str:
        """``+1 point for cat costs 0.40 on average, paid by dog (1.50) and deer (0.80): from 3 to 7@0.5, which has 12.0
        more``"""
        who = " and ".join(f"{name} ({lost:.2f})" for name, lost in self.payers.items())
        paid = f", paid by {who}" if who else ", and no class loses"
        costs = f"costs {self.price:.2f} on average" if self.price >= 0.005 else "costs nothing on average"
        return f"+1 point for {self.name} {costs}{paid}: from {self.of} to {self.by}, which has {self.gain:.1f} more"


def class_prices(run: SearchRun) -> list[Price]:
    """For each class that some row of the front treats better than the row with the best average does, the dearest
    first. The average: the natural one or the class mean, whichever is an objective first, else the class mean. Rows of
    the front were chosen by these images, so prices are rather too low."""
    average = next((name for name in run.spec.objectives if name in AVERAGES), AVERAGES[-1])
    rows = run.front().rows
    if not rows:
        return []
    metrics = [(row, run.history.metrics_of(row)) for row in rows]
    start, at_start = max(metrics, key=lambda pair: pair[1][average])
    found = []
    for key in (key for key in at_start if key.startswith(PREFIX)):
        end, at_end = max(metrics, key=lambda pair: (pair[1].get(key) or 0.0, pair[1][average]))
        gain = (at_end.get(key) or 0.0) - (at_start[key] or 0.0)
        if gain > 0:
            found.append(_price(key, gain, average, (start, at_start), (end, at_end)))
    return sorted(found, key=lambda price: (-price.price, price.name))


def _price(
    key: str, gain: float, average: str, start: tuple[dict, dict[str, Any]], end: tuple[dict, dict[str, Any]]
) -> Price:
    (of, before), (by, after) = start, end
    lost = {
        k.removeprefix(PREFIX): (before[k] - after[k]) / gain for k in before if k.startswith(PREFIX) and k in after
    }
    payers = sorted((name for name in lost if lost[name] > 0), key=lambda name: (-lost[name], name))[:PAYERS]
    return Price(
        key.removeprefix(PREFIX),
        100 * gain,
        (before[average] - after[average]) / gain,
        {name: lost[name] for name in payers},
        row_label(of),
        row_label(by),
    )
