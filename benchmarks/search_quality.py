"""How many epochs of training a search needs for its front: ours against the field, replayed over real learning curves.

    python -m benchmarks.search_quality --table benchmarks/curves.parquet [--seeds 20] [--json OUT]

Hypervolume is that of the front a user is shown, scored with true values (mean over the table's seeds), as a fraction
of the best the table holds. A search sees one seed's values, whose noise puts a wrong trial onto its front at times:
"knowable" is what the front of somebody shows who trained every configuration under that seed. For every contender:
epochs to 95 % of the best and of the knowable, and the hypervolume at shares of the budget, mean with a 95 % bootstrap
interval over the replications. Contenders that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from benchmarks.contenders import contenders
from benchmarks.replay import load, replay
from search_spaces import METHODS
from search_spaces.param import params_of

SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
LONGER = 3  # a search that is late goes on for so many budgets, to see how late it is


def reached(curve: list[tuple[int, float]], level: float) -> float:
    """Epochs spent when the hypervolume first reaches ``level``; inf where it never does."""
    return next((float(spent) for spent, value in curve if value >= level), float("inf"))


def value_at(curve: list[tuple[int, float]], spent: float) -> float:
    """The hypervolume shown when ``spent`` epochs have been trained."""
    return ([0.0] + [v for s, v in curve if s <= spent])[-1]


def interval(values: list[float], rng) -> tuple[float, float]:
    means = rng.choice(np.array(values), (2000, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


problems = lru_cache(load)


def shares_burn_in(problem) -> bool:
    """Whether the trunk is real here: a known method, none of whose searched parameters acts before its start."""
    if problem.name not in METHODS or "start" not in problem.space.searched:
        return False
    known = params_of(METHODS[problem.name].Params)
    return all(name in known and not known[name].burn_in for name in problem.space.searched)


def one(table: str, which: int, name: str, workers: int, budget: int, seed: int) -> list[tuple[int, float]]:
    """One replayed search; what is passed is small, so that a process of the pool can run it."""
    make, trunk = contenders()[name]
    problem = problems(table)[which]
    trunk = trunk and shares_burn_in(problem)
    return replay(
        problem,
        make,
        workers=workers,
        budget=budget,
        seed=seed,
        trunk=trunk,
        most=LONGER * budget,
        level=0.95 * problem.knowable[seed % len(problem.knowable)],
    )


def measure(pool, table: str, problem, name: str, run, workers: int, budget: int, seeds: int) -> dict:
    rng, begin = np.random.default_rng(0), time.time()
    curves = list(pool.map(run, range(seeds)))
    knowable = [problem.knowable[seed % len(problem.knowable)] for seed in range(seeds)]
    to = {
        "95": [reached(c, 0.95 * problem.best_hypervolume) for c in curves],
        "95_knowable": [reached(c, 0.95 * most) for c, most in zip(curves, knowable)],
    }
    at = {share: [value_at(c, share * budget) / problem.best_hypervolume for c in curves] for share in SHARES}
    return {
        "table": Path(table).stem,
        "problem": problem.name,
        "contender": name,
        "workers": workers,
        "budget": budget,
        "most": LONGER * budget,
        "seeds": seeds,
        "configurations": len(problem.params),
        "epochs": problem.epochs,
        "front_size": problem.front_size,
        "parameters": len(problem.space.searched),
        "trunk": shares_burn_in(problem),
        "best_hypervolume": problem.best_hypervolume,
        "knowable": [most / problem.best_hypervolume for most in problem.knowable],
        **{f"epochs_to_{k}_median": float(m) if np.isfinite(m := np.median(v)) else None for k, v in to.items()},
        **{f"reached_{k}": int(np.isfinite(v).sum()) for k, v in to.items()},
        "hypervolume": {share: [float(np.mean(v)), *interval(v, rng)] for share, v in at.items()},
        "seconds": round(time.time() - begin, 1),
    }


def compare(args: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
    """Every problem of the table, number of workers and contender; each is printed and written when it is done."""
    rows = []
    for which, problem in enumerate(problems(args.table)):
        print(
            f"{problem.name}: {len(problem.params)} configurations x {problem.epochs} epochs x "
            f"{problem.curves.shape[1]} seeds{problem.left_out}, {len(problem.space.searched)} parameters, best "
            f"hypervolume {problem.best_hypervolume:.4f}, front of {problem.front_size}, knowable "
            f"{', '.join(f'{most / problem.best_hypervolume:.2f}' for most in problem.knowable)}",
            flush=True,
        )
        for workers in args.workers or (4, 16):
            budget = args.full_trials * problem.epochs
            for name in contenders():
                if (args.only and name not in args.only) or ("trunk" in name and not shares_burn_in(problem)):
                    continue
                run = partial(one, args.table, which, name, workers, budget)
                try:
                    row = measure(pool, args.table, problem, name, run, workers, budget, args.seeds)
                except ImportError as error:
                    print(f"  {name}: left out, {error}", file=sys.stderr)
                    continue
                rows.append(row)
                if args.json:
                    Path(args.json).write_text(json.dumps(rows, indent=1))
                shares = "  ".join(f"{s:.0%} {v[0]:.3f}" for s, v in row["hypervolume"].items())
                to = "  ".join(
                    f"{row[f'epochs_to_{k}_median'] or 'never':>6} ({row[f'reached_{k}']}/{row['seeds']})"
                    for k in ("95_knowable", "95")
                )
                print(
                    f"  {workers:2d} workers {name:40s} 95 % of knowable, best after {to} epochs  {shares}  "
                    f"[{row['seconds']} s]",
                    flush=True,
                )


def positive(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True)
    parser.add_argument("--seeds", type=positive, default=20)
    parser.add_argument("--workers", type=positive, action="append")
    parser.add_argument("--full-trials", type=positive, default=40, help="budget: this many trials of full length")
    parser.add_argument("--only", action="append", choices=list(contenders()), help="contender; repeatable")
    parser.add_argument("--jobs", type=positive, default=2, help="processes; the figures do not depend on it")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.json and not Path(args.json).absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no such folder")
    try:
        problems(args.table)
    except (OSError, ValueError) as error:
        parser.error(f"{args.table}: {error}")
    with ProcessPoolExecutor(args.jobs) as pool:
        compare(args, pool)


if __name__ == "__main__":
    main()
