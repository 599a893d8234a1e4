"""deploy/local for real: PostgreSQL, MLflow on it, a Ray head and a worker, a search stored on S3, down again."""

import glob
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.s3 import s3_server
from tests.test_submit import free_ports

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "deploy/local/service.sh"
POSTGRES = shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb")


def block_of_ports(count=40):
    for first in range(21000 + os.getpid() % 5000, 32000, count):
        try:
            for port in (*range(first, first + 12),):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return str(first)
        except OSError:
            continue
    raise AssertionError("no free ports")


@pytest.mark.skipif(
    not POSTGRES, reason="PostgreSQL's programs are not installed (Debian: apt-get install -y postgresql)"
)
@pytest.mark.timeout(600)
def test_up_search_down():
    with s3_server(int(next(free_ports(1)))) as s3:
        up_search_down(s3)


def up_search_down(s3):
    folder = Path(tempfile.mkdtemp(prefix="tuner-l"))
    folder.chmod(0o755)  # root's PostgreSQL runs as another user
    bin_ = Path(sys.executable).parent
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
    env = {
        **clean,
        **s3.env,
        "TUNER_LOCAL": str(folder / "s"),
        "TUNER_LOCAL_PORT": block_of_ports(),
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }

    def service(*args, check=True):
        done = subprocess.run([SERVICE, *args], env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0 or not check, done.stderr
        return done

    try:
        service("up", "1")
        status = service("status").stdout
        assert (
            all(f"up    {name}" in status for name in ("postgres", "mlflow", "ray-head", "ray-worker-1"))
            and "nodes 2" in status
        )
        exports = dict(line.removeprefix("export ").split("=", 1) for line in service("env").stdout.splitlines())
        command = [
            sys.executable,
            "-m",
            "tuner.cli",
            "submit",
            "--method",
            "srat",
            "--trials",
            "2",
            "--max-epochs",
            "1",
            "--set",
            "passes=1",
            "--set",
            "attack_steps=2",
            "--set",
            "eval_attack=2",
            "--name",
            "local",
            "--storage",
            s3.url("local"),
            "--follow",
            "--json",
        ]
        done = subprocess.run(command, env={**env, **exports}, capture_output=True, text=True, timeout=240, cwd=folder)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["trials"]["finished"] == 2 and result["mlflow"]["tracking_uri"] == exports["MLFLOW_TRACKING_URI"]
        checkpoints = [key for key in s3.keys("local/searches/local/trials/") if key.endswith("checkpoint.pt")]
        assert len(checkpoints) == 2 + 1 and not list(folder.rglob("checkpoint.pt")), (
            "nodes share nothing but the storage"
        )
        address = f"{exports['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/get?run_id={result['mlflow']['run_id']}"
        run = json.load(urllib.request.urlopen(address, timeout=30))["run"]
        assert run["info"]["status"] == "FINISHED"
        assert {"key": "tuner.search", "value": "local"} in run["data"]["tags"]
        secrets = [(folder / "s/ray-token").read_text(), (folder / "s/pgpass").read_text().strip().split(":")[-1]]
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
        assert not [line for line in lines if any(s in line for s in secrets)], "a secret is in a command line"
    finally:
        service("down", check=False)
        left = [
            p.info["cmdline"]
            for p in psutil.process_iter(["cmdline"])
            if str(folder) in " ".join(p.info["cmdline"] or [])
        ]
        service("destroy", "--yes", check=False)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left
