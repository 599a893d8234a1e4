"""Warm start: the model of a new search learns from the trials of an earlier one whose values mean the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from trainables.reading import LOG_BYTES, read_bytes
from trainables.schedule import drop_epochs
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.observations import Worth
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec

# The fields that must agree for a value of the earlier search to be a value of this one.
_SAME = (
    *("method", "dataset", "image_size", "groups", "imbalance", "val_fraction", "val_per_class"),
    *("model", "init", "extra_data", "extra_ratio", "max_epochs", "burn_in", "offsets"),
)


def check_warm(spec: SearchSpec, home: Home) -> None:
    """``UsageError`` in one sentence where the earlier search is unknown, or its values mean something else.

    Once its trials are kept with this search, the earlier one is not read any more: it may be gone.
    """
    if not spec.warm_start or _kept(home.search(spec.search_name)).exists():
        return
    if not SAMPLERS[spec.sampler].warm_starts:
        raise UsageError(
            f"--warm-start {spec.warm_start!r} has no effect with --sampler {spec.sampler}; choose "
            f"one of: {', '.join(name for name, row in SAMPLERS.items() if row.warm_starts)}"
        )
    earlier = load_search(home, spec.warm_start)
    _check_same(spec, earlier.spec)
    ended = [t for t in earlier.history.trials.values() if t.preview or t.state == TrialState.FINISHED]
    metrics = [t.preview.metrics if t.preview else t.last for t in ended]
    unknown = [name for name in spec.objectives if all(name not in found for found in metrics)]
    if ended and unknown:  # made by an earlier version
        raise UsageError(f"--warm-start {spec.warm_start!r} did not record {', '.join(unknown)}, an objective here")
    if not any(map(Worth.of(spec), ended)):
        raise UsageError(f"--warm-start {spec.warm_start!r} has no finished trial to learn from")


def _check_same(spec: SearchSpec, theirs: SearchSpec) -> None:
    differs = [n for n in _SAME if getattr(theirs, n) != getattr(spec, n)]
    found = [f"{n} {getattr(theirs, n)!r} there, {getattr(spec, n)!r} here" for n in differs]
    if theirs.threat_model.name != spec.threat_model.name:
        found.append(f"threat {theirs.threat!r} there, {spec.threat!r} here")
    if theirs.scheduling.previewing != spec.scheduling.previewing:
        found.append(f"scheduler {theirs.scheduling.name!r} there, {spec.scheduling.name!r} here")
    if found:
        pairs = "; ".join(found)
        raise UsageError(f"--warm-start {spec.warm_start!r} does not fit this search: {pairs}")
    there, here = theirs.shown_space(), spec.shown_space()
    if set(there.searched) != set(here.searched):
        raise UsageError(
            f"--warm-start {spec.warm_start!r} searches another space: {', '.join(there.searched)} there, "
            f"{', '.join(here.searched)} here"
        )
    if there.fixed != here.fixed:
        raise UsageError(
            f"--warm-start {spec.warm_start!r} has other parameters fixed: {there.fixed} there, {here.fixed} here"
        )
    pairs = "; ".join(_trained_otherwise(spec, theirs))
    if pairs:
        raise UsageError(f"--warm-start {spec.warm_start!r} was trained otherwise: {pairs}")


def _trained_otherwise(spec: SearchSpec, theirs: SearchSpec) -> list[str]:
    """Training settings that differ, by --set, --recipe, or the defaults of another version."""
    found = dict[str, str]()
    for there, here in zip(theirs.lanes, spec.lanes):
        ours, others = asdict(here.training()), asdict(there.training())
        drops = (drop_epochs(settings["milestones"], spec.max_epochs) for settings in (ours, others))
        differs = [n for n in ours if ours[n] != others[n] and (n != "milestones" or next(drops) != next(drops))]
        found |= {name: f"{name} {others[name]!r} there, {ours[name]!r} here" for name in differs}
    return list(found.values())


def warm_trials(spec: SearchSpec, home: Home, folder: Path) -> list[TrialRecord]:
    """The earlier search's trials, as they were when this search first started; kept in ``folder``."""
    if not spec.warm_start:
        return []
    kept = _kept(folder)
    if not kept.exists():
        write_atomically(kept, read_bytes(home.search(spec.warm_start) / "history.jsonl", LOG_BYTES))
    return list(History(kept.parent).trials.values())


def _kept(folder: Path) -> Path:
    return folder / "warm-start" / "history.jsonl"
