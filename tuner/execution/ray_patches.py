"""Everything that reaches into Ray's internals. pyproject.toml caps Ray to the versions that this was tried with.

`quiet_tune`: ``usage.tag_callbacks`` does nothing.
    Why: Ray Tune's telemetry imports MLflow before the first trial. Gain: that trial starts 3 s sooner.
    Can go when Ray looks at the callbacks' names without importing libraries.
`without_idle_processes`: ``Node.start_monitor`` and ``Node.start_log_monitor`` do nothing.
    Why: a private instance needs neither an autoscaler nor a reader of logs that nobody shows, and `ray.init` has no
    switch. Gain: 2.4 of the 7.0 CPU seconds of Ray's start, a quarter of its processes' memory.
    Can go when `ray.init` can leave them out.
`survive_memory_kills`: Ray Tune's actor manager takes ``OutOfMemoryError`` for a lost actor.
    Why: Ray kills a process when its node runs out of memory; Ray Tune does not know that error and ends the search.
    Gain: the trial goes on elsewhere. Can go when Ray Tune knows the error.

Tried with Ray 2.59 and 2.60; tests/test_driver.py and tests/test_breaks.py fail where Ray moves what they replace.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_tune() -> None:
    """Ray Tune without its own logs, snapshots, signal handler and telemetry; variables that are set already stay."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our history replaces csv, json and tensorboard
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nor is Ray's own snapshot ever read
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the callback says it in one line, the history has it all
    }.items():
        os.environ.setdefault(name, value)
    from ray.air._internal import usage

    logging.getLogger("ray.tune.tune").setLevel(
        logging.CRITICAL
    )  # a trial that broke off and went on is an error to it
    usage.tag_callbacks = lambda _: False


@contextmanager
def without_idle_processes() -> Iterator[None]:
    """While Ray starts: without the autoscaler's monitor and the reader of logs."""
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor") if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, lambda node: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def survive_memory_kills() -> None:
    """For every search of this process; without effect where it is done already."""
    from ray.tune.execution import tune_controller

    if tune_controller.RayActorManager.__name__ != "MemoryKillsAreLostActors":
        tune_controller.RayActorManager = _knowing_memory_kills(tune_controller.RayActorManager)


def _knowing_memory_kills(base: type) -> type:
    class MemoryKillsAreLostActors(base):
        """Takes an actor that was killed for memory for one that died."""

        def _actor_start_failed(self, tracked_actor, exception):
            super()._actor_start_failed(tracked_actor, as_lost_actor(exception))

        def _actor_task_failed(self, tracked_actor_task, exception):
            super()._actor_task_failed(tracked_actor_task, as_lost_actor(exception))

    return MemoryKillsAreLostActors


def as_lost_actor(error: Exception) -> Exception:
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, OutOfMemoryError):
        return RayActorError(error_msg=f"The actor is dead because its node ran out of memory. {error}")
    return error
