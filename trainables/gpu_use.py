"""How busy this machine's GPUs are, as NVIDIA's own program says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

EVERY_S = 5.0
OF_A_WORKER_S = 30.0  # of which a machine has several
FIELDS = {"index": int, "name": str, "utilization.gpu": float, "memory.used": float, "memory.total": float}


class Gpus:
    """``rows``: for each GPU of this machine its index, name, use in percent and memory in MiB; empty where there is
    none, or the program does not answer. It is asked at most every ``every_s`` seconds, on a thread of its own."""

    def __init__(self, every_s: float = EVERY_S):
        self.rows: list[dict[str, Any]] = []
        self.every_s = every_s
        self._program, self._due = shutil.which("nvidia-smi"), 0.0

    def ask(self) -> list[dict[str, Any]]:
        if self._program and time.monotonic() >= self._due:
            self._due = time.monotonic() + self.every_s
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


@cache
def of_worker() -> Gpus:
    """Of the machine of this process, which trains one trial after the other."""
    return Gpus(OF_A_WORKER_S)


def in_words(row: Mapping[str, Any]) -> str:
    """``0 NVIDIA H200: 87 %, 40 of 140 GiB``"""
    use, *memory = (row.get(name) for name in ("utilization.gpu", "memory.used", "memory.total"))
    used, whole = (f"{(mib or 0) / 1024:.0f}" for mib in memory)
    return f"{row['index']} {row['name']}: {'?' if use is None else f'{use:.0f}'} %, {used} of {whole} GiB"
