"""Recorded learning curves, and searches replayed over them in simulated time.

Layout of a table (Parquet): config columns, then trial, seed, epoch, robust_acc, worst_class_robust_acc, cost_s; one
row per epoch, several seeds per trial. A `method` column splits a table into problems. Any other column that stays the
same while a trial is trained is part of its configuration, null where it does not apply. A proposal is answered by the
nearest configuration that was not used yet; every contender gets the same answer rule, and is told what it really got.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number

import numpy as np
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution

from search_spaces import METHODS
from search_spaces.param import Param, choice, loguniform, params_of, uniform
from tuner.results.pareto import hypervolume, nondominated
from tuner.results.provisional import MIN_TRIALS
from tuner.spec.space import Space

OBJECTIVES = ("robust_acc", "worst_class_robust_acc")
KNOWN = {
    "method",
    "trial",
    "seed",
    "epoch",
    "cost_s",
    "clean_acc",
    "tail_robust_acc",
    "train_loss",
    "weight_ess",
    *OBJECTIVES,
}


def complete_block(keys) -> tuple[list, list, list]:
    """Trials, seeds and epochs of the largest block of (trial, seed, epoch) ``keys`` without a gap.

    A trial that stopped early is left out, and so is the epoch or the seed that only a few trials have.
    """
    axes = [sorted(set(axis)) for axis in zip(*keys)]
    place = [{value: i for i, value in enumerate(axis)} for axis in axes]
    there = np.zeros([len(axis) for axis in axes], dtype=bool)
    for key in keys:
        there[tuple(p[value] for p, value in zip(place, key))] = True
    having = there.any(2).sum(0), there.any(1).sum(0)  # trials that have each seed, and each epoch
    blocks = []
    for least in itertools.product(*map(np.unique, having)):
        seeds, epochs = (count >= n for count, n in zip(having, least))
        trials = there[:, seeds][:, :, epochs].all((1, 2))
        blocks.append((trials.sum() * seeds.sum() * epochs.sum(), (trials, seeds, epochs)))
    _, chosen = max(blocks, key=lambda block: block[0])
    return tuple([v for v, use in zip(axis, used) if use] for axis, used in zip(axes, chosen))


def numbers(rows: dict[str, list], column: str) -> np.ndarray:
    """A measured column (rows,), NaN where it says nothing."""
    try:
        return np.array(rows[column], dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"column {column} must hold numbers") from None


def plain(value):
    """A setting as a number, boolean or string; None, i.e. it does not apply, where there is none or NaN."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Number):
        return None if value != value else float(value)
    return str(value)


def _range_over(values: list) -> BaseDistribution:
    """The range of these values: a choice, or an interval, logarithmic where it spans more than a factor of 30."""
    if any(isinstance(v, (str, bool)) for v in values):
        return choice(*sorted(set(values), key=str))
    low, high = float(min(values)), float(max(values))
    return loguniform(low, high) if low > 0 and high / low > 30 else uniform(low, high)


class Problem:
    """One method's table. ``curves[config][seed]`` is (epochs, 2), fractions; ``cost[config]`` seconds per epoch.

    ``left_out`` says which rows were of no use: a search can be replayed only where nothing is missing. ``ValueError``
    in one sentence for a table that does not have the layout or gives a search nothing to find.
    """

    def __init__(self, name: str, rows: dict[str, list]):
        self.name = name
        values = self._values(rows)
        where = self._complete(rows, values)
        _, seeds, self.epochs = where.shape
        self.curves = values[where][..., :2]  # (configs, seeds, epochs, 2)
        if self.curves.max() > 1:
            self.curves, self.left_out = self.curves / 100, f"{self.left_out}, accuracies in percent"
        self.cost = values[where][..., 2].mean(axis=(1, 2))
        if self.cost.min() < 0 or self.curves.max() > 1:
            raise ValueError(f"{name} has a negative cost_s, or an accuracy above 100 %")
        self.params = self._settings(rows, where)
        self.space = self._space()
        if not self.space.searched:
            raise ValueError(f"no column tells the {len(where)} configurations of {name} apart")
        self.unit = np.array([self._coordinates(p) for p in self.params])
        starts = [p.get("start", 0.0) for p in self.params]
        fractions = all(not isinstance(s, (str, bool)) and 0 <= s <= 1 for s in starts)
        self._starts = [min(round(s * self.epochs), self.epochs - 1) if fractions else 0 for s in starts]
        self.true = self.curves.mean(axis=1)  # (configs, epochs, 2): the mean over seeds
        final = self.true[:, -1].tolist()
        self.best_hypervolume = hypervolume(final, [0, 0], [True, True])
        if self.best_hypervolume == 0:
            raise ValueError(f"no configuration of {name} ends above 0 in {' and '.join(OBJECTIVES)}")
        self.front_size = len(nondominated(final, [True, True]))
        self.knowable = [self._knowable(seed) for seed in range(seeds)]

    def _values(self, rows: dict[str, list]) -> np.ndarray:
        """The objectives and the cost of each row, (rows, 3); ``ValueError`` where a row cannot be placed."""
        if missing := {"trial", "seed", "epoch", "cost_s", *OBJECTIVES} - set(rows):
            raise ValueError(f"the table has no column {', '.join(sorted(missing))}")
        values = np.stack([numbers(rows, c) for c in (*OBJECTIVES, "cost_s")], 1)
        keys = list(zip(rows["trial"], rows["seed"], rows["epoch"]))
        if any(plain(part) is None for key in keys for part in key):
            raise ValueError(f"a row of {self.name} has no trial, seed or epoch")
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self.name} has two rows of the same trial, seed and epoch")
        return values

    def _complete(self, rows: dict[str, list], values: np.ndarray) -> np.ndarray:
        """Row numbers (configs, seeds, epochs) of the block without a gap; ``left_out`` says what is not in it."""
        keys = zip(rows["trial"], rows["seed"], rows["epoch"])
        at = {key: i for i, key in enumerate(keys) if np.isfinite(values[i]).all()}
        configs, seeds, epochs = complete_block(at) if at else ([], [], [])
        if len(configs) < 2:
            raise ValueError(
                f"no two trials of {self.name} have {', '.join(OBJECTIVES)} and cost_s in the same epochs "
                "under the same seeds"
            )
        self.left_out = "".join(
            f", {len(set(all_)) - len(kept)} {what} left out"
            for what, kept, all_ in (
                ("trials", configs, rows["trial"]),
                ("seeds", seeds, rows["seed"]),
                ("epochs", epochs, rows["epoch"]),
            )
            if len(kept) < len(set(all_))
        )
        return np.array([[[at[t, s, e] for e in epochs] for s in seeds] for t in configs])

    def _knowable(self, seed: int) -> float:
        """True hypervolume of the front that one seed's values show to whoever has trained every configuration."""
        shown = nondominated(self.curves[:, seed, -1].tolist(), [True, True])
        return hypervolume([self.true[c, -1].tolist() for c in shown], [0, 0], [True, True])

    @staticmethod
    def _settings(rows: dict[str, list], where: np.ndarray) -> list[dict]:
        """Each configuration's parameters that apply to it: what does not change while it is trained."""
        found: list[dict] = [{} for _ in where]
        for column, values in rows.items():
            mine = [{plain(values[i]) for i in config.flatten()} for config in where] if column not in KNOWN else [()]
            if all(len(m) == 1 for m in mine):
                for setting, (value,) in zip(found, mine):
                    if value in (math.inf, -math.inf):
                        raise ValueError(f"column {column} holds {value}, which no range has")
                    if value is not None:
                        setting[column.removeprefix("p/")] = value
        return found

    def _space(self) -> Space:
        """What differs between configurations, as their method says where it is one of ours, else over its values."""
        known = params_of(METHODS[self.name].Params) if self.name in METHODS else {}
        names = list(dict.fromkeys(name for setting in self.params for name in setting))
        params, fixed = {}, {}
        for name in sorted(names, key=[*known, *names].index):  # a condition names an earlier line
            values = [s[name] for s in self.params if name in s]
            if len(set(values)) == 1 and len(values) == len(self.params):
                fixed[name] = values[0]
                continue
            span = _range_over(values)
            when = known[name].when if name in known else {}
            when = {other: allowed for other, allowed in when.items() if other in params}  # others hold or are unknown
            params[name] = Param(name, values[0], span, "", when, True, False)
        return Space(params, tuple(params), fixed)

    def _coordinates(self, params: dict) -> list[float]:
        """The setting in the unit cube; a categorical takes one coordinate per choice."""
        found: list[float] = []
        for name, param in self.space.params.items():
            value, span = params.get(name), param.range
            if hasattr(span, "choices"):
                found += [float(value == c) for c in span.choices]
            elif value is None:
                found.append(0.5)
            else:
                f = math.log if span.log else float
                found.append((f(value) - f(span.low)) / ((f(span.high) - f(span.low)) or 1.0))
        return found

    def nearest(self, params: dict, used: set[int]) -> int:
        """The unused configuration closest to a proposal."""
        gap = ((self.unit - np.array(self._coordinates(params))) ** 2).sum(axis=1)
        gap[list(used)] = np.inf
        return int(np.argmin(gap))

    def start(self, config: int) -> int:
        """First epoch at which the configuration reweights: its ``start``, 0 where these are no fractions."""
        return self._starts[config]


def load(path: str) -> list[Problem]:
    rows = pq.read_table(path).to_pydict()
    if not any(rows.values()):
        raise ValueError("the table has no rows")
    if "method" not in rows:
        return [Problem("table", rows)]
    problems = []
    for method in dict.fromkeys(rows["method"]):
        pick = [i for i, m in enumerate(rows["method"]) if m == method]
        problems.append(Problem(method or "table", {c: [v[i] for i in pick] for c, v in rows.items()}))
    return problems


@dataclass
class Job:
    """A trial in the simulation. ``trunk``: its epochs that the trunk has; ``free``: those trained by another."""

    number: int
    config: int
    epoch: int = 0
    trunk: int = 0
    free: int = 0


class Contender:
    """A search strategy. ``propose(number)`` gives a setting; ``report(job, epoch, point)`` says whether to go on."""

    def propose(self, number: int) -> dict:
        raise NotImplementedError

    def begin(self, job: Job, params: dict) -> None:
        """The job that answers proposal ``job.number`` with the real setting ``params``."""

    def report(self, job: Job, epoch: int, point: tuple[float, float]) -> bool:
        return True

    def end(self, job: Job, complete: bool) -> None:
        """The trial has ended."""

    def shown(self) -> list[tuple[int, int]]:
        """(config, epoch) of the front that a user is shown."""
        raise NotImplementedError


def replay(
    problem: Problem,
    make: Callable[[Problem, int], Contender],
    *,
    workers: int,
    budget: int,
    seed: int,
    trunk: bool = False,
    level: float = 0.0,
    most: int = 0,
) -> list[tuple[int, float]]:
    """Simulate a search that may train ``budget`` epochs: (epochs trained, true hypervolume shown), one per trial end
    and one wherever else a provisional front changes.

    With ``trunk`` the epochs before a trial's start cost nothing where another trial has trained them already. A search
    that has not shown ``level`` by then goes on until it has, or until ``most`` epochs.
    """
    curves = problem.curves[:, seed % problem.curves.shape[1]]  # as in a search: one training seed for all trials
    simulation = _Simulation(problem, make(problem, seed), curves, trunk)
    for _ in range(workers):
        simulation.launch(0.0)
    while simulation.queue and (
        simulation.spent < budget or (simulation.spent < most and not simulation.has_shown(level))
    ):
        simulation.step()
    return simulation.shown


class _Simulation:
    """The state of a replayed search: running trials in the order in which their next epochs end."""

    def __init__(self, problem: Problem, contender: Contender, curves: np.ndarray, trunk: bool):
        self.problem, self.contender, self.curves, self.trunk = problem, contender, curves, trunk
        self.used: set[int] = set()  # configurations
        self.queue: list[tuple[float, int, Job]] = []  # (when its epoch ends, number, trial)
        self.shown: list[tuple[int, float]] = []  # what `replay` returns
        self.spent = self.shared = self.complete = 0  # epochs trained, of them in the trunk; trials of full budget

    def has_shown(self, level: float) -> bool:
        return any(value >= level for _, value in self.shown)

    def launch(self, now: float) -> None:
        """Start the trial that the contender proposes, unless every configuration is used."""
        problem, number = self.problem, len(self.used)
        if number == len(problem.params):
            return
        job = Job(number, problem.nearest(self.contender.propose(number), self.used))
        self.used.add(job.config)
        self.contender.begin(job, problem.params[job.config])
        job.trunk = problem.start(job.config) if self.trunk else 0
        job.free, self.shared = min(job.trunk, self.shared), max(job.trunk, self.shared)
        self._train(job, now, free=job.free > 0)

    def _train(self, job: Job, now: float, free: bool) -> None:
        heapq.heappush(self.queue, (now + (0.0 if free else self.problem.cost[job.config]), job.number, job))

    def step(self) -> None:
        """End the next epoch: its trial goes on, or ends and makes room for another."""
        now, _, job = heapq.heappop(self.queue)
        job.epoch += 1
        self.spent += job.epoch > job.free
        point = self.curves[job.config, job.epoch - 1]
        go_on = self.contender.report(job, job.epoch, (float(point[0]), float(point[1])))
        finished = job.epoch >= self.problem.epochs
        if go_on and not finished:
            self._train(job, now, free=job.epoch < job.free)
            if self.complete < MIN_TRIALS:  # a front may be provisional
                self._show(ended=False)
            return
        self.contender.end(job, finished)
        self.complete += finished
        self._show(ended=True)
        self.launch(now)

    def _show(self, ended: bool) -> None:
        front = [self.problem.true[c, e - 1].tolist() for c, e in self.contender.shown()]
        value = hypervolume(front, [0, 0], [True, True])
        if ended or value != (self.shown[-1][1] if self.shown else 0.0):
            self.shown.append((self.spent, value))
