"""Do the methods do what their papers say? Trains each at its default setting and judges it once on the TEST split.

    python -m benchmarks.methods_table --data data/cifar10 [--model resnet18] [--epochs 30] [--seeds 2]
    python -m benchmarks.methods_table --table          # docs/methods/evidence.md from the stored results

Every finished run is appended to benchmarks/results/methods.jsonl; the same command goes on where it stopped. Settings:
step:100, exp:50 and none (balanced). Judged by the per-sample minimum of CE-PGD-20 and margin-PGD-20 in float32.
Needs torch, torchvision, pyarrow and optuna (see attack_speed for carrying it to a machine without a package index).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.methods_report import report, stored_runs
from benchmarks.synthetic import thinned
from search_spaces import METHODS
from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.data import DataSpec, prepare
from trainables.data.tensors import Split, open_test
from trainables.evaluate import evaluate
from trainables.loop import Diverged, Trainer

SETTINGS = ("step:100", "exp:50", "none")
CONTROL = "at+effective"  # class-balanced adversarial training, what SRAT is compared with
RESULTS = Path(__file__).parent / "results" / "methods.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "methods" / "evidence.md"
KEY = ("method", "setting", "seed", "model", "epochs", "images", "batch_size")


def runs(args: argparse.Namespace) -> list[dict]:
    """What is to be trained, seed by seed, so that an early stop leaves whole tables of fewer seeds."""
    methods = args.methods.split(",") if args.methods else [*METHODS, CONTROL]
    return [
        dict(zip(KEY, (method, setting, seed, args.model, args.epochs, args.images, args.batch_size)))
        for seed in range(args.seeds)
        for setting in args.settings.split(",")
        for method in methods
    ]


def train(run: dict, dataset: str, home: str, device: str, every: int) -> dict:
    """One run, and its per-class figures on every ``every``-th test image."""
    name, begin = run["method"].partition("+")[0], time.perf_counter()
    training = {"batch_size": run["batch_size"], "class_weights": "effective" if run["method"] == CONTROL else "none"}
    what = {"imbalance": run["setting"], "model": run["model"], "max_epochs": run["epochs"], "seed": run["seed"]}
    config = TrialConfig(name, {}, training, dataset, home=home, **what)
    trainer = Trainer(config, device)
    test = open_test(DataSpec(dataset, run["setting"], run["seed"]), Path(home), device)
    test = Split(test.base, test.index[::every], test.labels[::every])
    about = {
        **run,
        "test_images": len(test),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "precision": str(trainer.autocast or torch.float32),
        "train_counts": trainer.splits.class_counts,
    }
    try:
        for _ in range(run["epochs"]):
            trainer.run_epoch()
    except Diverged as problem:
        return {**about, "failed": str(problem)}
    result = evaluate(Frozen(trainer.final_model), test, trainer.classes, eps=trainer.training.eps, steps=20)
    per_class = {"clean": result.clean, "pgd": result.ce_robust, "robust": result.robust}
    return {
        **about,
        "split": "test",
        "attack": "CE-PGD-20, then margin-PGD-20",
        "notes": trainer.method.notes(),
        "wall_s": round(time.perf_counter() - begin, 1),
        **{k: [round(v, 5) for v in (t / result.count).tolist()] for k, t in per_class.items()},
    }


def record(args: argparse.Namespace) -> None:
    done = {tuple(row[k] for k in KEY) for row in stored_runs(args.results)}
    todo = [run for run in runs(args) if tuple(run.values()) not in done]
    print(f"{len(todo)} runs to train, {len(done)} stored in {args.results}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        home = args.home or folder
        dataset = f"parquet:{args.data.resolve()}"
        if args.images:
            dataset = thinned(args.data, Path(folder) / "thinned", args.images)
        prepare(dataset, Path(home))  # once, before processes share it
        args.results.parent.mkdir(parents=True, exist_ok=True)
        job = partial(train, dataset=dataset, home=home, device=args.device, every=args.test_every)
        with ProcessPoolExecutor(args.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            for finished in as_completed([pool.submit(job, run) for run in todo]):
                if finished.exception():  # one run's accident is not the others'; the same command tries it again
                    print(f"a run broke off: {finished.exception()!r}", flush=True)
                    continue
                row = finished.result()
                with args.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                what = row.get("failed") or f"robust {sum(row['robust']) / len(row['robust']):.3f} in {row['wall_s']} s"
                print(f"{row['setting']} {row['method']} seed {row['seed']}: {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--model", default="resnet18" if cuda else "cnn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=0, help="thin the training set to so many images; 0: all")
    parser.add_argument("--test-every", type=int, default=1, help="judge on every n-th test image only")
    parser.add_argument("--methods", help=f"comma separated; default: all, and {CONTROL}")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--home", help="where decoded data are kept; default: a temporary folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train at the same time")
    parser.add_argument("--table", action="store_true", help="write the page from the stored results, train nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    if args.table:
        args.page.write_text(report(stored_runs(args.results)))
        print(f"wrote {args.page}")
    elif args.data is None:
        parser.error("--data is needed to train; --table writes the page from stored results")
    else:
        record(args)


if __name__ == "__main__":
    main()
