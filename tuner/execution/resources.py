"""The resources that one trial needs, whether any node has them, and how many trials share a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from trainables.config import TrialConfig
from tuner.errors import UsageError
from tuner.spec.search_spec import SearchSpec

# A node has 1 of the resource "accelerator_type:KIND" for its kind of accelerator; a trial asks for a small part of it.
LABEL = "accelerator_type:"
AUTO = "auto"
# Quotas of a cluster that several people use: resources with these beginnings, which its administrator gives to a node,
# usually the head. A trial takes one of them, or its GPUs, wherever it runs itself.
OWNER, OWNER_GPUS, PRIORITY = "owner:", "owner_gpus:", "priority:"
OTHERS = "others"  # the owner for all that have no quota of their own
QUOTAS = (OWNER, OWNER_GPUS, PRIORITY)


def trial_resources(spec: SearchSpec) -> dict[str, float]:
    """The resources of one trial under Ray's names. ``auto`` counts as a whole GPU until it is measured; of several
    processes each has a CPU."""
    gpus = 1.0 if spec.gpus_per_trial == AUTO else spec.gpus_per_trial
    label = {f"{LABEL}{spec.accelerator}": 0.001} if spec.accelerator else {}
    cpus = max(spec.cpus_per_trial, float(spec.processes)) if spec.processes > 1 else spec.cpus_per_trial
    return {"CPU": cpus, "GPU": gpus, **label}


def threads_per_process(spec: SearchSpec) -> int:
    """How many threads each process of a trial computes with: whole CPUs, one at least."""
    return max(1, int(spec.cpus_per_trial / spec.processes))


def quota_of(spec: SearchSpec, cluster: Mapping[str, float]) -> dict[str, float]:
    """What a trial takes of the cluster's quotas; empty where it has none for it. ``cluster``: all its resources.

    ``UsageError`` where a quota is smaller than what a single trial takes, which would wait for ever.
    """
    amounts = {OWNER: 1.0, OWNER_GPUS: trial_resources(spec)["GPU"]}
    named = {
        next((f"{kind}{name}" for name in (spec.owned_by, OTHERS) if f"{kind}{name}" in cluster), ""): amount
        for kind, amount in amounts.items()
    }
    taken = {**named, f"{PRIORITY}{spec.priority}": 1.0}
    found = {name: amount for name, amount in taken.items() if amount and name in cluster}
    for name, amount in found.items():
        if cluster[name] < amount:
            raise UsageError(f"a trial takes {amount:g} of {name}, and the cluster has {cluster[name]:g}")
    return found


def at_a_time(quota: Mapping[str, float], cluster: Mapping[str, float]) -> int | None:
    """How many trials the quotas allow at a time, those of others left aside; None: any number."""
    return min((int(cluster[name] / amount + 1e-9) for name, amount in quota.items()), default=None)


def unsatisfiable_resources(spec: SearchSpec, nodes: list[dict[str, float]]) -> str | None:
    """Why no node can run a trial (it would wait for ever), in one sentence; None if one can.

    ``nodes``: the resources of each node, under Ray's names.
    """
    needed = {kind: amount for kind, amount in trial_resources(spec).items() if amount}
    if spec.gpus_per_trial == AUTO and not spec.accelerator:
        needed.pop("GPU")  # where there is no GPU, auto means none
    if any(all(node.get(kind, 0.0) >= amount for kind, amount in needed.items()) for node in nodes):
        return None
    return (
        _absent_accelerator(spec.accelerator, nodes)
        or _too_much_of_one(needed, nodes)
        or _too_much_together(needed, spec.accelerator)
    )


def _absent_accelerator(accelerator: str | None, nodes: list[dict[str, float]]) -> str | None:
    if not accelerator or any(f"{LABEL}{accelerator}" in node for node in nodes):
        return None
    kinds = sorted({kind[len(LABEL) :] for node in nodes for kind in node if kind.startswith(LABEL)})
    return f"--accelerator {accelerator!r} is on no node; they have {', '.join(kinds) if kinds else 'none'}"


def _too_much_of_one(needed: dict[str, float], nodes: list[dict[str, float]]) -> str | None:
    for kind in ("CPU", "GPU"):
        most = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if needed.get(kind, 0.0) > most:
            return f"--{kind.lower()}s-per-trial {needed[kind]:g} is more than any node has: the most is {most:g}"
    return None


def _too_much_together(needed: dict[str, float], accelerator: str | None) -> str:
    gpus = [f"{needed['GPU']:g} GPUs"] if "GPU" in needed else []
    listed = [f"{needed['CPU']:g} CPUs", *gpus, *([accelerator] if accelerator else [])]
    return f"no node has all that a trial asks for ({', '.join(listed)}); ask for less of one of them"


def fraction(at_a_time: int) -> float:
    """A trial's share of a GPU that ``at_a_time`` trials use, rounded down to Ray's precision of 1/10,000, so that all
    of them fit."""
    return math.floor(10_000 / at_a_time) / 10_000


def resolve_gpus_per_trial(
    ray: ModuleType, spec: SearchSpec, first: Callable[[], TrialConfig], say: Callable[[str], None]
) -> SearchSpec:
    """The spec with ``gpus_per_trial="auto"`` replaced by a number; unchanged if it holds a number already.

    The trial that ``first`` makes is measured on a GPU of the cluster, alone and beside copies of itself; ``say``
    prints what was measured. ``UsageError`` if that fails, or if a kind of GPU is asked for that no node has yet.
    """
    from trainables.gpu_packing import choose, measure

    if spec.gpus_per_trial != AUTO:
        return spec
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    if spec.accelerator:
        nodes = [node for node in nodes if f"{LABEL}{spec.accelerator}" in node]
        if not nodes:
            raise UsageError(
                f"--gpus-per-trial auto is measured on a GPU, and no node has an {spec.accelerator} now; give a "
                "number, for which the cluster may add a node"
            )
    if not nodes:
        say("gpus-per-trial auto: no GPU found, trials run on CPUs")
        return replace(spec, gpus_per_trial=0.0)
    most = max(1, int(min(node.get("CPU", 0.0) / node["GPU"] for node in nodes) / spec.cpus_per_trial))
    task = ray.remote(measure).options(num_returns="streaming", max_retries=0, **_as_task_options(spec))
    rates: dict[int, float] = {}
    try:
        for ref in task.remote(first(), most, max(1, int(spec.cpus_per_trial))):
            row = ray.get(ref)
            rates[row["at_a_time"]] = row["images_per_s"]
            say(
                f"gpus-per-trial auto: {row['at_a_time']} at a time train {row['images_per_s']:.0f} images/s in all; "
                f"one takes {row['memory'] / 2**30:.1f} of {row['total'] / 2**30:.0f} GiB"
            )
    except ray.exceptions.RayError as error:
        raise UsageError(
            "--gpus-per-trial auto could not be measured "
            f"({' '.join(str(getattr(error, 'cause', None) or error).split())[-300:]}); give a number"
        ) from None
    share = fraction(choose(rates))
    say(f"gpus-per-trial auto: {share:g}, {choose(rates)} trials share a GPU")
    return replace(spec, gpus_per_trial=share)


def task_options(ray: ModuleType, spec: SearchSpec, *, trains: bool) -> dict[str, Any]:
    """A trial's resources as options of a Ray task, which needs one GPU of several unless it ``trains``. ``auto`` is a
    whole GPU if the cluster has one, else none."""
    if spec.gpus_per_trial == AUTO and not ray.cluster_resources().get("GPU"):
        spec = replace(spec, gpus_per_trial=0.0)
    if spec.processes > 1 and not trains:
        spec = replace(spec, processes_per_trial=1, gpus_per_trial=min(float(spec.gpus_per_trial), 1.0))
    return _as_task_options(spec)


def _as_task_options(spec: SearchSpec) -> dict[str, Any]:
    needed = trial_resources(spec)
    return {"num_cpus": needed.pop("CPU"), "num_gpus": needed.pop("GPU"), "resources": needed}
