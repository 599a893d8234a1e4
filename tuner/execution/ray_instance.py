"""The Ray instance a search runs on: the one RAY_ADDRESS names, or a private one on loopback."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, redirect_stdout

from tuner.errors import Failed, UsageError
from tuner.execution.ray_patches import without_idle_processes
from tuner.execution.resources import unsatisfiable_resources
from tuner.spec.search_spec import SearchSpec

GROWS = "TUNER_CLUSTER_GROWS"  # set where an autoscaler may bring nodes that are not there yet
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}  # a terminal is for the search


@contextmanager
def connect(spec: SearchSpec):
    """Connect, check that a trial's resources exist at all, and disconnect at the end what was connected here."""
    import ray

    mine = not ray.is_initialized()
    if mine:
        if os.environ.get("RAY_ADDRESS"):
            join(ray)
        else:
            start(ray)
    try:
        _check_resources(ray, spec)
        with redirect_stdout(sys.stderr):  # where Ray prints what its nodes complain of belong results alone
            yield ray
    finally:
        if mine:
            ray.shutdown()


def start(ray, **how) -> None:
    """A private instance on loopback: never the one that a `ray start` here left its address of, alive or dead. Ray
    gives its processes 30 s to start, which on a busy machine is not enough."""
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # no trial would take such a worker
    for left in (2, 1, 0):
        try:
            with without_idle_processes():
                ray.init("local", _node_ip_address="127.0.0.1", include_dashboard=False, **QUIET, **how)
            return
        except Exception as error:  # Ray's own class for it is Exception
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def join(ray) -> None:
    """The cluster that RAY_ADDRESS names, from one of its nodes."""
    try:
        ray.init(**QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Failed(
            f"the Ray cluster RAY_ADDRESS={os.environ['RAY_ADDRESS']} does not take us "
            f"({' '.join(str(error).split())[:200]}); "
            "is its head up, is this one of its nodes, and if it has a token, is the same one in "
            "~/.ray/auth_token, RAY_AUTH_TOKEN "
            "or RAY_AUTH_TOKEN_PATH here? (from elsewhere: tuner submit --address http://HEAD:8265)"
        ) from None


def _check_resources(ray, spec: SearchSpec) -> None:
    """A trial that asks for more than any node has would wait for ever."""
    if os.environ.get(GROWS):
        return
    wrong = unsatisfiable_resources(spec, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if wrong:
        raise UsageError(wrong)
