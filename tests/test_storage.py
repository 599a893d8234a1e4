"""`--storage`: a folder or an S3 server that all share. A search killed in one home goes on in another, with nothing
else in common; a data set is decoded or copied once per node; what is wrong is said, and no secret is kept."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import tuner, tuner_here, tuner_process
from tests.s3 import BUCKET, s3_server
from tests.test_submit import free_ports
from trainables import storage
from trainables.datasets import training_for
from trainables.storage import Storage, below, storage_problem
from tuner.errors import UsageError
from tuner.execution import driver, nodes
from tuner.execution.nodes import Needs, inspect_node, place_problem, trials_problem
from tuner.execution.trial_config import first_trial
from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec
from tuner.sync.shared_dataset import dataset_of, keep_place
from tuner.sync.storage_spec import with_storage

# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gs():
    """Google Cloud Storage's protocol, by an emulator in a process of its own; the bucket's URL without a folder."""
    (port,) = free_ports(1)
    command = [
        "gcp-storage-emulator",
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
        f"--default-bucket={BUCKET}",
    ]
    process = subprocess.Popen(
        [Path(sys.executable).parent / command[0], *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until_it_listens(int(port), process)
        yield f"gs://anonymous@{BUCKET}?scheme=http&endpoint_override=127.0.0.1%3A{port}"
    finally:
        process.kill()
        process.wait()


def until_it_listens(port, process):
    deadline = time.time() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["folder", "file", "s3", "s3-by-options", "gs"])
def test_files(kind, tmp_path, s3_env, gs):
    options = f"?endpoint_override={s3_env.address.removeprefix('http://')}&scheme=http&region=us-east-1"
    where = {
        "folder": str(tmp_path / "a"),
        "file": f"file://{tmp_path}/a",
        "s3": s3_env.url("files"),
        "s3-by-options": s3_env.url("more") + options,
        "gs": below(gs, "files"),
    }[kind]
    where = storage.absolute_storage(where)
    assert storage_problem(where) is None
    store = Storage(below(where, "deep", 1))
    assert store.read("x/one") is None and list(store.files()) == [] and store.folders() == []
    for text in (b"first", b"second"):
        store.write("x/one", text)
        assert store.read("x/one") == Storage(below(where, "deep")).read("1/x/one") == text
    store.write("two", memoryview(b"22"))
    assert list(store.files()) == [("two", 2)] and dict(store.files("x")) == {"one": 6} and store.folders() == ["x"]
    assert dict(store.files(recursive=True)) == {"two": 2, "x/one": 6}
    assert store.written("x/one") == pytest.approx(time.time(), abs=60) and store.written("x") is None
    store.remove("x/one"), store.remove("x/one")
    assert store.read("x/one") is None and store.written("x/one") is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    store = Storage(tmp_path)
    store.write("file", b"old")
    with pytest.raises(Exception, match="str"):
        store.write("file", "no bytes")
    assert store.read("file") == b"old" and os.listdir(tmp_path) == ["file"]


def test_below():
    assert below("s3://b/x/?region=eu&scheme=http", "a", 3) == "s3://b/x/a/3?region=eu&scheme=http"
    assert below("/a/b?c", "d") == "/a/b?c/d" and below(Path("/a"), "b") == "/a/b"


# ---- what is wrong, in one sentence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s3://me:word@bucket/x", "s3://bucket/x?secret_key=word", "gs://word@bucket"])
def test_no_password_in_a_url(url):
    with pytest.raises(UsageError, match="carries a password.*AWS_ACCESS_KEY_ID") as error:
        with_storage(SearchSpec(storage=url), Home("/nowhere"))
    assert "word@" not in str(error.value) and "=word" not in str(error.value)
    from tuner.remote.submission import check_storage_travels

    for given in (url, "relative/folder"):
        with pytest.raises(UsageError):
            check_storage_travels(given)


def test_wrong_storages(s3_env, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "names a bucket that does not exist; make it first" in storage_problem("s3://nobody-made-this/x")
    assert "cannot be used (" in storage_problem(str(tmp_path / "file" / "x"))
    assert "'gopher://x' cannot be opened" in storage_problem("gopher://x")
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    storage.open_storage.cache_clear()
    assert "does not answer; is its address right" in storage_problem(s3_env.url("x"))
    monkeypatch.setattr(storage, "ANSWER_S", 0.2)
    storage.open_storage.cache_clear()
    assert "does not answer in 0.2 s" in storage_problem(s3_env.url("x"))


def test_refused_sign_in(monkeypatch):
    """A server that asks who it is: moto turns its check of keys on by this variable."""
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")  # making the bucket is free
    with s3_server(int(next(free_ports(1)))) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        storage.open_storage.cache_clear()
        wrong = storage_problem(server.url("x"))
    storage.open_storage.cache_clear()
    assert "refuses the sign-in from here; set AWS_ACCESS_KEY_ID" in wrong and "hidden-word" not in wrong


def test_commands_say_it_at_once(s3, tmp_path):
    done = tuner_here("search", "--storage", "s3://nobody-made-this/x", "--home", tmp_path, "--json", env=s3.env)
    assert done.returncode == 2 and "bucket that does not exist" in json.loads(done.stdout)["error"]
    done = tuner("front", "none", "--storage", s3.url("empty"), "--home", tmp_path, env=s3.env)
    assert done.returncode == 2 and "no search 'none'" in done.stderr


def test_nodes_that_do_not_share(tmp_path):
    """What a node answers where it sees the place, and where the same name is another place there."""
    place = str(tmp_path)
    Storage(place).write("mark-1", b"")
    assert inspect_node(place, "mark-1", None)["place"] is None
    other = inspect_node(place, "mark-2", None)
    assert "is another place than on the driver's machine" in other["place"]
    rows = [{"node": "10.0.0.1", "answer": {"place": None}}, {"node": "10.0.0.2", "answer": other}]
    assert place_problem(rows[:1], place) is None
    assert "not the same folder on every node: 1 of 2 nodes (10.0.0.2)" in place_problem(rows, place)
    rows[1]["answer"] = {"place": "storage 's3://b/x' refuses the sign-in from here; set ..."}
    assert place_problem(rows, "s3://b/x").startswith("on 1 of 2 nodes (10.0.0.2): storage 's3://b/x' refuses")


@pytest.fixture
def own_data(parquet_dir, tmp_path):
    """(search of data in folders of the user's own, the folder of its data set, that of its extra images)."""
    shutil.copytree(parquet_dir, tmp_path / "own")
    (tmp_path / "extra").mkdir()
    shutil.copy(next((tmp_path / "own").glob("**/train*.parquet")), tmp_path / "extra" / "more.parquet")
    spec = SearchSpec(dataset=f"parquet:{tmp_path}/own", extra_data=f"parquet:{tmp_path}/extra", name="s")
    return SearchRun(spec, Home(tmp_path / "home"), "s", History(None)), tmp_path / "own", tmp_path / "extra"


@pytest.mark.parametrize("which", [1, 2])
def test_a_node_that_sees_other_data_or_code_is_told_apart(which, own_data, tmp_path):
    """What a node answers by itself; trials that came to it failed as if that were their own fault."""
    run, folder = own_data[0], own_data[which]
    needs, name = Needs.of(run), f"parquet:{folder}"
    assert trials_problem(needs) is None
    (folder / "notes.parquet.txt").write_text("not read")
    (file,) = folder.glob("**/more.parquet") if which == 2 else folder.glob("**/train*.parquet")
    os.utime(file, (1, 1))
    assert trials_problem(needs) is None, "a copy of the data may be of another day"
    with open(file, "ab") as more:
        more.write(b"x")
    assert trials_problem(needs) == f"the files of {name!r} there are not those on the driver's machine"
    shutil.move(folder, tmp_path / "away")
    assert f"dataset {name!r} names no folder" in trials_problem(needs)
    assert trials_problem(replace(needs, data=replace(needs.data, dataset="digits", extra="none"))) is None
    assert "'/proc/none' cannot be written" in trials_problem(replace(needs, home="/proc/none"))


def test_a_node_with_other_code_is_told_apart(tmp_path):
    needs = Needs.of(SearchRun(SearchSpec(), Home(tmp_path), "s", History(None)))
    assert not needs.folders and trials_problem(needs) is None
    assert "the code there is not that of the driver" in trials_problem(replace(needs, code="other"))


def test_a_search_stops_where_nodes_are_not_alike(own_data, monkeypatch, tmp_path):
    run, _, extra = own_data
    run.home.require_writable()

    def ask(function, *args):
        here = function(*args)
        shutil.move(extra, tmp_path / "away")
        return [{"node": "10.0.0.1", "answer": here}, {"node": "10.0.0.2", "answer": function(*args)}]

    monkeypatch.setattr(nodes, "ask", ask)
    monkeypatch.setattr(nodes, "connected_ray", lambda: SimpleNamespace(nodes=lambda: [{"Alive": True}] * 2))
    stopped = []
    problem = driver._nodes_checker(run, stopped.append)()
    said = (
        f"on 1 of 2 nodes (10.0.0.2): dataset 'parquet:{extra}' names no folder; parquet:DIR takes an existing folder"
    )
    assert problem.result(60).startswith(said)
    for thread in threading.enumerate():
        if thread.name == "nodes":
            thread.join(60)
    assert stopped == ["nodes"]


# ---- data ------------------------------------------------------------------------------------------------------------

NODE = """
import sys
from pathlib import Path
from trainables.data import store
name = sys.argv[3]
once = getattr(store, name)
def counted(*args):
    print("did it", flush=True)
    return once(*args)
setattr(store, name, counted)
sys.stdin.readline()
print(store.prepare(sys.argv[1], Path(sys.argv[2])).name)
"""


@pytest.mark.parametrize("kind", ["decoded", "copied"])
def test_a_node_decodes_or_copies_a_data_set_once(kind, parquet_dir, tmp_path, s3_env):
    """Four trials that start at once on a node; with a storage the node needs nothing of the source."""
    from trainables.data import prepare, share

    dataset, what = f"parquet:{parquet_dir}", "load"
    decoded = prepare(dataset, tmp_path / "driver")
    name = decoded.name
    if kind == "copied":
        name = share(decoded, s3_env.url("shared"))
        assert share(decoded, s3_env.url("shared")) == name
        dataset, what = "stored:" + s3_env.url("shared", "datasets", name), "_copy"
    trials = [
        subprocess.Popen(
            [sys.executable, "-c", NODE, dataset, tmp_path / "node", what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = [trial.communicate("go\n", timeout=120)[0].splitlines() for trial in trials]
    assert sorted(said, key=len) == [[name]] * 3 + [["did it", name]]
    for half in ("train.arrow", "test.arrow"):
        assert (tmp_path / "node/datasets" / name / half).read_bytes() == (decoded / half).read_bytes()


def test_relative_paths_of_data_count_from_where_the_search_began(parquet_dir, tmp_path, monkeypatch):
    """So that it can be resumed, verified and exported from another folder, or by a service."""
    (there := tmp_path / "there").mkdir()
    for name in ("data", "more"):
        shutil.copytree(parquet_dir, there / name)
    spec = SearchSpec(
        method="trades", dataset="parquet:data", imbalance="none", extra_data="parquet:more", extra_ratio=0.3, name="x"
    )
    home = Home(tmp_path / "home")
    home.search("x").mkdir(parents=True)
    monkeypatch.chdir(there)
    first = driver.check(spec, home).counts
    keep_place(spec, home.search("x"))
    monkeypatch.chdir(tmp_path)
    keep_place(spec, home.search("x"))  # of a resume
    assert driver.check(spec, home).counts == first
    config = first_trial(SearchRun(spec, home, "x", History(None)))
    assert (config.dataset, config.extra) == (f"parquet:{there}/data", f"parquet:{there}/more")
    (there / "data").rename(tmp_path / "data")  # and where both were moved, from here
    assert dataset_of(spec, home.search("x")) == f"parquet:{tmp_path}/data"
    keep_place(replace(spec, dataset="digits", extra_data="none", extra_ratio=0.3), home.search("y"))
    assert not home.search("y").exists()


def test_the_command_that_began_a_search_needs_its_data_in_no_other_home(parquet_dir, tmp_path):
    """As `tuner resume` does not: the storage has them decoded, and what the search began with."""
    from trainables.data import prepare, share

    store, gone = str(tmp_path / "s"), tmp_path / "gone"
    spec = SearchSpec(method="trades", dataset=f"parquet:{gone}", imbalance="none", name="x", storage=store)
    name = share(prepare(f"parquet:{parquet_dir}", tmp_path / "a"), store)
    for file, text in {"spec.yaml": spec.to_stored(), "history.jsonl": "", "dataset": name}.items():
        Storage(store).write(f"searches/x/{file}", text.encode())
    assert driver.check(spec, Home(tmp_path / "b", store)).classes == ["0", "1", "2"]


@pytest.mark.parametrize("folder", ["x" * 255, "日" * 85, "what?"])
def test_data_and_storage_in_folders_of_any_name(folder, parquet_dir, tmp_path):
    """Hashes, and the name of a lock, come on top of the data's. A ? is no query where there is no URL."""
    from trainables.data import prepare, share

    (tmp_path / folder).mkdir()
    shutil.copytree(parquet_dir, tmp_path / folder / folder)
    decoded = prepare(f"parquet:{tmp_path / folder / folder}", tmp_path / "driver")
    name = share(decoded, str(tmp_path / folder))
    assert prepare(f"stored:{tmp_path / folder}/datasets/{name}", tmp_path / "node").name == name


def test_data_by_url(parquet_dir, tmp_path, s3_env):
    """`parquet:s3://...`: what a laptop submits for a cluster that has the data in a bucket; changed files count."""
    from trainables.data import DataError, absolute, prepare

    store = Storage(s3_env.url("hub/set"))
    dataset = "parquet:" + s3_env.url("hub/set")
    with pytest.raises(DataError, match="nothing at 's3://"):
        prepare(dataset, tmp_path)
    store.write("train.parquet", (parquet_dir / "train.parquet").read_bytes())
    with pytest.raises(DataError, match="holds no test.parquet"):
        prepare(dataset, tmp_path)
    store.write("test.parquet", (parquet_dir / "test.parquet").read_bytes())
    assert absolute(dataset) == dataset
    here, there = prepare(f"parquet:{parquet_dir}", tmp_path), prepare(dataset, tmp_path)
    assert there.name.startswith("parquet-set-") and prepare(dataset, tmp_path) == there
    assert (there / "train.arrow").read_bytes() == (here / "train.arrow").read_bytes()
    store.write("train.parquet", (parquet_dir / "test.parquet").read_bytes())
    assert prepare(dataset, tmp_path) != there


def test_data_that_left_the_storage(tmp_path):
    from trainables.data import DataError, prepare

    with pytest.raises(DataError, match="has no test.arrow; it was removed"):
        prepare(f"stored:{tmp_path}/datasets/digits-v1-{'0' * 32}", tmp_path / "node")
    with pytest.raises(DataError, match="there is nothing at"):  # under a name of an earlier version
        prepare(f"stored:{tmp_path}/datasets/digits-v1", tmp_path / "node")


def test_a_checkpoint_of_another_proposal_is_not_taken(tmp_path):
    from trainables.checkpoint import load_checkpoint, save_checkpoint
    from trainables.config import TrialConfig
    from trainables.loop import Trainer

    training = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1))
    config = TrialConfig("trades", {"beta": 6.0}, training, home=str(tmp_path), max_epochs=2)
    trainer = Trainer(config)
    save_checkpoint(tmp_path, trainer, {"epoch": 1})
    assert load_checkpoint(tmp_path, Trainer(replace(config, home=str(tmp_path)))) == [{"epoch": 1}]
    others = {"params": {"beta": 5.0}}, {"seed": 1}, {"training": {**training, "lr": 0.02}}  # where lr is searched
    for other in others:
        assert load_checkpoint(tmp_path, Trainer(replace(config, **other))) is None


def test_a_search_of_the_home_gets_a_storage(finished, tmp_path):
    """Nothing is lost where a user names a storage only later, also where TUNER_STORAGE does it."""
    home, store = shutil.copytree(finished[1], tmp_path / "home"), tmp_path / "a store"
    again = tuner("resume", "first", "--home", home, "--json", env={"TUNER_STORAGE": str(store)})
    assert again.returncode == 0 and json.loads(again.stdout)["front"] == finished[0]["front"], again.stderr
    out = tuner(
        "export", "first", "--pick", "paper", "--to", tmp_path / "m", "--home", tmp_path / "b", "--storage", store
    )
    assert out.returncode == 0, out.stderr
    without = tuner("search", "--spec", home / "searches/first/spec.yaml", "--home", home, "--storage", tmp_path / "c")
    assert without.returncode == 2 and "keeps its checkpoints in" in without.stderr


# ---- the whole of it -------------------------------------------------------------------------------------------------

TINY = [
    "--method",
    "gairat",
    "--sampler",
    "random",
    "--trials",
    "2",
    "--max-epochs",
    "6",
    "--max-concurrent",
    "1",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=2",
    "--set",
    "eval_attack=2",
    "--fix",
    "start=0.5",
]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_in_one_home_and_resumed_in_another(s3, parquet_dir, tmp_path):
    data = shutil.copytree(parquet_dir, tmp_path / "data")
    place = ["--name", "far", "--home", tmp_path / "a", "--storage", s3.url("far")]
    data_set = ["--dataset", f"parquet:{data}", "--imbalance", "none"]
    first = tuner_process(
        "search", *TINY, *data_set, *place, env=s3.env, stderr=subprocess.PIPE, start_new_session=True
    )
    history, deadline = tmp_path / "a/searches/far/history.jsonl", time.time() + 250
    while not (
        history.exists()
        and history.read_text().count('"epoch": 5') > 1  # of trial 0, then of plain AT, which has trained the stem
        and "far/searches/far/history.jsonl" in s3.keys("far/searches/far/")
    ):
        assert first.poll() is None and time.time() < deadline, first.stderr.read()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not list((tmp_path / "a").rglob("checkpoint.pt")) and not list((tmp_path / "a/stems").rglob("*.pt"))
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(data)  # a lost machine: nothing but the storage is left
    again = tuner(
        "resume", "far", "--home", tmp_path / "b", "--storage", s3.url("far"), "--json", env=s3.env, timeout=500
    )
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["trials"] == {"finished": 2, "previewed": 0, "stopped": 0, "failed": 0}
    assert result["epochs_trained"] < 6 + 3 + 3 + 3, "trial 0, the stem, what plain AT and trial 1 add; not all again"
    assert len([key for key in s3.keys("far/stems/") if key.endswith(".pt")]) == 1, "the stem's, at the one fork"
    assert [row["trial"] for row in result["no_search"]][:1] == [-1]

    third = ["--home", tmp_path / "c", "--storage", s3.url("far")]
    shown = tuner("front", "far", *third, "--json", env=s3.env)
    assert json.loads(shown.stdout)[0]["front"] == result["front"]
    assert [row["search"] for row in json.loads(tuner("ls", *third, "--json", env=s3.env).stdout)] == ["far"]
    out = tuner("export", "far", "--pick", "average", "--to", tmp_path / "model", *third, env=s3.env)
    assert out.returncode == 0 and (tmp_path / "model/model.safetensors").exists(), out.stderr
    same_as_alone(tmp_path, result, parquet_dir)
    for path in (p for home in "bc" for p in (tmp_path / home).rglob("*") if p.is_file()):
        assert b"hidden-word" not in path.read_bytes(), path
    client = s3.client()
    for key in s3.keys("far/"):
        assert b"hidden-word" not in client.get_object(Bucket=BUCKET, Key=key)["Body"].read(), key


def same_as_alone(tmp_path, result, data):
    """Trial 0, and plain AT, which was cut off, end with the figures of trainings that nobody disturbed."""
    import torch

    from trainables.config import TrialConfig
    from trainables.loop import Trainer
    from tuner.results.history import History

    torch.set_num_threads(1)
    history = History(tmp_path / "b/searches/far")
    spec = SearchSpec.from_yaml((tmp_path / "b/searches/far/spec.yaml").read_text())
    training, home = asdict(spec.training()), str(tmp_path / "alone")
    for record in (history.trials[0], *history.references.values()):
        config = TrialConfig(record.method, record.params, training, f"parquet:{data}", "none", max_epochs=6, home=home)
        trainer = Trainer(replace(config, offsets="auto"))
        rows = [trainer.run_epoch() for _ in range(6)]
        assert [e["epoch"] for e in record.epochs] == [1, 2, 3, 4, 5, 6]
        for name in ("robust_acc", "clean_acc", "train_loss"):
            assert [e[name] for e in record.epochs] == [row[name] for row in rows], name
        assert record.curve == trainer.curve
        plain = trainer.curve.metrics(trainer.curve.points[0])
        shown = result["no_search"][0] if record.role else result["paper"]
        assert shown["robust_acc"] == plain["robust_acc"] and shown["offsets"]["tau"] == 0
