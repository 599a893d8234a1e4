"""The result of a verification as values; `tuner.verification.text` makes tables and sentences of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.provenance import paper_label
from trainables.class_metrics import class_metrics
from trainables.reading import Damaged, intact, read_json, shaped
from trainables.threats import LINF, THREATS
from tuner.errors import Failed
from tuner.results.pareto import Front, nondominated, row_label
from tuner.results.search_run import SearchRun
from tuner.spec.objectives import shown_metrics
from tuner.verification.gain import METRICS, over_seeds, paired, verdict
from tuner.verification.intervals import as_tracks, class_mean, independent, wilson, worst_class
from tuner.verification.job import Job
from tuner.verification.rows import ROLES, best_of, feasible

TEST_SPLIT = "test"
TRACK = "track"  # column of the flags where the test images' tracks are known
CORRECTION = (
    "Intervals are 95 %. The smallest of several measured accuracies is biased low; the corrected value "
    "subtracts the bias that a class-stratified bootstrap shows, and its interval is the basic bootstrap's, "
    "widened to hold the Wilson interval of the lowest class. Classes have Wilson intervals. Differences are of the "
    "same images under both models; each interval is for itself, so of many rows some err."
)

# What `tuner.verification.verify.store` writes of a model that was tested.
STORED = {
    **{"trial": int, "seed": int, "epoch": int, "attack": str, "checkpoint": str, "device": str, "seconds": float},
    **{"eps": float, "search_steps": int, "data": str, "classes": [str], "train_counts": [int], "alarms": [str]},
    **{"code": str, "versions": {}},  # the certificate has them
    "threat": str,
    "offsets": {"kind": str, "tau": float, "values": [float]},
    "stages": [{"name": str, "tried": int, "broken": int, "seconds": float}],
}


def is_of(result: dict[str, Any] | None, data: str | None) -> bool:
    """Whether there is a stored result and it is of the test images ``data``; one that failed is of any."""
    return result is not None and ("failed" in result or data in (None, result["data"]))


def row_of(stored: dict[str, Any], flags: Path) -> dict[str, Any]:
    """A tested model's accuracies (fractions) and their intervals.

    ``stored``: the result that `verify.store` wrote as JSON; ``flags``: the Parquet file of its images beside it.
    Classes without an image are left out. ``tracks``, of how many the images are, is there where they may come in
    tracks, each of which counts as one image in intervals; None: nothing says which images are of one, so all count.
    """
    (labels, clean, robust), tracks, hidden = flags_of(flags), tracks_of(flags), stored.get("hidden_tracks")
    classes, train_counts = stored["classes"], np.asarray(stored["train_counts"], dtype=float)
    count, is_clean, is_robust = (np.bincount(labels[m], minlength=len(classes)) for m in (slice(None), clean, robust))
    values = class_metrics(classes, stored["train_counts"], count.tolist(), is_clean.tolist(), is_robust.tolist())
    present = count > 0
    names = [c for c, has_images in zip(classes, present) if has_images]
    count, is_clean, is_robust = count[present], is_clean[present], is_robust[present]
    own = independent(labels, tracks, len(classes))[present]
    right, right_clean = (as_tracks(counts, count, own) for counts in (is_robust, is_clean))
    corrected, worst_ci = worst_class(right, own)
    return {
        "trial": stored["trial"],
        "seed": stored["seed"],
        "epoch": stored["epoch"],
        "offsets": stored["offsets"],
        "threat": stored["threat"],
        "eps": stored["eps"],
        "images": len(labels),
        **({"tracks": int(own.sum())} if tracks is not None else {"tracks": None} if hidden else {}),
        **{name: value for name, value in values.items() if "/" not in name},
        "worst_class": names[int((is_robust / count).argmin())],
        "worst_class_robust_acc_corrected": corrected,
        "ci": {
            "robust_acc": class_mean(right, own),
            "natural_robust_acc": class_mean(right, own, train_counts[present]),
            "worst_class_robust_acc": worst_ci,
            "clean_acc": class_mean(right_clean, own),
            "level": 0.95,
        },
        "per_class": {
            c: {"robust_acc": k / n, "ci": wilson(*found), "clean_acc": a / n, "images": n}
            | ({} if tracks is None else {"tracks": found[1]})
            for c, k, n, a, found in zip(
                names, is_robust.tolist(), count.tolist(), is_clean.tolist(), zip(right.tolist(), own.tolist())
            )
        },
        "stages": stored["stages"],
        "alarms": stored["alarms"],
        "seconds": stored["seconds"],
        "device": stored["device"],
        "checkpoint": stored["checkpoint"],
        "flags": str(flags),
    }


def read_result(path: Path, flags: Path) -> dict[str, Any] | None:
    """A stored result with its per-image flags: what `row_of` takes, or says why it ``failed``. None where it is absent
    or damaged."""
    result = intact(lambda: read_json(path))
    if shaped(result, {"failed": str}):
        return result if flags.exists() else None
    if isinstance(result, dict):
        result = {"threat": LINF, **result}  # earlier versions knew no other and did not say it
    known = shaped(result, STORED) and result["threat"] in THREATS
    return result if known and intact(lambda: row_of(result, flags)) else None


def flags_of(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,) of the test images, and which of them (N,) are classified right without an attack and under it;
    ``Damaged``, or what Arrow raises, where they cannot be read."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    labels, clean, robust = (table[name].to_numpy() for name in ("label", "clean", "robust"))
    if clean.dtype != bool or robust.dtype != bool or (robust & ~clean).any():
        raise Damaged(f"{str(path)!r} does not hold the flags of images")
    return labels, clean, robust


def tracks_of(path: Path) -> np.ndarray | None:
    """(N,) number of the track of each test image in a file of flags; None where it names none, as in those of earlier
    versions. ``Damaged``, or what Arrow raises, where they cannot be read."""
    import pyarrow.parquet as pq

    if TRACK not in pq.read_schema(path).names:
        return None
    tracks = pq.read_table(path, columns=[TRACK])[TRACK].to_numpy()
    if tracks.dtype != np.int64:
        raise Damaged(f"{str(path)!r} does not hold the tracks of images")
    return tracks


def summary(
    run: SearchRun, attack: str, done: list[tuple[Job, dict[str, Any]]], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """What `tuner verify --json` prints. ``done``: jobs with their stored results; ``left_out``: labels
    of the front's rows that were not tested.

    A row is one of the search's own models; its ``seeds`` has the mean over the models trained anew, and ``mean_of``
    the seeds over which the search shows a mean of it, where these are several: ``val`` is of the model alone.
    ``gain``: what each row of the front gains over the best row on val of the default setting and of plain AT.
    """
    spec, rows, retrained = run.spec, [], {}
    for job, stored in done:
        if job.seed is None:
            rows.append({**row_of(stored, job.flags), **_about(job, run)})
        else:
            failure = {"seed": job.seed, "failed": stored.get("failed")}
            retrained.setdefault(job.key, []).append(failure if "failed" in stored else row_of(stored, job.flags))
    for row in rows:
        key = row["trial"], row["offsets"]["tau"]
        if key in retrained:
            row["seeds"] = _over_seeds(retrained[key], spec.objectives)
    ours = [r for r in rows if r["role"] == "front"]
    best = nondominated([[r[n] for n in spec.objectives] for r in ours], [True] * len(spec.objectives))
    on = [ours[i]["label"] for i in best]
    counts = next(stored["train_counts"] for job, stored in done if job.seed is None)
    return {
        "search": run.name,
        "split": TEST_SPLIT,
        "attack": attack,
        "rows": rows,
        "gain": _gain(rows, run, counts),
        "subject": _subject(run.assessed_front(), ours),
        "objectives": list(spec.objectives),
        "front": on,
        "fell_off": [r["label"] for r in ours if r["label"] not in on],
        "left_out": list(left_out),
        "note": CORRECTION,
        "home": str(run.home.root),
    }


def _subject(front: Front, ours: list[dict]) -> dict[str, str]:
    """The row whose gain the report begins with, and why: the knee on val, since a row that is chosen by its test value
    would gain by chance."""
    knee = row_label(front.knee()) if front.rows else ""
    if any(row["label"] == knee for row in ours):
        return {"label": knee, "why": "the knee of the front on val"}
    return {"label": ours[0]["label"], "why": "the point asked for"}


def _about(job: Job, run: SearchRun) -> dict[str, Any]:
    """What a row says of a job beside what was measured on test."""
    record = run.history.record(job.trial)
    val = next(metrics for offsets, metrics in record.points if offsets.tau == job.offsets.tau)
    shown = shown_metrics(run.spec.objectives)
    label = row_label({"trial": job.trial, "offsets": job.offsets.to_dict()})
    about = {"label": label, "name": job.name, "role": job.role, "also": list(job.also)}
    if "paper" in (job.role, *job.also):
        about["setting"] = paper_label(record.method, record.params)
    if run.spec.constraint:
        about["feasible"] = feasible(run, _on_val(run, job.trial, job.offsets.tau))
    if len(seeds := run.history.seeds_of(job.trial)) > 1:
        about["mean_of"] = [of.seed for of in seeds]
    return {**about, "val": {n: val.get(n) for n in shown}}


def _on_val(run: SearchRun, trial: int, tau: float) -> dict[str, Any]:
    """What the search's own front or reference has of the point: with replicates means over them."""
    return next(r for r in run.history.rows_of(trial, run.spec.objectives) if r["offsets"]["tau"] == tau)


def _gain(rows: list[dict], run: SearchRun, train_counts: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for each row of the front, reference and metric of `METRICS`. A reference that violates the search's
    constraints with all its offsets is none."""
    found, objectives = [], run.spec.objectives
    for over in ROLES[1:]:
        known = [
            r
            for r in compared_as(over, rows)
            if r.get("feasible", True) and all(r["val"].get(n) is not None for n in objectives)
        ]
        if not known:
            continue
        reference = known[best_of(run, [_on_val(run, r["trial"], r["offsets"]["tau"]) for r in known])]
        for row in rows:
            if row["eps"] != reference["eps"]:  # a search that varies it: a smaller radius is no better model
                continue
            if row["role"] == "front" and over not in row["also"]:  # else it is a point of the reference itself
                found += _gain_over(row, reference, over, train_counts)
    return found


def compared_as(over: str, rows: list[dict]) -> list[dict]:
    """The rows of the reference ``over``."""
    return [row for row in rows if over in (row["role"], *row["also"])]


def _gain_over(row: dict, reference: dict, over: str, train_counts: Sequence[int]) -> list[dict[str, Any]]:
    labels, _, mine = flags_of(Path(row["flags"]))
    same, _, theirs = flags_of(Path(reference["flags"]))
    if not np.array_equal(labels, same):
        raise Failed(f"{row['name']} and {reference['name']} were tested on different images; remove the verify folder")
    entries = []
    tracks = tracks_of(Path(row["flags"]))
    for metric, (difference, ci) in paired(labels, mine, theirs, train_counts, tracks=tracks).items():
        entry = {
            "row": row["label"],
            "over": over,
            "reference": reference["label"],
            "metric": metric,
            "difference": difference,
            "ci": ci,
            "verdict": verdict(ci),
        }
        if "seeds" in row and "seeds" in reference:
            first, second = (dict(zip(r["seeds"]["seeds"], r["seeds"][metric]["values"])) for r in (row, reference))
            entry["seeds"] = over_seeds(first, second)
        entries.append(entry)
    return entries


def _over_seeds(rows: list[dict], objectives: tuple[str, ...]) -> dict[str, Any]:
    """Mean and standard deviation over the models trained anew.

    The search's own seed is left out: its trial was selected by its value, which is therefore biased upwards.
    """
    good = [r for r in rows if "failed" not in r]
    values = {n: [r[n] for r in good] for n in dict.fromkeys([*METRICS, *shown_metrics(objectives)])}
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
