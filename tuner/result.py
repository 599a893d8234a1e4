"""A search's result, as the terminal, `--json` and other programs read it; built from the history alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.front import Front
from tuner.history import FAILED, FULL, RUNNING, STOPPED, History
from tuner.home import Home, UsageError, write_atomically
from tuner.spec import SearchSpec

SPLIT = "val"  # the only split a search ever sees


def load_search(home: Home, name: str) -> tuple[SearchSpec, History]:
    """A search of this home by name; ``UsageError`` offers the nearest names."""
    folder = home.search(name)
    path = folder / "spec.yaml"
    if not path.exists():
        import difflib

        near = difflib.get_close_matches(name, home.names(), n=3, cutoff=0.3) or home.names()[-3:]
        hint = f"did you mean {', '.join(near)}?" if near else "this home has no search yet"
        raise UsageError(f"no search {name!r} in {str(home.root)!r}; {hint}")
    return SearchSpec.from_yaml(path.read_text()), History(folder)


def load_front(name: str, home: Home | None = None) -> Front:
    """The Pareto front of a search by name, over its trials of full budget."""
    spec, history = load_search(home or Home(), name)
    return Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)


def front_json(spec: SearchSpec, name: str, home: Home, history: History) -> dict[str, Any]:
    """What ``tuner front --json`` prints for one search."""
    front = Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)
    paper = history.trials.get(0)
    found = {
        "search": name, "state": state_of(spec, history), "objectives": list(spec.objectives), "split": SPLIT,
        "front": list(front.rows), "hypervolume": front.hypervolume, "reference": [0] * len(spec.objectives),
        "paper": paper.row(spec.objectives) if paper and paper.state == FULL else None,
        "trials": {"finished": len(history.with_state(FULL)), "stopped": len(history.with_state(STOPPED, RUNNING)),
                   "failed": len(history.with_state(FAILED))},
        "home": str(home.root),
    }
    if spec.constraint:  # who is off the front because of them
        found["infeasible"] = [t.trial for t in history.with_state(FULL) if not spec.goal.feasible(t.last)]
        if found["paper"]:
            found["paper"]["feasible"] = spec.goal.feasible(paper.last)
    return found


def total_trials(spec: SearchSpec) -> int:
    """How many trials the search has: one where nothing is searched."""
    return spec.trials if spec.search_space().searched else 1


def state_of(spec: SearchSpec, history: History) -> str:
    """``finished`` when every trial asked for has ended (``failed`` if all of them failed), else ``stopped``."""
    ended = history.with_state(FULL, STOPPED, FAILED)
    if len(ended) < total_trials(spec):
        return "stopped"
    return "failed" if all(t.state == FAILED for t in ended) else "finished"


def save_result(folder: Path, result: dict[str, Any]) -> None:
    write_atomically(folder / "result.json", json.dumps(result, indent=1))


def saved_result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else None
