"""Commands of `tuner` in processes that need not import anything first: a third of a small search's CPU time is its
driver's imports (torch, Ray, MLflow, matplotlib).

One process per worker of pytest imports them all, once, and forks a driver whenever one is asked for. That driver is
`python -m tuner.cli` in all that a test can see: arguments, environment, folder, session, signals, standard streams,
exit code, random numbers, folder for temporary files. Three things differ, and where a test is about one of them its
command gets a process of its own (`forks`, and ``fresh`` in tests/conftest.py):

- What is imported, and when: `python -m tuner.cli` itself, shadowed modules (`finished`), PYTHONPATH
  (test_time_budget), warnings. One command of each kind is always fresh: `search` in `finished`, `verify` in
  `verified`, `export` in `exported`, `resume` in test_earlier_home, all that trains on the cluster of test_submit.
- What libraries read from the environment while they are imported: other values than those of this process.
- The seed of hashes: forked drivers share theirs. The undisturbed search of test_stem_search, with which forked ones
  are compared, is fresh.

    python -m tests.drivers FD       requests come through that socket
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

IMPORTS = (
    *("torch", "ray.tune", "optuna", "scipy.stats", "matplotlib.figure", "plotly.graph_objects", "aiohttp", "grpc"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.client", "tuner.cli.app", "tuner.execution.driver"),
    *("tuner.execution.ray_callback", "tuner.tracking.tracker", "tuner.report.png", "tuner.results.class_rates"),
    *("trainables.ray_adapter", "tuner.verification.verify"),
)
# Read where they are used, by us or by a library. Whatever else differs may have been read at an import.
READ_LATE = ("TUNER_", "AWS_", "PYTEST_", "MLFLOW_TRACKING_", "CHAOS_", "RAY_TMPDIR", "RAY_OVERRIDE_", "TERM")
READ_LATE += ("COLUMNS", "LINES")
# Set by libraries while they are imported, here by whatever tests have imported.
OF_LIBRARIES = {"RAY_CLIENT_MODE", "_RJEM_MALLOC_CONF", "_MLFLOW_TELEMETRY_SESSION_ID", "TORCHINDUCTOR_CACHE_DIR"}
OF_LIBRARIES |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
ENVIRONMENT = dict(os.environ)  # of pytest, before any test changes it
_lock, _server = threading.Lock(), None


def forks(env: dict[str, str], cwd: object = None) -> bool:
    """Whether a forked driver is what a fresh process with this environment would be."""
    differ = {name for name in env.keys() | ENVIRONMENT.keys() if env.get(name) != ENVIRONMENT.get(name)}
    return cwd is None and all(name.startswith(READ_LATE) for name in differ - OF_LIBRARIES)


class Server:
    """The process that has imported everything."""

    def __init__(self):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(250)  # pytest's own is 300
        with theirs:
            words = [sys.executable, "-m", "tests.drivers", str(theirs.fileno())]
            self.process = subprocess.Popen(
                words,
                env=ENVIRONMENT,
                cwd=Path(__file__).parent.parent,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def ask(self, request: dict, fds: Iterable[int] = ()) -> int | None:
        global _server
        try:
            with _lock:
                socket.send_fds(self._requests, [json.dumps(request).encode()], [*fds])
                return json.loads(self._requests.recv(1000))
        except BaseException:  # also where a test's time is over: its answer is not for the next request
            _server = None
            self._requests.close()
            raise

    def close(self) -> None:
        self._requests.close()
        self.process.wait(30)


def close() -> None:
    """End the process, if there is one; drivers that run go on."""
    global _server
    if _server:
        _server.close()
    _server = None


class Forked:
    """A running driver: of `subprocess.Popen` what tests use, with text. ``None`` as a stream: that of this process;
    ``first``: code that it runs before, to change it."""

    def __init__(
        self, words, env: dict[str, str], stdin=None, stdout=None, stderr=None, start_new_session=False, first=""
    ):
        global _server
        with _lock:
            _server = _server or Server()
        self._server, self.returncode = _server, None
        request = {"words": [*map(str, words)], "env": env, "cwd": os.getcwd()}
        request |= {"session": start_new_session, "first": first}
        with contextlib.ExitStack() as theirs:
            fds, ours = [], []
            for number, given in enumerate((stdin, stdout, stderr)):
                fd, pipe = number if given is None else given, None
                if given is subprocess.PIPE:
                    read, write = os.pipe()
                    fd, mine = (read, write) if number == 0 else (write, read)
                    theirs.callback(os.close, fd)
                    pipe = open(mine, "w" if number == 0 else "r")
                elif given is subprocess.DEVNULL:
                    theirs.callback(os.close, fd := os.open(os.devnull, os.O_RDWR))
                fds.append(fd if isinstance(fd, int) else fd.fileno())
                ours.append(pipe)
            self.stdin, self.stdout, self.stderr = ours
            self.pid = self._server.ask(request, fds)
            assert self.pid, f"no driver could begin in {os.getcwd()}"

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until, pause = time.monotonic() + (timeout or float("inf")), 0.001
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("tuner", timeout)
            time.sleep(pause := min(2 * pause, 0.05))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        said: dict[int, str] = {}
        pipes = {number: pipe for number, pipe in enumerate((self.stdout, self.stderr)) if pipe}
        readers = [
            threading.Thread(target=lambda n=n, p=p: said.update({n: p.read()}), daemon=True) for n, p in pipes.items()
        ]
        until = time.monotonic() + (timeout or float("inf"))
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(None if timeout is None else max(until - time.monotonic(), 0.1))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("tuner", timeout)
        for pipe in pipes.values():
            pipe.close()
        return said.get(0), said.get(1)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# ---- the process that forks ------------------------------------------------------------------------------------------


def _serve(requests: socket.socket, made: dict[str, str]) -> None:
    """Until nobody can ask any more. A driver returns from here. ``made``: what imports put into the environment."""
    while True:
        message, fds, *_ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            requests.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
        elif os.fork():
            for fd in fds:
                os.close(fd)
        else:
            first, answer = request.pop("first"), b"null"
            try:
                _become(fds, made, **request)
                answer = str(os.getpid()).encode()
            finally:
                requests.send(answer)
                requests.close()
            return exec(first, {"__name__": "first"})


def _become(
    fds: list[int], made: dict[str, str], words: list[str], env: dict[str, str], cwd: str, session: bool
) -> None:
    import numpy
    import torch

    if session:
        os.setsid()
    os.chdir(cwd)
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update({**made, **env})
    tempfile.tempdir = None
    numpy.random.seed()  # Python's own generator does so by itself
    torch.seed()
    if "CHAOS_CLOCK" in env:
        from tests.chaos.clock.sitecustomize import install

        install(env["CHAOS_CLOCK"])
    for number, fd in enumerate(fds):  # sys.stdin, stdout and stderr stay what they are
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under `nohup`
    sys.argv = ["tuner", *words]


def _import() -> dict[str, str]:
    """Import everything; returns what that put into the environment."""
    from tuner.tracking.runs import configure_mlflow

    configure_mlflow()  # as a driver does before
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    before = dict(os.environ)
    for name in IMPORTS:
        import_module(name)
    from sqlalchemy.orm import configure_mappers

    from tuner.cli.app import whole_command

    configure_mappers()
    whole_command()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


if __name__ == "__main__":
    import gc

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at pytest is for pytest and the drivers
    made = _import()
    gc.freeze()  # drivers need not look at it, nor get copies of it
    _serve(socket.socket(fileno=int(sys.argv[1])), made)
    runpy.run_module("tuner.cli", run_name="__main__", alter_sys=True)
