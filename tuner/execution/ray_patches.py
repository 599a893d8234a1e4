"""Everything that reaches into Ray's internals: with which version, why, what it gains, when it can go."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

from tuner.execution.ray_token import use_token


def _quiet_ray() -> None:
    """Ray Tune without its own logs, snapshots, signal handler and telemetry."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our history replaces csv, json and tensorboard
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # nor is Ray's own snapshot ever read
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the watch says it in one line, the history has it all
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # who broke off and went on is an error to it
    use_token()
    from ray.air._internal import usage

    usage.tag_callbacks = lambda _: False  # it imports MLflow before the first trial


@contextmanager
def _no_idlers():
    """Without the autoscaler, which has no nodes to bring, and the reader of logs that go nowhere: a third of what
    Ray's processes cost at the start, a quarter of their memory. Ray has no switch for them."""
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor") if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, lambda node: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


class _Actors(RayActorManager):
    """Ray kills a process when its node runs out of memory; Ray Tune, which does not know that error, would stop."""

    def _actor_start_failed(self, tracked_actor, exception):
        super()._actor_start_failed(tracked_actor, _known(exception))

    def _actor_task_failed(self, tracked_actor_task, exception):
        super()._actor_task_failed(tracked_actor_task, _known(exception))


def _known(error: Exception) -> Exception:
    if isinstance(error, OutOfMemoryError):
        return RayActorError(error_msg=f"The actor is dead because its node ran out of memory. {error}")
    return error


def survive_memory_kills() -> None:
    """For every search of this process; without effect where it is done already."""
    tune_controller.RayActorManager = _Actors
