"""Whether late drops of the learning rate lose anything against early ones.

    nice -n 10 python -m benchmarks.milestones --data data/cifar10 [--images 4000] [--epochs 20] [--seeds 3]

Plain adversarial training of the small CNN at half width on thinned CIFAR-10, drops at 75 % and 90 % (the default of
earlier versions) against `auto` (100/110 and 105/110). Same initial weights, batches and attack starts: until the
first drop both are one run, so both are trained from its checkpoint. Judged on `val` after every epoch: average (mean
over the classes) and worst-class robust accuracy of the last epoch, and of the best, which has the largest sum of both.
A line for each seed, then the mean differences late - early with their standard errors over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.synthetic import thinned
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.schedule import drop_epochs

ARMS = {"early": "0.75,0.9", "late": "auto"}
OBJECTIVES = ("robust_acc", "worst_class_robust_acc")
FIGURES = tuple(f"{when} {name}" for when in ("last", "best") for name in OBJECTIVES)


def train_both(config: TrialConfig) -> dict[str, list[dict[str, Any]]]:
    """The metrics of every epoch for each of `ARMS`."""
    shared = int(min(drop_epochs(milestones, config.max_epochs)[0] for milestones in ARMS.values()))
    stem = Trainer(_with(config, "early"))
    past = [stem.run_epoch() for _ in range(shared)]
    state = copy.deepcopy(stem.state_dict())
    curves = {}
    for arm in ARMS:
        trainer = Trainer(_with(config, arm))
        trainer.load_state_dict(copy.deepcopy(state))
        curves[arm] = past + [trainer.run_epoch() for _ in range(config.max_epochs - shared)]
    return curves


def _with(config: TrialConfig, arm: str) -> TrialConfig:
    return replace(config, training={**config.training, "milestones": ARMS[arm]})


def figures(curve: list[dict[str, Any]]) -> dict[str, float]:
    """`FIGURES` and the number of the best epoch."""
    best = max(curve, key=lambda metrics: sum(metrics[name] for name in OBJECTIVES))
    found = {"last": curve[-1], "best": best}
    values = {f"{when} {name}": metrics[name] for when, metrics in found.items() for name in OBJECTIVES}
    return {**values, "best epoch": best["epoch"]}


def differences(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Figure -> late - early: the mean over the seeds, and its standard error (0 for one seed)."""
    found = {}
    for name in FIGURES:
        values = [row["late"][name] - row["early"][name] for row in rows]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        found[name] = statistics.fmean(values), error
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, begin = [], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        dataset = thinned(args.data, Path(folder) / "data", args.images)
        training = asdict(training_for(dataset))
        config = TrialConfig("at", {}, training, dataset, "none", "cnn:0.5", args.epochs, home=folder, data_seed=0)
        for seed in range(args.seeds):
            curves = train_both(replace(config, seed=seed))
            rows.append({"seed": seed, **{arm: figures(curve) for arm, curve in curves.items()}})
            for arm in ARMS:
                shown = ", ".join(f"{name} {rows[-1][arm][name]:.3f}" for name in (*FIGURES, "best epoch"))
                print(f"seed {seed} {arm:5} {shown}", flush=True)
    for name, (mean, error) in differences(rows).items():
        print(f"late - early, {name}: {mean:+.4f} +- {error:.4f}")
    print(f"{time.process_time() - begin:.0f} s of CPU time")
    if args.json:
        args.json.write_text(json.dumps({"images": args.images, "epochs": args.epochs, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
