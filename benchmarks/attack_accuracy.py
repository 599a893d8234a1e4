"""Does the speed core cost robust accuracy? The same training run, plain float32 loop against ours, over seeds.

    nice -n 10 python -m benchmarks.attack_accuracy --data data/cifar10 [--epochs 5] [--seeds 3]

Plain adversarial training (PGD-10) of the small CNN on thinned CIFAR-10, same initial weights, batches and schedule
in both arms. Judged at the end in float32 by CE-PGD-20 and margin-PGD-20 on every fifth test image (2,000). The
difference is measured where it stands beside the spread between seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.naive import naive_step
from benchmarks.synthetic import thinned
from trainables.attack_copy import Frozen
from trainables.augment import augment
from trainables.config import TrialConfig
from trainables.data import DataSpec
from trainables.data.tensors import Split, open_test
from trainables.evaluate import evaluate
from trainables.loop import Trainer


class Naive(Trainer):
    """The same trial with the step of the public repositories."""

    def __init__(self, *args):
        super().__init__(*args)
        self.model.to(memory_format=torch.contiguous_format)

    def _step(self, rows, generator):
        x, y = self.splits.train.batch(rows)
        x = augment(x, self.training.augment, generator).contiguous()
        eps = self.training.eps
        step, steps = self.training.step_size * eps, self.training.attack_steps
        return None, naive_step(self.model, self.optimizer, x, y, eps, step, steps)

    def _count(self, totals, batch, loss):
        totals["loss"] += loss


def train(arm: str, config: TrialConfig, device: str) -> dict:
    begin, cpu = time.perf_counter(), time.process_time()
    trainer = (Naive if arm == "plain fp32" else Trainer)(config, device)
    for _ in range(config.max_epochs):
        trainer._train()
        trainer.epoch += 1
    spent = {"train_s": time.perf_counter() - begin, "train_cpu_s": time.process_time() - cpu}
    test = open_test(DataSpec(config.dataset, config.imbalance), Path(config.home), device)
    fifth = Split(test.base, test.index[::5], test.labels[::5])
    result = evaluate(Frozen(trainer.model), fifth, 10, eps=trainer.training.eps, steps=20)
    metrics = result.metrics(trainer.splits.classes, trainer.splits.class_counts)
    return {
        "arm": arm,
        "seed": config.seed,
        "epochs": config.max_epochs,
        **spent,
        "bf16": arm == "ours" and trainer.autocast is not None,
        **{k: metrics[k] for k in ("clean_acc", "robust_acc", "worst_class_robust_acc")},
    }


def table(rows: list[dict]) -> str:
    lines = ["| arm | clean | robust | robust per seed | worst class | training CPU s |", "|---|---|---|---|---|---|"]
    for arm in ("plain fp32", "ours"):
        mine = [r for r in rows if r["arm"] == arm]
        names = ("clean_acc", "robust_acc", "worst_class_robust_acc", "train_cpu_s")
        columns = {k: [r[k] for r in mine] for k in names}
        clean, robust, worst = (f"{100 * statistics.mean(columns[k]):.1f}" for k in list(columns)[:3])
        spread = f" +- {100 * statistics.stdev(columns['robust_acc']):.1f}" if len(mine) > 1 else ""
        each = ", ".join(f"{100 * v:.1f}" for v in columns["robust_acc"])
        lines.append(
            f"| {arm} | {clean} | {robust}{spread} | {each} | {worst} | {statistics.mean(columns['train_cpu_s']):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="append each finished run here")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = thinned(args.data, Path(folder) / "data", args.images)
        training = {"batch_size": 64, "schedule": "onecycle"}
        for seed in range(args.seeds):
            for arm in ("plain fp32", "ours"):
                config = TrialConfig(
                    "at", {}, training, dataset, "none", args.model, max_epochs=args.epochs, seed=seed, home=folder
                )
                rows.append(train(arm, config, args.device))
                print(json.dumps(rows[-1]), flush=True)
                if args.json:
                    with args.json.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
