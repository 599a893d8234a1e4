"""The table behind `tuner.results.forecast`, from the recorded searches of `benchmarks.live`.

    python -m benchmarks.pages            # writes it with the other generated files

A recording is a run of an arm of ``SCHEDULERS`` with four workers, swept over offsets, with the problem's own settings;
its trace has what was spent, judging included, and the hypervolume on test. The share of judging is taken to be the
same all along.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.live_problem import PROBLEMS
from tuner.results.forecast import TABLE as TABLE

SCHEDULERS = {"ours": "preview", "ours in full": "none"}  # by arm
LEAST = 5  # recordings of a problem: with fewer a mean says too little
STEP = 0.5  # trainings between two lines
WORKERS = 4  # more of them spend more before the first model is shown, so their runs are other searches
Run = dict[str, Any]


def table(runs: Sequence[Run]) -> str:
    """The file's text."""
    about = "made by python -m benchmarks.pages of benchmarks/results/live.jsonl; do not edit"
    by_search: dict[tuple, list[Run]] = {}
    for run in runs:
        as_it_comes = (run["offsets"], run["set"], run["workers"]) == ("auto", {}, WORKERS)
        if run["arm"] in SCHEDULERS and as_it_comes and run["trace"]:
            if _on_digits(run["problem"]):
                by_search.setdefault((run["problem"], run["arm"], run["trials"], run["epochs"]), []).append(run)
    found = [_recording(*key, by_search[key]) for key in sorted(by_search)]
    recordings = [recording for recording in found if recording["runs"] >= LEAST]
    return json.dumps({"about": about, "recordings": recordings}, indent=1) + "\n"


def _on_digits(name: str) -> bool:
    return name in PROBLEMS and not PROBLEMS[name].needs_data


def _recording(name: str, arm: str, trials: int, epochs: int, runs: list[Run]) -> dict[str, Any]:
    """Steps at which all runs had a front; a run that has ended keeps what it found."""
    problem = PROBLEMS[name]
    traces = [_trace(run) for run in runs]
    first = max(trace[0][0] for trace in traces)
    ended = max(_trainings(run) for run in runs)
    steps = [STEP * n for n in range(math.ceil(first / STEP), math.ceil(ended / STEP) + 1)]
    return {
        "method": problem.method,
        "dataset": "digits",
        "imbalance": problem.imbalance,
        "model": problem.model,
        "space": problem.space,
        "scheduler": SCHEDULERS[arm],
        "trials": trials,
        "max_epochs": epochs,
        "runs": len(runs),
        "ended": round(ended, 2),
        "after": [_step(at, traces) for at in steps],
    }


def _trainings(run: Run) -> float:
    return run["epochs_trained"] / run["epochs"]


def _trace(run: Run) -> list[tuple[float, float]]:
    """(trainings' worth, hypervolume over that at the end)"""
    scale, end = _trainings(run) / run["cost"], run["trace"][-1]["held_out"]
    return [(point["cost"] * scale, point["held_out"] / end) for point in run["trace"]]


def _step(at: float, traces: list[list[tuple[float, float]]]) -> dict[str, float]:
    shares = [[share for when, share in trace if when <= at][-1] for trace in traces]
    found = {"share": statistics.fmean(shares), "lowest": min(shares), "highest": max(shares)}
    return {"trainings": at, **{key: round(value, 3) for key, value in found.items()}}
