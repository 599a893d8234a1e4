"""Classify why a trial was interrupted: its own exception, a dead process, a lost node, or a storage that failed."""

from __future__ import annotations

from pathlib import Path

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from trainables.processes import ProcessDied
from trainables.ray_adapter import StorageDown

OWN, PROCESS, NODE, STORAGE = "own", "process", "node", "storage"


def classify_failure(error: Exception | str) -> tuple[str, str]:
    """The kind of failure (OWN, PROCESS, NODE or STORAGE) and its reason in one line.

    PROCESS: the trial's process, or one of several, was killed, ran out of memory or crashed.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if not isinstance(error, RayActorError) or error.actor_init_failed:
        for raised, kind in ((StorageDown, STORAGE), (ProcessDied, PROCESS)):
            _, found, reason = lines[-1].partition(f"{raised.__name__}: ")
            if found:
                return kind, reason
        return OWN, lines[-1]
    if error.preempted or "its node has died" in str(error):
        address = next((line.removeprefix("ip: ") for line in lines if line.startswith("ip: ")), "")
        return NODE, f"its node {address} was lost".replace("  ", " ")
    return PROCESS, next((line for line in lines if line.startswith("The actor is dead")), lines[0]).split(". ")[0]


def error_of(trial: Trial) -> Exception | str:
    """The error of an interrupted trial, which Ray stores in the driver's folder; text if it could not be pickled."""
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return Path(trial.error_file).read_text() if trial.error_file else "no reason given"
