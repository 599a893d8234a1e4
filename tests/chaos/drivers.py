"""Drivers of a round: forked ones of tests/drivers.py, whatever their environment is. They print into files."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests import drivers


class Driver:
    """`tuner WORDS` in a session of its own, which prints into ``log`` (.out, .err). ``began``: by `time.monotonic`."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path):
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        with open(os.devnull) as nothing, open(self.out, "a") as out, open(self.err, "a") as err:
            self._process = drivers.Forked(words, env, nothing, out, err, start_new_session=True)
        self.pid, self.began, self.poll = self._process.pid, time.monotonic(), self._process.poll

    def send(self, number: int, group: bool) -> None:
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)

    @property
    def said(self) -> str:
        return self.err.read_text(errors="replace")
