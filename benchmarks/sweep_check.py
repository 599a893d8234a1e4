"""What a sweep over offsets costs, and whether it masks gradients. Plain AT as every search trains it for reference.

    python -m benchmarks.sweep_check [--seeds 3] [--imbalance exp:10] [--json OUT]

Per seed: seconds of a training epoch, of judging the trained model on all of `val`, and of the sweep (one thread);
robust accuracies on `val` at every tau with the search's steps and with ten times as many; and on `test` the alarms of
the verification's cascade (APGD-CE, APGD-T, Square) for three settings of the offsets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from trainables.class_metrics import class_metrics
from trainables.config import TrialConfig
from trainables.data import open_test
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.model_io import add_offsets
from trainables.offsets import Offsets
from trainables.sweep import ShiftedAttacks, points_of
from trainables.verification import Cascade

EPOCHS, MORE = 12, 10
CHECKED = (0.5, 1.0, 1.5)  # tau on test


def judged(trainer: Trainer, steps: int) -> tuple[dict[float, dict], float, float]:
    """Metrics by tau, and seconds of the evaluation and of the sweep."""
    begin = time.perf_counter()
    trainer.training = dataclasses.replace(trainer.training, eval_attack=steps)
    trainer._judge(trainer.final_model, trainer.splits.val)
    between = time.perf_counter()
    judge, attacked = trainer.judges(trainer.final_model)
    attacks = ShiftedAttacks(judge, attacked, trainer.splits.val, trainer.training.eps, steps)
    counts = trainer.splits.class_counts
    points = points_of(trainer.offsets, attacks, trainer._seen, counts)
    end = time.perf_counter()
    metrics = {p.offsets.tau: class_metrics(trainer.splits.classes, counts, p.count, p.clean, p.robust) for p in points}
    return metrics, between - begin, end - between


def alarms(trainer: Trainer, offsets: Offsets, home: Path) -> list[str]:
    """Of the cascade on `test`, for the model with these offsets."""
    import copy

    model = copy.deepcopy(trainer.final_model).eval()
    add_offsets(model, offsets.values)
    split = open_test(trainer.config.data_spec, home)
    cascade = Cascade(model, split, "apgd", eps=trainer.training.eps, search_steps=trainer.training.eval_attack)
    for _ in cascade.run():
        pass
    return cascade.alarms


def check(seed: int, imbalance: str, home: str) -> dict:
    torch.set_num_threads(1)
    training = dataclasses.asdict(training_for("digits"))
    config = TrialConfig(
        "at", {}, training, "digits", imbalance, max_epochs=EPOCHS, seed=seed, home=home, offsets="auto"
    )
    trainer = Trainer(config)
    train_s = [trainer.run_epoch()["train_s"] for _ in range(EPOCHS)]
    steps = trainer.training.eval_attack
    usual, judge_s, sweep_s = judged(trainer, steps)
    strong, *_ = judged(trainer, MORE * steps)
    trainer.training = dataclasses.replace(trainer.training, eval_attack=steps)
    swept = [p.offsets for p in trainer.curve.points if p.offsets.tau in CHECKED]
    return {
        "seed": seed,
        "train_s": statistics.median(train_s),
        "judge_s": judge_s,
        "sweep_s": sweep_s,
        "usual": usual,
        "strong": strong,
        "alarms": {offsets.tau: alarms(trainer, offsets, Path(home)) for offsets in swept},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--imbalance", default="exp:10")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for seed in range(args.seeds):
            row = check(seed, args.imbalance, home)
            rows.append(row)
            print(
                f"seed {seed}: epoch {row['train_s']:.2f} s, judging {row['judge_s']:.2f} s, "
                f"sweep {row['sweep_s']:.2f} s ({row['sweep_s'] / row['train_s']:.2f} epochs); alarms {row['alarms']}"
            )
            for tau, usual in row["usual"].items():
                strong = row["strong"].get(tau, {})
                shown = " ".join(
                    f"{name} {usual[name]:.3f} > {strong.get(name, float('nan')):.3f}"
                    for name in ("natural_robust_acc", "robust_acc", "worst_class_robust_acc")
                )
                print(f"  tau {tau:<5g} {shown}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
