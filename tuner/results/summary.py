"""A search's result, as the terminal, `--json` and other programs read it; built from the history alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.files import write_atomically
from tuner.results.pareto import Front
from tuner.results.provisional import provisional
from tuner.results.replicates import fell_off, running, trials_ended, wanted
from tuner.results.search_run import SearchRun
from tuner.results.trial_state import TrialState

SPLIT = "val"  # the only split a search ever sees


def front_json(run: SearchRun) -> dict[str, Any]:
    """What ``tuner front --json`` prints for one search."""
    spec, history, front = run.spec, run.history, run.front()
    paper = history.trials.get(0)
    found: dict[str, Any] = {
        "search": run.name,
        "state": state_of(run),
        "objectives": list(spec.objectives),
        "split": SPLIT,
        "front": list(front.rows),
        "hypervolume": front.hypervolume,
        "reference": [0] * len(spec.objectives),
        "paper": history.row(0, spec.objectives) if paper and paper.state == TrialState.FINISHED else None,
        "trials": {
            "finished": len(history.with_state(TrialState.FINISHED)),
            "stopped": len(history.with_state(TrialState.STOPPED, TrialState.RUNNING)),
            "failed": len(history.with_state(TrialState.FAILED)),
        },
        "home": str(run.home.root),
    }
    if spec.constraint:  # which trials are off the front because of them
        found["infeasible"] = [
            t.trial for t in history.with_state(TrialState.FINISHED) if not spec.goal.feasible(history.judged(t.trial))
        ]
        if found["paper"]:
            found["paper"]["feasible"] = spec.goal.feasible(history.judged(0))
    return found | extras(run)


def extras(run: SearchRun) -> dict[str, Any]:
    """What a search under way, with several seeds or with several methods has to say beside its front."""
    spec, history = run.spec, run.history
    found: dict[str, Any] = {}
    if early := provisional(history, spec.objectives, spec.goal):
        found["provisional"] = {"epoch": early[0], "front": list(early[1].rows), "hypervolume": early[1].hypervolume}
    if spec.seeds > 1:
        found["seeds"] = spec.seeds
        found["replicates"] = {
            state: sum(r.state == state for r in history.replicates.values())
            for state in (TrialState.FINISHED, TrialState.FAILED)
        }
        found["fell_off"] = [history.row(trial, spec.objectives) for trial in fell_off(spec, history)]
    if len(spec.methods) > 1:
        found["methods"] = methods_json(run)
    return found


def methods_json(run: SearchRun) -> list[dict[str, Any]]:
    """For each of several methods: what it got, which part of the front it holds, its paper's setting.

    ``adds``: the hypervolume that the front would lose without this method.
    """
    spec, history, front = run.spec, run.history, run.front()
    rows = []
    for method in spec.methods:
        own = [t for t in history.trials.values() if t.method == method]
        alone, others = (
            [r for r in history.rows(spec.objectives, spec.goal) if (r["method"] == method) is mine]
            for mine in (True, False)
        )
        paper = own[0] if own and own[0].state == TrialState.FINISHED else None
        rows.append(
            {
                "method": method,
                "trials": len(own),
                "epochs": sum(t.trained for t in history.everything() if t.method == method),
                "front": [r["trial"] for r in front.rows if r["method"] == method],
                "hypervolume": Front.of(alone, spec.objectives).hypervolume,
                "adds": front.hypervolume - Front.of(others, spec.objectives).hypervolume,
                "paper": history.row(paper.trial, spec.objectives) if paper else None,
            }
        )
    return rows


def state_of(run: SearchRun) -> str:
    """``finished`` when every trial and replicate asked for has ended (``failed`` if all failed), else ``stopped``."""
    spec, history = run.spec, run.history
    if not trials_ended(spec, history) or wanted(spec, history) or running(history):
        return "stopped"
    return "finished" if history.with_state(TrialState.FINISHED, TrialState.STOPPED) else "failed"


def save_result(folder: Path, result: dict[str, Any] | None) -> None:
    """None: there is no result any more. Written, not removed: a file that is gone would come back from the storage."""
    write_atomically(folder / "result.json", json.dumps(result, indent=1))


def saved_result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else None
