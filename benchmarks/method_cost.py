"""What each method costs beside plain AT, beyond the attacks and forward passes that its equation needs.

    python -m benchmarks.method_cost [--device cpu|cuda] [--rounds 7] [--methods at,srat] [--json OUT]

Two problems: the embedded digits, and noise images of CIFAR's size, both with the small CNN. A step's minimum is
counted, not guessed: every step of an attack (a call of the attack model with its gradient), every other call of the
attack model, and every call of the trained model, each costed by what the plain one takes, timed beside the steps.
The figure is

    overhead = method's step / (plain AT's step + its further calls at their plain cost)

so 1.10 means that a step is a tenth dearer than plain AT with as many calls. Process CPU time of one thread on the CPU.
"per epoch" is the plain ratio to AT's step, attacks included: the steps of an epoch are equally many for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.attack_speed import clock
from benchmarks.synthetic import random_images
from search_spaces import METHODS
from trainables.attack import pgd
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.losses import cross_entropy

LIMIT = 1.15


class Problem:
    """One method on one data set, late in training, when every deferred weight acts."""

    def __init__(self, method: str, dataset: str, home: str, device: str, **changes):
        training = vars(training_for(dataset, **changes))
        self.trainer = Trainer(TrialConfig(method, {}, training, dataset, "exp:10", home=home, max_epochs=8), device)
        self.trainer.epoch = 7
        self.trainer.model.train()
        # one batch over and over would be learnt by heart: denormal gradients, slow on a CPU
        self.trainer.optimizer.lr = 0.0
        self.generator = torch.Generator(device=device).manual_seed(0)
        self.rows = torch.arange(self.trainer.batches.batch_size, device=device)
        self.calls = self._count()

    def step(self) -> None:
        self.trainer._step(self.rows, self.generator)

    def _count(self) -> dict[str, int]:
        """How often one step sends a batch through the attack model, with and without gradient, and the trained one."""
        calls = {"attack": 0, "look": 0, "train": 0}
        trainer = self.trainer
        frozen, forward, rows = trainer.attacked, trainer._forward, self.rows

        class Counting:
            refresh = frozen.refresh

            def __call__(self, x):
                calls["attack" if torch.is_grad_enabled() and x.requires_grad else "look"] += len(x) // len(rows)
                return frozen(x)

        def counted(x):
            calls["train"] += 1
            return forward(x)

        trainer.attacked, trainer._forward = Counting(), counted
        self.step()
        trainer.attacked, trainer._forward = frozen, forward
        return calls

    def bare(self) -> dict[str, Callable[[], None]]:
        """The calls alone, as little around them as possible."""
        trainer = self.trainer
        x, y = trainer.splits.train.batch(self.rows)
        eps = torch.full((len(y),), trainer.training.eps, device=x.device)

        def attack() -> None:
            pgd(trainer.attacked, x, y, cross_entropy, eps=eps, step=0.25 * eps, steps=1)

        def look() -> None:
            with torch.no_grad():
                trainer.attacked(x)

        def train() -> None:
            trainer.optimizer.zero_grad()
            F.cross_entropy(trainer._forward(x)[0], y).backward()

        return {"attack": attack, "look": look, "train": train}


def timed(run: Callable[[], None], times: int, device: str) -> float:
    begin = clock(device)
    for _ in range(times):
        run()
    return (clock(device) - begin) / times


def compare(methods: list[str], dataset: str, home: str, device: str, rounds: int, **changes) -> list[dict]:
    """Each method beside plain AT, interleaved, so that a busy machine slows both alike."""
    plain = Problem("at", dataset, home, device, **changes)
    rows = []
    for name in methods:
        other = Problem(name, dataset, home, device, **changes)
        bare = other.bare()
        for run in (plain.step, other.step, *bare.values()):
            run()
        repeat = max(1, round(0.1 / max(timed(plain.step, 1, device), 1e-4)))
        ratios, overheads = [], []
        for _ in range(rounds):
            at, mine = timed(plain.step, repeat, device), timed(other.step, repeat, device)
            cost = {kind: timed(run, repeat * (10 if kind == "attack" else 3), device) for kind, run in bare.items()}
            ratios.append(mine / at)
            overheads.append(mine / (at + sum((n - plain.calls[kind]) * cost[kind] for kind, n in other.calls.items())))
        rows.append(
            {
                "dataset": dataset.partition(":")[0],
                "method": name,
                **other.calls,
                "per_epoch": statistics.median(ratios),
                "overhead": statistics.median(overheads),
            }
        )
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    late = "" if row["overhead"] <= LIMIT else "  <-- above 1.15"
    return (
        f"| {row['dataset']} | {row['method']} | {row['attack']} + {row['look']} + {row['train']} "
        f"| {row['per_epoch']:.2f} | {row['overhead']:.2f} |{late}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma separated")
    parser.add_argument("--only", choices=["digits", "images"], help="one of the two problems")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    methods, rows = args.methods.split(","), []
    print("| data | method | attack + look + train calls | per epoch | overhead |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        if args.only != "images":
            rows += compare(methods, "digits", home, args.device, args.rounds)
        if args.only != "digits":
            noise = random_images(Path(home) / "noise", 60)
            rows += compare(methods, noise, home, args.device, args.rounds, batch_size=64)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
