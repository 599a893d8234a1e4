"""Which average to search against the worst class: the class mean, or the natural average (classes by frequency).

    python -m benchmarks.objectives_choice digits.jsonl                                   # records, then says
    python -m benchmarks.objectives_choice --data data/cifar10 --images 5000 cifar.jsonl
    python -m benchmarks.objectives_choice --data data/gtsrb --imbalance none --share 0.1 --epochs 8 gtsrb.jsonl
    python -m benchmarks.objectives_choice --table digits.jsonl cifar.jsonl gtsrb.jsonl   # a Markdown table of several

Settings of SRAT's whole space are trained in this process and judged on `val`; each leaves a line
with its accuracy on every class, so both averages come from the same trials. A choice of objectives is of use where the
front has several points and where its two objectives disagree among the trials that are any good: given are the size of
the front, and Spearman's correlation of the two objectives over all trials and over the best third of them, by the sum
of their ranks in both. An interrupted recording goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

import optuna

from tuner.results.pareto import nondominated
from tuner.spec.space import build_space

PAIRS = {
    "class mean, worst class": ("robust_acc", "worst_class_robust_acc"),
    "natural average, worst class": ("natural_robust_acc", "worst_class_robust_acc"),
    "natural average, class mean": ("natural_robust_acc", "robust_acc"),  # where the worst class is 0 everywhere
}

# Few steps, so that a training takes seconds; judged are weights averaged over about an epoch: without that, no epoch
# before the learning rate drops says much about the last one (rank correlation 0.1 to 0.4 over 30 settings, measured).
KNOBS = {
    "digits": {"passes": 2, "batch_size": 64, "lr": 0.1, "ema": 0.95, "attack_steps": 5, "eval_attack": 8},
    "images": {"ema": 0.99, "attack_steps": 5, "eval_attack": 8},
}


def configurations(method: str, count: int) -> list[dict]:
    """The default setting, then a scrambled Sobol sequence over the method's space (random where conditional)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = build_space(method, fix={}, space={})
    sampler = optuna.samplers.QMCSampler(seed=0, scramble=True, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    found = [space.default()]
    while len(found) < count:
        trial = study.ask()
        found.append(space.sample(trial))
        study.tell(trial, 0.0)
    return found


def ranks(values: list[float]) -> list[float]:
    """From 1 for the smallest; equal values share the mean of their ranks."""
    below = [sum(w < v for w in values) for v in values]
    same = [sum(w == v for w in values) for v in values]
    return [b + (s + 1) / 2 for b, s in zip(below, same)]


def spearman(a: list[float], b: list[float]) -> float | None:
    """Rank correlation; None where one of them has equal values alone."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return statistics.correlation(ranks(a), ranks(b))


def figures(rows: list[dict], pair: tuple[str, str]) -> dict:
    """What the table says of one pair of objectives over these trials."""
    points = [[row[name] for name in pair] for row in rows]
    axes = list(zip(*points))
    total = [sum(both) for both in zip(*map(ranks, axes))]
    best = sorted(range(len(rows)), key=lambda i: -total[i])[: max(2, round(len(rows) / 3))]
    return {
        "front": len({tuple(points[i]) for i in nondominated(points, [True, True])}),
        "all": spearman(*axes),
        "best third": spearman(*([axis[i] for i in best] for axis in axes)),
    }


def table(logs: list[Path]) -> str:
    lines = [
        "| data | images | trials, worst above 0 | objectives | points on the front | correlation, all | best third |",
        "|---|---|---|---|---|---|---|",
    ]
    for log in logs:
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        for name, pair in PAIRS.items():
            found = figures(rows, pair)
            said = ["-" if found[k] is None else f"{found[k]:+.2f}" for k in ("all", "best third")]
            where = f"{rows[0]['data']}, {rows[0]['imbalance']}, {rows[0]['model']}, {rows[0]['epoch']} epochs"
            images, alive = sum(rows[0]["train_counts"]), sum(row["worst_class_robust_acc"] > 0 for row in rows)
            lines.append(
                f"| {where} | {images} | {len(rows)}, {alive} | {name} | {found['front']} | {' | '.join(said)} |"
            )
    return "\n".join(lines)


def fewer(source: Path, folder: Path, share: float) -> str:
    """``share`` of the training rows in equal steps, so of every track some frames, and all test rows; its name."""
    import numpy as np
    import pyarrow.parquet as pq

    rows = pq.read_table(source / "train.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    keep = np.arange(0, rows.num_rows, max(1, round(1 / share)))
    pq.write_table(rows.take(keep), folder / "train.parquet")
    pq.write_table(pq.read_table(source / "test.parquet"), folder / "test.parquet")
    return f"parquet:{folder}"


def record(args: argparse.Namespace, dataset: str, out: Path) -> None:
    """Train what ``out`` does not have yet; one JSON line per trial, of its last epoch."""
    import torch

    from trainables.config import TrialConfig
    from trainables.datasets import training_for
    from trainables.loop import Diverged, Trainer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    done = {json.loads(line)["trial"] for line in out.read_text().splitlines()} if out.exists() else set()
    knobs = KNOBS["digits" if dataset == "digits" else "images"]
    training = asdict(training_for(dataset, **knobs))
    for number, params in enumerate(configurations("srat", args.trials)):
        if number in done:
            continue
        config = TrialConfig(
            "srat", params, training, dataset, args.imbalance, args.model, args.epochs, args.seed, home=args.home
        )
        trainer = Trainer(config, device)
        try:
            for _ in range(args.epochs):
                metrics = trainer.run_epoch()
        except Diverged as error:
            print(number, error)
            continue
        about = {"trial": number, "data": args.data.name if args.data else dataset, "imbalance": args.imbalance}
        shape = {"model": args.model, "train_counts": trainer.splits.class_counts, "params": params}
        with open(out, "a") as file:
            file.write(json.dumps({**about, **shape, **metrics}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet, instead of digits")
    parser.add_argument(
        "--images", type=int, help="thin --data to so many, equally many of each class, before all else"
    )
    parser.add_argument("--share", type=float, help="take so much of the rows of --data, in equal steps: tracks stay")
    parser.add_argument("--imbalance", default="exp:10")
    parser.add_argument("--model", default="cnn:0.5")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", default="tuner-home")
    parser.add_argument("logs", type=Path, nargs="+", help="JSON lines; training writes the first")
    args = parser.parse_args()
    if not args.table:
        from benchmarks.synthetic import thinned

        dataset = "digits"
        if args.data:
            dataset = f"parquet:{args.data.absolute()}"
        if args.images:
            dataset = thinned(args.data, Path(args.home).absolute() / f"{args.data.name}-{args.images}", args.images)
        if args.share:
            dataset = fewer(args.data, Path(args.home).absolute() / f"{args.data.name}-{args.share}", args.share)
        record(args, dataset, args.logs[0])
    print(table(args.logs))


if __name__ == "__main__":
    main()
