"""The Ray instance that a search runs on: the cluster that RAY_ADDRESS names, or a private one on loopback."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from tuner.errors import Failed, UsageError
from tuner.execution.ray_patches import (
    dead_process,
    importing_as_here,
    on_loopback,
    out_of_reach,
    quiet_errors,
    without_idle_processes,
)
from tuner.execution.ray_session import private_session
from tuner.execution.resources import unsatisfiable_resources
from tuner.spec.search_spec import SearchSpec

GROWS = "TUNER_CLUSTER_GROWS"  # environment variable, set where an autoscaler may add nodes later
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}  # the terminal shows the search, not Ray's logs
HANDLER_EVERY_S = 0.005  # so often what this process does at SIGTERM is put back while Ray starts and ends

# Ray ends a driver that has not reached its cluster's head for 60 s; before that, the driver ends orderly.
HEAD_AWAY_S, HEAD_ASKED_EVERY_S, HEAD_ANSWERS_S = 40.0, 5.0, 2.0
HEAD_CONNECTS_S = 5.0  # for a first connection, and then for a first answer, also over a slow network


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
            yield ray
        finally:
            if mine:
                # Ray Tune leaves cycles that refer to Ray's objects. One that is freed after the shutdown, on any
                # thread, makes Ray end the whole process, before the result is printed.
                gc.collect()
                with _own_handler():
                    ray.shutdown()


def start(ray: ModuleType, **how: Any) -> None:
    """Start a private instance on loopback, never the one whose address a `ray start` on this machine left behind.
    In a `private_session` no other user of the machine can use it.

    Three attempts: Ray gives its processes 30 s to start, which is not enough on a busy machine, and one may be killed
    while the others wait for it. ``Failed`` after the third.
    """
    quiet_errors()
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # no trial would use such a worker
    for left in (2, 1, 0):
        try:
            with without_idle_processes(), on_loopback(), out_of_reach(), _own_handler():
                how["job_config"] = importing_as_here()
                ray.init("local", _node_ip_address="127.0.0.1", include_dashboard=False, **QUIET, **how)
            return
        except Exception as error:  # Ray raises a plain Exception here, or a RuntimeError
            died = dead_process()
            if not died and "timed out" not in str(error).lower():
                raise
            with _own_handler():
                ray.shutdown()
            if not left:
                why = f"its process {died} has died" if died else " ".join(str(error).split())[:200]
                raise Failed(f"Ray does not start on this machine, tried three times ({why})") from None


def join(ray: ModuleType) -> None:
    """Connect to the cluster that RAY_ADDRESS names, from one of its nodes; ``Failed`` if it refuses."""
    check_head()
    quiet_errors()
    try:
        with _own_handler():
            ray.init(job_config=importing_as_here(), **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(" ".join(str(error).split())[:200]) from None


def check_head() -> None:
    """``Failed`` if RAY_ADDRESS names a head that does not answer: `ray.init` would ask for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, port = head_of(address)
    if port and not listens(host, port, HEAD_CONNECTS_S):
        raise _no_cluster(f"nothing answers at {host}:{port}")
    if port and not address.startswith("ray://") and not _is_head(host, port):
        raise _no_cluster(f"what listens at {host}:{port} is no Ray head, whose port is usually 6379")


def _no_cluster(why: str) -> Failed:
    return Failed(
        f"cannot connect to the Ray cluster RAY_ADDRESS={os.environ['RAY_ADDRESS']} ({why}); is its head running, is "
        "this machine one of its nodes, and, if the cluster has a token, is the same one here in ~/.ray/auth_token, "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH? (from other machines: tuner submit --address http://HEAD:8265)"
    )


@contextmanager
def _own_handler() -> Iterator[None]:
    """What this process does at SIGTERM stays: `ray.init` installs handlers, in Python and in C++, that end it, and
    `ray.shutdown` leaves the system's own, which ends it too, for the second that its processes take to end. So ours is
    put back all the while, not only at the end.

    Unlike `signal.signal`, Python's C functions may be called on any thread.
    """
    python = ctypes.pythonapi
    python.PyOS_getsig.restype, python.PyOS_setsig.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    in_main = threading.current_thread() is threading.main_thread()
    handler, kept, done = signal.getsignal(signal.SIGTERM), python.PyOS_getsig(signal.SIGTERM), threading.Event()

    def keep() -> None:
        while not done.wait(HANDLER_EVERY_S):
            python.PyOS_setsig(signal.SIGTERM, kept)

    keeper = threading.Thread(target=keep, name="SIGTERM", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        if in_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        python.PyOS_setsig(signal.SIGTERM, kept)


def watch(ray: ModuleType, say: Callable[[str], None]) -> Callable[[], str | None]:
    """A function that tells, in words, why the connected Ray will never answer again, or None. Call it often.

    A head that does not answer is waited for: it may be restarted.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return lambda: (name := dead_process()) and f"its process {name} has died"
    host, port = head_of(ray.get_runtime_context().gcs_address)
    next_time, away_since = time.monotonic() + HEAD_ASKED_EVERY_S, None

    def lost() -> str | None:
        nonlocal next_time, away_since
        if time.monotonic() < next_time:
            return None
        answers, now = listens(host, port), time.monotonic()
        next_time = now + HEAD_ASKED_EVERY_S
        if answers:
            away_since = None
        elif away_since is None:
            away_since = now
            say(f"the Ray cluster's head {host}:{port} does not answer; it is waited for, at most {HEAD_AWAY_S:.0f} s")
        if away_since is None or now - away_since < HEAD_AWAY_S:
            return None
        return f"its head {host}:{port} has not answered for {now - away_since:.0f} s"

    return lost


def head_of(address: str) -> tuple[str, int]:
    """Host and port of a cluster's head, as RAY_ADDRESS names it; port 0 where it names none. ``auto`` is what a
    `ray start` on this machine left in a file."""
    if address == "auto":
        from ray._private.utils import read_ray_address

        address = read_ray_address() or ""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def listens(host: str, port: int, seconds: float = HEAD_ANSWERS_S) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def _is_head(host: str, port: int) -> bool:
    """Whether Ray's GCS answers there, with or without a token; where Ray uses TLS, it is not asked."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    named = f"[{host}]" if ":" in host else host
    with grpc.insecure_channel(f"{named}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=HEAD_CONNECTS_S)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAUTHENTICATED
    return True


def _check_resources(ray: ModuleType, spec: SearchSpec) -> None:
    """``UsageError`` if a trial asks for more than any node has: it would wait for ever."""
    if os.environ.get(GROWS):
        return
    problem = unsatisfiable_resources(spec, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if problem:
        raise UsageError(problem)
