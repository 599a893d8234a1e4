"""The main job, measured: wall time, the share outside training and evaluation, peak memory, and trial turnover.

    python -m benchmarks.main_job [--runs 1] [--json OUT]

Wall time and memory come from `tuner search --method srat` as a user runs it. Turnover is the time between the last
report of one trial and the start of the next one's first epoch on a reused actor; ours and plain Ray Tune's (stock
OptunaSearch, stock loggers, `reuse_actors=True`) are measured in one run with the same trials, both with random
proposals: what a model's proposal costs is `proposal_cost`'s subject.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil


def tree_rss(pid: int) -> int:
    """Resident memory of a process and all its descendants, shared pages counted once (PSS)."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main_job(home: str) -> dict:
    """One run of the main job through the command line."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tuner.cli", "search", "--method", "srat", "--home", home, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            try:
                peak[0] = max(peak[0], tree_rss(process.pid))
            except psutil.NoSuchProcess:
                return

    threading.Thread(target=watch, daemon=True).start()
    out, _ = process.communicate()
    done.set()
    wall = time.perf_counter() - begin
    result = json.loads(out)
    events = _events(os.path.join(home, "searches", result["search"], "history.jsonl"))
    return {
        "wall_s": wall,
        "outside_share": 1 - busy_s(events) / min(2, os.cpu_count()) / wall,
        "peak_gb": peak[0] / 1e9,
        "epochs": result["epochs_trained"],
        "hypervolume": result["hypervolume"],
        "trials": result["trials"],
    }


def _events(path: str) -> list[dict]:
    with open(path) as file:
        return [json.loads(line) for line in file]


def busy_s(events: list[dict]) -> float:
    """Seconds of training and evaluation: of the trials' own epochs, of the stem's, which all that fork tell again, and
    of previews, which tell their last epoch alone; those before it count as the median of the trials' own."""
    own = [_seconds(e["metrics"]) for e in events if e["event"] == "epoch"]
    stem = {(e["stem"], m["epoch"]): _seconds(m) for e in events if e["event"] == "fork" for m in e["epochs"]}
    previews = [e for e in events if e["event"] == "preview"]
    before = sum(e["epochs"] - 1 for e in previews) * statistics.median(own)
    return sum(own) + sum(stem.values()) + sum(_seconds(e["metrics"]) for e in previews) + before


def _seconds(metrics: dict) -> float:
    return metrics["train_s"] + metrics["eval_s"]


def _gaps(reports: list[tuple[int, float, float]]) -> list[float]:
    """Seconds from each trial's last report to the start of the next trial's first epoch; a report is (trial, time,
    busy)."""
    return [t1 - busy - t0 for (a, t0, _), (b, t1, busy) in zip(reports, reports[1:]) if a != b]


KNOBS = {"passes": 1, "attack_steps": 2, "eval_attack": 2}


def our_turnover(home: str, trials: int) -> list[float]:
    from tuner.execution.driver import search
    from tuner.home import Home
    from tuner.spec.search_spec import SearchSpec

    spec = SearchSpec(
        trials=trials,
        max_epochs=2,
        burn_in="own",
        max_concurrent=1,
        sampler="random",
        set=KNOBS,
        name=f"turnover-{time.time_ns()}",
    )
    search(spec, Home(home))
    events = _events(os.path.join(home, "searches", spec.search_name, "history.jsonl"))
    return _gaps([(e["trial"], e["time"], _seconds(e["metrics"])) for e in events if e["event"] == "epoch"])


def define_srat(trial) -> None:
    """SRAT's space, define-by-run, as OptunaSearch takes it (and pickles it: so it is a module's function)."""
    from tuner.spec.space import build_space

    build_space("srat", fix={}, space={}).sample(trial)


def plain_turnover(home: str, trials: int) -> list[float]:
    """The same trials under Ray Tune as its documentation shows it."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from trainables.datasets import training_for

    training = asdict(training_for("digits", **KNOBS))
    reports: list[tuple[int, float, float]] = []

    class Plain(tune.Trainable):
        def setup(self, config):
            import torch

            from trainables.config import TrialConfig
            from trainables.loop import Trainer

            torch.set_num_threads(1)
            own = {k: config[k] for k in ("one_minus_beta", "start", "sep_weight")}
            self.trainer = Trainer(TrialConfig("srat", own, training=training, home=home, max_epochs=2))

        def reset_config(self, config):
            self.setup(config)
            return True

        def step(self):
            from trainables.checkpoint import save_checkpoint

            metrics = self.trainer.run_epoch()
            save_checkpoint(Path(home, "plain-checkpoints", self.trial_id), self.trainer, metrics)  # as our trials do
            return {**metrics, "done": self.trainer.epoch >= 2}

        def save_checkpoint(self, checkpoint_dir):
            return {}

        def load_checkpoint(self, checkpoint):
            pass

    class Clock(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            reports.append((int(trial.trial_id.split("_")[-1], 36), time.time(), result["train_s"] + result["eval_s"]))

    search = OptunaSearch(
        define_srat,
        metric=["natural_robust_acc", "worst_class_robust_acc"],
        mode=["max", "max"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    how = tune.TuneConfig(search_alg=search, num_samples=trials, max_concurrent_trials=1, reuse_actors=True)
    where = tune.RunConfig(storage_path=os.path.join(home, "plain"), callbacks=[Clock()], verbose=0)
    tune.Tuner(tune.with_resources(Plain, {"cpu": 1}), tune_config=how, run_config=where).fit()
    return _gaps(reports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--turnover-trials", type=int, default=12)
    parser.add_argument("--json")
    args = parser.parse_args()
    report = {"main_job": []}
    for _ in range(args.runs):  # 0 runs: the turnover alone
        with tempfile.TemporaryDirectory() as home:
            report["main_job"].append(main_job(home))
            print(report["main_job"][-1], flush=True)
    with tempfile.TemporaryDirectory() as home:
        import logging

        import ray

        ray.init(
            "local",
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        from trainables.data import prepare

        prepare("digits", Path(home))
        # plain first: our driver switches Ray's own loggers and snapshots off for the whole process
        plain, ours = plain_turnover(home, args.turnover_trials), our_turnover(home, args.turnover_trials)
        report["turnover_s"] = {
            "plain": statistics.median(plain),
            "ours": statistics.median(ours),
            "n": [len(plain), len(ours)],
        }
        report["turnover_s"]["ratio"] = report["turnover_s"]["ours"] / report["turnover_s"]["plain"]
        print(report["turnover_s"])
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
