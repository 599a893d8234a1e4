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
from tests.test_wrong_input import run
from tuner.errors import ClusterError, UsageError
from tuner.home import Home
from tuner.remote.slurm import sbatch_options, submit_slurm
from tuner.spec.search_spec import SearchSpec

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


@pytest.mark.long
@pytest.mark.timeout(600)
def test_sbatch_runs_a_search(tmp_path, short):
    """Ray with a token of this job's own and the search are the real ones; SLURM's programs stand-ins."""
    slurm = {name: FAKES[name] for name in ("scontrol", "srun", "hostname")}
    tiny = ["--trials", "1", "--max-epochs", "1"]
    tiny += [word for name in ("passes=1", "attack_steps=2", "eval_attack=2") for word in ("--set", name)]
    script = sbatch(
        tmp_path, short, "--method", "at", *tiny, "--name", "on-slurm", "--json", fakes=slurm, job=str(os.getpid())
    )  # its port comes from it
    assert script.wait(timeout=550) == 0, (tmp_path / "errors").read_text()[-3000:]
    assert '"state": "finished"' in (tmp_path / "out").read_text() and "requeue" not in (tmp_path / "log").read_text()
    assert not list((tmp_path / "home").glob(".ray-token*"))


# ---- tuner submit --slurm ------------------------------------------------------------------------------------------


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A home, and a stand-in for sbatch that writes down its arguments and TUNER_HOME."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(
        f'#!/bin/sh\nfor word in "$@" "home $TUNER_HOME"; do echo "$word"; done > {tmp_path}/asked\necho "4711;here"\n'
    )
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Home(tmp_path / "home")


def directives(script: Path) -> list[str]:
    return [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]


@pytest.mark.process
def test_a_search_is_queued_by_a_script_of_its_own(queue, tmp_path):
    spec = SearchSpec(method="dafa", trials=3, name="queued")
    found = submit_slurm(spec, queue, "--nodes=2 --time=08:00:00 --exclusive")
    script = queue.root / "slurm" / "queued.sbatch"
    assert found == {"id": "4711", "search": "queued", "script": str(script)}
    (written,) = map(str, script.parent.glob("queued-*.yaml"))
    asked = ["--parsable", str(script), "--spec", written, "--name", "queued", f"home {queue.root}"]
    assert (tmp_path / "asked").read_text().splitlines() == asked
    assert SearchSpec.from_yaml(Path(written).read_text()) == spec
    own = directives(DEPLOY / "slurm/search.sbatch")
    assert "--nodes=1" in own and "--time=04:00:00" in own
    kept = [d for d in own if d not in ("--job-name=tuner", "--nodes=1", "--time=04:00:00")]
    assert directives(script) == [*kept, "--job-name=queued", "--nodes=2", "--time=08:00:00", "--exclusive"]
    bare = [line for line in script.read_text().splitlines() if not line.startswith("#SBATCH")]
    assert bare == [x for x in (DEPLOY / "slurm/search.sbatch").read_text().splitlines() if not x.startswith("#SBATCH")]


@pytest.mark.process
def test_a_queued_job_keeps_its_spec(queue, tmp_path):
    """Its script reads that when it begins, perhaps hours after another search of this name was sent."""
    specs = SearchSpec(method="dafa", name="queued"), SearchSpec(method="dafa", name="queued", budget="2h")
    read = []
    for spec in specs:
        submit_slurm(spec, queue, "")
        read.append(Path((tmp_path / "asked").read_text().splitlines()[3]))
    assert [SearchSpec.from_yaml(path.read_text()) for path in read] == [*specs]


@pytest.mark.process
def test_what_sbatch_refuses_is_said(queue, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(ClusterError, match="sbatch did not take the job: sbatch: error: invalid partition"):
        submit_slurm(SearchSpec(), queue, "--partition=none")


def test_without_sbatch_the_command_is_said(queue, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="sbatch --parsable .*srat-digits-.*[.]sbatch --spec"):
        submit_slurm(SearchSpec(), queue, "--nodes=1")


@pytest.mark.parametrize(
    "options", ["script.sh", "--nodes 2", "-N2", "--nodes=2;rm", "'--a", "--comment=a\nb", "--x=#y"]
)
def test_only_options_of_sbatch_are_passed_on(queue, options, tmp_path):
    if options == "--nodes=2;rm":  # a shell would end the command there; nothing here is one
        assert sbatch_options(options) == [options]
        return
    with pytest.raises(UsageError, match="--slurm .* is not allowed"):
        submit_slurm(SearchSpec(), queue, options)
    assert not (queue.root / "slurm").exists()


def test_options_for_a_cluster_are_refused_with_slurm(queue, capsys, monkeypatch):
    code, _, err = run(capsys, monkeypatch, "submit", "--slurm", "--nodes=2", "--follow", "--address", "http://h:8265")
    assert code == 2 and "--address, --follow is for a Ray cluster" in err
