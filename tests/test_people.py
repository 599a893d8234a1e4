"""What people meet (shared faults, section B): homes with odd names, hints that can be typed, states, full disks,
dead clusters."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError

from tests.answers import answering
from tests.conftest import tuner_here
from tests.histories import fill, run_of
from tests.test_tracking import home_in, no_outer_server, search_in  # noqa: F401 - a fixture
from trainables import ray_adapter
from trainables.data import DataError, DataSpec, check
from trainables.storage import Storage, absolute_storage, explain
from tuner.errors import Failed, UsageError
from tuner.execution import driver, ray_instance
from tuner.execution.ray_callback import SearchCallback
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.remote.doctor import examine
from tuner.remote.submission import ENTRYPOINT
from tuner.report.files import write_pictures
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.searches import load_search, shown_state
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import health, removal
from tuner.tracking.runs import database_uri
from tuner.tracking.tracker import sync


@pytest.fixture
def spec():
    return SearchSpec(max_epochs=4, trials=6, name="s")


# ---- P14: a running search is said to run ----------------------------------------------------------------------------


def test_p14_a_running_search_is_shown_as_running(tmp_path, spec):
    home = Home(tmp_path)
    search_in(home, spec, trials=2, failed=False)
    run = load_search(home, "s")
    states = [shown_state(run)]
    with driver._locked(run):
        states.append(shown_state(run))
        listed = json.loads(tuner_here("ls", "--home", tmp_path, "--json").stdout)
        front = json.loads(tuner_here("front", "s", "--home", tmp_path, "--json").stdout)
        states += [listed[0]["state"], front[0]["state"]]
        with pytest.raises(UsageError, match="running already"), driver._locked(run):
            pass
    assert states == ["stopped", "running", "running", "running"] and shown_state(run) == "stopped"


def test_p14_who_looks_does_not_keep_a_search_from_starting(tmp_path, spec):
    home = Home(tmp_path)
    search_in(home, spec)
    run = load_search(home, "s")
    with open(run.folder / ".lock", "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.15, fcntl.flock, [looking, fcntl.LOCK_UN]).start()
        with driver._locked(run):
            pass


# ---- P12: the cause, and what to type --------------------------------------------------------------------------------


def test_p12_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TUNER_HOME", "~/b")
    assert Home("~/a").root == tmp_path / "a" and Home().root == tmp_path / "b"
    with pytest.raises(UsageError, match="'~nobody-here/a' names a user that this machine does not have"):
        Home("~nobody-here/a")


def test_p12_a_home_that_no_file_system_can_have():
    with pytest.raises(UsageError, match=r"home folder '.*9' cannot be read \(File name too long\)"):
        Home("/tmp/" + "9" * 300)


def test_p8_names_that_are_no_text_are_refused_where_they_would_be_kept(tmp_path):
    """On disks names are any bytes; a spec, SQLite and MLflow hold text."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    with pytest.raises(UsageError, match="home folder .* is no text"):
        Home(odd)
    with pytest.raises(DataError, match="dataset .* is no text"):
        check(DataSpec(f"folder:{odd}", "none"), tmp_path / "home")
    with pytest.raises(ValueError, match=".* is no text"):
        absolute_storage(odd)


@pytest.mark.parametrize("command", ["rm", "restore", "gc"])
def test_p12_a_home_that_cannot_be_written_is_noticed_before_mlflow_is_told(tmp_path, spec, monkeypatch, command):
    home = Home(tmp_path)
    search_in(home, spec, failed=False)
    for trial in (0, 1, 2):
        (home.search("s") / f"previews/{trial}").mkdir(parents=True)
    if command == "restore":
        removal.remove("s", home)
    monkeypatch.setattr(removal, "set_deleted", lambda *args: pytest.fail("MLflow was told"))
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    done = tuner_here(command, *(["--yes"] if command == "gc" else ["s"]), "--home", tmp_path)
    assert done.returncode == 2 and "cannot be written (Read-only file system)" in done.stderr


@pytest.mark.parametrize("folder", ["plain", "with space", "it's $HOME"])
def test_p12_a_hint_names_the_home_as_a_shell_reads_it(tmp_path, spec, folder, monkeypatch):
    home = Home(tmp_path / folder)
    run = run_of(spec, History(None), home, "s")
    assert shlex.split(driver._go_on(run).split("`")[1]) == ["tuner", "resume", "s", "--home", str(home.root)]
    monkeypatch.setenv("TUNER_HOME", str(home.root))
    assert home.flag == ""


@pytest.mark.slow
def test_p12_hints_of_other_commands_name_the_home(tmp_path, spec):
    from tuner.tracking.after_search import log_test
    from tuner.verification.rows import assessed

    home = Home(tmp_path / "a b")
    search_in(home, spec, trials=0, failed=False)
    run = load_search(home, "s")
    with pytest.raises(UsageError, match=r"`tuner resume s --home '.*/a b'` continues it"):
        assessed(run)
    with pytest.raises(Failed, match=r"`tuner sync s --home '.*/a b'` fills it in"):
        log_test({"rows": []}, run)


def test_p12_a_home_that_cannot_be_written_is_noticed_before_the_attack(tmp_path, spec, monkeypatch):
    from tuner.verification import verify

    home = Home(tmp_path)
    search_in(home, spec)
    monkeypatch.setattr(verify, "chosen", lambda *args: pytest.fail("the attack is being prepared"))
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(UsageError, match="cannot be written.*Read-only file system"):
        verify.verify_search("s", home)
    with pytest.raises(UsageError, match="cannot be written"):
        driver.fill_mlflow("s", home, print)


def refused(**_):
    raise OSError(30, "Read-only file system")


def test_p12_a_damaged_archive_is_not_called_absent(tmp_path, monkeypatch):
    from trainables.data import DataError, DataSpec
    from trainables.data import check as check_data

    for name, content, words in (
        ("cifar10", None, "'cifar10' is not on this machine"),
        ("cifar10", b"cut", "'cifar10' is damaged or incomplete .cifar-10-python.tar.gz in .*put an intact"),
    ):
        folder = tmp_path / "datasets" / "raw" / "cifar10"
        if content is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cifar-10-python.tar.gz").write_bytes(content)
        with pytest.raises((DataError, ValueError), match=words):
            check_data(DataSpec(name), tmp_path)


def test_p1_an_interrupted_verification_says_how_to_go_on(finished, tmp_path, monkeypatch):
    from tuner.verification import verify

    home, said = Home(shutil.copytree(finished[1], tmp_path / "a b")), []

    def ctrl_c(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "run_jobs", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        verify.verify_search("first", home, say=said.append)
    assert f"`tuner verify first --home '{home.root}'` with the same options continues it" in said[-1]


# ---- P4: a cluster that is gone --------------------------------------------------------------------------------------


@pytest.fixture
def dead_head(monkeypatch):
    """RAY_ADDRESS of a port at which nothing listens; `ray.init` must not be asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr("ray.init", lambda *args, **options: pytest.fail("it would ask for minutes"))
    return port


def test_p4_a_search_on_a_dead_cluster_is_one_sentence(tmp_path, dead_head):
    done = tuner_here("search", "--method", "srat", "--home", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"nothing answers at 127.0.0.1:{dead_head}" in done.stderr and "is its head running" in done.stderr


def test_p4_doctor_says_it(tmp_path, dead_head):
    done = tuner_here("doctor", "--home", tmp_path, "--json")
    (row,) = [row for row in json.loads(done.stdout) if row["check"] == "ray"]
    assert done.returncode == 1 and not row["ok"] and "nothing answers at 127.0.0.1" in row["detail"]


@pytest.fixture(params=[b"", b"HTTP/1.0 400 Bad Request\r\n\r\n"], ids=["silent", "HTTP"])
def other_server(request, monkeypatch):
    """RAY_ADDRESS of a port at which something else listens, such as the dashboard."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.suppress(OSError):
        connections = []

        def answer():
            with contextlib.suppress(OSError):  # the test has ended
                while True:
                    connections.append(server.accept()[0])
                    if request.param:
                        connections[-1].sendall(request.param)
                        connections[-1].close()

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("ray.init", lambda *args, **options: pytest.fail("it would ask for minutes"))
        monkeypatch.setattr(ray_instance, "HEAD_CONNECTS_S", 1.0)
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@pytest.mark.slow
def test_p4_a_port_that_is_no_head_is_one_sentence(tmp_path, other_server):
    done = tuner_here("search", "--method", "srat", "--home", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"what listens at 127.0.0.1:{other_server} is no Ray head" in done.stderr


@pytest.mark.parametrize(
    "address, head",
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("[::1]:6379", ("::1", 6379)),
        ("local", ("", 0)),
        ("", ("", 0)),
        ("auto", ("127.0.0.9", 1)),
    ],
)
def test_p4_whom_an_address_names(address, head, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.9:1")
    assert ray_instance.head_of(address) == head


# ---- P2, P8: a home that moves, and its name -------------------------------------------------------------------------


def logged(home, spec):
    """The files of the search's run in MLflow, by its own client, after `tuner sync`."""
    from mlflow import MlflowClient

    said, run = [], load_search(home, "s")
    write_pictures(run)
    assert sync(run, warn=said.append) and said == []
    client = MlflowClient(tracking_uri=database_uri(home.mlflow_db))
    experiment = client.get_experiment_by_name(spec.experiment_name)
    parents = client.search_runs([experiment.experiment_id], "tags.`tuner.kind` = 'search'")
    assert len(parents) == 1
    return client, parents[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["50%20a?b#c&d", "plain"])
def test_p2_p8_a_home_of_any_name_keeps_its_artifacts_where_it_goes(tmp_path, spec, name):
    from mlflow.tracking._tracking_service import utils

    home = home_in_folder(tmp_path / name)
    search_in(home, spec)
    client, parent = logged(home, spec)
    client.create_experiment("theirs", artifact_location=(tmp_path / "theirs" / "artifacts").as_uri())
    assert client.download_artifacts(parent.info.run_id, "front.html", str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "front.html"]), "nothing stands beside the home"

    utils._artifact_repos_cache.clear()  # of this process, in which MLflow remembers each run's place
    moved = Home(home.root.rename(tmp_path / "moved 100%"))
    client, again = logged(moved, spec)
    assert again.info.run_id == parent.info.run_id
    assert again.info.artifact_uri.startswith(moved.artifacts.as_uri()), "sync writes to the new place"
    for path in ("front.html", "spec.yaml"):
        assert client.download_artifacts(parent.info.run_id, path, str(tmp_path / "moved 100%"))
    theirs = client.get_experiment_by_name("theirs").artifact_location
    assert theirs == (tmp_path / "theirs" / "artifacts").as_uri(), "what others keep elsewhere stays there"
    assert not (tmp_path / name).exists()


def home_in_folder(folder):
    folder.mkdir()
    return home_in(folder)


# ---- P9: what MLflow's server says -----------------------------------------------------------------------------------


HOST_CHECK = "Invalid Host header - possible DNS rebinding attack detected"


@pytest.mark.filterwarnings("ignore")
def test_p9_a_refusal_says_what_the_server_said(tmp_path, spec, monkeypatch):
    home = Home(tmp_path)
    search_in(home, spec, trials=1, failed=False)
    with answering(403, HOST_CHECK) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        said = []
        assert not sync(load_search(home, "s"), warn=said.append, timeout=60)
        (doctor,) = [row for row in examine(None, tmp_path) if row["check"] == "mlflow"]
    assert len(said) == 1 and HOST_CHECK in said[0] and "password" not in said[0].lower()
    assert not doctor["ok"] and HOST_CHECK in doctor["detail"] and "sign-in" not in doctor["detail"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", ["localhost:5000", "databricks"])
def test_p9_doctor_takes_nothing_for_a_database_that_takes_no_run(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (row,) = [row for row in examine(None, tmp_path) if row["check"] == "mlflow"]
    assert not row["ok"] and "is the server up" in row["detail"], row


def test_p9_doctor_does_not_wait_for_a_dead_database(tmp_path, monkeypatch):
    """MLflow asks one for two minutes."""
    answers = threading.Event()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:hidden@127.0.0.1:1/m")
    monkeypatch.setattr(health, "_try_run", lambda uri: answers.wait())
    monkeypatch.setattr(health, "ANSWER_S", 0.2)
    (row,) = [row for row in examine(None, tmp_path) if row["check"] == "mlflow"]
    answers.set()
    assert not row["ok"] and row["detail"].startswith("postgresql://***@127.0.0.1:1/m does not answer in")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_p9_doctor_writes_reads_and_deletes_a_run(tmp_path):
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    home = home_in(tmp_path)
    for _ in range(2):
        (row,) = [row for row in examine(None, tmp_path) if row["check"] == "mlflow"]
        assert row["ok"] and row["detail"].endswith("a run was written, read and deleted"), row
    client = MlflowClient(tracking_uri=database_uri(home.mlflow_db))
    assert [e.name for e in client.search_experiments()] == ["Default"]
    (deleted,) = client.search_experiments(ViewType.DELETED_ONLY)
    assert client.search_runs([deleted.experiment_id]) == [] and deleted.name == "tuner-doctor"
    home.mlflow_db.write_bytes(b"no database")
    (row,) = [row for row in examine(None, tmp_path) if row["check"] == "mlflow"]
    assert not row["ok"] and "move that file away" in row["detail"]


# ---- P5: a full disk -------------------------------------------------------------------------------------------------

HOW = {
    "a file": lambda folder: write_atomically(folder / "big", b"x" * 9999),
    "a storage": lambda folder: Storage(folder).write("big", b"x" * 9999),
    "a history": lambda folder: History(folder).append("start", 0, params={"big": "x" * 9999}, method="srat", seed=0),
    "a table": lambda folder: fill(History(folder), SearchSpec(trials=2), trials=2, failed=False).write_parquet(),
}


@pytest.fixture
def little_room():
    """A function that lets files grow to so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", HOW)
def test_p5_what_could_not_be_written_leaves_nothing_and_names_its_file(tmp_path, little_room, what):
    little_room(6000)
    with pytest.raises(OSError) as error:
        HOW[what](tmp_path)
    assert str(tmp_path) in str(error.value)
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.tmp")) and not (tmp_path / "big").exists()


@pytest.mark.slow
def test_p5_a_model_that_could_not_be_written_names_its_file(tmp_path, little_room):
    """The writers of torch and safetensors have errors of their own, and torch's ends the process."""
    from trainables.model_io import write_weights
    from trainables.models.build import build_model

    model = build_model("cnn", 3, (1, 8, 8)).eval()
    write_weights(model, tmp_path, [1, 8, 8])
    weights, whole = tmp_path / "model.safetensors", tmp_path / "model.pt2"
    assert weights.stat().st_size < whole.stat().st_size - 4096
    for file in (weights, whole):
        little_room(file.stat().st_size - 2048)
        with pytest.raises(OSError) as error:
            write_weights(model, tmp_path, [1, 8, 8])
        assert error.value.filename == str(file)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x")])
def test_p5_a_full_disk_is_one_line_with_the_file(error):
    error.filename = "/home/trials/3/checkpoint.pt"
    line = explain("/home", error)
    assert "'/home' cannot be used (" in line and "writing /home/trials/3/checkpoint.pt" in line and "make room" in line


def test_p5_a_trial_does_not_wait_long_for_room(monkeypatch):
    """Who could make some has not been told of it yet."""
    waits, actor = [], SimpleNamespace(trial=SimpleNamespace(storage=None, home="/home"))
    monkeypatch.setattr(ray_adapter, "sleep", waits.append)

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ray_adapter.StorageDown, match="make room there"):
        ray_adapter.TrialActor._stored(actor, full)
    assert sum(waits) == 7


def test_p5_a_search_whose_history_cannot_be_written_stops_in_order(tmp_path, spec, little_room):
    """What it knows is still told and printed."""
    home, said, reasons = Home(tmp_path), [], []
    history = search_in(home, spec, trials=2, failed=False)
    watch = SearchCallback(run_of(spec, history, home, "s"), None, Listener(), said.append)
    watch.stop = reasons.append
    little_room(history.path.stat().st_size + 40)
    for trial in (2, 3):
        watch.started(TrialRecord(trial, {}, "srat"))
    assert reasons == ["disk"] and len(said) == 1 and "history.jsonl" in said[0]
    assert sorted(history.trials) == [0, 1, 2, 3]
    assert sorted(History(history.folder).trials) == [0, 1], "what was not written is trained again"


def test_p5_a_trial_for_which_there_is_no_room_stops_the_search(tmp_path, spec):
    history, reasons, path = History(None), [], tmp_path / "error.pkl"
    watch = SearchCallback(run_of(spec, history), AskTell(spec, history), Listener(), lambda line: None)
    watch.stop = reasons.append
    watch.started(watch.optimizer.next())
    full = ray_adapter.StorageDown(explain("/home", OSError(errno.ENOSPC, "x")))
    text = f"Traceback:\ntrainables.ray_adapter.StorageDown: {full}"
    path.write_bytes(cloudpickle.dumps(RayTaskError("train", text, full)))
    told = SimpleNamespace(config={"trial": {"trial": 0}}, pickled_error_file=str(path), error_file=None)
    watch.on_trial_error(0, [], told)
    assert reasons == ["storage"] and history.trials[0].errors == 0


# ---- P15: a head whose environment is not on PATH --------------------------------------------------------------------

SHOWS = "#!/bin/sh\necho $0 $*\n"
SUPERVISOR = "import subprocess, sys; subprocess.run(sys.argv[1], shell=True)"  # as Ray's supervisor of jobs does
RAYLET = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SUPERVISOR!r}, sys.argv[1]])"


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="heads run Linux")
def test_p15_a_job_runs_in_rays_own_interpreter(tmp_path, monkeypatch):
    """tests/test_submit.py does it with a real head whose PATH lacks its environment."""
    for name in ("rays/python", "named/python", "onpath/python"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(SHOWS)
        (tmp_path / name).chmod(0o755)
    command = f"--python_worker_command={tmp_path}/rays/python /x/setup_worker.py --a=b"

    def run_by(*arguments, **environment):
        outside = {k: v for k, v in os.environ.items() if k != "TUNER_PYTHON"}
        path = f"{tmp_path}/onpath:{os.environ['PATH']}"
        tree = [sys.executable, "-c", RAYLET, ENTRYPOINT, *arguments]
        done = subprocess.run(tree, env={**outside, "PATH": path, **environment}, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.removeprefix(f"{tmp_path}/").strip()

    assert run_by("--node=1", command, "--z") == "rays/python -m tuner.job"
    assert run_by(command, TUNER_PYTHON=str(tmp_path / "named/python")) == "named/python -m tuner.job"
    assert run_by("--node=1") == "onpath/python -m tuner.job"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_c7_a_disk_that_is_full_before_the_first_trial_is_one_sentence(number, monkeypatch, capsys):
    """A resume, for one, stores its spec: an exception's name told nobody what to do."""
    from tuner.cli import app

    def full(**options):
        raise OSError(number, os.strerror(number), "/home/searches/s/spec.yaml")

    monkeypatch.setattr(app, "whole_command", lambda: full)
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1
    said = f"Error: /home/searches/s/spec.yaml cannot be written ({os.strerror(number)}); make room there\n"
    assert capsys.readouterr().err == said
