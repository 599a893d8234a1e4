"""What one trial asks of a node, whether any node has it, and how many trials share a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tuner.errors import UsageError
from tuner.spec.search_spec import SearchSpec

LABEL = "accelerator_type:"  # a node has 1 of this resource for the kind of accelerator in it; a trial asks for a bit
AUTO = "auto"


def trial_resources(spec: SearchSpec) -> dict[str, float]:
    """The resources of one trial, in Ray's names. ``auto`` stands for a whole GPU until it is measured."""
    gpus = 1.0 if spec.gpus_per_trial == AUTO else spec.gpus_per_trial
    label = {f"{LABEL}{spec.accelerator}": 0.001} if spec.accelerator else {}
    return {"CPU": spec.cpus_per_trial, "GPU": gpus, **label}


def unsatisfiable_resources(spec: SearchSpec, nodes: list[dict[str, float]]) -> str | None:
    """Why no node can run a trial, in one sentence; such a trial would wait for ever. ``nodes``: their resources."""
    wanted = {k: v for k, v in trial_resources(spec).items() if v}
    if spec.gpus_per_trial == AUTO and not spec.accelerator:
        wanted.pop("GPU")  # without a GPU anywhere, auto is none
    if any(all(node.get(kind, 0.0) >= asked for kind, asked in wanted.items()) for node in nodes):
        return None
    if spec.accelerator and not any(f"{LABEL}{spec.accelerator}" in node for node in nodes):
        kinds = sorted({kind[len(LABEL) :] for node in nodes for kind in node if kind.startswith(LABEL)})
        return f"--accelerator {spec.accelerator!r} is on no node; they have {', '.join(kinds) if kinds else 'none'}"
    for kind in ("CPU", "GPU"):
        most = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if wanted.get(kind, 0.0) > most:
            return f"--{kind.lower()}s-per-trial {wanted[kind]:g} is more than any node has: the most is {most:g}"
    told = [
        f"{wanted['CPU']:g} CPUs",
        *([f"{wanted['GPU']:g} GPUs"] if "GPU" in wanted else []),
        *([spec.accelerator] if spec.accelerator else []),
    ]
    return f"no node has all that a trial asks for ({', '.join(told)}); ask for less of one of them"


def fraction(at_a_time: int) -> float:
    """A trial's share of a GPU, rounded down to what Ray keeps (1/10,000), so that all of them fit."""
    return math.floor(10_000 / at_a_time) / 10_000


def resolve_gpus_per_trial(ray, spec: SearchSpec, first: Callable[[], Any], say: Callable[[str], None]) -> SearchSpec:
    """``--gpus-per-trial auto`` as a number: the trial that ``first`` makes is measured on a GPU of the cluster."""
    from trainables.gpu_packing import choose, measure

    if spec.gpus_per_trial != AUTO:
        return spec
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    if not nodes:
        say("gpus-per-trial auto: no GPU here, trials run on CPUs")
        return replace(spec, gpus_per_trial=0.0)
    most = max(1, int(min(node.get("CPU", 0.0) / node["GPU"] for node in nodes) / spec.cpus_per_trial))
    wanted = trial_resources(spec)
    task = ray.remote(measure).options(
        num_returns="streaming", num_cpus=wanted.pop("CPU"), num_gpus=wanted.pop("GPU"), resources=wanted, max_retries=0
    )
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


def task_options(ray, spec: SearchSpec) -> dict[str, Any]:
    """The same resources for a Ray task; ``auto`` is a whole GPU where there is one."""
    if spec.gpus_per_trial == AUTO and not ray.cluster_resources().get("GPU"):
        spec = replace(spec, gpus_per_trial=0.0)
    wanted = trial_resources(spec)
    return {"num_cpus": wanted.pop("CPU"), "num_gpus": wanted.pop("GPU"), "resources": wanted}
