"""S14: deploy/local for real, on its default port: PostgreSQL, MLflow on it behind its password, a Ray head and a
worker, a search stored on S3, down again."""

import base64
import glob
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
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
    """The default ports; where another service has them, others that Ray too would take for its workers."""
    for first in range(17600, 19900, count):
        try:
            for port in (*range(first, first + 12),):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return {"TUNER_LOCAL_PORT": str(first)} if first != 17600 else {}
        except OSError:
            continue
    raise AssertionError("no free ports")


@pytest.mark.process
def test_what_it_says_to_type_is_what_a_shell_reads(tmp_path):
    place, env = tmp_path / "a b", {"PATH": os.environ["PATH"], "TUNER_LOCAL": str(tmp_path / "my service")}
    place.mkdir()
    shutil.copy(SERVICE, place)
    (tmp_path / "my service").mkdir()
    refused = subprocess.run(["bash", place / SERVICE.name, "destroy"], env=env, capture_output=True, text=True)
    command = refused.stderr.strip().partition("say so with: ")[2]
    assert refused.returncode == 1 and command.endswith("destroy --yes")
    subprocess.run(["bash", "-c", command], env=env, check=True)
    assert not (tmp_path / "my service").exists()


@pytest.mark.long
@pytest.mark.skipif(
    not POSTGRES, reason="PostgreSQL's programs are not installed (Debian: apt-get install -y postgresql)"
)
@pytest.mark.timeout(600)
def test_s14_up_search_down():
    with s3_server(int(next(free_ports(1)))) as s3:
        up_search_down(s3)


def set_by(text):
    """The variables that a shell has which evaluates this text."""
    done = subprocess.run(["bash", "-c", f"{text}\nenv -0"], env={"PATH": os.environ["PATH"]}, capture_output=True)
    found = dict(line.split("=", 1) for line in done.stdout.decode().rstrip("\0").split("\0"))
    return {name: value for name, value in found.items() if f"export {name}=" in text}


def up_search_down(s3):
    folder = Path(tempfile.mkdtemp(prefix="tuner-l"))
    folder.chmod(0o755)  # root's PostgreSQL runs as another user
    bin_ = Path(sys.executable).parent
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
    env = {
        **clean,
        **s3.env,
        "TUNER_LOCAL": str(folder / "s"),
        **block_of_ports(),
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }

    def service(*args, check=True):
        """From its own folder."""
        command = ["bash", SERVICE.name, *args]
        done = subprocess.run(command, cwd=SERVICE.parent, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0 or not check, done.stderr
        return done

    try:
        service("up", "1")
        status = service("status").stdout
        assert (
            all(f"up    {name}" in status for name in ("postgres", "mlflow", "ray-head", "ray-worker-1"))
            and "nodes 2" in status
        )
        exports = set_by(service("env").stdout)
        command = [
            sys.executable,
            "-m",
            "tuner.cli",
            "submit",
            "--method",
            "srat",
            "--trials",
            "2",
            "--max-concurrent",
            "1",
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
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address, timeout=30)
        sign_in = f"tuner:{exports['MLFLOW_TRACKING_PASSWORD']}".encode()
        header = {"Authorization": f"Basic {base64.b64encode(sign_in).decode()}"}
        run = json.load(urllib.request.urlopen(urllib.request.Request(address, headers=header), timeout=30))["run"]
        assert run["info"]["status"] == "FINISHED"
        assert {"key": "tuner.search", "value": "local"} in run["data"]["tags"]
        files = [folder / "s" / name for name in ("ray-token", "pgpass", "mlflow-password", "mlflow-key")]
        secrets = [file.read_text().strip().split(":")[-1] for file in files]
        others = [path for path in (folder / "s").iterdir() if path.stat().st_mode & 0o077]
        assert not others, "other users of the machine read it"
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
