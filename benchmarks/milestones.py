"""Whether late drops of the learning rate lose anything against early ones.

    nice -n 10 python -m benchmarks.milestones --data data/cifar10 [--images 4000] [--epochs 20] [--seeds 5]

Plain adversarial training of the small CNN at half width on thinned CIFAR-10, drops at 75 % and 90 % (the default of
earlier versions) against `auto` (100/110 and 105/110). Same initial weights, batches and attack starts: until the
first drop both are one run, so both are trained from its checkpoint. Judged on images of `test`: average (mean over the
classes) and worst-class robust accuracy of the last epoch, and of the one that is best on `val`, as a search keeps it.
A line for each seed, then the mean differences late - early with their 95 % t intervals over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.held_out_report import interval
from benchmarks.synthetic import thinned
from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.data import DataSpec, Split, open_test
from trainables.datasets import training_for
from trainables.evaluate import evaluate
from trainables.loop import Trainer
from trainables.schedule import drop_epochs

ARMS = {"early": "0.75,0.9", "late": "auto"}
OBJECTIVES = ("robust_acc", "worst_class_robust_acc")
STEPS = 20  # of each attack
TEST_IMAGES = 2_000
FIGURES = tuple(f"{when} {name}" for when in ("last", "best") for name in OBJECTIVES)


def train_both(config: TrialConfig) -> dict[str, Trainer]:
    """A trained model for each of `ARMS`."""
    shared = int(min(drop_epochs(milestones, config.max_epochs)[0] for milestones in ARMS.values()))
    stem = Trainer(_with(config, "early"))
    for _ in range(shared):
        stem.run_epoch()
    state, trained = copy.deepcopy(stem.state_dict()), {}
    for arm in ARMS:
        trained[arm] = Trainer(_with(config, arm))
        trained[arm].load_state_dict(copy.deepcopy(state))
        for _ in range(config.max_epochs - shared):
            trained[arm].run_epoch()
    return trained


def _with(config: TrialConfig, arm: str) -> TrialConfig:
    return replace(config, training={**config.training, "milestones": ARMS[arm]})


def figures(trainer: Trainer, test: Split) -> dict[str, float]:
    """`FIGURES` and the number of the best epoch."""
    best, found = trainer.best, {"last": on_test(trainer, test)}
    trainer.final_model.load_state_dict(best["model"])
    found["best"] = on_test(trainer, test)
    values = {f"{when} {name}": metrics[name] for when, metrics in found.items() for name in OBJECTIVES}
    return {**values, "best epoch": best["epoch"]}


def on_test(trainer: Trainer, test: Split) -> dict[str, float]:
    judged = evaluate(Frozen(trainer.final_model), test, trainer.classes, eps=trainer.training.eps, steps=STEPS)
    return judged.metrics(trainer.splits.classes, trainer.splits.class_counts)


def differences(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Figure -> late - early over the seeds."""
    return {name: interval([row["late"][name] - row["early"][name] for row in rows]) for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, begin = [], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        dataset = thinned(args.data, Path(folder) / "data", args.images, test=TEST_IMAGES)
        training = asdict(training_for(dataset))
        test = open_test(DataSpec(dataset), folder)
        config = TrialConfig(
            "at",
            {},
            training,
            dataset,
            "none",
            "cnn:0.5",
            max_epochs=args.epochs,
            home=folder,
            data_seed=0,
            objectives=OBJECTIVES,  # the best epoch is kept
        )
        for seed in range(args.seeds):
            trained = train_both(replace(config, seed=seed))
            rows.append({"seed": seed, **{arm: figures(trainer, test) for arm, trainer in trained.items()}})
            for arm in ARMS:
                shown = ", ".join(f"{name} {rows[-1][arm][name]:.3f}" for name in (*FIGURES, "best epoch"))
                print(f"seed {seed} {arm:5} {shown}", flush=True)
    for name, difference in differences(rows).items():
        print(f"late - early, {name}: {difference}")
    print(f"{time.process_time() - begin:.0f} s of CPU time")
    if args.json:
        args.json.write_text(json.dumps({"images": args.images, "epochs": args.epochs, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
