"""Trials per second with a trainable that does nothing, ours beside plain Ray Tune.

    python -m benchmarks.throughput [--rounds 3] [--trials 1000] [--json OUT]

Both on two CPUs of a Ray of their own, one epoch per trial, random proposals by Optuna, actors reused; plain Ray Tune
has its own loggers, as its documentation shows. Ours writes its history, the study and MLflow. What counts is the time
from the end of the first trial to that of the last: start-up is not throughput. (MLflow's import falls into it, some 3
seconds, so that fewer trials give a lower ratio; its writer, which rests between its runs, ends later.) Rounds
alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch


def ours(home: str, trials: int) -> list[float]:
    """When each trial ended."""
    from benchmarks.seats import NoOp
    from tuner.execution.driver import search
    from tuner.home import Home
    from tuner.spec.search_spec import SearchSpec

    with patch("trainables.ray_adapter.TrialActor", NoOp):
        search(SearchSpec(trials=trials, max_epochs=1, sampler="random", burn_in="own", name="t"), Home(Path(home)))
    lines = Path(home, "searches", "t", "history.jsonl").read_text().splitlines()
    return [e["time"] for e in map(json.loads, lines) if e["event"] == "end"]


def plain(home: str, trials: int) -> list[float]:
    """The same under Ray Tune alone."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from benchmarks.main_job import define_srat
    from benchmarks.seats import NoOp

    ends = []

    class Alone(NoOp):
        def setup(self, config):
            super().setup({"trial": {"trial": 0, "max_epochs": 1, "params": config}})

        def step(self):
            report = super().step()
            return {**report, **report["metrics"]}

    class Clock(tune.Callback):
        def on_trial_complete(self, iteration, trials, trial, **info):
            ends.append(time.time())

    search = OptunaSearch(
        define_srat,
        metric=["natural_robust_acc", "worst_class_robust_acc"],
        mode=["max", "max"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    tune.Tuner(
        tune.with_resources(Alone, {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=home, callbacks=[Clock()], verbose=0),
    ).fit()
    return ends


def measure(kind: str, trials: int) -> float:
    """Trials per second, in a process of its own: our driver switches Ray Tune's loggers off for the whole process."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--one", kind, "--trials", str(trials)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def one(kind: str, trials: int) -> float:
    import ray

    from tuner.execution.ray_instance import start

    start(ray, num_cpus=2)
    with tempfile.TemporaryDirectory() as home:
        ends = {"ours": ours, "plain": plain}[kind](home, trials)
    return (len(ends) - 1) / (max(ends) - min(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--one", choices=["ours", "plain"], help="measure one side in this process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        print(one(args.one, args.trials))
        return
    rows = []
    for _ in range(args.rounds):
        rows.append({kind: measure(kind, args.trials) for kind in ("plain", "ours")})
        rows[-1]["ratio"] = rows[-1]["ours"] / rows[-1]["plain"]
        print({k: round(v, 2) for k, v in rows[-1].items()}, flush=True)
    print({key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}, "medians")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
