"""A search's folder in two places: what is brought, what is sent, and that one driver at a time does it."""

import json
import time
from dataclasses import replace

import pytest

from tests.histories import start
from trainables.files import locked
from trainables.storage import Storage
from tuner.errors import TakenOver, UsageError
from tuner.home import Home
from tuner.results.history import History
from tuner.results.running import Running, read_running
from tuner.spec.search_spec import SearchSpec
from tuner.sync import mirror


@pytest.fixture
def two(tmp_path):
    """(storage, home A, home B) with a search that A has sent."""
    where, a, b = str(tmp_path / "s"), Home(tmp_path / "a"), Home(tmp_path / "b")
    folder = a.search("x")
    for name, text in {
        "spec.yaml": "method: at\n",
        "history.jsonl": "1\n2\n3",
        "verify/apgd/0.json": "{}",
        ".lock": "",
        "trials/0/checkpoint.pt": "",
        "front.png": "png",
        "verify/seeds/0/1/checkpoint.pt": "",
        "warm-start/history.jsonl": "1\n",
        "warm-start/points.json": "{}",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("trials/0", "verify/seeds/0/1"):  # as trials do
        Storage(where).write(f"searches/x/{name}/checkpoint.pt", b"")
    mirror.push(where, a, "x")
    return where, a, b


def files_of(home):
    folder = home.search("x")
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_pull_brings_what_another_home_sent(two):
    where, _, b = two
    assert not mirror.pull(where, b, "y") and mirror.pull(where, b, "x")
    kept = ["warm-start/history.jsonl", "warm-start/points.json"]
    assert files_of(b) == ["front.png", "history.jsonl", "spec.yaml", "verify/apgd/0.json", *kept]
    assert (b.search("x") / "history.jsonl").read_text() == "1\n2\n", "half a line stays at home"
    assert mirror.stored_names(where) == ["x"]


@pytest.mark.parametrize(
    "ours, kept",
    [
        ("1\n2\n3\n4\n", True),  # this home could not send its end: it has more
        ("1\n2\n", True),
        ("1\n", False),
        ("1\nX\nY\nZ\n", False),
    ],
)  # somebody went on elsewhere: theirs counts, checkpoints are there
def test_the_longer_history_wins_unless_they_parted(two, ours, kept):
    where, _, b = two
    folder = b.search("x")
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text(ours)
    (folder / "front.png").write_text("mine")
    mirror.pull(where, b, "x")
    assert (folder / "history.jsonl").read_text() == (ours if kept else "1\n2\n")
    assert (folder / "front.png").read_text() == ("mine" if kept else "png")


def test_two_machines_of_one_name_are_two(two, monkeypatch):
    """Such as containers of one image, whose homes have one place, too; the same home again is its own."""
    where, a, _ = two
    first = mirror.Mirror(where, a, "x")
    first.claim()
    mirror.Mirror(where, a, "x").claim()  # after a kill, at once
    a.root.rename(a.root.with_name("on another machine"))
    a.search("x").mkdir(parents=True)
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: first._write_lease(2.0))
    with pytest.raises(UsageError, match="is running already, from"):
        mirror.Mirror(where, a, "x").claim()
    mirror.Mirror(where, a, "x")._write_lease(2.0)
    with pytest.raises(TakenOver, match="was taken over by"):
        first._check_owner()


@pytest.mark.slow
def test_one_driver_at_a_time(two, monkeypatch):
    where, a, b = two
    monkeypatch.setattr(mirror, "MIN_INTERVAL_S", 0.2)
    spec = SearchSpec(method="at", storage=where)
    with mirror.mirrored(spec, a, "x"):
        with pytest.raises(UsageError, match="'x' is running already, from .*/a; wait for it"):
            with mirror.mirrored(spec, b, "x"):
                pass
        (a.search("x") / "history.jsonl").write_text("1\n2\n3\n")
        deadline = time.time() + 20
        while mirror.open_search(where, "x").read("history.jsonl") != b"1\n2\n3\n":
            assert time.time() < deadline
            time.sleep(0.05)
    for home, every in ((a, 0.2), (b, 60)):  # of drivers that were killed; its own needs no waiting for
        mirror.Mirror(where, home, "x")._write_lease(every)
        with mirror.mirrored(spec, b, "x"):
            pass
    assert time.time() < deadline
    assert mirror.open_search(where, "x").read(mirror.LEASE) is None


class Rounds:
    """Stands for the event that ends a mirror's thread: ends it after some rounds, and does ``each`` before every one
    (told the interval that would be waited)."""

    def __init__(self, rounds, each=lambda every: None):
        self.left, self.each = rounds, each

    def wait(self, every):
        self.each(every)
        self.left -= 1
        return self.left < 0


@pytest.fixture
def driver(two, monkeypatch):
    """The mirror of a driver in home A, with intervals a test can wait for, and a function that reads the lease."""
    where, a, _ = two
    monkeypatch.setattr(mirror, "MIN_INTERVAL_S", 0.05)
    found = mirror.Mirror(where, a, "x")
    found.claim()
    return found, lambda: json.loads(found.store.read(mirror.LEASE) or b"null")


def slow(store, monkeypatch, seconds, seen=lambda name: None):
    write = store.write

    def late(name, data):
        seen(name)
        time.sleep(0 if name == mirror.LEASE else seconds)
        write(name, data)

    monkeypatch.setattr(store, "write", late)


def test_the_lease_announces_the_interval_that_follows(driver, monkeypatch):
    """Else whoever watches it for two and a half of the intervals it names takes a living driver's search over."""
    found, lease = driver
    slow(found.store, monkeypatch, 0.03)
    waits = []
    found.run(Rounds(2, lambda every: waits.append((every, lease()["every"]))))
    assert waits[0][0] == 0.05 and waits[0][1] == mirror.MAX_INTERVAL_S  # what is there is brought here first
    assert waits[1][0] == waits[1][1] > 10 * 4 * 0.03 and waits[1][0] > waits[2][0] == waits[2][1]


def test_the_lease_changes_while_many_files_are_sent(driver, monkeypatch):
    found, lease = driver
    found._write_lease(0.05)
    beats = []
    slow(found.store, monkeypatch, 0.1, lambda name: beats.append(lease()["beat"]))
    found.run(Rounds(1))
    assert len(set(beats)) >= 3, "the four files took eight of the intervals that it names"


@pytest.mark.parametrize("other", ["b", None])
def test_a_driver_whose_search_was_taken_over_sends_nothing_more(driver, two, other, capsys):
    """A laptop that slept: another home has gone on, or has even ended."""
    found, lease = driver
    where, a, b = two
    theirs = mirror.Mirror(where, b, "x")
    theirs._write_lease(0.05)
    theirs.store.write("history.jsonl", b"1\n2\ntheirs\n")
    if other is None:
        theirs.store.remove(mirror.LEASE)
    (a.search("x") / "history.jsonl").write_text("1\n2\nours\n")
    found.run(stop := Rounds(20))
    said = capsys.readouterr().err
    assert stop.left == 19, "it ends by itself"
    assert "search 'x' was taken over by" in said and ("/b" in said) == bool(other) and "nothing more is sent" in said
    found.close()
    assert found.store.read("history.jsonl") == b"1\n2\ntheirs\n" and "taken over" in capsys.readouterr().err
    assert (lease() or {}).get("who") == (other and theirs.owner), "its lease is the other's to remove"


def test_a_lease_that_is_gone_is_written_again_where_nobody_went_on(driver, two):
    """The folder of the storage was emptied, or is not mounted just now."""
    found, lease = driver
    for file in ("driver.json", "history.jsonl", "spec.yaml"):
        found.store.remove(file)
    found.run(Rounds(1))
    assert lease()["who"] == found.owner and found.store.read("history.jsonl") == b"1\n2\n"


def test_a_mirror_survives_errors_of_every_kind_and_says_so_once(driver, two, monkeypatch, capsys):
    """Some clients of clouds raise what is no OSError."""
    found, lease = driver
    (two[1].search("x") / "history.jsonl").write_text("1\n2\nlate\n")
    send, errors = found.send, [RuntimeError("server disconnected"), OSError("timed out"), RuntimeError("again")]

    def sometimes():
        if errors:
            raise errors.pop(0)
        send()

    monkeypatch.setattr(found, "send", sometimes)
    found.run(Rounds(4))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "server disconnected" in said and "sent when it answers" in said
    assert found.store.read("history.jsonl") == b"1\n2\nlate\n" and lease()["who"] == found.owner


def test_c8_what_a_lost_mount_took_is_sent_again(two, tmp_path):
    """What is written while a mount is away lies below it, and is not there when it comes back."""
    where, a, _ = two
    sender, path = mirror.Mirror(where, a, "x"), tmp_path / "s"
    sender.claim()
    sender.send()
    path.rename(tmp_path / "aside")
    (a.search("x") / "history.jsonl").write_text("1\n2\n3\n")
    (a.search("x") / "result.json").write_text("{}")
    sender.send()
    path.rename(tmp_path / "below")
    (tmp_path / "aside").rename(path)
    written = (path / "searches/x/front.png").stat().st_mtime_ns
    sender.close()
    assert (path / "searches/x/history.jsonl").read_text() == "1\n2\n3\n"
    assert (path / "searches/x/result.json").read_text() == "{}"
    assert (path / "searches/x/front.png").stat().st_mtime_ns == written, "what is there is not sent again"


def test_a_command_that_took_long_takes_nothing_back(two):
    """`tuner verify` of another home ends after the search has gone on, and ended, elsewhere."""
    where, a, b = two
    mirror.pull(where, b, "x")
    for name, text in {"history.jsonl": "1\n2\n3\n4\n", "result.json": "the end", "front.png": "last"}.items():
        (a.search("x") / name).write_text(text)
    mirror.push(where, a, "x")
    for name in ("verified.json", "verify/apgd/4.json"):
        (b.search("x") / name).write_text("tested")
    mirror.push(where, b, "x")
    store = mirror.open_search(where, "x")
    found = [store.read(name) for name in ("history.jsonl", "result.json", "front.png")]
    assert found == [b"1\n2\n3\n4\n", b"the end", b"last"]
    assert store.read("verified.json") == store.read("verify/apgd/4.json") == b"tested"


def test_another_search_of_the_same_name_is_not_overwritten(two, tmp_path):
    """A colleague's in a shared storage, say, which `tuner ls` would bring here."""
    where, _, b = two
    folder, history = b.search("x"), History(b.search("x"))
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("mine")
    start(history, SearchSpec(method="at"), 0, {})

    def refused():
        return pytest.raises(UsageError, match="'x' in .* is another one than search 'x' in .*; give another --home")

    with locked(folder / ".lock"), refused():
        mirror.pull(where, b, "x")  # it runs
    history.append("end", 0, state="finished")
    before = files_of(b)
    with refused():
        mirror.pull(where, b, "x")
    assert files_of(b) == before and (folder / "spec.yaml").read_text() == "mine"
    with refused(), mirror.mirrored(SearchSpec(storage=where), b, "x"):
        pass
    assert mirror.lease_of(where, "x") is None, "nobody waits for a driver that did not start"


@pytest.mark.parametrize("text", ['{"event": "start", "trial": 0}\n', "being wri"])
def test_what_a_driver_left_that_had_sent_nothing_is_no_other_search(two, text):
    where, _, b = two
    b.search("x").mkdir(parents=True)
    (b.search("x") / "history.jsonl").write_text(text)
    assert mirror.pull(where, b, "x") and (b.search("x") / "history.jsonl").read_text() == "1\n2\n"


def test_what_runs_elsewhere_is_known_between_two_events_too(two):
    """A preview, say, is an event at its end alone."""
    where, a, b = two
    for epoch in (1, 2):
        (running := Running(a.search("x"))).heard(3, "host", epoch)
        running.write()
        mirror.push(where, a, "x")
        mirror.pull(where, b, "x")
        assert read_running(b.search("x"))[3].epoch == epoch


def test_the_end_is_brought_after_the_last_event_too(two):
    """A look from elsewhere may come between a search's last event and its pictures."""
    where, a, b = two
    mirror.pull(where, b, "x")
    for name in ("front.png", "result.json"):
        (a.search("x") / name).write_text("the end")
    mirror.push(where, a, "x")
    mirror.pull(where, b, "x")
    assert [(b.search("x") / name).read_text() for name in ("front.png", "result.json")] == ["the end", "the end"]


def test_later_tests_of_another_home_count(two):
    """Neither a home that has the same history, nor the driver of a search that goes on, keeps or sends older ones."""
    where, a, b = two
    spec = SearchSpec(method="at", name="x", storage=where)
    (a.search("x") / "verified.json").write_text("a's")
    mirror.push(where, a, "x")
    mirror.pull(where, b, "x")
    with mirror.mirrored(spec, a, "x"):
        for name in ("verified.json", "verify/apgd/0.json"):
            (b.search("x") / name).write_text("b's")
        mirror.push(where, b, "x")
        (a.search("x") / "front.png").write_text("drawn again")
    mirror.push(where, a, "x", tests=False)
    store = mirror.open_search(where, "x")
    assert [store.read(name) for name in ("verified.json", "front.png")] == [b"b's", b"drawn again"]
    mirror.pull(where, a, "x")
    assert (a.search("x") / "verified.json").read_text() == (a.search("x") / "verify/apgd/0.json").read_text() == "b's"
    (a.search("x") / "verified.json").write_text("not sent yet")
    mirror.pull(where, a, "x")
    assert (a.search("x") / "verified.json").read_text() == "not sent yet"


# ---- a search that began without a storage, or with another one ----------------------------------------------------


@pytest.fixture
def here(tmp_path):
    """A home with a search that has no storage, and checkpoints of all kinds."""
    home = Home(tmp_path / "h")
    texts = {"spec.yaml": SearchSpec(method="at", name="x").to_stored(), "history.jsonl": "{}\n"}
    trained = ("trials/-1", "trials/3", "previews/4", "verify/seeds/3/17")
    texts["verified.json"] = "tested"
    for name, text in {**texts, **{f"{folder}/checkpoint.pt": folder for folder in trained}}.items():
        path = home.search("x") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home, trained


def test_what_it_has_trained_comes_into_the_storage_that_it_gets(here, tmp_path):
    home, trained = here
    spec = SearchSpec(method="at", name="x", storage=str(tmp_path / "s"))
    store = mirror.open_search(spec.storage, "x")
    mirror.check_kept(spec, home, "x")
    with mirror.mirrored(spec, home, "x"):
        assert [store.read(f"{folder}/checkpoint.pt") for folder in trained] == [folder.encode() for folder in trained]
        assert store.read("verified.json") == b"tested"
        store.write("trials/3/checkpoint.pt", b"later")
    with mirror.mirrored(spec, home, "x"):
        assert store.read("trials/3/checkpoint.pt") == b"later", "from then on the storage has them"


def test_the_lease_changes_while_much_was_trained(here, tmp_path, monkeypatch):
    home, trained = here
    driver = mirror.Mirror(str(tmp_path / "s"), home, "x")
    driver.claim()
    monkeypatch.setattr(time, "monotonic", lambda: driver._due + 1)
    before = driver.store.read(mirror.LEASE)
    driver.send_trained()
    assert driver.store.read(mirror.LEASE) != before


def test_a_search_stays_with_its_storage(here, tmp_path):
    home, _ = here
    first, other = str(tmp_path / "s"), str(tmp_path / "moved")
    spec = SearchSpec(method="at", name="x", storage=first)
    (home.search("x") / "spec.yaml").write_text(spec.to_stored())
    mirror.check_kept(spec, home, "x")
    for now in (None, other):
        with pytest.raises(UsageError, match=f"keeps its checkpoints in '{first}'; give --storage {first}"):
            mirror.check_kept(replace(spec, storage=now), home, "x")
    Storage(other).write("searches/x/spec.yaml", b"method: at")
    mirror.check_kept(replace(spec, storage=other), home, "x")  # it was moved
    (home.search("x") / "history.jsonl").unlink()
    mirror.check_kept(replace(spec, storage=None), home, "x")  # nothing has begun
