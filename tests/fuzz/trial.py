"""One input tried: what is right, and what is a finding.

Right is a result, or one of the project's own errors. A finding is any other exception, an exit code outside of 0, 1, 2
and 130, more than `SLOW_S` seconds, a traceback, JSON that is none, or nonsense that was accepted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import typer

from trainables.data import DataError
from trainables.reading import Damaged
from tuner.cli import main
from tuner.errors import ClusterError, Failed, Interrupted, UsageError

SLOW_S = 5.0
CODES = (0, 1, 2, 130)
OWN = (UsageError, Failed, ClusterError, Interrupted, Damaged, DataError, typer.Exit)


class Finding(AssertionError):
    """Something that must not happen; the message says what."""


class Hang(BaseException):
    """Raised in the main thread by the watch: no ``except Exception`` stops it."""


class Clock:
    """Seconds since its making, less those in which this thread was ready to run and other programs had the cores."""

    def __init__(self) -> None:
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._begin = self._now()

    def _now(self) -> float:
        delayed = int(self._schedstat.read_text().split()[1]) / 1e9 if self._schedstat.exists() else 0.0
        return time.monotonic() - delayed

    @property
    def seconds(self) -> float:
        return self._now() - self._begin


@contextlib.contextmanager
def watched(seconds: float = SLOW_S) -> Iterator[None]:
    """``Hang`` in this block after so many seconds. (pytest-timeout has the alarm clock, so this is another signal.)"""

    def ring(*_: object) -> None:
        raise Hang

    clock, ended, main_thread = Clock(), threading.Event(), threading.main_thread().ident

    def watch() -> None:
        while not ended.wait(0.2):
            if clock.seconds > seconds:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                return

    before = signal.signal(signal.SIGUSR1, ring)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def outcome(attempt: Callable[[], bool], slow_s: float = SLOW_S) -> tuple[str, str]:
    """("accepted" | "refused" | "finding", why). ``attempt`` returns whether its input was accepted."""
    clock = Clock()
    try:
        with watched(slow_s):
            accepted = attempt()
    except OWN as error:
        accepted = False
        if "\n" in str(error) or not str(error):
            return "finding", f"a message that is not one sentence: {str(error)[:200]!r}"
    except Finding as finding:
        return "finding", str(finding)
    except Hang:
        return "finding", f"hang: no end within {slow_s:g} s"
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        return "finding", f"{type(error).__name__} at {_place(error)}: {str(error)[:200]}"
    if (took := clock.seconds) > slow_s:
        return "finding", f"slow: {took:.1f} s"
    return ("accepted" if accepted else "refused"), ""


def _place(error: BaseException) -> str:
    """Where in our own code it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f.filename]
    ours = [f for f in frames if "/tests/" not in f.filename and "/lib/python" not in f.filename] or frames
    return f"{'/'.join(ours[-1].filename.split('/')[-3:])}:{ours[-1].lineno}"


def command(*args: object, check: Callable[[object], None] | None = None) -> bool:
    """`tuner ARGS`, here; whether it ended well. ``check`` is given what `--json` printed."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    words = ["tuner", *map(str, args)]
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ, {"TUNER_DEBUG": "1"}),  # foreign exceptions come through
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    said = err.getvalue()
    if code not in CODES:
        raise Finding(f"exit code {code}")
    if "Traceback" in said or "Traceback" in out.getvalue():
        raise Finding("a traceback was printed")
    if code and not said.strip():
        raise Finding(f"exit code {code} without a word")
    if "--json" in words:
        found = strict_json(out.getvalue())
        if check and code == 0:
            check(found)
    return code == 0


def strict_json(text: str) -> object:
    """``Finding`` unless it is JSON as every parser reads it."""

    def refuse(constant: str) -> None:
        raise Finding(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise Finding(f"--json printed no JSON ({error}): {text[:80]!r}") from None
