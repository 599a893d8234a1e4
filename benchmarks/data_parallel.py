"""Images per second of trials that one process trains and of trials that two train together (gloo on a CPU).

    python -m benchmarks.data_parallel [--model resnet18:0.25] [--size 32] [--batch 128] [--rounds 3]

Plain AT with ten attack steps on random images, one thread a process, epochs of the two in turn; `train_s` of each,
which is wall time. That needs two free cores: the machine's load is given with the figures. "a CPU second" is of the
leading process, evaluation included: what other jobs disturb least, and what two processes could reach on free cores if
none ever waited for the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
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
        by_cpu: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(asked.rounds + 1):
            for size, trainer in trainers.items():
                images = len(trainer.batches) * trainer.batches.batch_size
                begin = time.process_time()
                rate = images / trainer.run_epoch()["train_s"]
                cpu = images / (time.process_time() - begin)
                if turn:  # the first warms up
                    rates[size].append(rate)
                    by_cpu[size].append(cpu)
                    load = os.getloadavg()[0]
                    print(
                        f"{size} process(es): {rate:.1f} images/s, {cpu:.1f} a CPU second; load {load:.1f}", flush=True
                    )
        processes_for(2).close()
    found = {}
    for name, of in (("wall", rates), ("cpu", by_cpu)):
        one, two = (statistics.median(of[size]) for size in (1, 2))
        found[name] = {"one": one, "two": two, "ratio": two / one}
    print(json.dumps({**found, **vars(asked)}))


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
