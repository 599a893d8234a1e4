"""One round: a search is started, disturbed and resumed until it ends; what was wrong is collected."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.chaos import invariants
from tests.chaos.disturb import MARK, Undo, disturb, mount, processes, unmount
from tests.chaos.drivers import Driver
from tests.chaos.plan import TOLD, Disturbance, Plan

LINE_S, END_S = 2.0, 15.0  # after a signal: until a line is printed, until the end
HUNG_S = 120.0  # a driver that runs as long has hung
MOST_STARTS = 10
DISK_MB = 40
STOPS = {  # kind -> exit codes of a driver that it ended
    "driver": {130},
    "group": {130},
    "all": {130, 1},
    "raylet": {1},
    "gcs": {1},
    "disk": {1},
    "storage": {1},
    "mount": {1},
}


# What libraries say of themselves: tracebacks, warnings, Ray's logs.
NOISE = re.compile(r"Traceback|Exception ignored|Warning:|WARNING|ERROR|\(raylet\)|\.cc:\d+|\.h:\d+|site-packages")


class Server:
    """`mlflow server` with a database and artifacts in a folder, for as many searches as want it."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.database = folder / "mlflow.db"

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self.process is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            port = self.address.rpartition(":")[2]
            words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
            words += ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", "artifacts"]
            env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
            with open(self.folder / "log", "ab") as log:
                self.process = subprocess.Popen(
                    words, stdout=log, stderr=log, env=env, cwd=self.folder, start_new_session=True
                )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return
            time.sleep(0.2)
        raise TimeoutError(f"the MLflow server does not answer: {self.folder / 'log'}")

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Round:
    """``folder``: a new one, with a short path (Ray's sockets lie below it); ``server``: runs where the plan says so;
    ``patience``: by how much everything may take longer, on a machine with other work."""

    def __init__(self, plan: Plan, folder: Path, server: Server, patience: float = 1.0):
        self.plan, self.folder, self.server = plan, folder, server
        self.patience = patience
        self.mark, self.home, self.storage = folder.name, folder / "home", folder / "storage"
        self.temporary, self.clock = folder / "t", folder / "clock"
        self.findings: list[str] = []
        self.sessions: set[int] = set()
        self.starts = 0
        self.said = ""  # by the last driver that ran the search: one that finds it finished says nothing
        self.result: dict = {}  # what the search printed at its end
        self._undo: list[tuple[float, Undo]] = []  # ``time.monotonic()`` at which a disturbance is over
        self.lost: set[int] = (
            set()
        )  # trials that ended while their storage was away: it never had their last checkpoint
        self._kept: dict[int, str] = {}  # finished trial -> checksum of its checkpoint
        self._back = -math.inf  # ``time.monotonic()`` at which a storage comes back
        self._begun = time.monotonic()

    # ---- the course of a round ---------------------------------------------------------------------------------------

    def play(self) -> list[str]:
        """What was wrong, in words; empty if everything holds."""
        self._prepare()
        try:
            self._start()
            if all(self._disturbed(what) for what in self.plan.disturbances):
                while not self._ended():
                    self._tick()
            if (self._restore() or self._back_lately()) and self.plan.storage:  # a resume sends it what it lacks
                self.run("resume", self.plan.name, "--home", str(self.home), "--storage", str(self.storage))
            self.findings += invariants.broken(self)
        except GiveUp as reason:
            self.findings.append(str(reason))
        finally:
            self._restore()
            self._clean_up()
        return self.findings

    def _disturbed(self, what: Disturbance) -> bool:
        """Wait for its moment and do it; False if the search has ended before."""
        due = None
        while due is None or time.monotonic() < due:
            if self._ended():
                return False
            if due is None and len(self.lines) >= what.events:
                due = time.monotonic() + what.plus_s
            self._tick()
        self.log(f"now: {what}")
        self._hit.append(what)
        said, self._asked = self.driver.said, self._asked or (time.monotonic() if what.kind in ENDING else None)
        undo = disturb(self, what)
        if undo:
            self._undo.append((time.monotonic() + what.lasts_s, undo))
            if what.kind in ("storage", "mount"):
                self._back = time.monotonic() + what.lasts_s
        if what.kind in TOLD and what.signal != signal.SIGKILL:
            self._await_line(said, what)
        return True

    def _await_line(self, said: str, what: Disturbance) -> None:
        until = time.monotonic() + LINE_S * self.patience
        while self.driver.poll() is None and self.driver.said == said:
            if time.monotonic() > until:
                self.findings.append(f"nothing was said within {LINE_S * self.patience:.0f} s after {what}")
                return
            time.sleep(0.02)

    def _tick(self) -> None:
        time.sleep(0.05)
        due = [entry for entry in self._undo if entry[0] <= time.monotonic()]
        for entry in due:
            self._undo.remove(entry)
            entry[1]()
            self.log("a disturbance is over")
        if time.monotonic() - self.driver.began > HUNG_S * self.patience:
            self.driver.send(signal.SIGKILL, group=False)
            raise GiveUp(f"hang: a driver has not ended after {HUNG_S * self.patience:.0f} s: {self.driver.said!r}")

    def _back_lately(self) -> bool:
        """Whether a storage may have come back while the search ended, which wrote into what stood in its place."""
        return time.monotonic() - self._back < END_S

    def _ended(self) -> bool:
        """Whether the search has ended well. A driver that ended otherwise is followed by a `tuner resume`."""
        code = self.driver.poll()
        if code is None:
            return False
        self.log(f"exit code {code}: {self.driver.said[-300:]!r}")
        self._check_end(code)
        self.said = self.driver.said or self.said
        if code == 0:
            self.result = json.loads(self.driver.out.read_text())
            return True
        self._restore()
        self._check_kept()
        self._start()
        return False

    def _check_end(self, code: int) -> None:
        """What has to hold at the end of a driver."""
        allowed = {0}.union(*(STOPS.get(what.kind, set()) for what in self._hit))
        sent = [what.signal for what in self._hit if what.kind in TOLD]
        # before the program has begun a signal does what it does to every process
        allowed |= {-number for number in sent if number == signal.SIGKILL or not self.driver.said}
        allowed |= {-number for number in sent[2:] if number == signal.SIGINT}  # a third Ctrl-C ends it at once
        if code not in allowed:
            self.findings.append(f"exit code {code} of a driver hit by {[*map(str, self._hit)]}: {self.driver.said!r}")
        if noise := NOISE.search(self.driver.said):
            self.findings.append(f"{noise[0]!r} is for nobody who searches: {self.driver.said!r}")
        if code == 1 and "Error: " not in self.driver.said:
            self.findings.append(f"exit code 1 without a sentence: {self.driver.said!r}")
        took = time.monotonic() - self._asked if self._asked else 0.0
        if took > END_S * self.patience and "still waiting for" not in self.driver.said:
            self.findings.append(f"the end took {took:.1f} s and nobody said why: {self.driver.said!r}")

    def _start(self) -> None:
        self.starts += 1
        if self.starts > MOST_STARTS:
            raise GiveUp(f"the search has not ended after {MOST_STARTS} starts")
        words = ["resume", self.plan.name] if (self.search / "spec.yaml").exists() else ["search", *self.plan.options]
        words += [] if words[0] == "resume" else ["--name", self.plan.name]
        words += ["--home", str(self.home), "--json"] + (["--storage", str(self.storage)] * self.plan.storage)
        self.driver = Driver(words, self.env, self.folder / "logs" / str(self.starts))
        self._hit: list[Disturbance] = []
        self._asked: float | None = None
        self.log(" ".join(words))

    def run(self, *words: str) -> Driver:
        """Another command, to its end."""
        self.starts += 1
        driver = Driver([*words], self.env, self.folder / "logs" / str(self.starts))
        while driver.poll() is None:
            time.sleep(0.05)
        return driver

    # ---- what it has -------------------------------------------------------------------------------------------------

    @property
    def search(self) -> Path:
        return self.home / "searches" / self.plan.name

    @property
    def trained(self) -> Path:
        """Where trials keep their checkpoints."""
        return (self.storage if self.plan.storage else self.home) / "searches" / self.plan.name

    @property
    def lines(self) -> list[bytes]:
        path = self.search / "history.jsonl"
        return path.read_bytes().splitlines() if path.exists() else []

    def processes(self) -> dict[int, str]:
        return processes(self.mark, self.sessions)

    @property
    def env(self) -> dict[str, str]:
        here = str(Path(__file__).parent)
        path = [f"{here}/clock", *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "MLFLOW_", "RAY_", "PYTEST"))}
        more = {"MLFLOW_TRACKING_URI": self.server.address} if self.plan.server else {}
        return (
            env
            | more
            | {
                MARK: self.mark,
                "TMPDIR": str(self.temporary),
                "CHAOS_CLOCK": str(self.clock),
                "PYTHONPATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                "RAY_worker_niceness": "0",  # else trials wait for all other work on the machine
                "MLFLOW_DISABLE_TELEMETRY": "true",
            }
        )

    def log(self, line: str) -> None:
        with open(self.folder / "round.log", "a") as file:
            file.write(f"{time.monotonic() - self._begun:7.1f} s  {line}\n")

    # ---- around it ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        for folder in (self.home, self.temporary, self.folder / "logs"):
            folder.mkdir(parents=True)
        self.clock.write_text("0")
        if self.plan.small_disk and not mount(self.home, f"size={DISK_MB}m"):
            raise PermissionError("a disk of its own needs root")
        if self.plan.server:
            self.server.start()
        self.log(str(self.plan))

    def _check_kept(self) -> None:
        """Finished trials keep their checkpoint as it is."""
        now = invariants.checkpoints(self)
        lost = [
            trial for trial, checksum in self._kept.items() if now.get(trial) != checksum and trial not in self.lost
        ]
        if lost:
            self.findings.append(f"finished trials {lost} have another checkpoint than when they finished, or none")
        self._kept |= now

    def _restore(self) -> bool:
        """End all disturbances; whether there were any."""
        there_were = bool(self._undo)
        while self._undo:
            self._undo.pop()[1]()
        return there_were

    def _clean_up(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.driver.send(signal.SIGKILL, group=True)
        if self.plan.small_disk:
            shutil.copytree(self.home, self.folder / "copy", symlinks=True)
            unmount(self.home)
            self.home.rmdir()
            (self.folder / "copy").rename(self.home)


ENDING = (*TOLD, "raylet", "gcs")  # kinds after which an end is due


class GiveUp(Exception):
    """The round cannot go on; the message is a finding."""
