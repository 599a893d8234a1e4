"""All changes to Ray's internals. pyproject.toml limits Ray to the versions with which these were tried.

`quiet_tune`: ``usage.tag_callbacks`` does nothing.
    Why: Ray Tune's telemetry imports MLflow before the first trial. Gain: the first trial starts 3 s sooner.
    Remove when Ray reads the callbacks' names without importing libraries.
`without_snapshots`: ``TuneController._get_trial_checkpoints`` finds no trials.
    Why: Ray Tune writes all trials down at a search's begin and end, by an encoder in Python, for a restore of its own
    that is never used; it has no option for it. Gain: 20 of the 123 s that a search of 1,000 trials
    without work took under cProfile. Remove when snapshots can be turned off.
`quiet_errors`: ``worker.print_to_stdstream`` does nothing.
    Why: Ray prints what its processes report to drivers, of a raylet that died the last 20 lines of its log, also with
    ``log_to_driver=False``. Gain: one line for the user, which we print. Remove when that option holds for errors.
`without_idle_processes`: ``Node.start_monitor``, ``start_log_monitor`` and ``start_api_server`` do nothing.
    Why: a private instance needs no autoscaler, no reader of logs that are not shown and, without a dashboard, no
    server of usage statistics, for which `ray.init` waits; it has no option for it. Gain: 3.5 of the 7.0 CPU seconds of
    Ray's start and a third of its processes' memory.
    Remove when `ray.init` can leave them out.
`importing_as_here`: ``JobConfig._py_driver_sys_path`` is a list of our own.
    Why: Ray puts the current folder in front of its workers' search path, so a `random.py` in it replaces the standard
    library's there. Gain: workers import what the driver does. Remove when Ray keeps the driver's order.
`on_loopback`: ``ray_constants.ENABLE_RAY_CLUSTER`` is off, as it is on macOS and Windows.
    Why: `ray.init` replaces the loopback address that it is given by one that other machines reach, and its processes
    then listen on every address. Remove when it takes 127.0.0.1 as it is.
`reread_token`: Ray forgets the authentication mode and the token, which it keeps from the first time it needed them.
    Why: each search has a token of its own, also the second one of a process. Remove when `ray.init` takes a token.
`out_of_reach`: ``services.ConsolePopen`` starts a session.
    Why: `timeout`, `kill -- -PID` and a closing terminal signal the driver's whole process group, and a driver without
    its Ray hangs; Ray blocks SIGINT alone. Gain: the search ends as after a signal to its driver alone.
    Remove when `ray.init` can do it.
`dead_process`, `kill_private`: read ``worker._global_node.all_processes``, and what was started `out_of_reach`.
    Why: a driver whose GCS or raylet died waits for a minute, deaf, and is then ended by Ray; agents and workers stay
    for up to a minute. Gain: it ends at once and orderly, and nothing is left. Remove when Ray does this itself.
`survive_memory_kills`: Ray Tune's actor manager treats ``OutOfMemoryError`` as a lost actor.
    Why: Ray kills a process when its node runs out of memory; Ray Tune does not know that error and ends the search.
    Gain: the trial continues on another actor. Remove when Ray Tune knows the error.

Tried with Ray 2.59 and 2.60; tests/test_driver.py and tests/test_breaks.py fail when Ray moves what is replaced here.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def quiet_tune() -> None:
    """Turn off Ray Tune's own logs, snapshots, signal handler and telemetry, except what the environment sets."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our history replaces csv, json and tensorboard
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own snapshot is never read
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a snapshot that nobody waits for may fail
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the callback prints one line, the history holds the whole error
    }.items():
        os.environ.setdefault(name, value)
    from ray.air._internal import usage

    # Ray logs an interrupted trial as an error even where it continued
    for name in ("ray.tune.tune", "ray.tune.execution.experiment_state"):  # and a snapshot that a full disk refuses
        logging.getLogger(name).setLevel(logging.CRITICAL)
    usage.tag_callbacks = lambda _: False


def without_snapshots() -> None:
    """Ray Tune's snapshots of a search are without its trials. May be called again."""
    from ray.tune.execution.tune_controller import TuneController

    def nothing(controller):
        controller._trials_to_cache.clear()
        return {}

    TuneController._get_trial_checkpoints = nothing


def quiet_errors() -> None:
    """Ray's processes print nothing on the driver's terminal. May be called again."""
    from ray._private import worker

    worker.print_to_stdstream = lambda *what, **how: None


@contextmanager
def without_idle_processes() -> Iterator[None]:
    """While Ray starts in this block, it starts no monitors, of an autoscaler or logs, and no dashboard's server."""
    from ray._private.node import Node

    names = ("start_monitor", "start_log_monitor", "start_api_server")
    kept = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, lambda node, **_: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def importing_as_here() -> Any:
    """A ``JobConfig`` with which workers look for modules in the order in which this process does."""
    from ray.job_config import JobConfig

    job = JobConfig()
    job._py_driver_sys_path = _InOurOrder()
    return job


class _InOurOrder(list):
    """Folders that each worker puts in front of its search path, one after the other, so that the last one is first."""

    def extend(self, folders: Iterable[str]) -> None:
        """Of ``folders``, which Ray wants in front, only those that are searched here, behind all that are searched
        here before them: the standard library, and what is installed."""
        here = [os.path.abspath(place) for place in sys.path]  # "" is the current folder
        wanted = [here.index(folder) for folder in map(os.path.abspath, folders) if folder in here]
        super().extend(reversed(here[: max(wanted, default=-1) + 1]))


@contextmanager
def on_loopback() -> Iterator[None]:
    """What Ray starts in this block listens on the loopback address alone."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def reread_token() -> None:
    """Ray reads RAY_AUTH_MODE and the token again where it needs them next."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def out_of_reach() -> Iterator[None]:
    """The processes that Ray starts in this block have sessions of their own: no signal to our group reaches them."""
    from ray._private import services

    popen = services.ConsolePopen
    _started.clear()

    class InOwnSession(popen):
        def __init__(self, *args, **options):
            super().__init__(*args, start_new_session=True, **options)
            _started.append(self)

    services.ConsolePopen = InOwnSession
    try:
        yield
    finally:
        services.ConsolePopen = popen


_started: list[subprocess.Popen] = []  # the latest instance's, of which Ray tells only once all have started


def dead_process() -> str | None:
    """The name of the process that has died of those without which the instance that `ray.init` started here cannot
    answer; None if they live."""
    for name, process in _processes():
        if name in ("gcs_server", "raylet") and process.poll() is not None:
            return name
    return None


def kill_private() -> None:
    """Kill what is left of the instance that `ray.init` started here: its processes and all in their sessions."""
    sessions = {process.pid for process in [*_started, *(process for _, process in _processes())]}
    for pid in [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]:
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in sessions:
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[tuple[str, subprocess.Popen]]:
    from ray._private import worker

    node = worker._global_node
    return [(name, info.process) for name, infos in (node.all_processes if node else {}).items() for info in infos]


def survive_memory_kills() -> None:
    """When Ray kills a process for memory, only its trial is lost, not the search. May be called again."""
    from ray.tune.execution import tune_controller

    if tune_controller.RayActorManager.__name__ != "MemoryKillsAreLostActors":
        tune_controller.RayActorManager = _knowing_memory_kills(tune_controller.RayActorManager)


def _knowing_memory_kills(base: type) -> type:
    class MemoryKillsAreLostActors(base):
        """Treats an actor that was killed for memory as one that died."""

        def _actor_start_failed(self, tracked_actor, exception):
            super()._actor_start_failed(tracked_actor, as_lost_actor(exception))

        def _actor_task_failed(self, tracked_actor_task, exception):
            super()._actor_task_failed(tracked_actor_task, as_lost_actor(exception))

    return MemoryKillsAreLostActors


def as_lost_actor(error: Exception) -> Exception:
    """``OutOfMemoryError`` as a ``RayActorError``; any other error unchanged."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, OutOfMemoryError):
        return RayActorError(error_msg=f"The actor is dead because its node ran out of memory. {error}")
    return error
