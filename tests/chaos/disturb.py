"""The disturbances of a round, by their kinds. Each returns what ends it, or None."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos import invariants
from tests.chaos.plan import TOLD, Disturbance

if TYPE_CHECKING:
    from tests.chaos.play import Round

Undo = Callable[[], None]
MARK = "CHAOS_ROUND"
TITLES = {"worker": r"ray::(TrialActor|ResourceTrainable)", "raylet": "/raylet/raylet ", "gcs": "/gcs_server "}


def disturb(round_: Round, what: Disturbance) -> Undo | None:
    """Do it now. The kinds that end a driver are left to its exit code."""
    if what.kind == "all":
        for pid in {*round_.processes()} - {round_.driver.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, what.signal)
        round_.driver.send(what.signal, group=False)  # forked: its environment has no mark
        return None
    if what.kind in TOLD:
        round_.driver.send(what.signal, group=what.kind == "group")
        return None
    if what.kind in TITLES:
        _kill(round_, TITLES[what.kind])
        return None
    kinds = {"mlflow": _mlflow, "storage": _storage, "mount": _mount, "disk": _disk, "clock": _clock}
    return kinds[what.kind](round_, what)


def processes(mark: str, sessions: set[int]) -> dict[int, str]:
    """pid -> command line of the living processes of a round: those whose environment has its mark, and all in their
    sessions. ``sessions`` collects these: a process of Ray's that calls itself `ray::...` writes over its environment.
    """
    entries = [entry for entry in Path("/proc").glob("[0-9]*")]
    marked = [entry for entry in entries if f"{MARK}={mark}".encode() in _read(entry / "environ").split(b"\0")]
    sessions |= {_session(entry) for entry in marked} - {0}
    found = {int(e.name): _read(e / "cmdline") for e in entries if e in marked or _session(e) in sessions}
    return {pid: command.replace(b"\0", b" ").decode(errors="replace") for pid, command in found.items() if command}


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _session(process: Path) -> int:
    fields = _read(process / "stat").rpartition(b")")[2].split()
    return int(fields[3]) if fields else 0


def _kill(round_: Round, title: str) -> None:
    """The newest process of that title, once there is one."""
    until = time.monotonic() + 20 * round_.patience
    while time.monotonic() < until and round_.driver.poll() is None:
        if pids := [pid for pid, command in round_.processes().items() if re.search(title, command)]:
            with suppress(ProcessLookupError):
                os.kill(max(pids), signal.SIGKILL)
            return
        time.sleep(0.05)


def _mlflow(round_: Round, what: Disturbance) -> Undo:
    round_.server.kill()
    return round_.server.start


def _mount(round_: Round, what: Disturbance) -> Undo:
    """As a mount that is lost over a folder that nobody may write."""
    round_.storage.mkdir(exist_ok=True)
    return (lambda: unmount(round_.storage)) if mount(round_.storage, "ro,size=4k") else lambda: None


def _storage(round_: Round, what: Disturbance) -> Undo:
    """As a mount that is lost: what is written meanwhile lies below it, and is not there when it comes back."""
    storage, aside = round_.storage, round_.storage.with_name("aside")

    def back() -> None:
        while aside.exists():
            with suppress(FileNotFoundError):
                storage.rename(storage.with_name(f"trash-{time.monotonic_ns()}"))
            with suppress(OSError):  # whoever writes has made it anew between the two lines
                aside.rename(storage)
        for trash in storage.parent.glob("trash-*"):
            shutil.rmtree(trash, ignore_errors=True)
        round_.lost |= {trial for trial, checksum in invariants.checkpoints(round_).items() if not checksum}

    try:
        storage.rename(aside)
    except OSError:  # it is not there yet, or another disturbance lies over it
        return lambda: None
    return back


def _disk(round_: Round, what: Disturbance) -> Undo:
    ballast = round_.home / "ballast"
    with suppress(OSError), open(ballast, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return lambda: ballast.unlink(missing_ok=True)


def _clock(round_: Round, what: Disturbance) -> None:
    round_.clock.write_text(str(what.jump_s))


def mount(folder: Path, options: str) -> bool:
    """A disk of its own at the folder; False where that is not allowed."""
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)
