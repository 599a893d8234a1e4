"""A forked driver is what a fresh `python -m tuner.cli` is, in all that a test can see (tests/drivers.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import drivers
from tests.conftest import tuner, tuner_process

# In the place of a command: what the process is.
SEEN = """
import json, os, random, signal, sys, tempfile, threading
import numpy, torch
names = {signal.SIG_DFL: "default", signal.SIG_IGN: "ignored", signal.default_int_handler: "interrupts"}
usual = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "words": sys.argv[1:],
    "environment": {k: v for k, v in os.environ.items() if k not in LIBRARIES},
    "folder": os.getcwd(),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "group": None if LEADS else os.getpgid(0),
    "signals": {n: names.get(signal.getsignal(n), "other") for n in usual},
    "blocked": status["SigBlk"].strip(),
    "umask": status["Umask"].strip(),
    "streams": [os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in range(3)],
    "encodings": [(s.encoding, s.errors) for s in (sys.stdout, sys.stderr)],
    "temporary": tempfile.gettempdir(),
    "threads": [torch.get_num_threads(), threading.active_count()],
    "main": threading.current_thread() is threading.main_thread(),
    "path": sys.path[0] or os.getcwd(),
    "random": [random.random(), numpy.random.random(), torch.rand(1).item()],
}))
sys.stdout.flush()
print("said", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture(autouse=True)
def as_pytest_began(monkeypatch):
    """Without what earlier tests of this process, and fixtures that last, have put into the environment."""
    for name in (os.environ.keys() | drivers.ENVIRONMENT.keys()) - drivers.OF_LIBRARIES:
        if name.startswith("PYTEST_"):
            continue
        if name in drivers.ENVIRONMENT:
            monkeypatch.setenv(name, drivers.ENVIRONMENT[name])
        else:
            monkeypatch.delenv(name)


def seen(fresh, leads=False, **how):
    code = SEEN.replace("LIBRARIES", repr(drivers.OF_LIBRARIES)).replace("LEADS", repr(leads))
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = tuner_process("a", "b c", first=code, fresh=fresh, start_new_session=leads, **pipes, **how)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (7, "said\n"), err
    assert isinstance(process, subprocess.Popen if fresh else drivers.Forked)
    return json.loads(out)


@pytest.mark.parametrize("leads", [False, True])
def test_it_is_what_a_fresh_process_is(leads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_HOME", "here")
    (fresh, forked, again) = (seen(fresh, leads, env={"AWS_REGION": "x"}) for fresh in (True, False, False))
    assert len({*forked.pop("random"), *again.pop("random"), *fresh.pop("random")}) == 9
    assert fresh == forked == again


@pytest.mark.process
def test_a_folder_for_temporary_files_is_that_of_the_environment(tmp_path, monkeypatch):
    """Also where this process has looked for another one before."""
    monkeypatch.setattr(drivers, "ENVIRONMENT", {**drivers.ENVIRONMENT, "TMPDIR": str(tmp_path)})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert seen(False)["temporary"] == str(tmp_path)


@pytest.mark.parametrize(
    "name, value, forks",
    [
        ("TUNER_NOTIFY", "x", True),
        ("RAY_ADDRESS", "x", False),
        ("PYTHONPATH", "/x", False),
        ("OMP_NUM_THREADS", None, False),
    ],
)
def test_other_variables_for_libraries_need_a_fresh_process(name, value, forks):
    env = {key: value for key, value in {**drivers.ENVIRONMENT, name: value}.items() if value is not None}
    assert drivers.forks(env) == forks and drivers.forks(drivers.ENVIRONMENT)
    assert not drivers.forks(drivers.ENVIRONMENT, cwd="/")


WAITS = """
import sys, time
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_a_signal_ends_it(number, code, fresh):
    process = tuner_process("doctor", first=WAITS, fresh=fresh, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "up\n" and process.poll() is None
    process.send_signal(number)
    assert process.wait(20) == process.poll() == code


def test_its_end_is_waited_for_no_longer_than_allowed():
    process = tuner_process("doctor", first="import time; time.sleep(60)", stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.2)
    process.kill()
    assert process.wait(20) == -9


@pytest.mark.process
def test_what_tests_have_imported_does_not_make_it_fresh():
    import mlflow.entities  # noqa: F401
    import ray.tune  # noqa: F401

    assert drivers.forks(dict(os.environ))


def test_a_command_prints_what_it_prints(tmp_path):
    fresh, forked = (tuner("resume", "none", "--home", tmp_path, "--json", fresh=fresh) for fresh in (True, False))
    assert (fresh.returncode, fresh.stdout, fresh.stderr) == (forked.returncode, forked.stdout, forked.stderr)
    assert fresh.returncode == 2 and "no search 'none'" in fresh.stderr


def test_it_ends_with_pytest_however_that_ends():
    """A process that has started it is killed."""
    code = (
        "import time\nfrom tests.conftest import drivers, tuner\nprint(tuner('--version').returncode)\n"
        "print(drivers._server.process.pid, flush=True)\ntime.sleep(60)"
    )
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout.readline() == "0\n"
    server = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:  # whoever adopts it has to take note
        assert time.monotonic() < until
        time.sleep(0.05)
