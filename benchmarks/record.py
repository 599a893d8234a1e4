"""Records real learning curves for `benchmarks.search_quality`: trains many configurations and keeps every epoch.

    python -m benchmarks.record --method done --configs 120 done.jsonl
    python -m benchmarks.record --table benchmarks/curves.parquet srat.jsonl done.jsonl ...
    python -m benchmarks.record --method done --configs 150 --goes-on benchmarks/curves.parquet done.jsonl
    python -m benchmarks.record --data data/cifar10 --part 1/8 cifar1.jsonl      # curves-cifar10.parquet

Rows: method, trial, seed, epoch, p/<hyperparameter>, the metrics, cost_s (training and evaluation of that epoch). The
first command goes on where it stopped; the second makes the table that the benchmark reads; with such a table the third
goes on on another machine. Digits, or a folder of Parquet files thinned to some images, with exp:10; `--part` is one of
several processes that share a GPU, each with a home and a log of its own. Needs what `attack_speed` does. Epochs before
a trial's start are trained once where trials share them (the trunk, to the bit what each would have trained).
Both seeds train on the same images. Judged on `val` and on the images that exp:10 leaves over, at most 300 of a class:
a rare class of digits has up to 130 images then, not 28. With 28, and with other training images for the second seed,
the noise of the worst class was three quarters of the spread between settings (measured), and hid what could be found.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import optuna
import torch

from benchmarks.synthetic import thinned
from trainables.datasets import training_for
from tuner.spec.space import build_space

# Few steps, so that a training takes seconds; judged are weights averaged over about an epoch: without that, no epoch
# before the learning rate drops says much about the last one (rank correlation 0.1 to 0.4 over 30 settings, measured).
KNOBS = {
    "digits": {"passes": 2, "batch_size": 64, "lr": 0.1, "ema": 0.95, "attack_steps": 5, "eval_attack": 8},
    "images": {"ema": 0.99, "attack_steps": 5, "eval_attack": 8},
}
MOST = 300  # judged images of a class
METRICS = ("robust_acc", "worst_class_robust_acc", "clean_acc", "tail_robust_acc", "train_loss", "weight_ess")


def configurations(method: str, count: int, fix: dict) -> list[dict]:
    """The default setting, then a scrambled Sobol sequence over the method's space (random where conditional)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = build_space(method, fix=fix, space={})
    sampler = optuna.samplers.QMCSampler(seed=0, scramble=True, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    found = [space.default()]
    while len(found) < count:
        trial = study.ask()
        found.append(space.sample(trial))
        study.tell(trial, 0.0)
    return found


def judged_on_more(spec, home, device="cpu"):
    """The splits, `val` with the training images that the imbalance left over."""
    from trainables.data.split import choose
    from trainables.data.store import mapped, prepare
    from trainables.data.tensors import Split, open_splits

    splits, source = open_splits(spec, home, device), mapped(prepare(spec.dataset, home) / "train.arrow")
    rest = np.setdiff1d(np.arange(len(source.labels)), choose(source, spec)[0])
    rest = np.concatenate([rest[source.labels[rest] == c][:MOST] for c in range(len(source.meta["classes"]))])
    images, labels = torch.tensor(source.images[rest]), torch.tensor(source.labels[rest])
    return replace(splits, val=Split(images.to(device), torch.arange(len(rest), device=device), labels.to(device)))


def record(args: argparse.Namespace, dataset: str, fix: dict, out: Path) -> None:
    """Train what ``args`` asks for and ``out`` does not have; one JSON line per epoch."""
    from trainables.config import TrialConfig
    from trainables.loop import Diverged, Trainer
    from trainables.trunk import run_to_branch

    device, method = "cuda" if torch.cuda.is_available() else "cpu", args.method
    if device == "cpu":
        torch.set_num_threads(1)
    mine, parts = map(int, args.part.split("/"))
    done = set()
    if out.exists():
        done = {(r["method"], r["trial"], r["seed"]) for r in map(json.loads, out.read_text().splitlines())}
    training = asdict(training_for(dataset, **KNOBS.get(dataset, KNOBS["images"])))
    for number, params in enumerate(configurations(method, args.configs, fix)):
        for seed in range(args.seeds):
            if (method, number, seed) in done or number % parts != mine - 1:
                continue
            config = TrialConfig(
                method,
                params,
                training,
                dataset,
                home=args.home,
                max_epochs=args.epochs,
                seed=seed,
                data_seed=0,
                trunk="auto",
                trunk_from=1,
                val_per_class=0,  # as when the tables were begun: `judged_on_more` adds what is left over
            )
            with patch("trainables.loop.open_splits", judged_on_more):
                trainer = Trainer(config, device)
                found = run_to_branch(trainer)
            try:
                while len(found) < args.epochs:
                    found.append(trainer.run_epoch())
            except Diverged as error:
                print(method, number, seed, error)
            rows = [
                {
                    "method": method,
                    "trial": number,
                    "seed": seed,
                    "epoch": m["epoch"],
                    **{f"p/{k}": v for k, v in params.items()},
                    **{k: round(m[k], 5) for k in METRICS},
                    "cost_s": round(m["train_s"] + m["eval_s"], 4),
                }
                for m in found
            ]
            with open(out, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


def to_parquet(logs: list[Path], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    names = list(dict.fromkeys(k for row in rows for k in row))
    pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in names}), out, compression="zstd")


def unpack(table: Path, method: str, out: Path) -> None:
    """A method's rows of a table, as the lines they were."""
    import pyarrow.parquet as pq

    with open(out, "w") as file:
        for row in pq.read_table(table, filters=[("method", "==", method)]).to_pylist():
            file.write(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="srat")
    parser.add_argument("--configs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--fix", action="append", default=[], help="KEY=VALUE")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet, instead of digits")
    parser.add_argument("--images", type=int, default=10000, help="thin --data to so many before the imbalance")
    parser.add_argument("--part", default="1/1", help="I/N: the I-th of N processes that share the configurations")
    parser.add_argument("--home", default="tuner-home")
    parser.add_argument("--table", type=Path, help="make this Parquet table of the logs; train nothing")
    parser.add_argument("--goes-on", type=Path, help="a table with rows of the method; its log is made from it")
    parser.add_argument("logs", type=Path, nargs="+", help="JSON lines; training writes the first")
    args = parser.parse_args()
    if args.table:
        to_parquet(args.logs, args.table)
    else:
        if args.goes_on and not args.logs[0].exists():
            unpack(args.goes_on, args.method, args.logs[0])
        fix = dict(f.split("=", 1) for f in args.fix)
        dataset = "digits"
        args.home = str(Path(args.home) / args.part.replace("/", "-of-"))
        if args.data:
            dataset = thinned(args.data, Path(args.home) / f"{args.data.name}-{args.images}", args.images)
        record(args, dataset, fix, args.logs[0])


if __name__ == "__main__":
    main()
