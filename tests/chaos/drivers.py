"""Drivers of a round. Importing is a third of a small search's CPU time, so one process imports what a driver needs
and becomes a driver whenever one is asked for (fork). In everything else it is the command `tuner`.

    python -m tests.chaos.drivers       reads one JSON request a line, answers in one
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = "torch", "ray.tune", "optuna", "mlflow.entities", "matplotlib.figure", "tuner.execution.ray_callback"


class Drivers:
    """Starts drivers; a context manager."""

    def __enter__(self) -> Drivers:
        words = [sys.executable, "-m", "tests.chaos.drivers"]
        self._warm = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._warm.stdin.close()
        self._warm.wait(30)

    def start(self, words: list[str], env: dict[str, str], log: Path) -> Driver:
        """`tuner WORDS` in a session of its own; it prints into ``log`` (.out, .err)."""
        return Driver(self, self._ask({"words": words, "env": env, "log": str(log)}), log)

    def _ask(self, request: dict) -> int | None:
        self._warm.stdin.write(json.dumps(request) + "\n")
        self._warm.stdin.flush()
        return json.loads(self._warm.stdout.readline())


class Driver:
    """A running command. ``began``: its ``time.monotonic()``."""

    def __init__(self, drivers: Drivers, pid: int, log: Path):
        self.pid, self.began, self._drivers, self._code = pid, time.monotonic(), drivers, None
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._drivers._ask({"poll": self.pid})
        return self._code

    def send(self, number: int, group: bool) -> None:
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)

    @property
    def said(self) -> str:
        return self.err.read_text(errors="replace")


def _serve() -> None:
    """Until there are no more requests. A driver returns from here, with the words in ``sys.argv``."""
    for line in sys.stdin:
        request, code = json.loads(line), None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            return _become(**request)
    sys.exit(code)


def _become(words: list[str], env: dict[str, str], log: str) -> None:
    from tests.chaos.clock.sitecustomize import install

    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    install(env["CHAOS_CLOCK"])
    for number, name in enumerate((os.devnull, f"{log}.out", f"{log}.err")):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the harness may run under `nohup`
    sys.argv = ["tuner", *words]


if __name__ == "__main__":
    from importlib import import_module

    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the harness is the harness's
    for name in IMPORTS:
        import_module(name)
    _serve()
    from tuner.cli import main

    main()
