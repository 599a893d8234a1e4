"""A real search in real time: `make search`'s problem, ours against stock Ray Tune, wall time and front.

    python -m benchmarks.real_search [--trials 32] [--rounds 3] [--json OUT]

Both search SRAT's whole space on digits exp:10 from a cold start, a process and a home each, two trials at a time. Ours
is `tuner search` as it comes (MLflow, study, checkpoints and all). Stock is what Ray Tune's pages show: OptunaSearch on
both objectives, ASHAScheduler on the first over the same 12 epochs, the same training code, nothing written but
Ray's own files; its front is that of every trial's last values, stopped ones too, as OptunaSearch tells its study.
Rounds alternate and differ in their seed, which also draws other images; hypervolume is on `val`, from 0. Stock ends
sooner, so what ours would have shown by then is given too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tuner.results.history import History
from tuner.results.pareto import hypervolume, nondominated
from tuner.results.trial_state import TrialState

OBJECTIVES = ("natural_robust_acc", "worst_class_robust_acc")  # the defaults
EPOCHS = 12


def ours(home: str, trials: int, seed: int) -> dict:
    command = [
        sys.executable,
        "-m",
        "tuner.cli",
        "search",
        "--method",
        "srat",
        "--trials",
        str(trials),
        "--seed",
        str(seed),
        "--max-epochs",
        str(EPOCHS),
        "--home",
        home,
        "--json",
    ]
    begin = time.time()
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    full = History(Path(home) / "searches" / result["search"]).with_state(TrialState.FINISHED)
    return {
        "hypervolume": result["hypervolume"],
        "epochs": result["epochs_trained"],
        "front": [[row[o] for o in OBJECTIVES] for row in result["front"]],
        "ended": [[round(t.ended - begin, 1), *(t.last[o] for o in OBJECTIVES)] for t in full],
    }


def stock(home: str, trials: int, seed: int) -> dict:
    command = [
        sys.executable,
        "-m",
        "benchmarks.real_search",
        "--stock",
        home,
        "--trials",
        str(trials),
        "--seed",
        str(seed),
    ]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def run_stock(home: str, trials: int, seed: int) -> dict:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from benchmarks.main_job import define_srat
    from trainables.datasets import training_for

    training = asdict(training_for("digits"))

    class Stock(tune.Trainable):
        def setup(self, config):
            import torch

            from trainables.config import TrialConfig
            from trainables.loop import Trainer

            torch.set_num_threads(1)
            self.trainer = Trainer(
                TrialConfig("srat", config, training=training, home=home, max_epochs=EPOCHS, seed=seed)
            )

        def step(self):
            return {**self.trainer.run_epoch(), "done": self.trainer.epoch >= EPOCHS}

        def save_checkpoint(self, folder):  # Ray saves every trial at its end
            import torch

            torch.save(self.trainer.state_dict(), os.path.join(folder, "trainer.pt"))

    ray.init(num_cpus=2, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    search = OptunaSearch(
        define_srat, metric=list(OBJECTIVES), mode=["max", "max"], sampler=optuna.samplers.TPESampler(seed=seed)
    )
    how = tune.TuneConfig(
        search_alg=search,
        num_samples=trials,
        max_concurrent_trials=2,
        scheduler=ASHAScheduler(metric=OBJECTIVES[0], mode="max", max_t=EPOCHS),
    )
    where = tune.RunConfig(storage_path=os.path.join(home, "ray"), verbose=0)
    results = tune.Tuner(tune.with_resources(Stock, {"cpu": 1}), tune_config=how, run_config=where).fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials broke off: {results.errors[0]}")
    last = [r.metrics for r in results]
    points = [[m[o] for o in OBJECTIVES] for m in last]
    return {
        "hypervolume": hypervolume(points, [0, 0], [True, True]),
        "epochs": sum(m["epoch"] for m in last),
        "front": [points[i] for i in nondominated(points, [True, True])],
    }


def timed(search, trials: int, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as home:
        begin = time.perf_counter()
        found = search(home, trials, seed)
        return {**found, "wall_s": round(time.perf_counter() - begin, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stock", metavar="HOME", help="search with stock Ray Tune in this process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.stock:
        print(json.dumps(run_stock(args.stock, args.trials, args.seed)))
        return
    rows = []
    for seed in range(args.seed, args.seed + args.rounds):
        row = {"seed": seed, "stock": timed(stock, args.trials, seed), "ours": timed(ours, args.trials, seed)}
        by_then = [point for second, *point in row["ours"].pop("ended") if second <= row["stock"]["wall_s"]]
        row["ours"]["hypervolume_when_stock_ended"] = hypervolume(by_then, [0, 0], [True, True])
        rows.append(row)
        for name in ("stock", "ours"):
            print(seed, name, {k: v for k, v in row[name].items() if k != "front"}, flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    for key in ("wall_s", "epochs", "hypervolume"):
        ratio = statistics.median(row["ours"][key] / row["stock"][key] for row in rows)
        print(key, "ours against stock, median:", round(ratio, 2))
    by_then = statistics.median(r["ours"]["hypervolume_when_stock_ended"] / r["stock"]["hypervolume"] for r in rows)
    print("hypervolume ours against stock when stock has ended, median:", round(by_then, 2))


if __name__ == "__main__":
    main()
