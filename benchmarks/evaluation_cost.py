"""What an epoch's evaluation costs beside the forward and backward passes that its attacks cannot do without.

    python -m benchmarks.evaluation_cost [--device cpu|cuda] [--rounds 5] [--images 1000]

An instrumented run counts how many images went through the judge and how many through the attacked model with a
gradient: only those still classified right are attacked. The minimum is a bare loop of exactly so many, in full
batches, without projection, prediction or counting; on a GPU also without recording. Noise images, labels of which a
fixed share agrees with the model. Process CPU time of one thread on the CPU, wall time on a GPU; evaluation and bare
loop alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.attack_speed import clock
from benchmarks.synthetic import random_images
from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.data.tensors import Split
from trainables.evaluate import evaluate, no_tf32
from trainables.loop import Trainer

BATCH, STEPS, SHARE_RIGHT = 512, 10, 0.5
CASES = {"cpu": [("cnn", 8, 1), ("cnn", 32, 3)], "cuda": [("cnn", 32, 3), ("resnet18", 32, 3)]}


class Counting:
    """A model that counts the images it is shown, with and without a gradient."""

    def __init__(self, model: Frozen):
        self.model, self.plain, self.with_grad = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self.with_grad += len(x)
        else:
            self.plain += len(x)
        return self.model(x)


def bare_loop(model: Frozen, x: Tensor, images: int, gradient: bool) -> None:
    """``images`` images through ``model`` in batches, with the gradient of the images or without."""
    size = min(BATCH, len(x))
    for start in range(0, images, size):
        part = x[: min(size, images - start)]
        if gradient:
            part = part.detach().requires_grad_(True)
            torch.autograd.grad(model(part).sum(), part)
        else:
            with torch.no_grad():
                model(part)


def case(model: str, size: int, channels: int, images: int, device: str, folder: str) -> tuple[Callable, Callable, str]:
    """(evaluation, its bare minimum, what was counted)."""
    dataset = random_images(Path(folder) / f"{size}x{channels}", images // 10 + 10, size=size, channels=channels)
    trainer = Trainer(TrialConfig("at", {}, {}, dataset, "none", model, home=folder), device)
    judge, attacked = trainer.judges(trainer.model)
    train = trainer.splits.train
    x = torch.cat([train.batch(slice(0, images))[0], trainer.splits.val.batch(slice(None))[0]])[:images]
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        predicted = judge(x).argmax(1)
    generator = torch.Generator(device=device).manual_seed(0)
    right = torch.rand(len(x), device=device, generator=generator) < SHARE_RIGHT
    split = Split(
        (x * 255).round().to(torch.uint8),
        torch.arange(len(x), device=x.device),
        torch.where(right, predicted, (predicted + 1) % 10),
    )

    def run() -> None:
        evaluate(
            judge, split, 10, eps=0.5 / 255, steps=STEPS, attacked=attacked, batch_size=BATCH, record=trainer.record
        )

    seen, through = Counting(judge), Counting(attacked)
    evaluate(seen, split, 10, eps=0.5 / 255, steps=STEPS, attacked=through, batch_size=BATCH)

    def least() -> None:
        with no_tf32():
            bare_loop(judge, x, seen.plain, False)
        bare_loop(attacked, x, through.with_grad, True)

    assert not (seen.with_grad or through.plain), "judging needs no gradient, attacking nothing else"
    return run, least, f"{len(x)} images: {seen.plain} forward, {through.with_grad} forward and backward"


def run(device: str, rounds: int, images: int, cases: list | None = None) -> list[dict]:
    """A row of each of the ``cases``, those of the device if there are none."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model, size, channels in cases or CASES[device]:
            whole, least, counted = case(model, size, channels, images, device, folder)
            times: dict[Callable, list[float]] = {whole: [], least: []}
            for step in (whole, whole, whole, least):  # a GPU replays the third
                step()
            for _ in range(rounds):
                for step, found in times.items():
                    begin = clock(device)
                    step()
                    found.append(clock(device) - begin)
            seconds = statistics.median(times[whole])
            ratio = statistics.median(a / b for a, b in zip(times[whole], times[least]))
            rows.append({"model": model, "images": images, "counted": counted, "seconds": seconds, "ratio": ratio})
            shape = f"{size}x{size}x{channels}"
            print(f"{model:13s} {shape}  {counted}; {seconds:.2f} s, {ratio:.2f}x the minimum", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    run(args.device, args.rounds, args.images)


if __name__ == "__main__":
    main()
