"""The Ray instance that a search runs on: the cluster that RAY_ADDRESS names, or a private one on loopback."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

from tuner.errors import Failed, UsageError
from tuner.execution.ray_patches import importing_as_here, on_loopback, without_idle_processes
from tuner.execution.ray_session import private_session
from tuner.execution.resources import unsatisfiable_resources
from tuner.spec.search_spec import SearchSpec

GROWS = "TUNER_CLUSTER_GROWS"  # environment variable, set where an autoscaler may add nodes later
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}  # the terminal shows the search, not Ray's logs


@contextmanager
def connect(spec: SearchSpec) -> Iterator[ModuleType]:
    """The ray module, connected for the length of the block; a connection that existed before stays open.

    ``UsageError`` if no node can ever run a trial, ``Failed`` if the cluster refuses the connection.
    """
    import ray

    mine = not ray.is_initialized()
    with ExitStack() as session:
        if mine:
            if os.environ.get("RAY_ADDRESS"):
                join(ray)
            else:
                start(ray, _temp_dir=session.enter_context(private_session()))
        try:
            _check_resources(ray, spec)
            with redirect_stdout(sys.stderr):  # Ray prints its nodes' complaints on stdout, where only results belong
                yield ray
        finally:
            if mine:
                # Ray Tune leaves cycles that refer to Ray's objects. One that is freed after the shutdown, on any
                # thread, makes Ray end the whole process, before the result is printed.
                gc.collect()
                ray.shutdown()


def start(ray: ModuleType, **how: Any) -> None:
    """Start a private instance on loopback, never the one whose address a `ray start` on this machine left behind.
    In a `private_session` no other user of the machine can use it.

    Three attempts: Ray gives its processes 30 s to start, which is not enough on a busy machine.
    """
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # no trial would use such a worker
    for left in (2, 1, 0):
        try:
            with without_idle_processes(), on_loopback():
                how["job_config"] = importing_as_here()
                ray.init("local", _node_ip_address="127.0.0.1", include_dashboard=False, **QUIET, **how)
            return
        except Exception as error:  # Ray raises a plain Exception here
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def join(ray: ModuleType) -> None:
    """Connect to the cluster that RAY_ADDRESS names, from one of its nodes; ``Failed`` if it refuses."""
    try:
        ray.init(job_config=importing_as_here(), **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Failed(
            f"cannot connect to the Ray cluster RAY_ADDRESS={os.environ['RAY_ADDRESS']} "
            f"({' '.join(str(error).split())[:200]}); is its head running, is this machine one of its nodes, and, if "
            "the cluster has a token, is the same one here in ~/.ray/auth_token, RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH? (from other machines: tuner submit --address http://HEAD:8265)"
        ) from None


def _check_resources(ray: ModuleType, spec: SearchSpec) -> None:
    """``UsageError`` if a trial asks for more than any node has: it would wait for ever."""
    if os.environ.get(GROWS):
        return
    problem = unsatisfiable_resources(spec, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if problem:
        raise UsageError(problem)
