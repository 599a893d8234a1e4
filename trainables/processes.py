"""Processes of ours beside this one: started, given work, and told of in one sentence where one ends. No torch.

What goes to their standard input are frames, eight bytes of length before each. They answer on their standard output, a
line each time, and end where their input does: with the process that started them, however that one ended.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import IO

from trainables.reading import one_line

TIMEOUT_S = 300.0  # for an answer, and for what processes wait for from each other


class ProcessDied(RuntimeError):
    """A process beside this one has ended, or does not answer; one sentence."""


class Helpers:
    """``count`` processes that run the module ``module``, which are the second, third ... of those that work together.

    ``more``: environment variables of theirs beside ours.
    """

    def __init__(self, module: str, count: int, more: Mapping[str, str]):
        # they import as this process does, and not from the current folder first
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path, **more}
        self._errors = [tempfile.TemporaryFile() for _ in range(count)]  # closed and gone with `close`
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", module],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            for errors in self._errors
        ]

    def send(self, number: int, frame: bytes | memoryview) -> None:
        """Give the process ``number`` (0-based) something to do; ``ProcessDied`` where it has ended."""
        pipe = self._processes[number].stdin
        try:
            pipe.write(len(frame).to_bytes(8, "little"))
            pipe.write(frame)
            pipe.flush()
        except OSError:
            raise ProcessDied(self.death(5.0) or "a process of this trial takes no more work") from None

    def answered(self) -> None:
        """Wait until each has answered; ``ProcessDied`` where one ends or stays silent."""
        for number, process in enumerate(self._processes):
            ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
            if not ready:
                raise ProcessDied(f"{self._called(number)} has not answered for {TIMEOUT_S:.0f} s")
            if not process.stdout.readline():
                raise ProcessDied(self.death(5.0) or f"{self._called(number)} has closed its output")

    def death(self, patience: float = 0.0) -> str | None:
        """One sentence on the first that has ended, or ends within ``patience`` seconds; None: all live."""
        until = time.monotonic() + patience
        while True:
            for number, process in enumerate(self._processes):
                if process.poll() is not None:
                    return f"{self._called(number)} {_end(process.returncode)}{self._last_words(number)}"
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)

    def close(self) -> None:
        """End all of them, now."""
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdout.close()
            try:
                process.stdin.close()  # writes what is left, to nobody
            except OSError:
                pass
        for errors in self._errors:
            errors.close()

    def _called(self, number: int) -> str:
        return f"process {number + 2} of the {len(self._processes) + 1} that train this trial"

    def _last_words(self, number: int) -> str:
        errors = self._errors[number]
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 10_000))
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return f": {one_line(lines[-1])}" if lines else ""


def own_output() -> IO[str]:
    """For a process like these: our standard output, which from now on nobody else writes to. What is printed goes to
    standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def frames(file: IO[bytes]) -> Iterator[bytes]:
    """What `Helpers.send` sends, until the sender closes or ends."""
    while len(size := file.read(8)) == 8:
        length = int.from_bytes(size, "little")
        if len(frame := file.read(length)) < length:
            return
        yield frame
