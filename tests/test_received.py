"""A search, a storage or a data set that somebody else made: it writes nothing outside of its place, and reading it
asks no server that the reader has not named."""

import ast
import contextlib
import json
import math
import os
import re
import shutil
import socket
import struct
import threading

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import tuner, tuner_here
from tests.s3 import BUCKET
from tests.test_house import FILES
from trainables.config import TrialConfig
from trainables.data import DataError, prepare, share, store
from trainables.files import inside, is_locked, locked
from trainables.stem import data_key
from trainables.stem_store import StemStore
from trainables.storage import Storage
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec
from tuner.sync import mirror
from tuner.sync.named_places import check_named
from tuner.sync.shared_dataset import DATASET, dataset_of


@pytest.fixture
def listener():
    """(address, connections): whoever is sent to the address is seen."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                seen.append(peer)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", seen


def received(finished, home, **changed):
    """A home into which somebody's search folder was copied, with fields of its spec changed."""
    folder = home / "searches" / "first"
    shutil.copytree(finished[1] / "searches" / "first", folder, symlinks=True)
    spec = SearchSpec.from_yaml((folder / "spec.yaml").read_text())
    values = {**spec.to_dict(), **changed}
    (folder / "spec.yaml").write_text(SearchSpec.from_dict(values).to_yaml())
    return folder


ESCAPING = ["../x", "/etc/x", "a/../../x", "..", "a//b", "a\\..\\b", "", ".", "a\nb", "a/\x1b[2Jb", "./x"]


@pytest.mark.parametrize("name", ESCAPING)
def test_a_name_that_leaves_its_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="would be written outside"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/.b/c..d.png") == tmp_path / "a/.b/c..d.png"


@pytest.mark.parametrize("part", [*ESCAPING, "a/b"])
def test_s1_a_number_of_a_history_is_no_way_out(part, tmp_path):
    """Below a home or storage too every part is a name."""
    with pytest.raises(ValueError, match="is no name of a file or folder"):
        Home(tmp_path).place("s3://bucket/x", "searches", "first", "trials", part)
    with pytest.raises(ValueError, match="is no name of a file or folder"):
        Home(tmp_path).place(None, "searches", "first", "trials", part)


def test_a_link_on_the_way_is_refused(tmp_path):
    home, victim = tmp_path / "home", tmp_path / "victim"
    home.mkdir(), victim.mkdir()
    (home / "verify").symlink_to(victim)
    with pytest.raises(ValueError, match="would be written outside"):
        inside(home, "verify/x.json")
    (tmp_path / "link").symlink_to(home)  # the folder itself may be one: its owner chose that
    assert inside(tmp_path / "link", "x") == tmp_path / "link" / "x"


def test_a_file_is_never_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "front.png").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "front.png", "theirs")
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "front.png").read_text() == "theirs"
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "other", 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "victim"], "nothing half-written stays"


@pytest.mark.parametrize("key", ["../../../stolen", "front/../../../../stolen", "../first2/history.jsonl"])
def test_s1_keys_of_a_named_storage_stay_in_the_search(key, tmp_path, s3_env):
    """S1: a bucket can hold any key; nothing is written, not even the harmless ones."""
    client = s3_env.client()
    prefix = f"hostile-{abs(hash(key))}"
    for name in ("spec.yaml", "history.jsonl", key):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/searches/first/{name}", Body=b"method: at\n")
    where, home = s3_env.url(prefix), Home(tmp_path / "home")
    with pytest.raises(UsageError, match="would be written outside") as error:
        mirror.pull(where, home, "first")
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*"))
    done = tuner("ls", "--storage", where, "--home", tmp_path / "home", env=s3_env.env)
    assert done.returncode == 0 and "would be written outside" in done.stderr and "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "url",
    [
        "zip::file:///tmp/x.zip",
        "zip://x::file:///tmp/x.zip",
        "http://127.0.0.1:1/x",
        "file:///x::s3://b",
        "simplecache::s3://b/x",
        "github://a:b@/",
        "reference://x",
        "memory://x",
        "mock:///x",
        "hdfs://namenode/x",
    ],
)
def test_other_protocols_and_chains_are_refused(url, tmp_path):
    for what in (url, f"{url}/more"):
        with pytest.raises(ValueError, match="cannot be opened; it takes a folder, or a URL that begins with"):
            Storage(what)
    for kind in ("parquet", "folder", "stored"):
        with pytest.raises(DataError):
            prepare(f"{kind}:{url}", tmp_path)


def test_reading_asks_no_storage_that_only_the_spec_names(finished, tmp_path, listener):
    """S1: the spec's endpoint would get this machine's signature and session token."""
    address, seen = listener
    where = f"s3://bucket/x?endpoint_override={address}&scheme=http&region=us-east-1"
    received(finished, tmp_path, storage=where)
    secret = {
        "AWS_ACCESS_KEY_ID": "key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "hidden-word",
        "AWS_SESSION_TOKEN": "hidden-token",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for command in (["ls"], ["front", "first"], ["front", "first", "--json"], ["export", "first", "--parquet", "t.pq"]):
        done = tuner_here(*command, "--home", tmp_path, env=secret, cwd=tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert ("shown as stored on this machine" in done.stderr) == (command[0] != "export")
    for command in (["verify", "first"], ["resume", "first"], ["export", "first", "--pick", "knee", "--to", "model"]):
        done = tuner_here(*command, "--home", tmp_path, env=secret, cwd=tmp_path)
        assert done.returncode == 2 and "if you trust the author of the search" in done.stderr, done.stderr
        assert f"--storage '{where}'" in done.stderr and done.stderr.count("\n") == 1
    assert seen == []


def test_a_storage_inside_the_folder_itself_is_not_read(finished, tmp_path):
    """S1's other form: what was sent is its own storage."""
    folder = received(finished, tmp_path)
    (folder / "deep" / "searches" / "first").mkdir(parents=True)
    (folder / "deep" / "searches" / "first" / "spec.yaml").write_text("method: at\n")
    (folder / "deep" / "searches" / "first" / "stolen").write_text("theirs")
    for where in (f"file://{folder}/deep", str(folder / "deep")):
        values = SearchSpec.from_yaml((folder / "spec.yaml").read_text()).to_dict()
        (folder / "spec.yaml").write_text(SearchSpec.from_dict({**values, "storage": where}).to_yaml())
        done = tuner("front", "first", "--home", tmp_path, "--json")
        assert done.returncode == 0 and json.loads(done.stdout)[0]["front"], done.stderr
        assert not (folder / "stolen").exists()


def test_data_and_study_of_a_spec_are_named_again(finished, tmp_path, listener):
    address, seen = listener
    data = f"parquet:s3://bucket/set?endpoint_override={address}&scheme=http&region=us-east-1"
    study = f"postgresql://{address}/x"
    received(finished, tmp_path, dataset=data, study_storage=study)
    home = Home(tmp_path)
    spec = SearchSpec.from_yaml((tmp_path / "searches/first/spec.yaml").read_text())
    done = tuner_here("verify", "first", "--home", tmp_path)
    assert done.returncode == 2 and f"--dataset '{data}'" in done.stderr and "--study" not in done.stderr
    done = tuner_here("resume", "first", "--home", tmp_path, "--dataset", data)
    assert done.returncode == 2 and f"--study-storage {study}" in done.stderr and "--dataset" not in done.stderr
    assert seen == []
    check_named(spec, home, "first", "resume", dataset=data, study_storage=study)
    with pytest.raises(UsageError, match="--dataset"):
        check_named(spec, home, "first", "resume", dataset=data + "x", study_storage=study)


def test_other_data_than_the_searchs_are_refused(tmp_path, monkeypatch):
    """They were passed over: `tuner verify first --dataset cifar10` tested on digits, and said so nowhere."""
    monkeypatch.chdir(tmp_path)
    home, own = Home(tmp_path), SearchSpec(dataset="folder:signs")
    (tmp_path / "signs").mkdir()
    for same in (None, "folder:signs", f"folder:{tmp_path}/signs", "folder:./signs"):
        check_named(own, home, "first", "verify", dataset=same)
    with pytest.raises(UsageError, match="--dataset 'cifar10' is not that of search 'first', which uses 'digits'"):
        check_named(SearchSpec(), home, "first", "verify", dataset="cifar10")
    with pytest.raises(UsageError, match="--dataset 'folder:others' is not that of"):
        check_named(own, home, "first", "verify", dataset="folder:others")
    with pytest.raises(UsageError, match="--study-storage 'sqlite:///x' is not that of search 'first', which has none"):
        check_named(own, home, "first", "resume", study_storage="sqlite:///x")


@pytest.mark.parametrize("text", ["../../..", "..", "", "a/b", "/etc", "x\n../y"])
def test_the_name_of_decoded_data_is_a_name(text, tmp_path):
    folder = tmp_path / "searches" / "first"
    folder.mkdir(parents=True)
    (folder / DATASET).write_text(text)
    with pytest.raises(UsageError, match="no name of decoded data"):
        dataset_of(SearchSpec(storage=str(tmp_path / "s")), folder)


@pytest.mark.parametrize("where", ["{}/datasets/..", "{}/", "..", "file://{}/datasets/.."])
def test_stored_data_need_a_name(where, tmp_path):
    with pytest.raises(DataError, match="names no decoded data"):
        prepare(f"stored:{where.format(tmp_path)}", tmp_path / "home")


def test_s2_keys_of_a_data_set_stay_in_its_folder(tmp_path, parquet_dir, s3_env, monkeypatch):
    """S2: the files of a data URL are copied here before they are decoded: a key that leads out of the folder is not
    read, or refused where it would be."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    client = s3_env.client()
    for name in ("train", "test"):
        body = (parquet_dir / f"{name}.parquet").read_bytes()
        for key in (f"good/{name}.parquet", f"evil/{name}/../../{name}.parquet"):
            client.put_object(Bucket=BUCKET, Key=key, Body=body)
    client.put_object(Bucket=BUCKET, Key="good/../../stolen", Body=b"theirs")
    assert prepare("parquet:" + s3_env.url("good"), tmp_path / "home")
    with pytest.raises(DataError, match="evil holds no train.parquet"):
        prepare("parquet:" + s3_env.url("evil"), tmp_path / "home")
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert written and {p.parent.parent for p in written} == {tmp_path / "home" / "datasets"}


def test_a_checkpoint_does_not_choose_the_data(finished, tmp_path, monkeypatch):
    """The data set's name in it can come from anybody, as the spec's can."""
    from trainables import model_io

    asked = []
    check = model_io.check_data
    monkeypatch.setattr(model_io, "check_data", lambda spec, home: asked.append(spec.dataset) or check(spec, home))
    trial = finished[1] / "searches/first/trials/0"
    model_io.load_trial(trial, finished[1], "digits")
    assert asked == ["digits"]
    with pytest.raises(DataError, match="names no folder"):
        model_io.load_trial(trial, finished[1], "parquet:/nowhere")


# ---- files that are opened -------------------------------------------------------------------------------------------


def locks(home, monkeypatch):
    """(lock file, function that takes it) of each of the four."""
    from tuner.execution import driver
    from tuner.tracking import runs

    run = SearchRun(SearchSpec(), Home(home), "x", History(None))
    (home / "datasets").mkdir(parents=True, exist_ok=True)
    yield home / "datasets" / ".digits-v1.lock", lambda: prepare("digits", home)
    yield home / "stems" / ".s.lock", lambda: StemStore(str(home), None, "s").lock().__enter__()
    yield home / ".mlflow.lock", lambda: runs.open_database(Home(home), _no_client)
    run.folder.mkdir(parents=True)
    yield run.folder / ".lock", lambda: driver._locked(run).__enter__()


class _Stop(Exception):
    """The lock was taken."""


def _no_client(uri):
    raise _Stop


@pytest.mark.parametrize("kind", ["outside", "beside", "pipe", "dangling"])
def test_s7_no_lock_is_taken_through_a_link(kind, tmp_path, monkeypatch):
    """A link empties no file and makes none, wherever it leads; a pipe does not wait."""
    for number, (lock, take) in enumerate(locks(tmp_path / "home", monkeypatch)):
        victim = (lock.parent if kind == "beside" else tmp_path) / f"victim-{number}"
        lock.parent.mkdir(parents=True, exist_ok=True)
        if kind == "pipe":
            os.mkfifo(lock)
        else:
            if kind != "dangling":
                victim.write_text("mine")
            lock.symlink_to(victim)
        if "stems" not in str(lock):  # without a lock a stem is trained twice, which is right
            with pytest.raises((OSError, ValueError)) as error:
                take()
            told = str(error.value)
            assert "link" in told or kind == "pipe" and "not a regular file" in told, told
        else:
            take()
        assert not victim.exists() if kind in ("pipe", "dangling") else victim.read_text() == "mine"


def test_s7_a_lock_file_keeps_what_is_in_it(tmp_path, monkeypatch):
    for lock, take in locks(tmp_path, monkeypatch):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text("mine")
        with contextlib.suppress(_Stop):
            take()
        assert lock.read_text() == "mine", lock


def test_s7_a_lock_is_held_by_one(tmp_path):
    path = tmp_path / "l"
    assert not is_locked(path) and not path.exists()
    with locked(path) as mine, locked(path, patience=0) as second, locked(path, patience=0.1) as third:
        assert mine and not second and not third and is_locked(path)
    with locked(path, patience=0) as free:
        assert free
    assert not is_locked(path)


def test_s7_a_lock_that_is_let_go_is_taken(tmp_path):
    """By who waits for ever, and by who has the patience: one that looks holds it for an instant."""
    for patience in (math.inf, 30.0):
        held = contextlib.ExitStack()
        held.enter_context(locked(tmp_path / "l"))
        timer = threading.Timer(0.2, held.close)
        timer.start()
        with locked(tmp_path / "l", patience) as mine:
            assert mine
        timer.join()


# They write like that into a folder that they have just made, where nobody else puts anything.
IN_NEW_FOLDERS = {
    "tuner.tracking.health",
    "tuner.verification.export",
    "tuner.remote.submission",
    "tuner.job",
    "trainables.data.store",
    "trainables.model_io",
}


def test_s7_every_lock_is_taken_in_one_place():
    """And nothing else of ours opens a file to write into it, which follows links: it is renamed to its name, or opened
    with `regular`."""
    for module, path in FILES.items():
        text = path.read_text()
        assert "flock(" not in text or module == "trainables.files", module
        assert not re.search(r"\.write_(text|bytes)\(", text) or module in IN_NEW_FOLDERS, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open" and len(node.args) > 1:
                mode = ast.literal_eval(node.args[1])
                opener = {k.arg for k in node.keywords} & {"opener"}
                assert mode in ("r", "rb", "x", "xb") or (opener and "w" not in mode), f"{module}:{node.lineno}"


def test_s7_the_history_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("\n")
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a link"):
        History(tmp_path).append("start", 0, params={}, method="at")
    assert (tmp_path / "victim").read_text() == "\n"


# ---- files that are sent ---------------------------------------------------------------------------------------------


def test_s5_no_link_is_sent_and_nothing_that_is_not_the_searchs(tmp_path):
    """Of a folder, a file or a link to a folder; and what somebody put there beside the search's own files."""
    home, where = Home(tmp_path / "home"), tmp_path / "storage"
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "0.json").write_text("private")
    folder = home.search("x")
    (folder / "verify" / "apgd").mkdir(parents=True)
    for name in ("spec.yaml", "history.jsonl", "verify/apgd/1.json"):
        (folder / name).write_text("ours\n")
    for name in ("front.html", "verify/apgd/0.json", "result.json"):
        (folder / name).symlink_to(tmp_path / "secret" / "0.json")
    (folder / "verify" / "pgd-1x1").symlink_to(tmp_path / "secret")
    (folder / "verify" / "apgd" / "2.json").symlink_to("1.json")
    for name in ("id_rsa", "notes.html", "verify/apgd/key.pem", "trials.json", "verify/0.json"):
        (folder / name).write_text("private")
    os.mkfifo(folder / "front.png")
    mirror.push(str(where), home, "x")
    sent = {p.relative_to(where / "searches/x").as_posix(): p.read_text() for p in where.rglob("*") if p.is_file()}
    assert sent == dict.fromkeys(["spec.yaml", "history.jsonl", "verify/apgd/1.json"], "ours\n")


def test_s5_only_files_of_a_search_are_brought(tmp_path):
    home, where = Home(tmp_path / "home"), tmp_path / "storage"
    there = Storage(where)
    for name in ("spec.yaml", "history.jsonl", "verify/apgd/1.json", "run.sh", "verify/apgd/x.py", "ray/x", "lib/a.so"):
        there.write(f"searches/x/{name}", b"{}\n")
    assert mirror.pull(str(where), home, "x")
    brought = {p.relative_to(home.search("x")).as_posix() for p in home.search("x").rglob("*") if p.is_file()}
    assert brought == {"spec.yaml", "history.jsonl", "verify/apgd/1.json"}


def test_s5_all_that_a_search_writes_is_sent(finished):
    """Beside locks and checkpoints, and `images`, for which a search with a storage has its data there: a new file of
    ours needs its place in the list."""
    folder = finished[1] / "searches" / "first"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    not_sent = {f for f in files if not mirror.MIRRORED.fullmatch(f)}
    here = {f for f in files if f in (".lock", "images") or f.endswith((".pt", "study.log.lock"))}
    assert not_sent <= here and len(files) > 8


@pytest.mark.parametrize("name", ["trials", "verify", "history.jsonl", "study.log", "front.html"])
def test_s5_a_folder_with_a_link_out_of_it_is_not_written_to(finished, tmp_path, name):
    """Reading is free; what would write there, or send what the link leads to, says so."""
    folder = received(finished, tmp_path)
    (tmp_path / "victim").mkdir()
    moved = tmp_path / "victim" / name
    if (folder / name).exists():
        (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    before = {p: p.read_bytes() for p in (tmp_path / "victim").rglob("*") if p.is_file()}
    for command in ("resume", "sync", "verify"):
        done = tuner_here(command, "first", "--home", tmp_path)
        assert done.returncode == 2 and "link that leads out of its folder" in done.stderr, done.stderr
        assert name in done.stderr and done.stderr.count("\n") == 1
    assert tuner_here("front", "first", "--home", tmp_path).returncode == 0
    assert {p: p.read_bytes() for p in (tmp_path / "victim").rglob("*") if p.is_file()} == before


def test_s5_links_within_the_folder_may_stay(tmp_path):
    """Optuna's journal takes its lock with one."""
    folder = Home(tmp_path).search("x")
    folder.mkdir(parents=True)
    (folder / "study.log.lock").symlink_to(folder / "study.log")
    Home(tmp_path).require_own_files("x")
    (folder / "study.log.lock").unlink()
    (folder / "study.log.lock").symlink_to("../../study.log")
    with pytest.raises(UsageError, match="study.log.lock"):
        Home(tmp_path).require_own_files("x")


# ---- decoded data ----------------------------------------------------------------------------------------------------


def columns(n=4, classes=2):
    """(images, labels, groups, meta) as `store.write_images` takes them."""
    meta = {"classes": [str(c) for c in range(classes)], "grouped_by": None, "note": "", "mean": [0.5], "std": [0.5]}
    return np.zeros((n, 1, 8, 8), np.uint8), np.arange(n) % classes, None, meta


def put(folder, train=None, test=None):
    """Decoded data in a folder of a storage; returns the content's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in (("train", train), ("test", test)):
        store.write_images(folder / f"{name}.arrow", *(given or columns()))
    return store._hash(folder)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_s8_a_storage_does_not_choose_what_digits_is(tmp_path):
    """Whatever the name under which it offers its data, and whichever is asked for first."""
    stored, home = tmp_path / "storage" / "datasets", tmp_path / "home"
    right = contents(prepare("digits", tmp_path / "other"))
    theirs = put(stored / "digits-v1")
    put(stored / f"digits-v1-{theirs}")
    put(stored / f"digits-v1-{'0' * 32}")
    got = prepare(f"stored:{stored}/digits-v1", home)  # as earlier versions named it
    assert got.name.startswith("stored-digits-v1-") and store._hash(got) == theirs
    assert prepare(f"stored:{stored}/digits-v1", home) == got
    assert prepare(f"stored:{stored}/digits-v1-{theirs}", home).name == f"digits-v1-{theirs}"
    with pytest.raises(DataError, match="content does not fit its name"):
        prepare(f"stored:{stored}/digits-v1-{'0' * 32}", home)
    assert contents(prepare("digits", home)) == right and prepare("digits", home).name == "digits-v1"
    assert prepare(f"stored:{stored}/digits-v1-{theirs}", home) != prepare("digits", home)
    put(stored / "digits-v1", train=columns(8))  # others under the old name: they are not taken for those
    assert prepare(f"stored:{stored}/digits-v1", home) != got


def test_s8_what_was_decoded_here_is_not_copied(tmp_path):
    decoded = prepare("digits", tmp_path / "home")
    name = share(decoded, str(tmp_path / "storage"))
    assert name == f"digits-v1-{store._hash(decoded)}"
    where = f"stored:{tmp_path}/storage/datasets/{name}"
    assert prepare(where, tmp_path / "home") == decoded
    (decoded / "content").unlink()  # an earlier version decoded it
    assert prepare(where, tmp_path / "home") == decoded and (decoded / "content").exists()
    copy = prepare(where, tmp_path / "node")
    assert copy.name == name and contents(copy) == contents(decoded)
    keys = [
        data_key(TrialConfig("at", dataset=d, home=str(tmp_path / h))) for d, h in (("digits", "home"), (where, "node"))
    ]
    assert keys[0] == keys[1], "the same stem"
    assert share(copy, str(tmp_path / "third")) == name


def saying(rows, tmp_path):
    """The bytes of a file that says so and holds 1237: reading the labels may end the process."""
    store.write_images(tmp_path / "lies.arrow", *columns(1237))
    lies, true = (tmp_path / "lies.arrow").read_bytes(), struct.pack("<q", 1237)
    assert lies.count(true) == 3, "of the batch, and of its two columns"
    return lies.replace(true, struct.pack("<q", rows))


def cast(batch, label):
    return pa.record_batch({"image": batch["image"], "label": batch["label"].cast(label)})


def without(batch, change):
    """The batch with columns changed."""
    return pa.record_batch({"image": batch["image"], "label": batch["label"], **change})


BATCHES = {  # of a batch of four images
    "no tensor": lambda b: without(b, {"image": b["image"].storage}),
    "small labels": lambda b: cast(b, pa.int8()),
    "text": lambda b: cast(b, pa.string()),
    "no label": lambda b: b.select(["image"]),
    "another order": lambda b: b.select(["label", "image"]),
    "a column more": lambda b: without(b, {"x": b["label"]}),
    "nulls": lambda b: without(b, {"label": pa.array([0, 1, None, 1])}),
    "labels beyond the classes": lambda b: without(b, {"label": pa.array([0, 1, 2, 1])}),
    "negative labels": lambda b: without(b, {"label": pa.array([0, 1, -1, 1])}),
    "a class without images": lambda b: without(b, {"label": pa.array([0, 0, 0, 0])}),
    "as it is": lambda b: b,
}
METAS = {"classes": ["a", 1], "mean": [float("nan")], "std": [1, 2], "note": ["x"], "grouped_by": 3, "": None}


def written(batch, meta=None, batches=1, **options):
    """The bytes of an Arrow file."""
    schema, sink = (
        batch.schema.with_metadata({"tuner": json.dumps(columns()[3] if meta is None else meta)}),
        pa.BufferOutputStream(),
    )
    with pa.ipc.new_file(sink, schema, **options) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def crafted(tmp_path):
    """(name, bytes of a train.arrow), the last one as it should be."""
    store.write_images(tmp_path / "right.arrow", *columns(5000))
    many = pa.ipc.open_file(str(tmp_path / "right.arrow")).get_batch(0)
    batch, right, meta = many.slice(0, 4), written(many), columns()[3]
    yield "cut", right[:-200]
    yield "altered", right[:600] + b"\xff" * 64 + right[664:]
    yield "empty", b""
    yield "begun", b"ARROW1"
    yield "two batches", written(batch, batches=2)
    yield "compressed", written(many, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    yield "buffers", saying(10**6, tmp_path)
    yield "buffers by a little", saying(1245, tmp_path)
    yield "another meta", written(batch, [])
    for name, value in METAS.items():
        yield f"meta {name}", written(batch, {**meta, name: value} if name else {})
    for name, change in BATCHES.items():
        yield name, written(change(batch))


def test_s8_a_crafted_arrow_file_is_refused(tmp_path):
    """Under a name that fits its content, which whoever made it can choose."""
    for number, (name, data) in enumerate(crafted(tmp_path)):
        stored = tmp_path / f"storage-{number}"
        put(stored / "x")
        (stored / "x" / "train.arrow").write_bytes(data)
        there = stored / f"x-{store._hash(stored / 'x')}"
        (stored / "x").rename(there)
        if name == "as it is":
            assert prepare(f"stored:{there}", tmp_path / "home").name == there.name
            continue
        with pytest.raises(DataError, match="train.arrow holds no decoded images") as error:
            prepare(f"stored:{there}", tmp_path / "home")
        assert "\n" not in str(error.value), name
        if name.startswith("buffers"):
            assert "Invalid" in str(error.value) or "too small" in str(error.value), error.value
    assert [p.name for p in (tmp_path / "home/datasets").iterdir() if p.is_dir()] == [there.name]
