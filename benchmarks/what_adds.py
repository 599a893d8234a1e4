"""What is left to gain once offsets are free? Every method at its default setting, and every common knob on plain AT.

    python -m benchmarks.what_adds [--seeds 0-4] [--processes 2]
    python -m benchmarks.what_adds --table           # docs/experiments/what-adds.md from the stored results

One training each on digits exp:10, twelve epochs as in the default job; a method with a ``start`` forks from the stem
there. The model is swept over class offsets on `val`, and those that no other offset of its own dominates there are
scored on `test`: the hypervolume of natural average and worst class, beside that of plain AT of the same seed. Each
training is one line of benchmarks/results/what_adds.jsonl; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from textwrap import fill

import torch
from scipy.stats import t as student

from benchmarks.live import append, memo_once, numbers
from benchmarks.live_problem import Job, Problem
from benchmarks.live_stages import Line, Stage, device_kind, stem_kind
from search_spaces import METHODS
from trainables.datasets import training_for
from tuner.results.pareto import nondominated, volume
from tuner.results.references import PLAIN
from tuner.results.trial_record import TrialRecord
from tuner.spec.objectives import NATURAL, WORST

RESULTS = Path(__file__).parent / "results" / "what_adds.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "experiments" / "what-adds.md"
DEFAULTS = asdict(training_for("digits"))
KNOBS: dict[str, dict] = {
    **{f"augment={kind}": {"augment": kind} for kind in ("none", "crop", "crop-flip")},
    "label_smoothing=0.1": {"label_smoothing": 0.1},
    "awp=0.005": {"awp": 0.005},
    "ema=0.99": {"ema": 0.99},
    "class_weights=inverse": {"class_weights": "inverse"},
    "class_weights=effective": {"class_weights": "effective"},
    "weight_decay x 4": {"weight_decay": 4 * DEFAULTS["weight_decay"]},
    "lr x 0.3": {"lr": 0.3 * DEFAULTS["lr"]},
    "schedule=cosine": {"schedule": "cosine"},
}
LONGER = "twice the epochs"
SAME = 0.01  # of plain AT's hypervolume: a setting that is never farther from it trains its model


def settings() -> list[str]:
    """Plain AT first, then everything that differs from it."""
    knobs = [name for name, changes in KNOBS.items() if any(DEFAULTS[k] != v for k, v in changes.items())]
    return [PLAIN, *knobs, LONGER, *(name for name in METHODS if name != PLAIN)]


def line_of(setting: str, seed: int, home: Path) -> Line:
    """The training of a setting."""
    method = setting if setting in METHODS else PLAIN
    job = Job(Problem(method), seed, home=str(home))
    if setting == LONGER:
        job = replace(job, problem=replace(job.problem, epochs=2 * job.problem.epochs))
    spec = job.spec()
    record = TrialRecord(1, spec.search_space().default(), method, seed=seed)
    config = job.config(record, spec)
    config = replace(config, training={**config.training, **KNOBS.get(setting, {})})
    stem = job.stem(spec, *stem_kind(config)) if config.fork else None
    return Line(config, stem)


def one(setting: str, seed: int, memo: str) -> dict:
    """A setting's line in the results."""
    torch.set_num_threads(1)
    kept = memo_once(Path(memo))
    line = line_of(setting, seed, kept.home)
    result = kept.run(Stage(line, line.first, line.last, watched=False, judge="auto"))
    about = {"setting": setting, "seed": seed, "epochs": line.last, "fork": line.first, "torch": torch.__version__}
    about["cpu"] = device_kind(torch.device("cpu"))  # on another one a seed has other luck
    if result.curve is None:
        return {**about, "failed": result.failed, "claimed": 0.0, "held_out": 0.0}
    on_test = kept.held_out(line, line.last, "auto")
    val, test = (
        [tuple(curve.metrics(point)[name] for name in (NATURAL, WORST)) for point in curve.points]
        for curve in (result.curve, on_test)
    )
    chosen = nondominated(val, [True, True])
    taus = [result.curve.points[i].offsets.tau for i in chosen]
    return {**about, "taus": taus, "claimed": volume(val), "held_out": volume([test[i] for i in chosen]), "test": test}


def stored() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def ratios(rows: list[dict]) -> dict[str, list[float]]:
    """Setting -> its hypervolume on `test` over plain AT's of the same seed and kind of CPU, where there are both and
    neither diverged."""
    plain = {(row["seed"], row.get("cpu")): row["held_out"] for row in rows if row["setting"] == PLAIN}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["setting"] != PLAIN and "failed" not in row and (base := plain.get((row["seed"], row.get("cpu")))):
            found.setdefault(row["setting"], []).append(row["held_out"] / base)
    return found


def spread(found: dict[str, list[float]]) -> tuple[float, int]:
    """(standard deviation of a log ratio between seeds, pooled over all settings; its degrees of freedom).

    Two to four seeds say next to nothing of one setting's own. Settings that train plain AT's model, or nearly, would
    make it too small and are left out.
    """
    logs = [[math.log(ratio) for ratio in values] for values in found.values() if not same(values)]
    freedom = sum(len(values) - 1 for values in logs)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in logs if len(values) > 1)
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.inf, 1)


def same(values: list[float]) -> bool:
    """Whether a setting trains plain AT's model, or nearly."""
    return all(abs(ratio - 1) < SAME for ratio in values)


def interval(values: list[float], deviation: float, freedom: int) -> tuple[float, float, float]:
    """Geometric mean and its 95 % interval (Student's t, with the pooled ``deviation`` of the logarithms)."""
    middle = statistics.fmean(map(math.log, values))
    half = student.ppf(0.975, freedom) * deviation / math.sqrt(len(values))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def page(rows: list[dict]) -> str:
    """The page of the stored results."""
    plain = [row["held_out"] for row in rows if row["setting"] == PLAIN]
    found, failed = ratios(rows), Counter(row["setting"] for row in rows if "failed" in row)
    deviation, freedom = spread(found)
    lines = [
        "# What is left to gain once offsets are free",
        "",
        fill(
            "Written by `make docs` from `benchmarks/results/what_adds.jsonl`, which is what "
            "`python -m benchmarks.what_adds` measured on digits exp:10 (cnn, 12 epochs): one training each, swept "
            "over class offsets, chosen on `val`, scored on `test`.",
            116,
        ),
        "",
        fill(
            f"Plain AT has a hypervolume (natural average x worst class) of {statistics.fmean(plain):.3f} on `test`, "
            f"from {min(plain):.3f} to {max(plain):.3f} (trainings: {len(plain)}). The others as a ratio to plain AT "
            "of the same seed on the same kind of CPU (rows of before that was kept count as one other kind): "
            "geometric mean and its 95 % interval, by Student's t with one standard deviation between seeds for all "
            f"settings: {deviation:.2f} of the log ratio ({freedom} degrees of freedom; settings within {SAME:.0%} of "
            "plain AT under every seed are left out of it, they train the same model). "
            f"Of {len(found)} settings that change nothing, about {0.025 * len(found):.0f} would be said to add "
            "something, and as many to cost something.",
            116,
        ),
        "",
        "| setting | | ratio | 95 % interval | pairs | |",
        "|---|---|---:|---:|---:|---|",
    ]
    intervals = {name: interval(values, deviation, freedom) for name, values in found.items()}
    for name, (mean, low, high) in sorted(intervals.items(), key=lambda item: -item[1][0]):
        kind, values = "method" if name in METHODS else "knob", found[name]
        verdict = "adds" if low > 1 else "costs" if high < 1 else "not distinguishable"
        verdict = "as plain AT" if same(values) else verdict
        verdict += f"; diverged under {failed[name]} more" if failed[name] else ""
        lines.append(f"| {name} | {kind} | {mean:.2f} | {low:.2f} .. {high:.2f} | {len(values)} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=list(range(5)), help="such as 0-4")
    parser.add_argument("--settings", default=",".join(settings()))
    parser.add_argument("--memo", type=Path, default=Path("tuner-home") / "live")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="write the page; train nothing")
    args = parser.parse_args()
    if args.table:
        PAGE.write_text(page(stored()))
        return
    here = device_kind(torch.device("cpu"))
    done = {(row["setting"], row["seed"]) for row in stored() if row.get("cpu") == here}
    todo = [(name, s) for s in args.seeds for name in args.settings.split(",") if (name, s) not in done]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(one, name, seed, str(args.memo)) for name, seed in todo]):
            row = future.result()
            append(RESULTS, row)
            print(f"{row['setting']} seed {row['seed']}: {row['held_out']:.3f}", flush=True)


if __name__ == "__main__":
    main()
