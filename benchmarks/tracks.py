"""How alike are the frames of a track? Robust accuracy of plain AT on the signs of `srat-signs`, within tracks.

python -m benchmarks.tracks --data FOLDER        # GTSRB's train.parquet and test.parquet; prints the correlation
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.live_problem import PROBLEMS, Job, dataset_of
from benchmarks.live_stages import LineTrainer
from trainables.evaluate import evaluate


def correlation(values: np.ndarray, labels: np.ndarray, tracks: np.ndarray) -> float:
    """Of two values (N,) of one track, about their class's mean: the intraclass correlation of a one-way analysis of
    variance (Fisher 1925), over all classes; ``labels`` and ``tracks`` (N,)."""
    numbers, own = np.unique(tracks, return_inverse=True)
    size = np.bincount(own)
    mean = np.bincount(own, values) / size
    label = np.array([labels[own == t][0] for t in range(len(numbers))])
    in_class = np.bincount(labels, values) / np.bincount(labels)
    between = (size * (mean - in_class[label]) ** 2).sum() / (len(numbers) - len(np.unique(labels)))
    within = ((values - mean[own]) ** 2).sum() / (len(values) - len(numbers))
    return float((between - within) / (between + (size.mean() - 1) * within))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--memo", type=Path, default=Path("tuner-home") / "live")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS["srat-signs"]
    data = dataset_of(problem, args.data, args.memo)
    for seed in range(args.seeds):
        job = Job(problem, seed, home=str((args.memo / "home").absolute()), dataset=data)
        line = job.stem(job.spec())
        trainer = LineTrainer(line, torch.device("cpu"))
        for _ in range(line.last):
            trainer.run_epoch()
        val, robust = trainer.splits.val, np.ones(len(trainer.splits.val))
        tracks, labels = val.groups, val.labels
        assert tracks is not None

        def note(rows: torch.Tensor, logits: torch.Tensor) -> None:
            robust[rows[logits.argmax(1) != labels[rows]].numpy()] = 0

        judge, attacked = trainer.judges(trainer.final_model)
        eps, steps = trainer.training.eps, trainer.training.eval_attack
        evaluate(judge, val, trainer.classes, eps=eps, steps=steps, attacked=attacked, seed=seed, seen=note)
        found = correlation(robust, labels.numpy(), tracks.numpy())
        print(f"seed {seed}: {len(val)} images, {len(tracks.unique())} tracks, correlation {found:.2f}", flush=True)


if __name__ == "__main__":
    main()
