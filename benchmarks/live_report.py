"""live.md in docs/experiments from the lines of `benchmarks.live`: what each arm spent for what, and the goals."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuner.results.pareto import volume

RESULTS = Path(__file__).parent / "results" / "live.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "experiments" / "live.md"
RESOLVED = 1.15  # the factor that a comparison must be able to see
SURE = 1.959964 + 0.841621  # standard errors: 95 % two-sided, seen in 80 % of all cases
DRAWS = 2000
ENOUGH = 5  # seeds below which a bootstrap interval decides nothing
Run = dict[str, Any]

HEAD = """# Searches judged live

Written by `python -m benchmarks.live --report` from `benchmarks/results/live.jsonl`; do not edit. Every arm searches
with the real trainer, in simulated time with W workers, and starts from the same seed and images. Cost is in training
epochs of all workers, judging included, at the ratios given with each problem; what is under way counts too (not in the
first runs of arms that train epoch by epoch: at most three epochs less). Hypervolume is that of natural average x worst
class on the TEST split of the rows that the arm's own front names, chosen on `val`; no search sees these images. Arms
are swept over post-hoc class offsets unless they say "no offsets".

A problem is a method's default space on digits, exp:10; `srat-signs` on GTSRB's ten largest classes but for the speed
limits, exp:10 too, at 12x12 pixels: four frames of each track, 486 training images and 1,500 of `test`.

The arms, by their command line names: `no search` is plain AT once, `plain` plain AT again and again, under the next
seeds, half as many trainings as the others have trials, `random` trains the default setting and random ones in full,
four times as many as the others, and judges each at its end alone; `random+stem`, as many as the others have, takes the
epochs before each one's start from plain AT, trained once; `stock` is Ray Tune's OptunaSearch with ASHAScheduler;
`primo` is PriMO of NePS, given the epochs of all trials in full; `ours` is `tuner search --scheduler preview`, whose
front is that of the trials that trained in full; `ours in full` is the same without previews, SRAT's default, `ours at
random` with random proposals, and `ours by a Gaussian process` with `--sampler gp`; `ours + no search` counts the curve
of its no search too, which it trains and shows beside the front, `ours on four stems` is that with `--stems 4`, `ours
with plain AT on four stems` with `--method at --stems 4` (plain AT under four seeds is among the trials), `ours in full
with plain AT on four stems` that without previews, and `ours as it was` the code before there were stem and previews. A
seed has other luck on another kind of CPU (the last column of an arm): pairs across kinds are less alike.

Ratios are over seeds that both have: geometric means of costs, ratios of mean hypervolumes, claims over held-out values
as geometric means; in brackets 95 % bootstrap intervals over seeds. **Seeds needed**: for a factor of 1.15 to be seen
at 95 % confidence in 80 % of all cases, from the spread between paired seeds. What a run ends with costs all that it
spent: nobody knows before that a front on `val` is as good on `test` already. "≥" and "≤": some runs ended before they
got there and count with all that they spent, so that the truth lies beyond the figure; where neither got there, or
nothing is to be reached, a pair is left out. A ratio reaches or misses its goal if its whole interval does, of at least
five seeds; else that is open. What an arm has spent before it shows a model bounds its ratios of costs from below.
"""


def stored(path: Path = RESULTS) -> list[Run]:
    """The lines of the results; one that was cut short when its writer was killed is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


# ---- one run ---------------------------------------------------------------------------------------------------------


def label(run: Run) -> str:
    return run["arm"] + ("" if run["offsets"] != "none" else ", no offsets")


def reached(run: Run, level: float, spent: str = "cost") -> float | None:
    """The cost (or time) at which a run first shows ``level`` on `test`; None where it never does."""
    return next((point[spent] for point in run["trace"] if point["held_out"] >= level), None)


def value_at(run: Run, cost: float) -> float:
    """The hypervolume on `test` that a run shows when it has spent ``cost``."""
    return ([0.0] + [point["held_out"] for point in run["trace"] if point["cost"] <= cost])[-1]


def final(run: Run) -> float:
    return value_at(run, math.inf)


# ---- a ratio over seeds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """``value`` with its 95 % interval (None of one seed); ``bound``: "≥", "≤" or both where the truth lies beyond.

    ``spread``: the standard deviation over seeds of its logarithm, None where that is not known."""

    value: float
    interval: tuple[float, float] | None
    seeds: int
    spread: float | None
    bound: str = ""

    @property
    def seeds_needed(self) -> int | None:
        """For a factor of `RESOLVED`."""
        if self.spread is None:
            return None
        return max(2, math.ceil((SURE * self.spread / math.log(RESOLVED)) ** 2))

    def verdict(self, aim: float, below: bool) -> str:
        """``reached`` or ``missed`` where the interval of at least `ENOUGH` seeds says so and no bound hides it, else
        ``open``."""
        if self.interval is None or self.seeds < ENOUGH:
            return "open"
        low, high = self.interval
        good, bad = (high <= aim, low > aim) if below else (low >= aim, high < aim)
        hidden = ("≥" in self.bound and (good if below else bad)) or ("≤" in self.bound and (bad if below else good))
        return "open" if hidden or not (good or bad) else "reached" if good else "missed"

    def __str__(self) -> str:
        between = f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]" if self.interval else ""
        return f"{self.bound}{self.value:.2f}{between}"


def geometric(pairs: Sequence[tuple[float, float]], bound: str = "") -> Ratio | None:
    """The geometric mean of first over second; pairs with a zero are left out."""
    logs = np.log([a / b for a, b in pairs if a > 0 and b > 0])
    if not len(logs):
        return None
    means = np.random.default_rng(0).choice(logs, (DRAWS, len(logs))).mean(1)
    return _ratio(float(np.exp(logs.mean())), np.exp(means), logs, bound)


def of_means(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """The mean of the first over that of the second; None where that is 0."""
    values = np.array(pairs, float).reshape(-1, 2)
    if not values[:, 1].any():
        return None
    if not values[:, 0].any():
        return Ratio(0.0, (0.0, 0.0), len(values), None)
    drawn = values[np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))].mean(1)
    first, last = values.mean(0)
    ratios = drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], math.nan)
    return _ratio(first / last, ratios[np.isfinite(ratios)], values[:, 0] / first - values[:, 1] / last, "")


def _ratio(value: float, drawn: np.ndarray, logs: np.ndarray, bound: str) -> Ratio:
    if len(logs) < 2:
        return Ratio(value, None, len(logs), None, bound)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Ratio(value, (float(low), float(high)), len(logs), float(np.std(logs, ddof=1)), bound)


# ---- the goals -------------------------------------------------------------------------------------------------------

Found = dict[str, dict[int, Run]]  # label -> seed -> run, of one problem and number of workers


@dataclass(frozen=True)
class Goal:
    """``aim``: the ratio wanted, at most or (``below`` False) at least. ``needs``: labels beside the arm's own, in the
    order in which ``ratio`` is given their runs, seed by seed, the arm's first."""

    text: str
    aim: float
    below: bool
    needs: tuple[str, ...]
    ratio: Callable[[list[tuple[Run, ...]]], Ratio | None]

    def of(self, found: Found, arm: str) -> Ratio | None:
        having = [found.get(name, {}) for name in (arm, *self.needs)]
        seeds = sorted(set.intersection(*(set(runs) for runs in having)))
        return self.ratio([tuple(runs[seed] for runs in having) for seed in seeds])


def to_level(level: Callable[..., float], spent: str = "cost") -> Callable[[list[tuple[Run, ...]]], Ratio | None]:
    """The arm's cost (or time) to reach a level, over that of the second run; where that is what the second ends with,
    over all that it spent. Who never reaches it counts with all that it spent, too.

    A pair of which neither does says nothing, nor does a level of 0."""

    def ratio(pairs: list[tuple[Run, ...]]) -> Ratio | None:
        kept, late = [], set()
        for runs in pairs:
            wanted = level(*runs)
            mine, other = (reached(run, wanted, spent) for run in runs[:2])
            other = runs[1][spent] if wanted == final(runs[1]) else other
            if wanted == 0 or (mine is None and other is None):
                continue
            late |= {"≥"} if mine is None else {"≤"} if other is None else set()
            kept.append((runs[0][spent] if mine is None else mine, runs[1][spent] if other is None else other))
        return geometric(kept, "/".join(sorted(late)))

    return ratio


def at_its_cost(pairs: list[tuple[Run, ...]]) -> Ratio | None:
    """The arm's hypervolume when it has spent what the second run spent, over what that ends with."""
    return of_means([(value_at(mine, other["cost"]), final(other)) for mine, other in pairs])


def at_their_ends(pairs: list[tuple[Run, ...]]) -> Ratio | None:
    """The arm's hypervolume at its end, over the second run's."""
    return of_means([(final(mine), final(other)) for mine, other in pairs])


def perfect(runs: Sequence[Run]) -> float:
    """The hypervolume that the best choice among all models of these runs, made on `test` itself, would have there."""
    return volume([point for run in runs for point in run["best"]])


SWEPT, STOCK, RANDOM, WAS = "stock", "stock, no offsets", "random", "ours as it was"
NO_SEARCH, PLAIN = "no search", "plain"
STEM = "random+stem"
PEERS = (RANDOM, STEM, SWEPT, "primo")
GOALS = (
    Goal("cost to reach what stock ends with, over stock's", 1 / 5, True, (STOCK,), to_level(lambda _, s: final(s))),
    Goal(
        "cost to reach what stock with offsets ends with, over its own",
        1 / 5,
        True,
        (SWEPT,),
        to_level(lambda _, s: final(s)),
    ),
    Goal(
        "cost to reach what stock ends with, over that of ours as it was",
        1 / 3,
        True,
        (WAS, STOCK),
        to_level(lambda _, was, s: final(s)),
    ),
    Goal("cost to reach what random ends with, over random's", 1 / 8, True, (RANDOM,), to_level(lambda _, r: final(r))),
    Goal("hypervolume at stock's cost, over stock's", 1.3, False, (STOCK,), at_its_cost),
    Goal("hypervolume at the cost of stock with offsets, over its own", 1.3, False, (SWEPT,), at_its_cost),
    Goal(
        "hypervolume at stock's cost, over no search (one training)",
        1.05,
        False,
        (STOCK, NO_SEARCH),
        lambda pairs: of_means([(value_at(mine, s["cost"]), final(once)) for mine, s, once in pairs]),
    ),
    Goal(
        "hypervolume at stock's cost, over no search repeated for as much",
        1.05,
        False,
        (STOCK, PLAIN),
        lambda pairs: of_means([(value_at(mine, s["cost"]), value_at(plain, s["cost"])) for mine, s, plain in pairs]),
    ),
    Goal("hypervolume at its end, over no search (one training)", 1.05, False, (NO_SEARCH,), at_their_ends),
    Goal("hypervolume at its end, over no search repeated (plain)", 1.05, False, (PLAIN,), at_their_ends),
    Goal(
        "hypervolume claimed, over held out",
        1.10,
        True,
        (),
        lambda pairs: geometric([(mine["claim"], final(mine)) for (mine,) in pairs]),
    ),
    Goal(
        "simulated time to reach what stock ends with, over stock's",
        1.0,
        True,
        (STOCK,),
        to_level(lambda _, s: final(s), "time"),
    ),
    Goal(
        "simulated time to the end, over stock's",
        1.0,
        True,
        (STOCK,),
        lambda pairs: geometric([(mine["time"], s["time"]) for mine, s in pairs]),
    ),
    Goal("hypervolume for what random+stem spends, over its own", 1.0, False, (STEM,), at_its_cost),
    Goal("cost to reach what random+stem ends with, over its own", 1.1, True, (STEM,), to_level(lambda _, r: final(r))),
)
WORST = GOALS[-1]  # also looked at over all problems


# ---- the page --------------------------------------------------------------------------------------------------------


def write_page(lines: Sequence[Run]) -> None:
    """``SystemExit`` without results: a page of nothing would only look like one."""
    if not lines:
        raise SystemExit("there are no results: nothing to report")
    PAGE.write_text(page(lines))


def page(lines: Sequence[Run]) -> str:
    parts = [HEAD]
    groups = grouped(lines)
    for (problem, workers), found in groups.items():
        some = next(iter(next(iter(found.values())).values()))
        parts += [
            f"## {problem}, {workers} workers\n",
            about(some),
            "",
            *arms_table(found),
            "",
            *goals_table(found),
            "",
            *bound_table(found),
        ]
    parts += worst_table(groups)
    return "\n".join(parts).rstrip() + "\n"


def grouped(lines: Sequence[Run]) -> dict[tuple[str, int], Found]:
    """(problem with its settings, workers) -> its runs. Of the same run the last line counts."""
    groups: dict[tuple[str, int], Found] = {}
    for run in lines:
        changed = ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in run["set"].items())
        problem = f"{run['problem']}, {run['trials']} trials x {run['epochs']} epochs{changed and ', ' + changed}"
        groups.setdefault((problem, run["workers"]), {}).setdefault(label(run), {})[run["seed"]] = run
    return groups


def about(run: Run) -> str:
    costs = run["costs"]
    return (
        f"In training epochs, judging an epoch costs {costs['watch']:.2f}, a trained model on all of `val` "
        f"{costs['val']:.2f}, its sweep {costs['sweep']:.2f}. torch {run['torch']}."
    )


def arms_table(found: Found) -> list[str]:
    rows = [
        "| arm | seeds | cost | of which before it shows a model | time | epochs trained | hypervolume on test | "
        "claimed / on test | rows of its front | runs on |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        every = list(runs.values())
        mean = {key: statistics.fmean(run[key] for run in every) for key in ("cost", "time", "epochs_trained")}
        claimed = geometric([(run["claim"], final(run)) for run in every])
        points = statistics.fmean(len(run["front"]) for run in every)
        first = statistics.fmean((run["trace"] or [run])[0]["cost"] for run in every)
        rows.append(
            f"| {name} | {len(every)} | {mean['cost']:.0f} | {first:.0f} | {mean['time']:.0f} | "
            f"{mean['epochs_trained']:.0f} | "
            f"{spread([final(run) for run in every])} | {claimed or '-'} | {points:.1f} | {machines(every)} |"
        )
    return rows


def machines(runs: Sequence[Run]) -> str:
    """How many of the runs were on which kind of CPU or GPU."""
    counted = Counter(run["device"] for run in runs)
    return ", ".join(f"{kind}: {count}" for kind, count in sorted(counted.items()))


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def candidates(found: Found) -> list[str]:
    """The arms of whom the goals speak; no search, under several seeds, has to stand beside them."""
    return [name for name in found if name.removesuffix(", no offsets") not in PEERS and name != f"{PLAIN}, no offsets"]


def goals_table(found: Found) -> list[str]:
    rows = ["| goal | wanted | arm | ratio | seeds | seeds needed | |", "|---|---|---|---|---|---|---|"]
    for goal in GOALS:
        for arm in candidates(found):
            if arm not in goal.needs and (ratio := goal.of(found, arm)):
                rows.append(f"| {goal.text} | {wanted(goal)} | {arm} | {cells(ratio, goal)} |")
    return rows


def wanted(goal: Goal) -> str:
    return f"{'at most' if goal.below else 'at least'} {goal.aim:.3g}"


def cells(ratio: Ratio, goal: Goal) -> str:
    needed = ratio.seeds_needed if ratio.seeds_needed is not None else "-"
    return f"{ratio} | {ratio.seeds} | {needed} | {ratio.verdict(goal.aim, goal.below)}"


def bound_table(found: Found) -> list[str]:
    """What no way of searching could exceed: the choice is made on the images on which it is scored."""
    having = {name: {s: run for s, run in runs.items() if "best" in run} for name, runs in found.items()}
    enough = min(ENOUGH, max(map(len, having.values()), default=0))
    having = {name: runs for name, runs in having.items() if len(runs) >= max(enough, 1)}
    seeds = sorted(set.intersection(*map(set, having.values()))) if having else []
    if not seeds:
        return []
    together = {seed: perfect([runs[seed] for runs in having.values()]) for seed in seeds}
    every = f"all that these {len(having)} have trained"
    rows = [
        f"What choosing on `test` itself would show, over what an arm shows ({len(seeds)} seeds that all have): no "
        "choice of offsets or of models exceeds it, and it has the luck of `test` on top.\n",
        f"| arm | its own models, chosen on `test` | over what it shows | {every} | over what it shows |",
        "|---|---|---|---|---|",
    ]
    for name, runs in having.items():
        own = {seed: perfect([runs[seed]]) for seed in seeds}
        mine, all_ = (of_means([(best[seed], final(runs[seed])) for seed in seeds]) for best in (own, together))
        rows.append(
            f"| {name} | {statistics.fmean(own.values()):.3f} | {mine} | "
            f"{statistics.fmean(together.values()):.3f} | {all_} |"
        )
    return [*rows, ""]


def worst_table(groups: dict[tuple[str, int], Found]) -> list[str]:
    """Of each arm the problem where its cost against `random+stem` is highest."""
    worst: dict[str, tuple[Ratio, str]] = {}
    for (problem, workers), found in groups.items():
        for arm in candidates(found):
            ratio = WORST.of(found, arm)
            if ratio and (arm not in worst or ratio.value > worst[arm][0].value):
                worst[arm] = ratio, f"{problem}, {workers} workers"
    if not worst:
        return []
    head = ["## The worst problem\n", f"{WORST.text.capitalize()}; wanted everywhere: {wanted(WORST)}.\n"]
    table = ["| arm | problem | ratio | seeds | seeds needed | |", "|---|---|---|---|---|---|"]
    return [*head, *table, *(f"| {arm} | {where} | {cells(ratio, WORST)} |" for arm, (ratio, where) in worst.items())]
