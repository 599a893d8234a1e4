"""How trials break off, as Ray tells it: by an exception of their own, with their process, with their whole node, or
because the storage failed them."""

from __future__ import annotations

from pathlib import Path

from ray import cloudpickle
from ray.exceptions import RayActorError

from trainables.ray_adapter import StorageDown

OWN, PROCESS, NODE, STORAGE = "own", "process", "node", "storage"


def why_it_broke_off(error: Exception | str) -> tuple[str, str]:
    """(OWN, PROCESS, NODE or STORAGE, the reason in one line). A process is killed, out of memory or crashes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if not isinstance(error, RayActorError) or error.actor_init_failed:
        _, down, reason = lines[-1].partition(f"{StorageDown.__name__}: ")
        return (STORAGE, reason) if down else (OWN, lines[-1])
    if error.preempted or "its node has died" in str(error):
        address = next((line.removeprefix("ip: ") for line in lines if line.startswith("ip: ")), "")
        return NODE, f"its node {address} was lost".replace("  ", " ")
    return PROCESS, next((line for line in lines if line.startswith("The actor is dead")), lines[0]).split(". ")[0]


def error_of(trial) -> Exception | str:
    """What Ray wrote down of a trial's end, in the driver's own folder; what it could not pickle is text."""
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return Path(trial.error_file).read_text() if trial.error_file else "no reason given"
