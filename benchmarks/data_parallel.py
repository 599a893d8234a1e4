"""Images per second of trials that one process trains and of trials that two train together (gloo on a CPU).

    python -m benchmarks.data_parallel [--model resnet18:0.25] [--size 32] [--batch 128] [--rounds 3]

Plain AT with ten attack steps on random images, one thread a process, epochs of the two in turn; `train_s` of each,
which is wall time. Needs two free cores: the machine's load is given with the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.synthetic import random_images
from trainables.config import TrialConfig
from trainables.data_parallel import processes_for
from trainables.datasets import training_for
from trainables.loop import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18:0.25")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {size: _trainer(Path(folder), asked, size) for size in (1, 2)}
        rates: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(asked.rounds + 1):
            for size, trainer in trainers.items():
                images = len(trainer.batches) * trainer.batches.batch_size
                rate = images / trainer.run_epoch()["train_s"]
                if turn:  # the first warms up
                    rates[size].append(rate)
                    print(f"{size} process(es): {rate:.1f} images/s; load {os.getloadavg()[0]:.1f}", flush=True)
        processes_for(2).close()
    medians = {size: statistics.median(found) for size, found in rates.items()}
    print(json.dumps({"images_per_s": medians, "ratio": medians[2] / medians[1], **vars(asked)}))


def _trainer(folder: Path, asked: argparse.Namespace, processes: int) -> Trainer:
    each = math.ceil(asked.batch * asked.steps / 10 / 0.8)  # a fifth of a class judges
    dataset = random_images(folder / "images", each, size=asked.size)
    training = training_for(dataset, batch_size=asked.batch, passes=1, attack_steps=10, eval_attack=1)
    return Trainer(
        TrialConfig(
            "at",
            training=asdict(training),
            dataset=dataset,
            imbalance="none",
            model=asked.model,
            max_epochs=1000,
            home=str(folder),
            processes=processes,
        )
    )


if __name__ == "__main__":
    main()
