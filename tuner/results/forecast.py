"""What a budget may find, before a search starts: by searches that were recorded to their end, and said to be that.

``recorded.json`` is made of benchmarks/results/live.jsonl by `benchmarks.forecast`. Hypervolumes are of natural average
x worst class on the test split, above 0; a training is one of all epochs, judging aside.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuner.results.bill import epochs_within, expected
from tuner.spec.budget import Budget
from tuner.spec.search_spec import SearchSpec

BEYOND = 1.1  # a search that spends so many times as much as any recording is not told a figure of theirs
TABLE = Path(__file__).parent / "recorded.json"


@dataclass(frozen=True)
class Forecast:
    """``trainings``: what the search may spend. ``share``: the mean over the recordings of their hypervolume after so
    much over that at their end, with the ``lowest`` and ``highest`` of them; None where they had no front yet.
    ``ended``: the most that a recording spent. ``recording``: what they are of."""

    trainings: float
    share: float | None
    lowest: float | None
    highest: float | None
    ended: float
    recording: dict[str, Any]
    same: bool

    @property
    def words(self) -> str:
        about, spent = self.recording, f"{self.trainings:.1f} trainings' worth"
        what = (
            f"{about['runs']} recorded searches of {about['method']} on {about['dataset']} ({about['imbalance']}, "
            f"{about['trials']} trials x {about['max_epochs']} epochs)"
        )
        aside = "another seed may differ" if self.same else "this is not that search, and may differ"
        if self.share is None:
            return f"{spent}: {what} had no front so early; {aside}"
        if self.trainings > BEYOND * self.ended:
            return f"{spent}: more than any of {what} spent, {self.ended:.1f} at most; {aside}"
        found = f"about {self.share:.2f} ({self.lowest:.2f} to {self.highest:.2f}) of what they found in the end"
        return f"{spent} gave {what} {found}; {aside}"


def forecast(spec: SearchSpec) -> Forecast | None:
    """What the recordings of the spec's method say of its budget; None where there are none of it, or where its budget
    is one of time, whose epochs nobody knows before."""
    budget = Budget.of(spec.budget)
    recording = _recording(spec)
    if recording is None or spec.time_budget or (budget and budget.unit != "epochs"):
        return None
    trainings = epochs_within(spec, expected(spec)) / spec.max_epochs
    steps = recording["after"]
    at = bisect_right([step["trainings"] for step in steps], trainings) - 1
    found: dict[str, float | None] = steps[at] if at >= 0 else dict.fromkeys(("share", "lowest", "highest"))
    return Forecast(
        trainings,
        share=found["share"],
        lowest=found["lowest"],
        highest=found["highest"],
        ended=recording["ended"],
        recording=recording,
        same=_recorded(recording, spec).identity() == spec.identity() and spec.trials == recording["trials"],
    )


@cache
def _recordings() -> list[dict[str, Any]]:
    return json.loads(TABLE.read_text())["recordings"]


def _recorded(recording: dict[str, Any], spec: SearchSpec) -> SearchSpec:
    """The search that a recording is of, under the seed of ``spec``, whose scheduler it has."""
    names = "method", "dataset", "imbalance", "model", "space", "trials", "max_epochs"
    return SearchSpec(**{name: recording[name] for name in names}, seed=spec.seed, scheduler=spec.scheduler)


def _recording(spec: SearchSpec) -> dict[str, Any] | None:
    """Those of the method and scheduler; of several such that whose data and space are the spec's."""
    asked = spec.methods, spec.scheduling.name
    own = [about for about in _recordings() if ((about["method"],), about["scheduler"]) == asked]
    fits = [(about["imbalance"] == spec.imbalance, about["space"] == spec.space) for about in own]
    return max(zip(fits, own), key=lambda pair: pair[0])[1] if own else None
