"""What all tests share: the command line as a function, one finished search, marks, and no network."""

import contextlib
import fcntl
import gc
import io
import json
import multiprocessing.process
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else trials wait for all other work on the machine
# A private Ray has one worker at a time, on however many cores: a second one's imports cost more than the work here.
os.environ.setdefault("RAY_OVERRIDE_RESOURCES", '{"CPU": 1}')

from tests import drivers, reach  # noqa: E402 - the first keeps the environment

# One actor: starting a second one costs more than these trials do.
SMALL = [
    "--max-epochs",
    "3",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=4",
    "--set",
    "eval_attack=4",
    "--max-concurrent",
    "1",
]
# ---- the command line ------------------------------------------------------------------------------------------------

# Commands that only read: 0.1 s here, 2 s in a process of their own.
READS = {"front", "ls", "methods", "schema", "space"}


def tuner(*args, env=None, timeout=240, cwd=None, **how):
    """The command line as a user has it, in a process of its own unless it only reads; returns the finished process.
    ``how``: as of `tuner_process`."""
    if args[0] in READS:
        return tuner_here(*args, env=env, cwd=cwd)
    process = tuner_process(*args, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def tuner_process(*args, env=None, cwd=None, fresh=False, first="", **how):
    """The command line in a process of its own, which has begun. It is forked where that is the same, see
    tests/drivers.py, unless it is to be ``fresh``. ``env``: beside what this process has; ``first``: code that it runs
    before; ``how``: as of `subprocess.Popen`."""
    whole = {**os.environ, **(env or {})}
    if not fresh and drivers.forks(whole, cwd):
        return drivers.Forked(args, whole, first=first, **how)
    code = f"{first}\nimport sys\nfrom tuner.cli import main\nsys.argv[0] = 'tuner'\nmain()"
    command = [sys.executable, *(["-c", code] if first else ["-m", "tuner.cli"]), *map(str, args)]
    return subprocess.Popen(command, text=True, env=whole, cwd=cwd, **how)


def tuner_here(*args, env=None, cwd=None):
    """The command line in this process: what it prints and its exit code, as a finished process."""
    from trainables import storage
    from tuner.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in (env or {}).items():
            patch.setenv(name, str(value))
        if cwd:
            patch.chdir(cwd)
        patch.setattr(sys, "argv", ["tuner", *map(str, args)])
        storage.open_storage.cache_clear()  # it may have been opened with other keys
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            storage.open_storage.cache_clear()
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


# ---- what is made once -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, make)``: the folder that ``make(folder)`` filled, with the JSON that it returned. The first of
    pytest's worker processes that needs it makes it; the others wait and read the same."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name, make):
        folder, said = root / name, root / f"{name}.json"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not said.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed to make it
                folder.mkdir()
                said.write_text(json.dumps(make(folder)))
        return folder, json.loads(said.read_text())

    return made


# Modules of the standard library, and of libraries that we use, some of which only workers import.
SHADOWED = ("random", "statistics", "typing", "torch", "optuna", "yaml", "ray", "mlflow", "numpy", "torchvision")


def shadowing(folder):
    """The folder, made with a file of the user's for each of ``SHADOWED``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHADOWED:
        (folder / f"{name}.py").write_text("raise RuntimeError('of the user')")
    return folder


@pytest.fixture(scope="session")
def finished(once):
    """(result JSON, home, stderr) of one search through the command line. Tests that change it copy it first."""

    def make(home):
        small = ["--trials", 6, *SMALL, "--name", "first"]
        beside = shadowing(home.parent / "work")  # P10: the files of its user break nothing, in no process
        done = tuner("search", "--method", "srat", *small, "--home", home, "--json", cwd=beside, fresh=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    home, (result, stderr) = once("finished", make)
    return result, home, stderr


@pytest.fixture
def wide_front(monkeypatch):
    """The front holds every point of the trials that trained in full: which of them are on that of so small a search is
    up to the last bits of the processor."""
    from tuner.results.pareto import Front
    from tuner.results.search_run import SearchRun

    def every(run):
        return Front(run.spec.objectives, tuple(run.history.rows(run.spec.objectives, run.spec.goal)))

    monkeypatch.setattr(SearchRun, "assessed_front", every)


@pytest.fixture(scope="session")
def parquet_dir(tmp_path_factory):
    """A real Parquet data set as hubs publish them: 3 classes of 32x32 PNGs, each a colour with noise."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("parquet"), np.random.default_rng(0)
    for split, each in (("train", 40), ("test", 8)):
        rows = []
        for label in range(3):
            for number in range(each):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 100
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                rows.append({"img": {"bytes": png.getvalue(), "path": f"{split}/{label}/{number}.png"}, "label": label})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback."""
    from tests.s3 import s3_server
    from tests.test_submit import free_ports

    with s3_server(int(next(free_ports(1)))) as server:
        yield server


@pytest.fixture
def s3_env(s3, monkeypatch):
    """This process may use the server."""
    from trainables import storage

    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    storage.open_storage.cache_clear()
    yield s3
    storage.open_storage.cache_clear()


# ---- marks and order -------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Marks by what a test reaches; then the longest first, so that pytest's workers end together.

    Each test is handed out by itself. Those that would make an expensive thing again on another worker stay together:
    the tests of a file that share a process of its own (a cluster, a server), and all tests of a file that start none.
    """
    for item in items:
        marks = reach.marks_of(item) | {mark.name for mark in item.iter_markers()}
        marks |= {"process", "slow"} if "ray" in marks else set()
        if hasattr(item, "callspec") and item.callspec.params.get("sampler") == "gp":
            marks.add("slow")
        for mark in sorted(marks & {"process", "ray", "browser", "slow"}):
            item.add_marker(mark)
        shares = any(reach.process_in(fixture) for fixture in reach.fixtures_of(item, ("class", "module")))
        if shares or not item.get_closest_marker("process"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.name}{' shares' if shares else ''}"))
    items.sort(key=lambda item: (-_weight(item), "finished" in item.fixturenames))
    first = next((item for item in items if "finished" in item.fixturenames), None)
    if first:  # one worker makes the finished search at once; by the time the others need it, it is there
        items.insert(0, items.pop(items.index(first)))


def _weight(item):
    return sum(item.get_closest_marker(mark) is not None for mark in ("process", "slow", "ray"))


# ---- no network, no hidden process -----------------------------------------------------------------------------------

LOCAL = ("localhost", socket.gethostname(), "", None)
STARTED_BY_LIBRARIES = {"git", "uname", "ldconfig", "lscpu"}  # short questions to the machine


def _no_network(host, *args, _real=socket.getaddrinfo, **options):
    """In place of `socket.getaddrinfo`: addresses are fine, names of other machines are not found."""
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOCAL and not host.replace(".", "").isdigit() and ":" not in host:
        raise socket.gaierror(socket.EAI_NONAME, "tests have no network")
    return _real(host, *args, **options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test without the mark `process` that starts one fails."""
    if item.get_closest_marker("process"):
        return (yield)
    popen, begin = subprocess.Popen.__init__, multiprocessing.process.BaseProcess.start

    def refuse(what):
        raise AssertionError(f"{item.nodeid} starts a process ({what}): mark it with @pytest.mark.process")

    def guarded(self, args, *rest, **options):
        command = args if isinstance(args, (str, bytes, os.PathLike)) else list(args)[0]
        if Path(os.fsdecode(command)).name.split()[0] not in STARTED_BY_LIBRARIES:
            refuse(args)
        popen(self, args, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", guarded)
        patch.setattr(multiprocessing.process.BaseProcess, "start", lambda self: refuse(self) or begin(self))
        patch.setattr(drivers.Forked, "__init__", lambda self, words, *rest, **options: refuse(words))
        return (yield)


@pytest.fixture(autouse=True)
def environment_of_its_own():
    """What code under test puts into the environment ends with the test: drivers of later ones would have it, and could
    not be forked."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - drivers.OF_LIBRARIES:
        del os.environ[name]
    os.environ.update(before)


def pytest_configure():
    gc.disable()  # while all that is collected stays
    socket.getaddrinfo = _no_network
    # `nohup make test`, or `&` in a script, would have both ignored, here and in what the tests start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    gc.freeze()  # libraries, tests and their names live to the end: no collection walks through them again
    gc.enable()


def pytest_unconfigure():
    drivers.close()
    gc.unfreeze()  # else what counts its objects at the end, as Triton's bindings do, takes them for leaks
