"""What a search may say of its front so that it holds on images that no search saw.

One posterior of all class rates (`tuner.results.class_rates`) answers everything: intervals, values to choose by, the
probability to be on the front, the hypervolume claimed, and the gain over a reference. How often each is right in
simulation: docs/experiments/uncertainty.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainables.class_metrics import TAIL, frequency_groups
from tuner.results.class_rates import Rows, posterior
from tuner.results.pareto import hypervolume, nondominated
from tuner.spec.objectives import Constraint

Interval = tuple[float, float]
SHOWN = ("robust_acc", "clean_acc")  # beside the objectives
DRAWS = 500
BAND = 41  # points of the band
LEVEL, BAND_LEVEL = 0.95, 0.90


@dataclass(frozen=True)
class Judged:
    """A model at one point of its curve, judged on validation images.

    ``trial``: its number or, for a reference that is no trial, a name; the same for all points of one curve.
    ``position``: where on the curve the point lies, such as tau. ``count``, ``clean``, ``robust``: (K,) images of each
    class and, of these, classified right without an attack and under it. ``setting``: coordinates in the unit cube
    (`Space.coordinates`), equally many for all trials; None where it has none.
    """

    trial: int | str
    position: float
    count: Sequence[float]
    clean: Sequence[float]
    robust: Sequence[float]
    setting: Sequence[float] | None = None

    @property
    def key(self) -> tuple[int | str, float]:
        return self.trial, self.position


@dataclass(frozen=True)
class Uncertainty:
    """What `judge` returns. ``rows``: for each point, in order,

    - ``p_front``: the probability that no other point of the search dominates it,
    - ``shrunk``: metric -> the value to choose by, that of the class rates at the centre of their posterior,
    - ``ci``: metric -> its 95 % interval,
    - ``p_holds``, where a ``bound`` was given: the probability that it holds,

    for the objectives, ``robust_acc`` and ``clean_acc``. ``front`` holds

    - ``rows``: the indices of the points chosen, those that no other dominates in the shrunk values,
    - ``hypervolume``: ``{"measured", "claimed", "ci"}`` of these points above 0: from the counts as they are (too
      large), what may be said, and its 95 % interval,
    - ``band``: ``{"x", "lower", "middle", "upper"}`` (two objectives only, else None): for values x of the first
      objective, 5 %, 50 % and 95 % quantiles of the best second objective that a chosen point with at least x attains,
    - ``gain``: reference -> ``{"hypervolume", "last"}``, see `_gain`.
    """

    rows: list[dict[str, Any]]
    front: dict[str, Any] = field(default_factory=dict)


def judge(
    points: Sequence[Judged],
    train_counts: Sequence[float],
    objectives: Sequence[str],
    references: Mapping[str, Sequence[Judged]] | None = None,
    classes: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
    bound: Constraint | None = None,
) -> Uncertainty:
    """Intervals, values to choose by, and what may be claimed of a front and of its gain over the references.

    ``points``: every judged point of a search, of trials that trained equally long. ``train_counts``: (K,) training
    images. ``objectives``: metrics of `trainables.class_metrics`, all maximised; ``classes``: names, needed for metrics
    of one class. ``references``: name -> points of its curve; a point whose trial and position are those of one in
    ``points`` is that point. The same arguments give the same answer. ``ValueError`` without points, for an unknown
    metric, or where no class has images in all points.
    """
    if not points:
        raise ValueError("nothing was judged")
    references = references or {}
    everything, index = _together(points, references)
    names = tuple(dict.fromkeys([*objectives, *SHOWN, *([bound.metric] if bound else [])]))
    owner = {index[p.key]: i for i, curve in enumerate(references.values(), 1) for p in curve}
    belongs = np.array([owner.get(i, 0) for i in range(len(everything))])
    measured, shrunk, drawn = _values(everything, belongs, names, train_counts, classes, draws, seed)
    goal = _Goal(shrunk[:, : len(objectives)], drawn[:, :, : len(objectives)])
    chosen = goal.front(range(len(points)))
    volumes = goal.hypervolumes(chosen)
    rows = _rows(names, shrunk[: len(points)], drawn, _on_front(drawn[:, : len(points), : len(objectives)]).mean(0))
    if bound:
        held = bound.sign * (drawn[..., names.index(bound.metric)] - bound.bound) >= 0
        rows = [{**row, "p_holds": float(held[:, i].mean())} for i, row in enumerate(rows)]
    return Uncertainty(
        rows=rows,
        front={
            "rows": chosen,
            "hypervolume": {
                "measured": _hypervolume(measured[chosen, : len(objectives)]),
                "claimed": float(volumes.mean()),
                "ci": _interval(volumes),
            },
            "band": goal.band(chosen) if len(objectives) == 2 else None,
            "gain": {
                name: _gain(goal, range(len(points)), chosen, [index[p.key] for p in curve])
                for name, curve in references.items()
            },
        },
    )


def _together(
    points: Sequence[Judged], references: Mapping[str, Sequence[Judged]]
) -> tuple[list[Judged], dict[tuple[int | str, float], int]]:
    """The points and then those that only references have; and key -> the index of each of them."""
    index = {p.key: i for i, p in reversed(list(enumerate(points)))}
    outside = {p.key: p for curve in references.values() for p in curve if p.key not in index}
    index |= {key: len(points) + i for i, key in enumerate(outside)}
    return [*points, *outside.values()], index


def metric_of_rates(
    name: str, clean: np.ndarray, robust: np.ndarray, train_counts: Sequence[float], classes: Sequence[str] = ()
) -> np.ndarray:
    """The metric of `trainables.class_metrics` of that name, (...), of class rates (..., K); ``ValueError`` if unknown.

    Vectorised over the leading axes, for draws; without the classes that have no images.
    """
    weights = np.asarray(train_counts, float)
    plain = {
        "clean_acc": lambda: clean.mean(-1),
        "robust_acc": lambda: robust.mean(-1),
        "natural_robust_acc": lambda: robust @ (weights / weights.sum()),
        "worst_class_clean_acc": lambda: clean.min(-1),
        "worst_class_robust_acc": lambda: robust.min(-1),
        "tail_robust_acc": lambda: np.sort(robust, -1)[..., : max(1, round(TAIL * robust.shape[-1]))].mean(-1),
        "robust_acc_gap": lambda: np.ptp(robust, -1),
        "nsd": lambda: robust.std(-1) / np.where(robust.any(-1), robust.mean(-1), 1.0),
    }
    if name in plain:
        return plain[name]()
    groups = {f"{k}_robust_acc": sorted(v) for k, v in frequency_groups([int(w) for w in weights]).items()}
    if name in groups:
        return robust[..., groups[name]].mean(-1)
    kind, _, label = name.partition("/")
    if label in classes and kind in ("clean_acc", "robust_acc"):
        return (clean if kind == "clean_acc" else robust)[..., list(classes).index(label)]
    raise ValueError(f"{name!r} is no metric of class rates")


def _values(
    points: Sequence[Judged],
    reference: np.ndarray,
    names: Sequence[str],
    train_counts: Sequence[float],
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The metrics as measured and shrunk, (R, names), and as drawn, (draws, R, names).

    Draws are centred on the shrunk values: the minimum of drawn rates is lower in the mean than that of their centres,
    which simulation shows to be right in the mean.
    """
    count = np.array([p.count for p in points], float)
    there = np.flatnonzero((count > 0).all(0))
    if not len(there):
        raise ValueError("no class has images at every judged point")
    count, kept = count[:, there], [train_counts[k] for k in there.tolist()]
    labels = [classes[k] for k in there.tolist()] if classes else []
    clean, robust = (np.array([getattr(p, what) for p in points], float)[:, there] for what in ("clean", "robust"))
    where = (*_where(points), reference)
    (clean_centre, clean_draws), (robust_centre, robust_draws) = (
        posterior(Rows(right, count, *where), draws, seed + i) for i, right in enumerate((clean, robust))
    )

    def values(clean_rates: np.ndarray, robust_rates: np.ndarray) -> np.ndarray:
        return np.stack([metric_of_rates(n, clean_rates, robust_rates, kept, labels) for n in names], -1)

    top = [np.inf if n == "nsd" else 1.0 for n in names]  # a ratio, the only metric that may exceed 1
    shrunk, drawn = values(clean_centre, robust_centre), values(clean_draws, robust_draws)
    return values(clean / count, robust / count), shrunk, np.clip(drawn - drawn.mean(0) + shrunk, 0, top)


def _where(points: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``trial``, ``position`` and ``setting`` of `Rows`: where R points lie."""
    trials = {t: i for i, t in enumerate(dict.fromkeys(p.trial for p in points))}
    size = max((len(p.setting) for p in points if p.setting is not None), default=1)  # unknown is not: the same
    setting = np.array([p.setting if p.setting is not None else [np.nan] * size for p in points], float)
    return np.array([trials[p.trial] for p in points]), np.array([p.position for p in points], float), setting


def _rows(names: Sequence[str], shrunk: np.ndarray, drawn: np.ndarray, p_front: np.ndarray) -> list[dict[str, Any]]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        {
            "p_front": float(p_front[i]),
            "shrunk": {name: float(shrunk[i, j]) for j, name in enumerate(names)},
            "ci": {name: (float(low[i, j]), float(high[i, j])) for j, name in enumerate(names)},
        }
        for i in range(len(shrunk))
    ]


def _on_front(values: np.ndarray) -> np.ndarray:
    """Whether each point is non-dominated in its draw, (draws, R), of ``values`` (draws, R, objectives)."""
    if values.shape[2] != 2:
        return np.array([np.isin(np.arange(len(v)), nondominated(v, [True] * v.shape[1])) for v in values])
    first, last = values[..., 0], values[..., 1]
    order = np.lexsort((-last, -first))
    ordered_first, ordered_last = (np.take_along_axis(v, order, 1) for v in (first, last))
    before = np.maximum.accumulate(np.pad(ordered_last, ((0, 0), (1, 0)), constant_values=-np.inf), 1)[:, :-1]
    copy = np.zeros(order.shape, bool)
    copy[:, 1:] = (np.diff(ordered_first, axis=1) == 0) & (np.diff(ordered_last, axis=1) == 0)
    free = ordered_last > before
    start = np.maximum.accumulate(np.where(copy, 0, np.arange(order.shape[1])), 1)  # of each run of equal points
    out = np.empty(order.shape, bool)
    np.put_along_axis(out, order, np.take_along_axis(free, start, 1), 1)
    return out


@dataclass(frozen=True)
class _Goal:
    """The objectives of R points: ``shrunk`` (R, objectives) and ``drawn`` (draws, R, objectives)."""

    shrunk: np.ndarray
    drawn: np.ndarray

    def front(self, rows: Sequence[int]) -> list[int]:
        """Those of ``rows`` that no other of them dominates in the shrunk values."""
        kept = nondominated(self.shrunk[list(rows)].tolist(), [True] * self.shrunk.shape[1])
        return [rows[i] for i in kept]

    def hypervolumes(self, rows: Sequence[int]) -> np.ndarray:
        """The hypervolume of these rows in each draw, (draws,), centred on that of their shrunk values."""
        drawn = _hypervolumes(self.drawn[:, list(rows)])
        # what is moved to another centre stays where hypervolumes are: of metrics up to 1 no more than 1
        return np.clip(drawn - drawn.mean() + _hypervolume(self.shrunk[list(rows)]), 0.0, max(1.0, drawn.max()))

    def band(self, rows: Sequence[int]) -> dict[str, list[float]]:
        first, last = self.drawn[:, list(rows), 0], self.drawn[:, list(rows), 1]
        x = np.linspace(first.min(), first.max(), BAND)
        best = np.stack([np.where(first >= at, last, 0.0).max(1) for at in x], 1)
        lower, middle, upper = np.quantile(best, [(1 - BAND_LEVEL) / 2, 0.5, (1 + BAND_LEVEL) / 2], axis=0)
        return {"x": x.tolist(), "lower": lower.tolist(), "middle": middle.tolist(), "upper": upper.tolist()}


def _hypervolume(values: np.ndarray) -> float:
    return hypervolume(values.tolist(), [0.0] * values.shape[1], [True] * values.shape[1])


def _hypervolumes(values: np.ndarray) -> np.ndarray:
    """`_hypervolume` of each draw, to the bit: (draws,), of ``values`` (draws, R, objectives)."""
    if values.shape[2] != 2:
        return np.array([_hypervolume(v) for v in values])
    first, last = np.moveaxis(np.where((values > 0).all(2, keepdims=True), values, 0.0), 2, 0)
    order = np.argsort(-last, axis=1, kind="stable")
    widest = np.maximum.accumulate(np.take_along_axis(first, order, 1), 1)
    heights = np.take_along_axis(last, order, 1)
    slices = -np.diff(heights, axis=1, append=0.0) * widest
    return np.cumsum(slices, 1)[:, -1]  # added one by one, as `pareto.hypervolume` does


def _interval(drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _gain(goal: _Goal, rows: Sequence[int], chosen: list[int], reference: list[int]) -> dict[str, Any]:
    """How much the chosen points add over the points of a reference.

    ``hypervolume``: that of the chosen points less that of the reference's own front. ``last``: from the reference's
    point with the largest box (product of the objectives) to the search's point with the best last objective among
    those whose other objectives are no lower, by shrunk values; None where there is no such point. Each is
    ``{"value", "ci", "verdict"}``, ``last`` also with the two ``rows`` (a reference's that is no trial of the search
    are counted after all points) and ``others``, the same of each other objective. A verdict is "gain", "loss", or
    "not distinguishable" where the 95 % interval contains 0.
    """
    volumes = goal.hypervolumes(chosen) - goal.hypervolumes(goal.front(reference))
    start = max(reference, key=lambda i: float(np.prod(goal.shrunk[i])))
    level = [i for i in rows if (goal.shrunk[i, :-1] >= goal.shrunk[start, :-1]).all()]
    if not level:
        return {"hypervolume": _difference(volumes), "last": None}
    end = max(level, key=lambda i: float(goal.shrunk[i, -1]))
    change = goal.drawn[:, end] - goal.drawn[:, start]
    return {
        "hypervolume": _difference(volumes),
        "last": {
            "rows": (start, end),
            **_difference(change[:, -1]),
            "others": [_difference(c) for c in change[:, :-1].T],
        },
    }


def _difference(drawn: np.ndarray) -> dict[str, Any]:
    low, high = _interval(drawn)
    verdict = "gain" if low > 0 else "loss" if high < 0 else "not distinguishable"
    return {"value": float(drawn.mean()), "ci": (low, high), "verdict": verdict}
