"""The result of a verification as values and sentences, which `--json`, the terminal and the report share."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from trainables.class_metrics import class_metrics
from tuner.report.format import fraction, short_label
from tuner.results.pareto import nondominated
from tuner.results.search_run import SearchRun
from tuner.spec.objectives import NATURAL, shown_metrics
from tuner.verification.intervals import class_mean, wilson, worst_class

TEST_SPLIT = "test"
CORRECTION = (
    "Intervals are 95 %. The smallest of several measured accuracies is biased low; the corrected value "
    "subtracts the bias that a class-stratified bootstrap shows, and its interval is the basic bootstrap's, "
    "widened to hold the Wilson interval of the lowest class. Classes have Wilson intervals."
)


def row_of(stored: dict[str, Any], flags: Path) -> dict[str, Any]:
    """A tested model's accuracies (fractions) and their intervals.

    ``stored``: the result that `verify.store` wrote as JSON; ``flags``: the Parquet file of its images beside it.
    Classes without an image are left out.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(flags)
    labels, clean, robust = (table[n].to_numpy() for n in ("label", "clean", "robust"))
    classes = stored["classes"]
    count, is_clean, is_robust = (np.bincount(labels[m], minlength=len(classes)) for m in (slice(None), clean, robust))
    trained = np.array(stored.get("train_counts", [1] * len(classes)))
    metrics = class_metrics(classes, trained.tolist(), count.tolist(), is_clean.tolist(), is_robust.tolist())
    present = count > 0
    names = [c for c, has_images in zip(classes, present) if has_images]
    count, is_clean, is_robust, trained = (a[present] for a in (count, is_clean, is_robust, trained))
    corrected, worst_ci = worst_class(is_robust, count)
    intervals = {
        "robust_acc": class_mean(is_robust, count),
        NATURAL: class_mean(is_robust, count, trained),
        "worst_class_robust_acc": worst_ci,
        "clean_acc": class_mean(is_clean, count),
    }
    if "train_counts" not in stored:  # an earlier version's result
        del metrics[NATURAL], intervals[NATURAL]
    return {
        "trial": stored["trial"],
        "seed": stored["seed"],
        "epoch": stored["epoch"],
        "eps": stored["eps"],
        "images": len(labels),
        **{name: value for name, value in metrics.items() if "/" not in name},
        "worst_class": min(names, key=lambda c: metrics[f"robust_acc/{c}"]),
        "worst_class_robust_acc_corrected": corrected,
        "ci": {**intervals, "level": 0.95},
        "per_class": {
            c: {
                "robust_acc": metrics[f"robust_acc/{c}"],
                "ci": wilson(int(k), int(n)),
                "clean_acc": metrics[f"clean_acc/{c}"],
                "images": int(n),
            }
            for c, k, n in zip(names, is_robust, count)
        },
        "stages": stored["stages"],
        "alarms": stored["alarms"],
        "seconds": stored["seconds"],
        "device": stored["device"],
        "checkpoint": stored["checkpoint"],
        "flags": str(flags),
    }


def summary(run: SearchRun, attack: str, done: list[tuple]) -> dict[str, Any]:
    """What `tuner verify --json` prints. ``done``: pairs of a `verify.Job` and its stored result.

    A row is one of the search's own models; its ``seeds`` has the mean over the models trained anew.
    """
    spec, rows, retrained = run.spec, [], {}
    for job, stored in done:
        flags = job.path.with_suffix(".parquet")
        if job.seed is None:
            rows.append(row_of(stored, flags))
        else:
            failure = {"seed": job.seed, "failed": stored.get("failed")}
            retrained.setdefault(job.trial, []).append(failure if "failed" in stored else row_of(stored, flags))
    for row in rows:
        last = run.history.trials[row["trial"]].last
        row["val"] = {n: last.get(n) for n in shown_metrics(spec.objectives)}
        if row["trial"] in retrained:
            row["seeds"] = _over_seeds(retrained[row["trial"]], spec.objectives)
    front = nondominated([[r[n] for n in spec.objectives] for r in rows], [True] * len(spec.objectives))
    front_trials = [rows[i]["trial"] for i in front]
    return {
        "search": run.name,
        "split": TEST_SPLIT,
        "attack": attack,
        "rows": rows,
        "objectives": list(spec.objectives),
        "front": front_trials,
        "fell_off": [r["trial"] for r in rows if r["trial"] not in front_trials],
        "note": CORRECTION,
        "home": str(run.home.root),
    }


def _over_seeds(rows: list[dict], objectives: tuple[str, ...]) -> dict[str, Any]:
    """Mean and standard deviation over the models trained anew.

    The search's own seed is left out: its trial was selected by its value, which is therefore biased upwards.
    """
    good = [r for r in rows if "failed" not in r]
    values = {n: [r[n] for r in good] for n in shown_metrics(objectives)}
    return {
        "seeds": [r["seed"] for r in good],
        "failed": {str(r["seed"]): r["failed"] for r in rows if "failed" in r},
        **{
            n: {
                "mean": statistics.fmean(v) if v else None,
                "std": statistics.stdev(v) if len(v) > 1 else None,
                "values": v,
            }
            for n, v in values.items()
        },
    }


# ---- as a table and sentences ----------------------------------------------------------------------------------------


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row for each model of the search; an average that is an objective stands first."""
    averages = [n for n in (NATURAL, "robust_acc") if n == "robust_acc" or n in result["objectives"]]
    header = [
        "trial",
        *(text for n in averages for text in (f"{short_label(n)} on val", "on test")),
        "worst class on val",
        "on test",
        "corrected",
        "95 %",
        "clean on test",
        "",
    ]
    rows = []
    for r in result["rows"]:
        low, high = r["ci"]["worst_class_robust_acc"]
        val = r["val"]
        rows.append(
            [
                str(r["trial"]),
                *(text for n in averages for text in (fraction(val.get(n)), _with_ci(r, n))),
                fraction(val.get("worst_class_robust_acc")),
                f"{fraction(r['worst_class_robust_acc'])} ({r['worst_class']})",
                fraction(r["worst_class_robust_acc_corrected"]),
                f"{low:.3f} .. {high:.3f}",
                fraction(r["clean_acc"]),
                "fell off the front" if r["trial"] in result["fell_off"] else "",
            ]
        )
    return header, rows


def _with_ci(row: dict, name: str) -> str:
    low, high = row["ci"][name]
    return f"{row[name]:.3f} ± {(high - low) / 2:.3f}"


def sentences(result: dict[str, Any]) -> list[str]:
    """What the table does not say: which trials fell off the front, the results of other seeds, alarms."""
    rows, fell = result["rows"], result["fell_off"]
    lines = []
    if len(rows) > 1:
        lines.append(
            f"Of {len(rows)} models on the validation front, {len(rows) - len(fell)} are on the front of the "
            "test images"
            + (f"; trial{'s' if len(fell) > 1 else ''} {', '.join(map(str, fell))} fell off." if fell else ".")
        )
    for r in rows:
        if "seeds" in r:
            means = ", ".join(f"{n} {_mean_std(r['seeds'][n])}" for n in shown_metrics(result["objectives"]))
            seeds = ", ".join(map(str, r["seeds"]["seeds"])) or "none"
            lines.append(f"Trial {r['trial']} trained anew with seeds {seeds}: {means}.")
            lines += [f"Trial {r['trial']} with seed {s} failed: {why}." for s, why in r["seeds"]["failed"].items()]
    alarms = [f"ALARM, trial {r['trial']}: {a}." for r in rows for a in r["alarms"]]
    return lines + (alarms or ["No sign of masked gradients."])


def _mean_std(values: dict[str, Any]) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return "-" if values["mean"] is None else f"{values['mean']:.3f}{spread}"
