"""`tuner gc`, `rm` and `restore`: what lies where, who needs it, and that nothing else is touched."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from tests.conftest import tuner_here
from tests.histories import fill
from trainables.data.store import prepare
from trainables.files import locked
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.results.disk import DAY_S, NEW_S, collect, decoded_prefix, inventory, removed
from tuner.results.history import History
from tuner.results.searches import load_search, search_names
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import push
from tuner.tracking.removal import remove, restore

STEM, OTHER = "0123456789abcdef", "fedcba9876543210"


def aged(path, seconds=2 * NEW_S):
    for file in (path, *path.rglob("*")):
        os.utime(file, (time.time() - seconds,) * 2, follow_symlinks=False)


@pytest.fixture
def home(tmp_path):
    """A finished search `done`, a stopped one `half`, stems and data that they need or not."""
    home = Home(tmp_path / "home")
    for name, trials in (("done", 6), ("half", 9)):
        spec = SearchSpec(method="srat", trials=trials, scheduler="none", name=name)
        (folder := home.search(name)).mkdir(parents=True)
        (folder / "spec.yaml").write_text(spec.to_yaml())
        history = fill(History(folder), spec, trials=5, curves=True)
        for record in history.everything():
            write_atomically(folder / "trials" / str(record.trial) / "checkpoint.pt", b"x" * 1000)
    History(home.search("done")).append("start", 6, params={"loss": "ce"}, method="srat", seed=0)
    History(home.search("done")).append("fork", 6, epochs=[], stem=STEM)
    History(home.search("done")).append("end", 6, state="failed")
    for stem in (STEM, OTHER):
        write_atomically(home.root / "stems" / stem / "epoch-0001.pt", b"y" * 500)
    for data in ("digits-v1", "mnist-v1", "raw"):
        write_atomically(home.root / "datasets" / data / "train.arrow", b"z" * 700)
    aged(home.root / "stems")
    aged(home.root / "datasets")
    return home


def files(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir() and p.name[0] != "."}


def gone(home, *args):
    before = files(home.root)
    done = tuner_here("gc", "--yes", "--home", home.root, *args)
    assert done.returncode == 0, done.stderr
    return before - files(home.root)


def test_what_no_search_needs_is_removed_and_nothing_else(home):
    before = files(home.root)
    shown = json.loads(tuner_here("gc", "--home", home.root, "--json").stdout)
    assert files(home.root) == before and not shown["removed"], "without --yes it is only shown"
    front = {row["trial"] for row in load_search(home, "done").front().rows} | {0, -1}
    assert 0 < len(front) < 7
    off = {f"searches/done/trials/{n}/checkpoint.pt" for n in range(-1, 6) if n not in front}
    assert gone(home) == off | {f"stems/{OTHER}/epoch-0001.pt", "datasets/mnist-v1/train.arrow"}
    assert shown["bytes"] == 1000 * len(off) + 500 + 700
    assert gone(home) == set() and "not needed" in tuner_here("gc", "--home", home.root).stdout


@pytest.mark.parametrize("how", ["running", "asked", "unreadable"])
def test_while_a_search_runs_nothing_of_it_is_removed(home, how):
    """Nor data and stems, which it may begin to use; nor where a search cannot be read."""
    folder = home.search("done")
    if how == "unreadable":
        (home.search("half") / "spec.yaml").write_text("method: [")
    if how == "asked":
        write_atomically(folder / "requests" / "1.json", "{}")
    if how == "running":
        with locked(folder / ".lock"):
            assert gone(home) == set() and all(item.needed for item in inventory(home)), "nor is it said to be free"
        return
    lost = gone(home)
    assert not any(path.startswith("searches/half") for path in lost)
    shared = {path for path in lost if path.startswith(("stems", "datasets"))}
    assert bool(shared) == (how == "asked") and (how == "unreadable" or not lost - shared)


def test_what_a_driver_took_since_is_left_alone(home):
    items = inventory(home)
    with locked(home.search("done") / ".lock"), locked(home.root / "stems" / f".{OTHER}.lock"):
        assert collect(items) == 700, "the data"


def test_a_stem_that_nobody_has_named_yet_stays(home):
    History(home.search("half")).append("stem", 0, stem_epoch=1)
    assert not any(path.startswith("stems") for path in gone(home))


def test_a_stem_stays_from_its_first_epoch_on(home):
    """Under each of several seeds, although trials have left but one of them."""
    History(home.search("half")).append("fork", 0, epochs=[], stem=STEM)
    History(home.search("half")).append("stem", 1, stem_epoch=1, stem=OTHER)
    assert not any(path.startswith("stems") for path in gone(home))


def test_what_is_new_stays(home):
    write_atomically(home.root / "stems" / OTHER / "epoch-0002.pt", b"y")
    assert not any(path.startswith("stems") for path in gone(home))


def test_links_are_not_followed(home, tmp_path):
    outside = tmp_path / "outside"
    write_atomically(outside / "checkpoint.pt", b"precious" * 100)
    for link in ("searches/done/trials/77", "stems/" + "a" * 16, "datasets/mnist-v1/link", "datasets/cifar10-v1"):
        (home.root / link).symlink_to(outside)
    write_atomically(home.root / "searches/done/trials/../notes.txt", b"mine")
    aged(home.root / "datasets")
    assert all(path.startswith(("searches/done/trials", "stems", "datasets")) for path in gone(home))
    assert (outside / "checkpoint.pt").read_bytes() == b"precious" * 100
    assert (home.search("done") / "notes.txt").exists() and (home.root / "datasets/cifar10-v1").is_symlink()


def test_data_are_known_by_the_names_that_they_are_stored_under(tmp_path, parquet_dir):
    home = tmp_path / "home"
    for dataset in ("digits", f"parquet:{parquet_dir}"):
        assert prepare(dataset, home).name.startswith(decoded_prefix(dataset))
    assert decoded_prefix("parquet:s3://bucket/some/cifar?region=x") == "parquet-cifar-"


def test_weights_and_models_that_nothing_names_are_removed(home):
    """Weights that a search started from stay, and a model that was tested."""
    used, unused = "a" * 64, "b" * 64
    write_atomically(home.search("half") / "init.json", json.dumps({"weights": used}))
    for name in (used, unused):
        write_atomically(home.root / "inits" / f"{name}.safetensors", b"w" * 100)
    write_atomically(home.root / "inits" / "mine.txt", b"not ours")
    for name, file in (("tested", "verified.json"), ("killed", "checkpoint.pt"), ("new", "checkpoint.pt")):
        write_atomically(home.root / "models" / name / file, b"m" * 10)
    write_atomically(home.root / "reproduced" / "0123456789abcdef" / "searches" / "x" / "spec.yaml", b"r")
    for name in ("inits", "models/tested", "models/killed"):
        aged(home.root / name)
    aged(home.root / "reproduced", 2 * DAY_S)
    lost = {path for path in gone(home) if not path.startswith(("searches", "stems", "datasets"))}
    assert lost == {
        f"inits/{unused}.safetensors",
        "models/killed/checkpoint.pt",
        "reproduced/0123456789abcdef/searches/x/spec.yaml",
    }


@pytest.fixture
def storage(home, tmp_path):
    """The two searches in a storage, with stems, data and weights that they need or not."""
    where = tmp_path / "storage"
    for name in ("done", "half"):
        spec = SearchSpec.from_yaml((home.search(name) / "spec.yaml").read_text())
        (home.search(name) / "spec.yaml").write_text(dataclasses.replace(spec, storage=str(where)).to_yaml())
        write_atomically(home.search(name) / "dataset", f"digits-v1-{'0' * 32}")
        push(str(where), home, name)
        for trial in range(-1, 6):
            write_atomically(where / "searches" / name / "trials" / str(trial) / "checkpoint.pt", b"x" * 1000)
    for file in (f"stems/{STEM}/epoch-0001.pt", f"stems/{OTHER}/epoch-0001.pt", f"inits/{'b' * 64}.safetensors"):
        write_atomically(where / file, b"y" * 500)
    for data in ("digits", "mnist"):
        write_atomically(where / "datasets" / f"{data}-v1-{'0' * 32}" / "train.arrow", b"z" * 700)
    for age in (DAY_S / 2, 2 * DAY_S):
        write_atomically(where / "trash" / f"{int(time.time() - age)}-old" / "spec.yaml", b"t")
    aged(where)
    return where


def freed(home, storage, *args):
    before = files(storage)
    done = tuner_here("gc", "--yes", "--home", home.root, "--storage", storage, *args)
    assert done.returncode == 0, done.stderr
    return before - files(storage)


def test_of_a_storage_what_no_search_needs_is_removed(home, storage):
    before, front = files(storage), {row["trial"] for row in load_search(home, "done").front().rows} | {0, -1}
    shown = json.loads(tuner_here("gc", "--home", home.root, "--storage", storage, "--json").stdout)
    assert files(storage) == before and {item["storage"] for item in shown["items"]} == {None, str(storage)}
    assert gone(home) and files(storage) == before, "it is not looked into where it is not named"
    off = {f"searches/done/trials/{n}/checkpoint.pt" for n in range(-1, 6) if n not in front}
    (old,) = {path for path in before if path.startswith("trash") and int(path[6:].split("-")[0]) < time.time() - DAY_S}
    lost = freed(home, storage)
    assert lost == off | {
        f"stems/{OTHER}/epoch-0001.pt",
        f"datasets/mnist-v1-{'0' * 32}/train.arrow",
        f"inits/{'b' * 64}.safetensors",
        old,
    }
    out = tuner_here("gc", "--home", home.root, "--storage", storage).stdout
    assert freed(home, storage) == set() and "could be removed" not in out


@pytest.mark.parametrize("how", ["running", "asked", "unreadable", "new", "not said"])
def test_of_a_storage_nothing_is_removed_that_may_be_needed(home, storage, how):
    """There are no locks in it: a lease, a request, an unknown search, and what is new are reasons enough."""
    match how:
        case "running":
            write_atomically(storage / "searches" / "half" / "driver.json", b"{}")
        case "asked":
            write_atomically(storage / "searches" / "done" / "requests" / "1.json", b"{}")
        case "unreadable":
            write_atomically(storage / "searches" / "third" / "spec.yaml", b"method: [")
        case "new":
            for path in storage.rglob("*.*"):
                os.utime(path)
        case "not said":
            History(home.search("half")).append("stem", 0, stem_epoch=1)
            push(str(storage), home, "half")
    lost = {path for path in freed(home, storage) if not path.startswith("trash")}
    shared = {path for path in lost if not path.startswith("searches/")}
    assert not shared or how in ("asked", "not said")
    assert how != "not said" or not any(path.startswith("stems") for path in lost)
    assert bool(lost - shared) == (how != "asked"), "checkpoints of the finished search, which nobody else needs"
    assert not any(path.startswith("searches/half") for path in lost)


def test_of_a_storage_no_link_is_followed(home, storage, tmp_path):
    write_atomically(tmp_path / "outside" / "checkpoint.pt", b"precious")
    (storage / "stems" / ("c" * 16)).symlink_to(tmp_path / "outside")
    (storage / "searches" / "done" / "trials" / "77").symlink_to(tmp_path / "outside")
    (storage / f"inits/{'d' * 64}.safetensors").symlink_to(tmp_path / "outside" / "checkpoint.pt")
    freed(home, storage)
    assert (tmp_path / "outside" / "checkpoint.pt").read_bytes() == b"precious"


def test_a_storage_that_does_not_answer(home, tmp_path):
    (tmp_path / "file").write_text("x")
    done = tuner_here("gc", "--home", home.root, "--storage", tmp_path / "file" / "x")
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    done = tuner_here("gc", "--home", home.root, "--storage", "ftp://x")
    assert done.returncode == 2 and "cannot be opened" in done.stderr


# ---- rm and restore --------------------------------------------------------------------------------------------------


def test_removed_and_brought_back(home):
    before = files(home.search("done"))
    done = tuner_here("rm", "done", "--home", home.root)
    assert done.returncode == 0 and f"tuner restore done --home {home.root} brings it back" in done.stdout, done.stderr
    assert search_names(home) == ["half"] and tuner_here("trials", "done", "--home", home.root).returncode == 2
    assert not any("trash" in path for path in gone(home)), "for a day"
    back = tuner_here("restore", "done", "--home", home.root)
    assert back.returncode == 0 and files(home.search("done")) == before and removed(home) == []
    assert tuner_here("restore", "done", "--home", home.root).returncode == 2


def test_of_two_that_were_removed_the_later_comes_back(home):
    remove("done", home)
    (home.search("done")).mkdir()
    (home.search("done") / "spec.yaml").write_text(SearchSpec(method="trades", name="done").to_yaml())
    with pytest.raises(UsageError, match="search 'done' exists; restore takes its old name"):
        restore("done", home)
    old = next(path for _, _, path in removed(home))
    old.rename(old.with_name(f"{int(time.time() - 50)}-done"))
    remove("done", home)
    assert restore("done", home).spec.method == "trades" and len(removed(home)) == 1


def test_after_a_day_it_is_gone(home):
    trash = remove("half", home)
    trash.rename(trash.with_name(f"{int(time.time() - DAY_S - 9)}-half"))
    remove("done", home)
    assert [name for _, name, _ in removed(home)] == ["done"]


def test_what_is_not_removed(home, tmp_path):
    with locked(home.search("done") / ".lock"):
        running = tuner_here("rm", "done", "--home", home.root)
    assert running.returncode == 2 and "search 'done' is running; stop it first" in running.stderr
    for name in ("../home", "nobody", "/etc", "."):
        assert tuner_here("rm", name, "--home", home.root).returncode == 2
        assert tuner_here("restore", name, "--home", home.root).returncode == 2
    home.search("link").symlink_to(home.search("half"))
    linked = tuner_here("rm", "link", "--home", home.root)
    assert linked.returncode == 2 and "is a link, which is not followed here" in linked.stderr
    assert {"done", "half"} <= set(search_names(home))


def test_a_search_that_cannot_be_read_can_be_removed(home):
    (home.search("half") / "history.jsonl").write_text("nonsense\n")
    assert remove("half", home).exists() and search_names(home) == ["done"]


def test_in_a_storage_too(home, tmp_path):
    storage = str(tmp_path / "storage")
    spec = SearchSpec(method="srat", trials=9, scheduler="none", name="half", storage=storage)
    (home.search("half") / "spec.yaml").write_text(spec.to_yaml())
    push(storage, home, "half")
    write_atomically(Path(storage, "searches/half/trials/0/checkpoint.pt"), b"weights")
    stored, here = files(Path(storage)), Home(home.root, storage)
    with pytest.raises(UsageError, match="which this command does not name"):
        remove("half", home)
    remove("half", here)
    assert {path.split("/")[0] for path in files(Path(storage))} == {"trash"} and search_names(here) == ["done"]
    with pytest.raises(UsageError, match="which this command does not name"):
        restore("half", home)
    restore("half", here)
    assert files(Path(storage)) == stored and set(search_names(here)) == {"done", "half"}


def test_restore_finds_a_storage_that_was_moved_and_overwrites_nothing_in_it(home, tmp_path):
    """A storage may have another address than when the search began: another mount, a copy."""
    first, storage = str(tmp_path / "storage"), str(tmp_path / "moved")
    spec = SearchSpec(method="srat", trials=9, scheduler="none", name="half", storage=first)
    (home.search("half") / "spec.yaml").write_text(spec.to_yaml())
    push(first, home, "half")
    os.rename(first, storage)
    stored, here = files(Path(storage)), Home(home.root, storage)
    remove("half", here)
    other = Path(storage, "searches/half/spec.yaml")  # another home's, made meanwhile
    write_atomically(other, b"method: at")
    with pytest.raises(UsageError, match="search 'half' exists in '.*moved'; restore takes its old name"):
        restore("half", here)
    assert other.read_bytes() == b"method: at" and "half" not in search_names(home)
    other.unlink()
    assert restore("half", here).spec.storage == storage and files(Path(storage)) == stored


def test_a_driver_of_another_home_keeps_it(home, tmp_path, monkeypatch):
    from tuner.sync import mirror

    storage = str(tmp_path / "storage")
    spec = SearchSpec(method="srat", trials=9, scheduler="none", name="half", storage=storage)
    (home.search("half") / "spec.yaml").write_text(spec.to_yaml())
    push(storage, home, "half")
    other = mirror.Mirror(storage, Home(tmp_path / "other"), "half")
    other._write_lease(2.0)
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: other._write_lease(2.0))
    with pytest.raises(UsageError, match="is running already, from"):
        remove("half", Home(home.root, storage))
    assert (home.search("half") / "spec.yaml").exists() and (Path(storage) / "searches/half/spec.yaml").exists()


@pytest.mark.slow  # MLflow makes its database
def test_mlflow_deletes_and_restores_its_runs(home, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    from tuner.tracking import runs
    from tuner.tracking.tracker import sync

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = load_search(home, "done")
    assert sync(run, warn=pytest.fail)

    def count(view):
        client = MlflowClient(tracking_uri=runs.tracking_uri(home))
        return len(client.search_runs([e.experiment_id for e in client.search_experiments()], run_view_type=view))

    made = 1 + len(run.history.everything())
    assert count(ViewType.ACTIVE_ONLY) == made
    remove("done", home)
    assert (count(ViewType.ACTIVE_ONLY), count(ViewType.DELETED_ONLY)) == (0, made)
    restore("done", home)
    assert count(ViewType.ACTIVE_ONLY) == made
