"""The Ray instance a search runs on: the one RAY_ADDRESS names, or a private one on loopback."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager

from tuner.home import UsageError
from tuner.spec import SearchSpec


@contextmanager
def connect(spec: SearchSpec):
    """Connect, check that a trial's resources exist at all, and disconnect at the end what was connected here."""
    import ray

    mine = not ray.is_initialized()
    if mine:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, **quiet)
    try:
        _check_resources(ray, spec)
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _check_resources(ray, spec: SearchSpec) -> None:
    """A trial that asks for more than any node has would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, asked in (("CPU", spec.cpus_per_trial), ("GPU", spec.gpus_per_trial)):
        most = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if asked > most:
            raise UsageError(f"--{kind.lower()}s-per-trial {asked:g} is more than any node has: the most is {most:g}")
