"""deploy/slurm: the script itself, run by bash; SLURM's programs are stand-ins, Ray and the search once real."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.test_deploy import DEPLOY, ROOT

FAKES = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; if [ "$1" = show ]; then echo node1; fi',
    "srun": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "hostname": "echo 127.0.0.9",
    "ray": 'echo "ray $*" >> "$LOG"; if [ "$1" = start ]; then exec sleep 60; fi',
    "tuner": 'echo "tuner $*" >> "$LOG"; trap "exit 130" TERM; touch "$LOG.up"; '
    "for i in $(seq 300); do sleep 0.1; done; exit 0",
}


@pytest.fixture
def short():
    """Ray's sockets live below it, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="tuner-s", ignore_cleanup_errors=True) as folder:
        yield folder


def sbatch(tmp_path, short, *options, fakes=FAKES, job="77"):
    """The script as SLURM would start it, on one node."""
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "TUNER_"))}
    env = {
        **clean,
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "node1",
        "TUNER_HOME": str(tmp_path / "home"),
        "RAY_TMPDIR": str(short),  # what a killed head leaves behind stays in there
    }
    command = ["bash", DEPLOY / "slurm/search.sbatch", *options]
    with open(tmp_path / "out", "w") as out, open(tmp_path / "errors", "w") as errors:  # files, as SLURM's are
        return subprocess.Popen(command, env=env, stdout=out, stderr=errors)


def test_sbatch_forwards_the_signal_and_requeues(tmp_path, short):
    """Every program is a stand-in that writes down how it was called."""
    script = sbatch(tmp_path, short, "--method", "srat")
    deadline = time.time() + 30
    while not (tmp_path / "log.up").exists():
        assert time.time() < deadline and script.poll() is None
        time.sleep(0.1)
    script.send_signal(signal.SIGTERM)
    script.wait(timeout=30)
    log, errors = (tmp_path / "log").read_text(), (tmp_path / "errors").read_text()
    assert "tuner search --method srat" in log and "ray start --head" in log
    assert script.returncode == 130 and "scontrol requeue 77" in log, errors
    assert not list((tmp_path / "home").glob(".ray-token*"))
    # S4: Ray opens its folders to everybody, so they lie in one that is its user's alone
    assert [(f.name[:4], f.stat().st_mode & 0o777) for f in Path(short).iterdir()] == [("ray-", 0o700)]


@pytest.mark.timeout(600)
def test_sbatch_runs_a_search(tmp_path, short):
    """Ray with a token of this job's own and the search are the real ones; SLURM's programs stand-ins."""
    slurm = {name: FAKES[name] for name in ("scontrol", "srun", "hostname")}
    tiny = ["--trials", "1", "--max-epochs", "1", "--set", "passes=1", "--set", "attack_steps=2"]
    script = sbatch(
        tmp_path, short, "--method", "at", *tiny, "--name", "on-slurm", "--json", fakes=slurm, job=str(os.getpid())
    )  # its port comes from it
    assert script.wait(timeout=550) == 0, (tmp_path / "errors").read_text()[-3000:]
    assert '"state": "finished"' in (tmp_path / "out").read_text() and "requeue" not in (tmp_path / "log").read_text()
    assert not list((tmp_path / "home").glob(".ray-token*"))
