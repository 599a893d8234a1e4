"""The judge of a search: the real trainer in simulated time, every stage trained once, scored on images no search saw.

    python -m benchmarks.live --costs --problems srat            # once a problem: what judging costs there
    python -m benchmarks.live --problems srat --seeds 0-19 --processes 2
    python -m benchmarks.live --report                           # live.md in docs/experiments from the results

Arms (`benchmarks.live_arms`) search a problem (`benchmarks.live_problem`) with the same seed on the same images; each
run is a line of benchmarks/results/live.jsonl: the hypervolume (natural average x worst class) on `test` of the rows
that the arm's own front names, chosen on `val`, over what it has spent. Cost and time are in training epochs, judging
included, at ratios measured once a problem. The same command goes on where it stopped. Stages are kept in `--memo`,
which any number of processes may share: what several arms train alike costs nothing the second time. `--set` changes a
training setting, such as passes=2, and is part of a run's name, as of that of the costs.

The code before there were stem and previews (e057531), with the costs that were measured here:

    git worktree add ../before e057531
    cp benchmarks/results/live_costs.json ../before/benchmarks/results/
    cd ../before && PYTHONPATH=. python -m benchmarks.live --arms ours --as "ours as it was" --offsets auto \\
        --memo MEMO --results RESULTS

where RESULTS is the file of this one, and MEMO one of its own: stages have a hash of the code in their names.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.live_arms import ARMS, OBJECTIVES, Model, Row
from benchmarks.live_problem import (
    COSTS,
    PROBLEMS,
    Costs,
    Job,
    costs_key,
    costs_of,
    dataset_of,
    measure_costs,
    memo_of,
    stored_costs,
)
from benchmarks.live_report import RESULTS, stored, write_page
from benchmarks.live_simulation import Simulation
from benchmarks.live_stages import Memo, device_kind
from trainables.curve import Curve
from tuner.files import write_atomically
from tuner.results.pareto import nondominated

KEY = ("problem", "arm", "seed", "workers", "offsets", "trials", "epochs", "set")  # what names a run


@dataclass(frozen=True)
class Run:
    """A run to do: everything that a process needs to do it."""

    problem: str
    arm: str
    job: Job
    costs: Costs
    memo: str
    known_as: str | None = None  # the arm's name in the results, if another

    @property
    def key(self) -> dict[str, Any]:
        job = self.job
        values = (
            self.problem,
            self.known_as or self.arm,
            job.seed,
            job.workers,
            job.offsets,
            job.trials,
            job.problem.epochs,
        )
        return dict(zip(KEY, (*values, {k: job.problem.set[k] for k in sorted(job.problem.set)})))


memo_once = lru_cache(memo_of)  # a process goes on with the trainers that are open


def one(run: Run) -> dict[str, Any]:
    """A run's line."""
    memo, arm, begin, cpu = memo_once(Path(run.memo)), ARMS[run.arm](run.job), time.time(), time.process_time()
    trained = memo.trained
    simulation = Simulation(arm, memo.run, lambda row: on_test(memo, row), run.costs, run.job.workers)
    trace = simulation.run()
    return {
        **run.key,
        "cost": round(simulation.cost, 4),
        "time": round(simulation.now, 4),
        "epochs_trained": simulation.epochs,
        "judged": simulation.judged,
        "claim": round(arm.claim(), 6),
        "trace": trace,
        "front": [described(memo, row) for row in arm.front()],
        "best": best_of(memo, simulation.models),
        "costs": asdict(run.costs),
        "torch": torch.__version__,
        "device": device_kind(memo.device),
        "really": {
            "epochs": memo.trained - trained,
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.time() - begin, 1),
        },
    }


def on_test(memo: Memo, row: Row) -> dict[str, float]:
    """The row's metrics on `test`."""
    curve = curve_on_test(memo, row.model)
    return curve.metrics(curve.points[row.point])


def curve_on_test(memo: Memo, model: Model) -> Curve:
    return memo.held_out(model.line, model.epoch, model.curve.points[-1].offsets.kind)


def best_of(memo: Memo, models: list[Model]) -> list[list[float]]:
    """The objectives on `test` of the models' points that no other dominates there: what choosing by `test` itself
    would show, so that no choice of theirs shows more."""
    points = []
    for curve in (curve_on_test(memo, model) for model in models):
        points += [[metrics[name] for name in OBJECTIVES] for metrics in map(curve.metrics, curve.points)]
    return [points[i] for i in nondominated(points, [True] * len(OBJECTIVES))]


def described(memo: Memo, row: Row) -> dict[str, Any]:
    config, test = row.model.line.config, on_test(memo, row)
    about = {"method": config.method, "params": config.params, "seed": config.seed, "epoch": row.model.epoch}
    tau = row.model.curve.points[row.point].offsets.tau
    return {
        **about,
        "tau": tau,
        "val": row.values,
        "test": [test["natural_robust_acc"], test["worst_class_robust_acc"]],
    }


# ---- what there is to do ---------------------------------------------------------------------------------------------


def key_of(line: dict[str, Any]) -> str:
    return json.dumps([line[name] for name in KEY], sort_keys=True)


def append(path: Path, line: dict[str, Any]) -> None:
    """On disk when this returns, never as the end of half a line; several processes may append at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            file.write(b"\n" * (file.read(1) != b"\n"))
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def several(runs: list[Run], results: Path) -> None:
    """Runs that have stages in common, one after the other; each is stored when it is done."""
    for run in runs:
        line = one(run)
        append(results, line)
        last = line["trace"][-1]["held_out"] if line["trace"] else 0.0
        about = ", ".join(f"{name} {line[name]}" for name in KEY[:5])
        print(f"{about}: cost {line['cost']:.1f}, held out {last:.4f}, really {line['really']}", flush=True)


def wanted(args: argparse.Namespace) -> Iterable[Run]:
    """Seed by seed, so that whatever stops it leaves pairs."""
    jobs = {name: job_of(args, name) for name in args.problems}
    costs = {name: costs_of(name, job) for name, job in jobs.items()}
    for seed in args.seeds:
        for name, job in jobs.items():
            for arm in args.arms:
                for workers in args.workers:
                    for offsets in (o for o in args.offsets if o in ARMS[arm].offsets):
                        its = replace(job, seed=seed, workers=workers, offsets=offsets)
                        yield Run(name, arm, its, costs[name], str(args.memo), args.known_as)


def job_of(args: argparse.Namespace, name: str) -> Job:
    problem = PROBLEMS[name]
    changed = dict(pair.split("=", 1) for pair in args.set)
    problem = replace(problem, set={**problem.set, **changed}, epochs=args.epochs or problem.epochs)
    home = str((args.memo / "home").absolute())
    job = Job(problem, 0, trials=args.trials, home=home, dataset=dataset_of(problem, args.data, args.memo))
    return replace(job, problem=replace(problem, set=dict(job.spec().set)))  # with values of the right type


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for name in args.problems:
        job = job_of(args, name)
        found = {**stored_costs(), costs_key(name, job): measure_costs(job)}
        write_atomically(COSTS, json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(costs_key(name, job), found[costs_key(name, job)], flush=True)


def search(args: argparse.Namespace) -> None:
    done = {key_of(line) for line in stored(args.results)}
    runs = [run for run in wanted(args) if key_of(run.key) not in done]
    groups: dict[int, list[Run]] = {}
    for run in runs:  # a seed's lines are trained by one process; the other need not wait for it
        groups.setdefault(run.job.seed, []).append(run)
    print(f"{len(runs)} runs to do", flush=True)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(several, group, args.results) for group in groups.values()]):
            future.result()


def numbers(text: str) -> list[int]:
    """``0-3,7`` -> [0, 1, 2, 3, 7]"""
    parts = [part.partition("-") for part in text.split(",")]
    return [n for low, dash, high in parts for n in range(int(low), int(high if dash else low) + 1)]


def names(allowed: Iterable[str]):
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if wrong := [name for name in found if name not in allowed]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(wrong)}; choose from: {', '.join(allowed)}")
        return found

    return parse


def parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name}: {arm.help}" for name, arm in ARMS.items())
    found = argparse.ArgumentParser(
        description=f"{__doc__}\narms:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--problems", type=names(PROBLEMS), default=["srat", "done", "mail", "fairfront"])
    found.add_argument("--arms", type=names(ARMS), default=[name for name in ARMS if ARMS[name].available()])
    found.add_argument("--seeds", type=numbers, default=list(range(20)), help="such as 0-19")
    found.add_argument("--workers", type=numbers, default=[4, 16])
    found.add_argument("--offsets", type=names(("auto", "none")), default=["auto", "none"])
    found.add_argument("--trials", type=int, default=16, help="of the default job")
    found.add_argument("--epochs", type=int, help="of a trial, if not the problem's")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    found.add_argument(
        "--data", type=Path, help="folder with train.parquet and test.parquet, for problems that need it"
    )
    found.add_argument("--memo", type=Path, default=Path("tuner-home") / "live")
    found.add_argument("--results", type=Path, default=RESULTS)
    found.add_argument("--as", dest="known_as", metavar="NAME", help="the arm's name in the results")
    found.add_argument("--processes", type=int, default=1)
    found.add_argument("--costs", action="store_true", help="measure what judging costs; search nothing")
    found.add_argument("--report", action="store_true", help="write the page; search nothing")
    return found


def main() -> None:
    args = parser().parse_args()
    if args.known_as and len(args.arms) != 1:
        raise SystemExit("--as names one arm: give --arms with one")
    if args.report:
        write_page(stored(args.results))
    elif args.costs:
        measure(args)
    else:
        search(args)


if __name__ == "__main__":
    main()
