"""A real Ray cluster on loopback, with a token: submit, follow, jobs, logs, stop, resume, doctor, wrong input."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import tuner, tuner_here
from tests.hosts import BARE
from tuner.home import owner_name
from tuner.remote import submission
from tuner.remote.dashboard import Dashboard
from tuner.remote.shares import shares

TINY = [
    "--method",
    "srat",
    "--trials",
    "2",
    "--max-concurrent",
    "1",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=2",
    "--set",
    "eval_attack=2",
]
ROOT = Path(__file__).parent.parent
HEAD_IP = "127.0.0.2"  # Ray would replace 127.0.0.1 by the machine's outside address


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return map(str, ports)


class Cluster:
    """What tests need of the running head: where it is, and an environment that may use it."""

    def __init__(self, folder):
        self.home, self.token = folder / "home", "d" * 48
        gcs, dashboard, agent, client = free_ports(4)
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"{HEAD_IP}:{gcs}"
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
        self.env = {
            **outside,
            "HOME": str(folder),
            "RAY_AUTH_TOKEN": self.token,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        (folder / "token").write_text(self.token)
        bin_ = Path(sys.executable).parent
        self.log = open(folder / "head.log", "w")
        self.head = subprocess.Popen(
            [
                bin_ / "ray",
                "start",
                "--head",
                "--block",
                "--node-ip-address",
                HEAD_IP,
                "--port",
                gcs,
                "--dashboard-host",
                "127.0.0.1",
                "--dashboard-port",
                dashboard,
                "--dashboard-agent-listen-port",
                agent,
                "--ray-client-server-port",
                client,
                "--num-cpus",
                "2",
                "--num-gpus",
                "1",
                "--resources",
                '{"accelerator_type:T4": 1, "owner:others": 2}',
                "--temp-dir",
                str(folder / "ray"),
                "--disable-usage-stats",
                *BARE,
            ],
            env={
                **self.env,
                "RAY_AUTH_MODE": "token",
                "TUNER_HOME": str(self.home),
                "PATH": os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != bin_),  # P15
            },
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.time() + 150
        while not self._answers():
            assert self.head.poll() is None and time.time() < deadline, (folder / "head.log").read_text()[-2000:]
            time.sleep(0.3)

    def _answers(self):
        try:
            return urllib.request.urlopen(f"{self.address}/api/authentication_mode", timeout=5).status == 200
        except OSError:
            return False

    def close(self):
        self.head.terminate()
        try:
            self.head.wait(30)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.head.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.log.close()

    def tuner(self, *args, **env):
        """The command line as on another machine: HOME and token are the only things it shares with the cluster."""
        whole = {**self.env, **env}
        command = [sys.executable, "-m", "tuner.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, env=whole, cwd=self.env["HOME"])

    def tuner_here(self, *args, **env):
        """The same in this process, for what is answered at once."""
        return tuner_here(
            *args, env={"HOME": self.env["HOME"], "RAY_AUTH_TOKEN": self.token, **env}, cwd=self.env["HOME"]
        )


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="tuner-t") as folder:  # short: Ray's sockets live below it
        made = Cluster(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def followed(cluster):
    """One tiny search submitted and followed to its end, as the finished process; its method and model are of a package
    that is installed where `submit` runs, and nowhere on the cluster."""
    from tests.test_extending import installed_example

    where = Path(cluster.env["HOME"]) / "example"
    where.mkdir()
    python_path = installed_example(where)["PYTHONPATH"]
    names = ["--method", "focal", "--model", "linear", "--max-epochs", "1", "--name", "sent"]
    place = ["--address", cluster.address, "--follow", "--json", "--env", "OMP_NUM_THREADS"]
    place += ["--env", "NO_PROXY=blue.example"]
    return cluster.tuner("submit", *TINY[2:], *names, *place, PYTHONPATH=python_path)


def test_submit_and_follow(cluster, followed):
    assert followed.returncode == 0, followed.stderr
    result = json.loads(followed.stdout)
    assert result["search"] == "sent" and result["state"] == "finished" and result["id"].startswith("sent-")
    assert result["trials"]["finished"] == 2 and result["split"] == "val" and result["home"] == str(cluster.home)
    lines = followed.stderr.splitlines()
    assert any("trial 0 finished" in line for line in lines) and any("trial 1 finished" in line for line in lines)
    assert not [
        line
        for line in lines
        if line.startswith((submission.RESULT, "Running entrypoint")) or "INFO job_manager" in line
    ]
    assert "trial 0 ended: finished" in followed.stderr, "the package's listener hears the search there"


def test_jobs_logs_and_metadata(cluster, followed):
    jobs = cluster.tuner_here("jobs", "--address", cluster.address, "--json")
    row = next(r for r in json.loads(jobs.stdout) if r["search"] == "sent")
    assert row["state"] == "finished" and row["id"] == json.loads(followed.stdout)["id"]
    logs = cluster.tuner_here("logs", row["id"], "--address", cluster.address)
    assert logs.returncode == 0 and "trial 1 finished" in logs.stdout and submission.RESULT not in logs.stdout
    request = urllib.request.Request(
        f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token}"}
    )
    raw = urllib.request.urlopen(request, timeout=20).read().decode()
    assert cluster.token not in raw and "blue" in raw, (
        "values in a job's metadata are those that were given in plain sight"
    )


@pytest.mark.long
def test_stop_then_resume(cluster, monkeypatch):
    """SIGTERM through Ray's job API leaves the driver the time it needs; the same search goes on as a new job."""
    sent = cluster.tuner(
        "submit",
        *("passes=2" if word == "passes=1" else word for word in TINY),
        "--max-epochs",
        "8",
        "--name",
        "halted",
        "--address",
        cluster.address,
        "--json",
    )
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout).keys() >= {"id", "search", "state"}
    job, history, deadline = (
        json.loads(sent.stdout)["id"],
        cluster.home / "searches/halted/history.jsonl",
        time.time() + 120,
    )
    while not (history.exists() and '"epoch"' in history.read_text()):
        assert time.time() < deadline, cluster.tuner("logs", job, "--address", cluster.address).stdout
        time.sleep(0.2)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    found = shares(Dashboard(cluster.address))
    (here,) = [row for row in found.jobs if row["id"] == job]
    assert (here["owner"], here["priority"], here["running"], here["share"]) == (owner_name(), "normal", 1, 0.5)
    assert found.quotas == {"owner:others": (1.0, 2.0)}, "a trial takes of the head's, beside its own resources"
    row, was_running = submission.stop(Dashboard(cluster.address), job)  # at once: a new process would come too late
    assert was_running and row["state"] == "stopped"
    result = json.loads((history.parent / "result.json").read_text())  # the driver came to its own end
    again = cluster.tuner("stop", job, "--address", cluster.address, "--json")
    assert result["state"] == "stopped" and again.returncode == 0 and json.loads(again.stdout)["state"] == "stopped"
    before = history.read_text()
    again = cluster.tuner("resume", "halted", "--address", cluster.address, "--follow", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["state"] == "finished" and history.read_text().startswith(before)
    assert json.loads(again.stdout)["id"] != job


def test_doctor(cluster, followed):
    done = cluster.tuner("doctor", "--address", cluster.address, "--json")
    assert isinstance(json.loads(done.stdout), list), done.stdout
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0 and all(row["ok"] for row in rows.values()), rows
    assert rows.keys() >= {
        "versions",
        "ray",
        "gpus",
        "versions on the cluster",
        "jobs",
        "home",
        "mlflow",
        "storage from workers",
        "mlflow from workers",
        "clocks",
    }
    assert "with a token" in rows["ray"]["detail"]


def test_doctor_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    env = {
        "MLFLOW_TRACKING_URI": "http://me:hidden@127.0.0.1:9",
        "RAY_ADDRESS": "",
        "TUNER_HOME": str(tmp_path / "file"),
    }
    done = tuner("doctor", "--json", env=env)
    failed = {row["check"]: row["detail"] for row in json.loads(done.stdout) if not row["ok"]}
    assert done.returncode == 1 and failed.keys() == {"home", "mlflow"}
    assert "choose another" in failed["home"] and "is the server up" in failed["mlflow"] and "hidden" not in done.stdout


def test_driver_on_the_head_node(cluster, tmp_path):
    """RAY_ADDRESS alone; a token file is enough, though Ray itself would not send it. Half of a GPU of one kind."""
    done = cluster.tuner(
        "search",
        *TINY,
        "--max-epochs",
        "1",
        "--trials",
        "1",
        "--gpus-per-trial",
        "0.5",
        "--accelerator",
        "T4",
        "--home",
        tmp_path,
        "--json",
        RAY_ADDRESS=cluster.gcs,
        RAY_AUTH_TOKEN="",
        RAY_AUTH_TOKEN_PATH=f"{cluster.env['HOME']}/token",
    )
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "finished", done.stderr


@pytest.mark.parametrize(
    "args, env, code, words",
    [
        (["submit", *TINY, "--gpus-per-trial", "2"], {}, 2, "--gpus-per-trial 2 is more than any node has"),
        (["submit", *TINY, "--accelerator", "H100"], {}, 2, "--accelerator 'H100' is on no node; they have T4"),
        (["submit", *TINY], {"RAY_AUTH_TOKEN": ""}, 2, "requires a token and none is here"),
        (["jobs"], {"RAY_AUTH_TOKEN": "wrong" * 9}, 1, "refuses the token from here"),
        (
            ["jobs"],
            {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere/token"},
            2,
            "RAY_AUTH_TOKEN_PATH names '/nowhere/token'",
        ),
        (["logs", "nojob"], {}, 2, "no job 'nojob' on"),
        (["stop", "nojob"], {}, 2, "no job 'nojob' on"),
    ],
)
def test_wrong_input_on_a_cluster(cluster, args, env, code, words):
    done = cluster.tuner_here(*args, "--address", cluster.address, "--json", **env)
    assert done.returncode == code, done.stderr
    assert words in json.loads(done.stdout)["error"] and "Traceback" not in done.stderr


def test_job_that_needs_an_unset_variable(cluster):
    flags = ["--env", "MLFLOW_TRACKING_USERNAME", "--name", "unset", "--address", cluster.address, "--follow"]
    done = cluster.tuner("submit", *TINY, *flags)
    assert done.returncode == 2 and "MLFLOW_TRACKING_USERNAME is not set in the cluster's environment" in done.stderr
