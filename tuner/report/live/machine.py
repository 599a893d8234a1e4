"""How busy this machine's GPUs are, as NVIDIA's own program says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from typing import Any

EVERY_S = 5.0
FIELDS = {"index": int, "name": str, "utilization.gpu": float, "memory.used": float, "memory.total": float}


class Gpus:
    """``rows``: for each GPU of this machine its index, name, use in percent and memory in MiB; empty where there is
    none, or the program does not answer. It is asked at most every few seconds, on a thread of its own."""

    def __init__(self):
        self.rows: list[dict[str, Any]] = []
        self._program, self._due = shutil.which("nvidia-smi"), 0.0

    def ask(self) -> list[dict[str, Any]]:
        if self._program and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S
            threading.Thread(target=self._read, name="gpus", daemon=True).start()
        return self.rows

    def _read(self) -> None:
        command = [self._program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            self.rows = rows_of(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            self.rows = []


def rows_of(text: str) -> list[dict[str, Any]]:
    """What the program prints, a line for each GPU. What it does not know, ``[N/A]``, is None. ``ValueError`` for
    anything else."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(FIELDS):
            raise ValueError(f"no line of a GPU: {line!r}")
        found.append(
            {name: None if cell.startswith("[") else kind(cell) for (name, kind), cell in zip(FIELDS.items(), cells)}
        )
    return found
