"""A search is sent and received: bundles, what is trained again from one, and folders of others."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import zipfile
from importlib import metadata

import pytest

from tests.conftest import tuner_here
from tests.histories import start
from tests.test_received import received
from trainables.checkpoint import NAME
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.results import bundle as bundles
from tuner.results import importing
from tuner.results.bundle import ABOUT, LOCK, read_bundle
from tuner.results.history import History
from tuner.results.importing import CHECKPOINT, import_search
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.verification.reproduce import bundle, differing_lines, reproduce, stem_of


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def contents(folder):
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files_of(folder).items()}


@pytest.fixture
def more_threads():
    """This process sums with more threads than a worker does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sent(finished, tmp_path_factory):
    """The bundle of the finished search."""
    file = tmp_path_factory.mktemp("sent") / "first.bundle.zip"
    bundle("first", file, Home(finished[1]))
    return file


def altered(sent, to, change):
    """A bundle whose files ``change`` has changed: a dictionary of name -> bytes."""
    with zipfile.ZipFile(sent) as file:
        held = {name: file.read(name) for name in file.namelist()}
    change(held)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in held.items():
            file.writestr(name, data)
    return to


# ---- a bundle --------------------------------------------------------------------------------------------------------


def test_a_bundle_holds_what_a_search_cannot_be_made_again_from(finished, sent, tmp_path):
    folder = finished[1] / "searches" / "first"
    with zipfile.ZipFile(sent) as file:
        names, about = set(file.namelist()), json.loads(file.read(ABOUT))
        lock = file.read(LOCK).decode().splitlines()
        assert file.read("history.jsonl") == (folder / "history.jsonl").read_bytes()
    assert names == {ABOUT, LOCK, "spec.yaml", "history.jsonl", "images"}, "no checkpoint, no data, no page"
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lock) and len(lock) > 50
    assert f"torch=={metadata.version('torch')}" in lock and lock == sorted(lock)
    assert not [line for line in lock if line.startswith("python==")], "pip installs none"
    assert about["search"] == "first" and re.fullmatch("[0-9a-f]{32}", about["data"])
    assert set(about["training"]) == {"at", "srat"} and about["machine"]["device"] in ("cpu", "cuda")
    bundle("first", tmp_path / "again.zip", Home(finished[1]))
    assert (tmp_path / "again.zip").read_bytes() == sent.read_bytes()


def test_a_bundle_is_written_where_it_is_asked_for(finished, tmp_path):
    done = tuner_here("bundle", "first", "--home", finished[1], "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["bundle"] == str(tmp_path / "first.bundle.zip")
    assert read_bundle(tmp_path / "first.bundle.zip").about["search"] == "first"
    for to, words in ((tmp_path, "is a folder"), ("/proc/x/y.zip", "cannot be written")):
        done = tuner_here("bundle", "first", "--to", to, "--home", finished[1])
        assert done.returncode == 2 and words in done.stderr


def packed(files, **entries):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", **entries) as file:
        for name, data in files:
            file.writestr(name, data)
    return sink.getvalue()


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


HOSTILE = {
    "no zip": (lambda held: b"PK\x03\x04 and no more", "no bundle"),
    "empty": (lambda held: b"", "no bundle"),
    "a name that leads out": (lambda held: packed([*held.items(), ("../x", b"")]), "'../x'"),
    "a script": (lambda held: packed([*held.items(), ("front.html", b"<script>")]), "'front.html'"),
    "a checkpoint": (lambda held: packed([*held.items(), ("trials/0/checkpoint.pt", b"")]), "checkpoint.pt"),
    "a link": (lambda held: packed([*held.items(), (link("verified.json"), b"/etc/passwd")]), "'verified.json'"),
    "a bomb": (lambda held: packed([*held.items(), ("init.json", bytes(2**26))], compression=8), "packed more"),
    "another packing": (lambda held: packed(held.items(), compression=zipfile.ZIP_BZIP2), "which no bundle does"),
    "no spec": (lambda held: packed([i for i in held.items() if i[0] != "spec.yaml"]), "missing"),
    "no history": (lambda held: packed([i for i in held.items() if i[0] != "history.jsonl"]), "missing"),
    "about something else": (lambda held: packed({**held, ABOUT: b'{"kind": "x"}'}.items()), "something else"),
    "a later format": (lambda held: packed({**held, ABOUT: later(held)}.items()), "format 2"),
    "about nothing": (lambda held: packed({**held, ABOUT: b"[]"}.items()), "something else"),
    "a lock with a URL": (lambda held: packed({**held, LOCK: b"torch @ https://x/y.whl\n"}.items()), "name==version"),
    "a lock with an option": (lambda held: packed({**held, LOCK: b"-r /etc/passwd\n"}.items()), "name==version"),
}


def later(held):
    return json.dumps({**json.loads(held[ABOUT]), "format": 2}).encode()


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_bundle_is_refused(what, sent, tmp_path, monkeypatch):
    make, words = HOSTILE[what]
    with zipfile.ZipFile(sent) as file:
        held = {name: file.read(name) for name in file.namelist()}
    (tmp_path / "x.zip").write_bytes(make(held))
    monkeypatch.setattr(bundles, "SMALL", 2**20)
    for command in ("import", "reproduce"):
        done = tuner_here(command, tmp_path / "x.zip", "--home", tmp_path / "home")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not files_of(tmp_path / "home")


def test_a_file_of_a_bundle_has_a_size(sent, monkeypatch):
    monkeypatch.setitem(bundles.FILES, "history.jsonl", 100)
    with pytest.raises(UsageError, match="history.jsonl is larger"):
        read_bundle(sent)
    monkeypatch.setattr(bundles, "LARGEST", 100)
    with pytest.raises(UsageError, match="larger than"):
        read_bundle(sent)


# ---- trained again ---------------------------------------------------------------------------------------------------


def test_a_pick_is_trained_again_to_the_bit(wide_front, sent, tmp_path, more_threads):
    """In another home, which has no stem: it is trained again, and then found."""
    for trained in (True, False):
        done = tuner_here("reproduce", sent, "--pick", 1, "--home", tmp_path, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["equal"] and found["trial"] == 1 and not found["differences"]
        assert found["first_difference"] is None and found["split"] == "val"
        assert found["stem"]["then"] == found["stem"]["now"] and bool(found["stem"]["trained"]) == trained
        assert ("stem: trained epoch 1" in done.stderr) == trained and "trained epoch 3 of 3" in done.stderr
        row = next(row for row in found["rows"] if row["metric"] == "worst_class_robust_acc")
        assert row["then"] == row["now"] and row["difference"] == 0 and row["within"] is None
    assert not list((tmp_path / "reproduced").iterdir()) and not (tmp_path / "searches").exists()


def test_a_pick_that_comes_out_differently(wide_front, sent, tmp_path):
    """One last bit of one epoch, which the bundle has otherwise; and other versions than are here."""

    def lie(held):
        lines = held["history.jsonl"].decode().splitlines()
        for at, line in enumerate(lines):
            event = json.loads(line)
            if event["event"] == "epoch" and event["trial"] == 1 and event["metrics"]["epoch"] == 3:
                event["metrics"]["train_loss"] *= 1 + 2**-52
                lines[at] = json.dumps(event)
        held["history.jsonl"] = ("\n".join(lines) + "\n").encode()
        held[LOCK] = re.sub(rb"\ntorch==.*", b"\ntorch==2.0.0", held[LOCK]) + b"nothing-like-it==1.0\n"
        held[ABOUT] = json.dumps({**json.loads(held[ABOUT]), "data": "0" * 32}).encode()

    file = altered(sent, tmp_path / "other.zip", lie)
    done = tuner_here("reproduce", file, "--pick", 1, "--home", tmp_path / "home", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and not found["equal"]
    assert found["first_difference"] == {"epoch": 3, "metric": "train_loss"}
    assert {d["what"] for d in found["differences"]} == {"torch", "nothing-like-it", "data"}
    lines = done.stderr.splitlines()
    begun = next(at for at, line in enumerate(lines) if "trained epoch" in line)
    assert any("torch was 2.0.0" in line for line in lines[:begun]), "before it starts"
    assert any(f"data was {'0' * 32}" in line for line in lines[:begun])
    assert "1 other package" in "\n".join(lines[:begun])


def test_a_bundle_without_a_front_says_so(tmp_path):
    """It told to resume the copy in which it is unpacked."""
    home, spec = Home(tmp_path / "home"), SearchSpec(method="wat", trials=2, max_epochs=1, name="s")
    home.search("s").mkdir(parents=True)
    (home.search("s") / "spec.yaml").write_text(spec.to_stored())
    start(History(home.search("s")), spec, 0, spec.search_space().default())
    bundle("s", tmp_path / "s.zip", home)
    with pytest.raises(UsageError, match="s.zip' has no front; --pick takes paper or no_search, if they finished"):
        reproduce(tmp_path / "s.zip", home)


def test_a_difference_stands_beside_the_interval():
    from tuner.results.trial_record import TrialRecord
    from tuner.verification.reproduce import _row, first_difference, result_lines

    row = {"ci": {"robust_acc": (0.40, 0.50)}}
    assert _row("robust_acc", 0.44, 0.46, row)["within"] and not _row("robust_acc", 0.44, 0.51, row)["within"]
    assert _row("clean_acc", 0.44, 0.46, row)["within"] is None
    rows = [_row("robust_acc", 0.44, 0.46, row), _row("clean_acc", 0.44, None, row)]
    then, now = (TrialRecord(3, {}, "at", epochs=[{"epoch": 1, "train_s": s, "x": x}]) for s, x in ((1.0, 2), (2.0, 3)))
    first = first_difference(then, now)
    assert first == {"epoch": 1, "metric": "x"} and first_difference(then, then) is None
    nan = TrialRecord(3, {}, "at", epochs=[{"epoch": 1, "train_s": 0.0, "x": float("nan")}])
    assert first_difference(nan, nan) is None and first_difference(nan, then) == first
    longer = TrialRecord(3, {}, "at", epochs=[*then.epochs, {"epoch": 2}])
    assert first_difference(then, longer) == {"epoch": 2, "metric": "epoch"}
    result = {"search": "a", "trial": 3, "equal": False, "failed": None, "first_difference": first, "rows": rows}
    result |= {"split": "val", "offsets": {"tau": 0.5}}
    text = "\n".join(result_lines({**result, "stem": {"then": "b", "now": "c", "trained": 0}}))
    assert "trial 3@0.5 of a differs, first in x of epoch 1" in text
    assert "0.4400 then, 0.4600 now, on val (+0.0200, inside 0.4000 .. 0.5000)" in text
    assert "stem c: another, found in this home" in text


def test_what_differs_is_said_in_few_lines():
    differs = [{"what": w, "then": "1", "now": None} for w in ("torch", "a", "b", "training code of srat", "device")]
    lines = differing_lines(differs)
    assert len(lines) == 4 and lines[-1] == "differs: 2 other packages" and "not installed" in lines[0]


@pytest.mark.parametrize("gpus, device", [(0.0, "cpu"), (0.5, "cuda"), ("auto", "cuda")])
def test_it_trains_where_the_search_did(gpus, device, sent, tmp_path, monkeypatch):
    """A search that asked for no GPU had none, also where this machine has one."""
    asked = []

    class Known(Exception):
        pass

    def begin(config, where=None):
        asked.append(where or "cuda")
        raise Known

    def gpus_of(held):
        spec = SearchSpec.from_yaml(held["spec.yaml"].decode()).to_dict()
        held["spec.yaml"] = SearchSpec.from_dict({**spec, "gpus_per_trial": gpus}).to_yaml().encode()

    monkeypatch.setattr("trainables.verification_run.Trainer", begin)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "H200")
    said = []
    with pytest.raises(Known):
        reproduce(altered(sent, tmp_path / "x.zip", gpus_of), Home(tmp_path), say=said.append)
    assert asked == [device] and ("differs: processor was" in "\n".join(said)) == (device == "cuda")


def test_weights_to_start_from_must_be_here(sent, tmp_path):
    def begun(held):
        spec = SearchSpec.from_yaml(held["spec.yaml"].decode()).to_dict()
        held["spec.yaml"] = SearchSpec.from_dict({**spec, "init": "robust.pt"}).to_yaml().encode()
        record = {"source": "robust.pt", "file": "a" * 64, "weights": "b" * 64, "notes": [], "accuracy": ACCURACY}
        held["init.json"] = json.dumps(record).encode()

    file = altered(sent, tmp_path / "init.zip", begun)
    done = tuner_here("reproduce", file, "--home", tmp_path / "home")
    assert done.returncode == 2 and "starts from 'robust.pt'" in done.stderr and done.stderr.count("\n") == 1


ACCURACY = {"images": 10, "clean_acc": 0.9, "attacked": 10, "robust_acc": 0.5}


def test_a_storage_is_named_before_it_is_bundled(finished, tmp_path):
    received(finished, tmp_path, storage=str(tmp_path / "storage"))
    done = tuner_here("bundle", "first", "--home", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and "which this command does not name" in done.stderr
    assert not (tmp_path / "first.bundle.zip").exists()


@pytest.mark.parametrize("pick", ["77", "best", "3@9"])
def test_a_pick_that_is_not_there(pick, sent, tmp_path):
    done = tuner_here("reproduce", sent, "--pick", pick, "--home", tmp_path)
    assert done.returncode == 2 and pick in done.stderr and done.stderr.count("\n") == 1


def test_data_of_a_url_are_named_again(sent, tmp_path):
    def elsewhere(held):
        spec = SearchSpec.from_yaml(held["spec.yaml"].decode()).to_dict()
        spec |= {"dataset": "parquet:s3://bucket/x", "storage": "s3://bucket/y"}
        held["spec.yaml"] = SearchSpec.from_dict(spec).to_yaml().encode()

    file = altered(sent, tmp_path / "url.zip", elsewhere)
    done = tuner_here("reproduce", file, "--home", tmp_path / "home")
    assert done.returncode == 2 and "--dataset parquet:s3://bucket/x" in done.stderr, done.stderr
    done = tuner_here("reproduce", file, "--dataset", "folder:/nowhere", "--home", tmp_path / "home")
    assert done.returncode == 2 and "/nowhere" in done.stderr, done.stderr


def test_the_stem_of_a_trial(finished):
    history = finished[1] / "searches" / "first" / "history.jsonl"
    assert (finished[1] / "stems" / stem_of(history, 1)).is_dir() and stem_of(history, 0) is None


# ---- received --------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_search_of_this_home(finished, tmp_path):
    """With its checkpoints and its front; pages, results of others' tests, locks and requests stay where they are."""
    source = received(finished, tmp_path / "theirs")
    for name in ("requests/1.json", "verify/apgd/1.json", "run.sh", "mlflow.key", "trials/0/x.so", "trials/12/x"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    (source / "trials" / "99").mkdir()
    (source / "trials" / "99" / NAME).write_bytes(b"of no trial")
    before = contents(source)
    done = tuner_here("import", source, "--home", tmp_path / "home", "--json")
    assert done.returncode == 0, done.stderr
    folder, said = tmp_path / "home" / "searches" / "first", json.loads(done.stdout)
    trained = {f"trials/{path.parent.name}/{NAME}" for path in (source / "trials").glob(f"*/{NAME}")}
    assert set(contents(folder)) == {"spec.yaml", "history.jsonl", "images"} | trained - {f"trials/99/{NAME}"}
    assert said["search"] == "first" and said["trials"] == 6 and said["checkpoints"] == len(trained) - 1
    assert contents(source) == before
    for name in (*(trained - {f"trials/99/{NAME}"}), "history.jsonl", "images"):
        assert contents(folder)[name] == before[name]
    shown = [tuner_here("front", "first", "--home", home, "--json").stdout for home in (finished[1], tmp_path / "home")]
    then, now = (json.loads(text)[0] for text in shown)
    assert now["front"] == then["front"] and now["hypervolume"] == then["hypervolume"]
    done = tuner_here("export", "first", "--pick", "knee", "--to", tmp_path / "model", "--home", tmp_path / "home")
    assert done.returncode == 0 and (tmp_path / "model" / "model.safetensors").exists(), done.stderr


def test_a_bundle_becomes_a_search_of_this_home(finished, sent, tmp_path):
    done = tuner_here("import", sent, "--name", "theirs", "--home", tmp_path)
    assert done.returncode == 0 and "without checkpoints" in done.stderr and "search  theirs" in done.stdout
    theirs = load_search(Home(tmp_path), "theirs")
    assert theirs.front().rows == load_search(Home(finished[1]), "first").front().rows
    images = [
        (home / "searches" / name / "images").read_text()
        for home, name in ((finished[1], "first"), (tmp_path, "theirs"))
    ]
    assert images[0] == images[1], "on others it does not go on"
    done = tuner_here("verify", "theirs", "--home", tmp_path)
    assert done.returncode == 1 and "checkpoint" in done.stderr and "missing" in done.stderr


def test_a_storage_of_theirs_is_not_taken_over(finished, tmp_path):
    source = received(finished, tmp_path / "theirs", storage="s3://bucket/x", study_storage="postgresql://host/x")
    spec = import_search(source, Home(tmp_path / "home")).run.spec
    assert spec.storage is None and spec.study_storage is None
    assert spec.identity() == load_search(Home(finished[1]), "first").spec.identity()


@pytest.mark.parametrize("name", ["spec.yaml", "history.jsonl", "trials", "trials/0", f"trials/0/{NAME}", "warm-start"])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_link_is_refused(name, where, finished, tmp_path):
    source = received(finished, tmp_path / "theirs")
    moved = (source if where == "inside" else tmp_path) / "victim"
    if (source / name).exists():
        (source / name).rename(moved)
    (source / name).symlink_to(moved)
    done = tuner_here("import", source, "--home", tmp_path / "home")
    assert done.returncode == 2 and "link" in done.stderr and name in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not files_of(tmp_path / "home")


def test_a_pipe_does_not_wait(finished, tmp_path):
    source = received(finished, tmp_path / "theirs")
    (source / "history.jsonl").unlink()
    os.mkfifo(source / "history.jsonl")
    with pytest.raises(UsageError, match="not a regular file"):
        import_search(source, Home(tmp_path / "home"))


def test_nothing_is_overwritten(finished, tmp_path):
    source, home = received(finished, tmp_path / "theirs"), tmp_path / "home"
    assert tuner_here("import", source, "--home", home).returncode == 0
    before = contents(home)
    for more, words in (([], "exists already"), (["--name", "../x"], "not allowed"), (["--name", "first"], "exists")):
        done = tuner_here("import", source, *more, "--home", home)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    (home / "searches" / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        import_search(source, Home(home), name="dangling")
    assert contents(home) == before and not (tmp_path / "nowhere").exists()
    assert tuner_here("import", source, "--name", "second", "--home", home).returncode == 0
    assert {p.name for p in (home / "searches").iterdir()} == {"first", "second", "dangling"}, "nothing half-copied"


DAMAGE = {
    "history": (lambda f: (f / "history.jsonl").write_text('{"event": "x"}\n'), Failed, "line 1 of"),
    "a setting": (lambda f: swap(f, '"sep_weight": ', '"sep_weight": "many", "x": '), Failed, "sep_weight='many'"),
    "spec": (lambda f: (f / "spec.yaml").write_text("method: [srat"), UsageError, "YAML"),
    "a field": (lambda f: (f / "spec.yaml").write_text("method: srat\nrun: rm\n"), UsageError, "'run'"),
    "no text": (lambda f: (f / "spec.yaml").write_bytes(b"\xff\xfe"), UsageError, "UTF-8"),
    "no history": (lambda f: (f / "history.jsonl").unlink(), UsageError, "no search's folder"),
    "nothing": (lambda f: (shutil.rmtree(f), f.mkdir()), UsageError, "no search's folder"),
    "gone": (lambda f: shutil.rmtree(f), UsageError, "cannot be read"),
}


def swap(folder, old, new):
    text = (folder / "history.jsonl").read_text()
    assert old in text
    (folder / "history.jsonl").write_text(text.replace(old, new))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_leaves_nothing(what, finished, tmp_path):
    source = received(finished, tmp_path / "theirs")
    damage, kind, words = DAMAGE[what]
    damage(source)
    with pytest.raises(kind, match=words) as error:
        import_search(source, Home(tmp_path / "home"))
    assert "\n" not in str(error.value) and ".import" not in str(error.value)
    assert not list((tmp_path / "home").glob("searches/*"))


def test_sizes_are_bounded(finished, tmp_path, monkeypatch):
    source = received(finished, tmp_path / "theirs")
    monkeypatch.setattr(importing, "CHECKPOINT_BYTES", 100)
    with pytest.raises(UsageError, match="checkpoint.pt is larger than"):
        import_search(source, Home(tmp_path / "home"))
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UsageError, match="MiB free here"):
        import_search(source, Home(tmp_path / "home"))
    assert not list((tmp_path / "home").glob("searches/*"))


def test_the_name_of_a_checkpoint_is_the_trainables():
    assert CHECKPOINT == NAME


def test_reproduce_says_what_it_did(finished, sent, tmp_path):
    said = []
    found = reproduce(sent, Home(tmp_path), pick="no_search", say=said.append)
    assert found["equal"] and found["trial"] == -1
    assert said[0] == "versions, code, data and kind of machine are those of the bundle"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_s7_what_is_no_file_is_not_replaced(finished, tmp_path, kind):
    """A file takes another's place by its name; as root also that of /dev/null, for the whole machine."""
    place = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/null")  # another name of it: should this test fail, the link alone is replaced
    before = os.lstat(place)
    for command in (("bundle", "first", "--to"), ("front", "first", "--html")):
        done = tuner_here(*command, place, "--home", finished[1])
        assert done.returncode == 2 and "is no regular file" in done.stderr
    assert os.lstat(place).st_ino == before.st_ino


def test_a_disk_is_not_walked_through_for_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "walk", pytest.fail)
    with pytest.raises(UsageError, match="is no search's folder"):
        import_search(tmp_path, Home(tmp_path / "home"))
