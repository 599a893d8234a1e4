"""A search's result as the terminal, `--json` and other programs read it, computed from the history alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables.reading import intact, read_json, shaped
from tuner.files import write_atomically
from tuner.results import replicates
from tuner.results.assessment import Assessment
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.trial_state import TrialState
from tuner.sync.initial import init_of

OF_THE_RUN = {"state": str, "epochs_trained": int, "wall_s": float}  # what the history does not say, in a result
SPLIT = "val"  # the only split that a search evaluates on


def front_json(run: SearchRun) -> dict[str, Any]:
    """What ``tuner front --json`` prints for one search. All metrics are fractions in [0, 1]."""
    spec, history, front, found = run.spec, run.history, run.front(), run.assessment()
    paper = run.paper_rows()
    result: dict[str, Any] = {
        "search": run.name,
        "state": state_of(run),
        "objectives": list(spec.objectives),
        "split": SPLIT,
        "front": list(found.front.rows if found else front.rows),
        "hypervolume": front.hypervolume,
        "hypervolume_claimed": found and {key: found.hypervolume[key] for key in ("claimed", "ci")},
        "reference": [0] * len(spec.objectives),
        "paper": paper[0] if paper else None,
        "paper_curve": paper,
        "no_search": run.no_search_rows(),
        **_judged_on(found),
        "band": found and _band(found.band),
        "gain": {f"over_{name}": gain for name, gain in found.gain.items()} if found else {},
        "trials": _trial_counts(history),
        "home": str(run.home.root),
    }
    if spec.own_attacks:
        result |= {"own_attacks": list(spec.own_attacks), "gain": {}}
    if spec.constraint:  # finished trials that violate a constraint with all offsets, so they are not on the front
        result["constraint"] = list(spec.constraint)
        kept = {row["trial"] for row in history.rows(spec.objectives, spec.goal)}
        result["infeasible"] = [t.trial for t in history.with_state(TrialState.FINISHED) if t.trial not in kept]
        for row in [*paper, *result["no_search"]]:
            row["feasible"] = spec.goal.feasible(history.metrics_of(row))
    return result | extras(run)


def _judged_on(found: Assessment | None) -> dict[str, Any]:
    """How many images what is said rests on, and where they come in tracks of how many."""
    if found is None:
        return {"images": None}
    return {"images": found.images, **({"tracks": found.tracks} if found.tracks else {})}


def _trial_counts(history: History) -> dict[str, int]:
    """How many trials ended in which way."""
    return {
        "finished": len(history.with_state(TrialState.FINISHED)),
        "previewed": len(history.with_state(TrialState.PREVIEWED)),
        "stopped": len(history.with_state(TrialState.STOPPED, TrialState.RUNNING)),
        "failed": len(history.with_state(TrialState.FAILED)),
        **{
            str(state): number
            for state in (TrialState.WAITING, TrialState.SKIPPED)  # of searches that a user has changed
            if (number := len(history.with_state(state)))
        },
    }


def _band(band: dict[str, list[float]] | None) -> dict[str, list[float]] | None:
    """The 90 % band of the attained front: at ``x`` of the first objective, ``low`` and ``high`` of the second."""
    return band and {"x": band["x"], "low": band["lower"], "high": band["upper"]}


def extras(run: SearchRun) -> dict[str, Any]:
    """The keys of `front_json` that only some searches have: those with several seeds, asked for of all or of single
    trials, or methods, or that start from a trained model."""
    spec, history = run.spec, run.history
    extra: dict[str, Any] = {}
    if start := init_of(spec, run.folder):
        extra["init"] = start
    if spec.seeds > 1 or history.replicates:
        extra["seeds"] = spec.seeds
        extra["replicates"] = {
            state: sum(r.state == state for r in history.replicates.values())
            for state in (TrialState.FINISHED, TrialState.FAILED)
        }
        extra["fell_off"] = [history.row(trial, spec.objectives) for trial in replicates.fell_off(spec, history)]
    if len(spec.methods) > 1:
        extra["methods"] = methods_json(run)
    return extra


def methods_json(run: SearchRun) -> list[dict[str, Any]]:
    """For each method of the search: its trials and epochs, its share of the front, and its default setting.

    ``paper``: that setting's row; ``front``: its trials on the common front; ``hypervolume``: of its own front;
    ``adds``: its exclusive hypervolume, which the common front would lose without it.
    """
    spec, history, front = run.spec, run.history, run.front()
    rows = []
    for method in spec.methods:
        own = [t for t in history.trials.values() if t.method == method]
        own_rows, other_rows = (
            [r for r in history.rows(spec.objectives, spec.goal) if (r["method"] == method) is mine]
            for mine in (True, False)
        )
        paper = own[0] if own and own[0].state == TrialState.FINISHED else None
        rows.append(
            {
                "method": method,
                "trials": len(own),
                "epochs": sum(t.trained for t in history.everything() if t.method == method),
                "front": list(dict.fromkeys(r["trial"] for r in front.rows if r["method"] == method)),
                "hypervolume": Front.of(own_rows, spec.objectives).hypervolume,
                "adds": front.hypervolume - Front.of(other_rows, spec.objectives).hypervolume,
                "paper": history.row(paper.trial, spec.objectives) if paper else None,
            }
        )
    return rows


def state_of(run: SearchRun) -> str:
    """``finished`` if all trials and replicates have ended, or the front is flat where that ends a search; ``failed``
    if all trials failed; else ``stopped``."""
    spec, history = run.spec, run.history
    if not replicates.trials_ended(spec, history) or replicates.wanted(spec, history) or replicates.running(history):
        return "stopped"
    return "failed" if all(t.state == TrialState.FAILED for t in history.trials.values()) else "finished"


def save_result(folder: Path, result: dict[str, Any] | None) -> None:
    """Write ``result.json``. None (no result any more) is written too: a removed file would return from the storage."""
    write_atomically(folder / "result.json", json.dumps(result, indent=1))


def saved_result(folder: Path) -> dict[str, Any] | None:
    """The result that the search's ``folder`` holds; None where there is none, or a damaged one."""

    def read() -> dict[str, Any] | None:
        result = read_json(folder / "result.json")
        fits = shaped(result, OF_THE_RUN) and shaped([*result.get("epochs_saved_by", {}).values()], [int])
        return result if fits else None

    return intact(read)
