"""Test hosts as network namespaces of this machine: each has an address of its own, and can be killed or cut off.

    with Hosts(folder, workers=3) as hosts:      # a bridge, a Ray head with its dashboard and token, workers
        hosts.tuner("submit", ..., "--follow")   # as a user on one more machine, by the command line
        hosts.workers[0].kill(); hosts.workers[0].start(); hosts.workers[1].cut(); hosts.workers[1].mend()

A killed host loses its processes at once and its cable with them; a host that is cut off goes on working unheard. The
home folder is shared, as NFS would be, and stays within reach of a host that is cut off: the harder case.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tuner.remote.dashboard import Dashboard

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
GCS, DASHBOARD = 6379, 8265
# How soon the head gives a silent node up, as everything in deploy/ sets it: Ray's own 10 s and 5 make over a minute.
NOTICE = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "4"}
# Ray's reader of logs, for drivers that print them, has nothing to do here.
BARE = ["--include-log-monitor", "False"]


def ip(*args, check=True):
    return subprocess.run(["ip", *map(str, args)], capture_output=True, text=True, check=check)


def why_not() -> str | None:
    """Why network namespaces cannot be made here, or None."""
    if not shutil.which("ip"):
        return "iproute2 is not installed (Debian: apt-get install -y iproute2)"
    name = f"tuner-probe-{os.getpid()}"
    made = ip("netns", "add", name, check=False)
    if made.returncode == 0:
        bridge = ip("netns", "exec", name, "ip", "link", "add", "probe0", "type", "bridge", check=False)
        ip("netns", "delete", name, check=False)
        made = bridge
    return made.stderr.strip().splitlines()[-1] if made.returncode else None


class Host:
    """One namespace. ``command`` is what its supervisor starts (again)."""

    def __init__(self, hosts: "Hosts", name: str, number: int):
        self.hosts, self.name, self.address = hosts, name, f"{hosts.net}.{number}"
        self.space, self.wire = f"{hosts.tag}-{name}", f"{hosts.tag}v{number}"
        self.command: list = []
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen | None = None
        ip("netns", "add", self.space)
        ip("link", "add", self.wire, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("link", "set", self.wire, "master", hosts.bridge, "up")
        for words in (
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
            ["route", "add", "default", "via", f"{hosts.net}.254"],
        ):
            ip("-n", self.space, *words)

    def start(self) -> None:
        self.mend()
        log = open(self.hosts.folder / f"{self.name}.log", "a")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.space, *map(str, self.command)],
            env={**self.hosts.env, **self.env},
            cwd=self.hosts.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def pids(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self.space, check=False).stdout.split()]

    def trains(self) -> bool:
        """Whether a trial is in the middle of an epoch here (Ray names its processes after what they do)."""
        for pid in self.pids():
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ResourceTrainable.train"):
                    return True
            except OSError:
                continue
        return False

    def kill(self) -> None:
        """The plug is pulled."""
        self.cut()
        deadline = time.time() + 20
        while (pids := self.pids()) and time.time() < deadline:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        if self.process:
            self.process.wait(10)

    def cut(self) -> None:
        ip("link", "set", self.wire, "down")

    def mend(self) -> None:
        ip("link", "set", self.wire, "up")


class Hosts:
    """A head and workers on one bridge; a user's machine is this one. ``mlflow``: with a server on PostgreSQL."""

    def __init__(self, folder: Path, workers: int, cpus: int = 1, mlflow: bool = False):
        self.folder, self.home = folder, folder / "home"
        self.tag, self.net = f"t{os.getpid() % 100000}", f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.bridge, self.cpus = f"{self.tag}br", cpus
        (folder / "token").write_text("e" * 48)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
        self.env = {
            **clean,
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_AUTH_MODE": "token",
            "TUNER_HOME": str(self.home),
        }
        self._made: list[Host] = []
        self.n_workers, self.with_mlflow = workers, mlflow

    def __enter__(self) -> "Hosts":
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.net}.254/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        if self.with_mlflow:
            from tests.hosts_mlflow import start_mlflow

            self.mlflow = self._host("mlflow", 200)
            self.env["MLFLOW_TRACKING_URI"] = start_mlflow(self.mlflow)
        self.head = self._host("head", 1)
        self.head.env = NOTICE
        self.head.command = [
            "ray",
            "start",
            "--head",
            "--block",
            "--node-ip-address",
            self.head.address,
            "--port",
            GCS,
            "--dashboard-host",
            self.head.address,
            "--dashboard-port",
            DASHBOARD,
            "--num-cpus",
            0,
            *self._common("h"),
        ]
        self.workers = [self._host(f"w{n}", n + 1) for n in range(1, self.n_workers + 1)]
        for worker in self.workers:
            worker.command = [
                "ray",
                "start",
                "--block",
                "--address",
                f"{self.head.address}:{GCS}",
                "--node-ip-address",
                worker.address,
                "--num-cpus",
                self.cpus,
                *self._common(worker.name),
            ]
        self.address = f"http://{self.head.address}:{DASHBOARD}"
        self.up()

    def _common(self, name: str) -> list:
        folder = self.folder / "ray" / name
        return ["--temp-dir", folder, "--object-store-memory", 90_000_000, "--disable-usage-stats", *BARE]

    def _host(self, name: str, number: int) -> Host:
        self._made.append(Host(self, name, number))
        return self._made[-1]

    def up(self, seconds: float = 300) -> None:
        """Start the head and every worker that does not run, and wait until the head counts them all."""
        self.wait(lambda: self._runs([self.head]) and self._answers(), seconds, "the head's dashboard", 0.5)
        everybody = [self.head, *self.workers]
        self.wait(lambda: self._runs(everybody) and self.living() == len(everybody), seconds, "all nodes", 0.5)

    def _runs(self, hosts: list[Host]) -> bool:
        """What has ended is started again, as a supervisor would: Ray gives a node 30 s to start, and one that the head
        has given up ends itself."""
        for host in hosts:
            if host.process is None or host.process.poll() is not None:
                host.kill()
                host.start()
        return True

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.address}/api/authentication_mode", timeout=5).status == 200
        except OSError:
            return False

    def living(self) -> int:
        """Nodes that the head takes for alive; 0 while it does not answer."""
        before = {k: os.environ.get(k) for k in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")}
        os.environ.update(RAY_AUTH_TOKEN=(self.folder / "token").read_text())
        try:
            return len(Dashboard(self.address).nodes())
        except Exception:
            return 0
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)

    def wait(self, condition, seconds: float, what: str, every: float = 0.1):
        """The condition's first true value, asked ``every`` so many seconds; AssertionError with the hosts' last words
        after ``seconds``."""
        deadline = time.time() + seconds
        while not (value := condition()):
            logs = "\n".join(f"{p.name}: {p.read_text()[-600:]}" for p in sorted(self.folder.glob("*.log")))
            assert time.time() < deadline, f"{what}: not within {seconds:.0f} s\n{logs}"
            time.sleep(every)
        return value

    def popen(self, *args, **env) -> subprocess.Popen:
        """The command line on the user's machine, in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **env},
            cwd=self.folder,
        )

    def tuner(self, *args, timeout: float = 300, **env) -> subprocess.CompletedProcess:
        process = self.popen(*args, **env)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def __exit__(self, *exc) -> None:
        for host in reversed(self._made):
            host.kill()
            ip("netns", "delete", host.space, check=False)
            ip("link", "delete", host.wire, check=False)
        ip("link", "delete", self.bridge, check=False)
