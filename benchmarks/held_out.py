"""Do a search's claims hold on images that no search saw? Default jobs, whose models are all judged on the TEST split.

    python -m benchmarks.held_out [--methods srat,done,dafa] [--seeds 0,1,2,3,4] [-- OPTIONS OF tuner search]
    python -m benchmarks.held_out --data CIFAR10 --methods srat,done,dafa --seeds 0 -- --trials 1 --max-epochs 20
    python -m benchmarks.held_out --table          # docs/methods/no-search.md from the stored results

``--data`` is a folder with train.parquet and test.parquet, of which 10,000 and 2,000 images are taken, as many of each
class. With ``--trials 1`` a search is its two references: no search and the default setting.

Each search runs as a user's does; the settings are the default job's unless options change them. Then every model that
trained all epochs, the references too, is judged on `test` at all its offsets by CE-PGD and margin-PGD with five times
the steps that the search had. Every search is one line of benchmarks/results/held_out.jsonl; the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.synthetic import thinned
from trainables.attack_copy import Frozen
from trainables.curve import Curve, CurvePoint
from trainables.data import Split, open_test
from trainables.evaluate import evaluate
from trainables.model_io import load_trial
from trainables.sweep import Found, ShiftedAttacks, points_along
from trainables.threat_model import LInf, ThreatModel, find_threat_model
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

RESULTS = Path(__file__).parent / "results" / "held_out.jsonl"
STEPS = 5  # times the search's
KEY = ("method", "seed", "options")
IMAGES, TEST_IMAGES = 10_000, 2_000  # of ``--data``


def run_search(method: str, seed: int, options: list[str], home: Path) -> tuple[SearchRun, dict]:
    """A search through the command line, and what it printed."""
    command = [sys.executable, "-m", "tuner.cli", "search", "--method", method, "--seed", str(seed), "--name", "held"]
    done = subprocess.run([*command, "--home", str(home), "--json", *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return load_search(Home(home), "held"), json.loads(done.stdout)


def on_test(run: SearchRun, record: TrialRecord, curve: Curve) -> list[dict]:
    """Counts on `test` at each of the curve's offsets: a dict of tau, count, clean and robust."""
    config = trial_config(run, record)
    model = Frozen(load_trial(config.folder, run.home.root, config.dataset)[0])
    training = config.full_training()
    split = open_test(config.data_spec, run.home.root)
    steps, threat = STEPS * training.eval_attack, find_threat_model(config.threat)
    points = over_offsets(model, split, curve, training.eps, steps, threat)
    return [
        {"tau": p.offsets.tau, "count": list(p.count), "clean": list(p.clean), "robust": list(p.robust)} for p in points
    ]


def over_offsets(
    model: Frozen, split: Split, curve: Curve, eps: float, steps: int, threat: type[ThreatModel] = LInf
) -> tuple[CurvePoint, ...]:
    """The model on all images of ``split``, at the offsets of its ``curve`` on others."""
    labels, classes = split.labels, len(curve.classes)
    seen: Found = []
    evaluate(
        model,
        split,
        classes,
        eps=eps,
        steps=steps,
        threat=threat,
        seen=lambda rows, logits: seen.append((rows, logits)),
    )
    attacks = ShiftedAttacks(model, model, split, eps, steps, threat=threat)
    last = curve.points[-1].offsets
    direction = torch.tensor(last.values or [0.0] * classes, dtype=torch.float64, device=labels.device)
    direction = direction / (last.tau or 1.0)
    rows = torch.arange(len(labels), device=labels.device)
    return points_along(attacks, seen, direction, rows, [point.offsets for point in curve.points])


def one(name: str, home: str, number: int) -> dict:
    """One model: its trial, params, curve on `val`, and counts on `test`."""
    torch.set_num_threads(1)
    run = load_search(Home(Path(home)), name)
    record = run.history.record(number)
    about = {key: getattr(record, key) for key in ("trial", "method", "params", "seed", "of")}
    return {**about, "val": record.curve.to_dict(), "test": on_test(run, record, record.curve)}


def judged(run: SearchRun) -> list[dict]:
    """Every model that trained all epochs: see `one`."""
    whole = [r.trial for r in run.history.everything() if r.state == TrialState.FINISHED and r.curve is not None]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(one, run.name, str(run.home.root)), whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="srat,done,dafa")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--data", type=Path, help="a folder with train.parquet and test.parquet, in place of digits")
    parser.add_argument("--table", action="store_true")
    args, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    if args.table:
        from benchmarks.held_out_report import write_page

        write_page(stored())
        return
    done = {tuple(row[name] for name in KEY) for row in stored()}
    known_as = " ".join([*([f"{args.data.name} {IMAGES:,}"] if args.data else []), *options])
    for seed in map(int, args.seeds.split(",")):
        for method in args.methods.split(","):
            if (method, seed, known_as) in done:
                continue
            with tempfile.TemporaryDirectory() as home:
                data = thinned(args.data, Path(home) / "images", IMAGES, test=TEST_IMAGES) if args.data else None
                begin = time.time()
                asked = [*options, "--dataset", data] if data else options
                run, said = run_search(method, seed, asked, Path(home) / "home")
                wall = time.time() - begin
                row = {
                    **dict(zip(KEY, (method, seed, known_as))),
                    "objectives": said["objectives"],
                    "trials": said["trials"],
                    "max_epochs": run.spec.max_epochs,
                    "epochs_trained": said["epochs_trained"],
                    "wall_s": round(wall, 1),
                    "torch": torch.__version__,
                    "models": judged(run),
                }
            with open(RESULTS, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{method} seed {seed}: {wall:.0f} s + {time.time() - begin - wall:.0f} s on test", flush=True)


def stored() -> list[dict]:
    """The lines of the results file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


if __name__ == "__main__":
    main()
