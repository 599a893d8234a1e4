"""Warm start: what an earlier search found out tells the model of a new one, where its numbers mean the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner.history import FULL, History, TrialRecord
from tuner.home import Home, UsageError
from tuner.spec import SearchSpec

# What must agree for a value of the earlier search to be a value of this one.
_SAME = ("method", "dataset", "imbalance", "model", "max_epochs", "set", "fix")


def check_warm(spec: SearchSpec, home: Home) -> None:
    """``UsageError`` in one sentence where the earlier search is unknown or speaks of something else."""
    from tuner.result import load_search

    if not spec.warm_start:
        return
    theirs, history = load_search(home, spec.warm_start)
    differs = [n for n in _SAME if getattr(theirs, n) != getattr(spec, n)]
    if theirs.identity().get("trunk") != spec.identity().get("trunk"):  # at:N changes values, auto and none do not
        differs.append("trunk")
    if differs:
        pairs = "; ".join(f"{n} {getattr(theirs, n)!r} there, {getattr(spec, n)!r} here" for n in differs)
        raise UsageError(f"--warm-start {spec.warm_start!r} does not fit this search: {pairs}")
    there, here = theirs.shown_space().searched, spec.shown_space().searched
    if set(there) != set(here):
        raise UsageError(f"--warm-start {spec.warm_start!r} searches another space: {', '.join(there)} there, "
                         f"{', '.join(here)} here")
    if not history.with_state(FULL):
        raise UsageError(f"--warm-start {spec.warm_start!r} has no finished trial to learn from")


def warm_trials(spec: SearchSpec, home: Home, folder: Path) -> list[TrialRecord]:
    """The earlier search's trials of full budget, as they were when this search first started."""
    if not spec.warm_start:
        return []
    kept = folder / "warm-start"
    if not (kept / "history.jsonl").exists():
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(home.search(spec.warm_start) / "history.jsonl", kept / "history.jsonl.tmp")
        (kept / "history.jsonl.tmp").replace(kept / "history.jsonl")
    return History(kept).with_state(FULL)
