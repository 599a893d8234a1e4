"""What a trial reports to the driver after a step, as one typed record. Imported by both sides, so without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = dict[str, Any]


@dataclass(frozen=True)
class StemReport:
    """What a step did for the stem, or that it left it.

    ``trained``: the epoch of a stem that this step trained, if any: of the trial's own, or of one under another seed.
    ``outdated``: how many stored stems would fit, were they not of another version of the code or of torch. ``past``:
    the stem's epochs, once the trial has left it. ``name``: that of the stem that was trained or left. ``spare``:
    whether it is one under another seed that was trained.
    """

    trained: int | None = None
    outdated: int = 0
    past: Sequence[Metrics] = ()
    name: str | None = None
    spare: bool = False


@dataclass(frozen=True)
class TrialReport:
    """One report of a trial.

    ``metrics``: of the last finished epoch (see `trainables.loop`), None for a step on the stem or a failure.
    ``epochs``: all its epochs so far, where an actor started anew says them again. ``curve``: of a trial that has
    trained all its epochs, the model over its offsets (`trainables.curve.Curve.to_dict`); None where it was not swept.
    ``notes``: what is worth knowing about it. ``failed``: why it cannot go on (it diverged).
    """

    trial: int
    metrics: Metrics | None = None
    done: bool = False
    epochs: Sequence[Metrics] = ()
    curve: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    stem: StemReport | None = None
    failed: str | None = None

    def to_result(self) -> dict[str, Any]:
        """As Ray Tune takes it; what says nothing is left out."""
        said = {"trial": self.trial, "metrics": self.metrics, "done": self.done}
        if self.stem:
            said["stem"] = {key: value for key, value in vars(self.stem).items() if value}
        return said | {key: value for key in ("epochs", "curve", "notes", "failed") if (value := getattr(self, key))}

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> TrialReport:
        """From Ray Tune's result, nested as its callbacks see it. Ray adds keys of its own, which are left alone."""
        stem = StemReport(**result["stem"]) if result.get("stem") else None
        known = {key: result[key] for key in ("metrics", "done", "epochs", "curve", "notes", "failed") if key in result}
        return cls(result["trial"], stem=stem, **known)


def metrics_of(flat_result: Mapping[str, Any]) -> Metrics:
    """The ``metrics`` of a report that Ray Tune has flattened, as its schedulers see it; empty where it had none."""
    return {k.removeprefix("metrics/"): v for k, v in flat_result.items() if k.startswith("metrics/")}
