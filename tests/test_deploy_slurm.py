"""deploy/slurm: the script itself, run by bash with stand-ins for SLURM's and Ray's programs."""

import os
import signal
import subprocess
import time

import pytest

from tests.test_deploy import DEPLOY

FAKES = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; if [ "$1" = show ]; then echo node1; fi',
    "srun": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "hostname": "echo 127.0.0.9",
    "ray": 'echo "ray $*" >> "$LOG"; if [ "$1" = start ]; then exec sleep 60; fi',
    "tuner": 'echo "tuner $*" >> "$LOG"; trap "exit 130" TERM; touch "$LOG.up"; '
    "for i in $(seq 300); do sleep 0.1; done; exit 0",
}


@pytest.mark.parametrize("told", [True, False], ids=["SIGTERM", "to-its-end"])
def test_sbatch_forwards_the_signal_and_requeues(tmp_path, told):
    """The script itself, run by bash; SLURM's and Ray's programs are stand-ins that write down how they were called."""
    for name, body in FAKES.items():
        if name == "tuner" and not told:
            body = 'echo "tuner $*" >> "$LOG"; exit 0'
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node1",
        "TUNER_HOME": str(tmp_path / "home"),
    }
    script = subprocess.Popen(
        ["bash", DEPLOY / "slurm/search.sbatch", "--method", "srat"], env=env, stderr=subprocess.PIPE, text=True
    )
    if told:
        deadline = time.time() + 30
        while not (tmp_path / "log.up").exists():
            assert time.time() < deadline and script.poll() is None
            time.sleep(0.1)
        script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=30)
    log = (tmp_path / "log").read_text()
    assert "tuner search --method srat" in log and "ray start --head" in log
    assert (script.returncode, "scontrol requeue 77" in log) == ((130, True) if told else (0, False)), errors
    assert not list((tmp_path / "home").glob(".ray-token*"))
