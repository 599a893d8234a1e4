"""The live page: a search followed line by line, what the server says of it, and whom it answers. The page itself, in a
browser: tests/test_browser.py."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from tests.conftest import tuner_here
from tests.histories import curve, fill, metrics, start
from trainables.files import locked
from trainables.gpu_use import in_words, rows_of
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.report.figures import picture_data
from tuner.report.live import picture
from tuner.report.live.now import Watched
from tuner.report.live.picture import Pictured
from tuner.report.live.server import TOKEN, LiveServer
from tuner.report.trials import view
from tuner.results.bill import expected, seconds_left
from tuner.results.following import Followed
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import row_label
from tuner.results.running import FILE, Running, gpus_by_host, read_running
from tuner.results.searches import load_search
from tuner.results.steering import ask
from tuner.results.summary import state_of
from tuner.spec.search_spec import SearchSpec

SPEC = SearchSpec(method="srat", trials=9, max_epochs=4, name="s")


def made(root, **about):
    """(home, history) of a search with six trials and the reference, in a home."""
    home = Home(root)
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    return home, fill(History(folder), SPEC, **{"curves": True, "failed": False, **about})


def finish(history, trial, mean, worst):
    """One more trial, trained in full."""
    start(history, SPEC, trial, SPEC.search_space().default() | {"start": 0.1 + trial / 100})
    for epoch in range(1, SPEC.max_epochs + 1):
        history.append("epoch", trial, metrics=metrics(epoch, mean, worst))
    history.append("curve", trial, curve=curve(mean, worst))
    history.append("end", trial, state="finished")


# ---- following ------------------------------------------------------------------------------------------------------


def test_only_what_was_appended_is_read(tmp_path, monkeypatch):
    home, history = made(tmp_path)
    followed, taken = Followed(home, "s"), []
    assert followed.run.front() == load_search(home, "s").front() and not followed.look()
    take = History.take
    monkeypatch.setattr(History, "take", lambda self, *args: taken.append(args[0]) or take(self, *args))
    finish(history, 6, 0.6, 0.4)
    assert followed.look() and len(taken) == 7 and followed.run.history.trials == history.trials
    assert followed.run.history.changes == history.changes and not followed.look()


def test_what_a_resume_changes_and_another_search_of_the_name_are_seen(tmp_path):
    """The spec was read once: replicates that a resume asked for ran in a search that was called finished, and a new
    search was shown with the method, objectives and cost of the one that was removed."""
    home, history = made(tmp_path)
    for trial in range(6, 9):
        finish(history, trial, 0.5, 0.3)
    watched = Watched(home, "s")
    watched.look()
    assert watched.followed.state == "finished"
    (home.search("s") / "spec.yaml").write_text(replace(SPEC, seeds=2).to_yaml())
    watched.look()
    assert watched.run.spec.seeds == 2 and watched.followed.state == "stopped" == state_of(load_search(home, "s"))
    shutil.rmtree(home.search("s"))
    home.search("s").mkdir()
    other = SearchSpec(method="trades", trials=5, max_epochs=5, name="s", objectives=("clean_acc", "robust_acc"))
    (home.search("s") / "spec.yaml").write_text(other.to_stored())
    watched.look()
    assert watched.run.spec == other.changed() and not watched.run.history.trials
    fill(History(home.search("s")), other, failed=False)
    watched.look()
    now = watched.now(-1, None)
    assert [best["name"] for best in now["front"]["best"]] == ["clean", "class mean"]
    assert now["bill"]["expected"] == expected(other).epochs and watched.front == load_search(home, "s").front()
    (home.search("s") / "spec.yaml").write_text(replace(other, budget="20epochs").to_stored())
    watched.look()
    bill = watched.now(-1, None)["bill"]
    assert bill["expected"] == 20 and bill["expected_words"].endswith("; --budget ends it at 4.0")


def test_what_replicates_cost_comes_on_top_of_what_was_expected(tmp_path):
    """More was spent than was expected to be, in all of a search's last part."""
    home, history = made(tmp_path)
    history.append("start", 6, params=history.trials[0].params, method=SPEC.method, seed=1, of=0)
    for epoch in (1, 2):
        history.append("epoch", 6, metrics=metrics(epoch, 0.5, 0.1))
    watched = Watched(home, "s")
    watched.look()
    assert watched.now(-1, None)["bill"]["expected"] == expected(watched.run.spec).epochs + 2


def test_a_line_counts_once_it_is_whole(tmp_path):
    """Its writer may be in the middle of it, or have been killed there."""
    home, history = made(tmp_path)
    followed, path = Followed(home, "s"), home.search("s") / "history.jsonl"
    line = json.dumps({"event": "note", "trial": 1, "time": 2e9, "text": "ü"}) + "\n"
    for part in (line[:20], line[20:-1]):
        with open(path, "a") as file:
            file.write(part)
        assert not followed.look() and not followed.run.history.trials[1].notes
    with open(path, "a") as file:
        file.write("\n" + line[:30] + "\n" + line)  # killed, and written by the next
    assert followed.look() and [n.text for n in followed.run.history.trials[1].notes] == ["ü", "ü"]
    with open(path, "a") as file:
        file.write('{"event": "end", "trial": 77, "time": 1, "state": "finished"}\n')
    for _ in range(2):  # the second time without reading it again
        with pytest.raises(Failed, match=rf"line {path.read_text().count(chr(10))} of .*history.jsonl is no event"):
            followed.look()


def test_another_file_is_read_from_its_beginning(tmp_path):
    """A storage's history took its place, which may be longer."""
    home, history = made(tmp_path)
    followed, path = Followed(home, "s"), home.search("s") / "history.jsonl"
    other = History(None)
    fill(other, SPEC, trials=2)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0].replace('"seed": 0', '"seed": 1'), *lines[1:], lines[-1]]))
    assert followed.look() and followed.run.history.trials[0].seed == 0, "what was read before was not compared"
    path.write_text("".join(lines[:4]))
    assert followed.look() and list(followed.run.history.trials) == [0]
    path.unlink()
    assert not followed.look()


def test_a_search_that_another_home_runs_is_followed_through_the_storage(tmp_path, monkeypatch):
    from tuner.results import following
    from tuner.sync.mirror import Mirror

    home, history = made(tmp_path / "there")
    mirror = Mirror(str(tmp_path / "storage"), home, "s")
    mirror.claim()
    mirror.send()
    monkeypatch.setattr(following, "PULL_S", 0.0)
    followed = Followed(Home(tmp_path / "here", str(tmp_path / "storage")), "s")
    assert followed.state == "running" and len(followed.run.history.trials) == 6
    finish(history, 6, 0.6, 0.4)
    mirror.send()
    assert followed.look() and len(followed.run.history.trials) == 7
    followed._lease = followed._lease[0], time.monotonic() - 100  # it has not been renewed since
    assert followed.state == "stopped"


def test_a_setting_of_another_kind_is_refused_as_when_the_search_is_loaded(tmp_path):
    home, history = made(tmp_path)
    followed = Followed(home, "s")
    history.append("start", 6, params={"start": "late"}, method="srat")
    with pytest.raises(Failed, match="trial 6 has start='late'"):
        followed.look()


# ---- what runs where, and how long ----------------------------------------------------------------------------------


def test_where_trials_run(tmp_path):
    running = Running(tmp_path)
    running.write()
    assert not (tmp_path / FILE).exists()
    running.heard(3, "node-1", 4)
    running.heard(4, "node-2", 2, stem=True)
    running.write()
    places = read_running(tmp_path)
    assert {n: (p.host, p.epoch, p.stem) for n, p in places.items()} == {
        3: ("node-1", 4, False),
        4: ("node-2", 2, True),
    }
    running.gone(3)
    running.write()
    assert list(read_running(tmp_path)) == [4]
    for damaged in ("[]", '{"x": {}}', '{"3": {"host": 1, "epoch": 2, "stem": false, "heard": 1}}', "{"):
        (tmp_path / FILE).write_text(damaged)
        assert read_running(tmp_path) == {}


def gpu(index, use, used=20480.0):
    return {"index": index, "name": "H", "utilization.gpu": use, "memory.used": used, "memory.total": 81920.0}


def test_gpus_of_other_machines(tmp_path):
    """As the trial said that was heard of last there; on the page and in `tuner watch` while the search runs."""
    home, history = made(tmp_path)
    running = Running(home.search("s"))
    for number in (6, 7, 8):
        start(history, SPEC, number, SPEC.search_space().default())
    running.heard(7, "node-1", 2, gpus=[gpu(0, 10), gpu(1, None)])
    time.sleep(0.002)
    running.heard(6, "node-1", 3, gpus=[gpu(0, 93), gpu(1, 4.0)])
    running.heard(8, "cpu-node", 3)
    running.write()
    nodes = {"node-1": [gpu(0, 93), gpu(1, 4.0)]}
    assert gpus_by_host(read_running(home.search("s"))) == nodes
    watched = Watched(home, "s")
    watched.look()
    assert watched.now(-1, None)["nodes"] == {}, "no driver: what it said last is of then"
    with locked(home.search("s") / ".lock"):
        watched.look()
        assert watched.now(-1, None)["nodes"] == nodes
        shown = [str(part) for part in view(watched.run, "running", 100).renderables]
    assert "GPUs of node-1: 0 H: 93 %, 20 of 80 GiB; 1 H: 4 %, 20 of 80 GiB" in shown
    assert not any("GPUs" in str(part) for part in view(watched.run, "stopped", 100).renderables)
    assert in_words(gpu(1, None)) == "1 H: ? %, 20 of 80 GiB"


@pytest.mark.parametrize(
    "wrong", [1, "x", [1], [{}], [{**gpu(0, 5), "utilization.gpu": "5"}], [{**gpu(0, 5), "index": 0.5}]]
)
def test_gpus_that_somebody_wrote_are_not_shown(tmp_path, wrong):
    place = {"host": "n", "epoch": 1, "stem": False, "heard": 1.0, "gpus": wrong}
    (tmp_path / FILE).write_text(json.dumps({"3": place, "4": {**place, "gpus": [gpu(0, 5)] * 100}}))
    places = read_running(tmp_path)
    assert places[3].gpus == () and len(places[4].gpus) == 64


def test_the_time_that_is_left_by_hand(monkeypatch):
    """An epoch every 6 s, but for a night between the fourth and the fifth."""
    from tuner.results import history as of_history

    spec = SearchSpec(method="at", trials=2, max_epochs=40, fix={})
    history, clock = History(None), [1000.0]
    monkeypatch.setattr(of_history.time, "time", lambda: clock[0])
    history.append("start", 0, params={}, method="at")
    assert seconds_left(spec, history) is None
    for epoch in range(1, 11):
        clock[0] += 6.0 if epoch != 5 else 9000.0
        history.append("epoch", 0, metrics=metrics(epoch, 0.5, 0.1))
    assert seconds_left(spec, history) == pytest.approx(6 * (expected(spec).epochs - 10))


# ---- notes and stars ------------------------------------------------------------------------------------------------


def test_notes_and_stars_are_events_with_who_and_when(tmp_path, monkeypatch):
    home, _ = made(tmp_path)
    monkeypatch.setenv("LOGNAME", "ann")
    before = load_search(home, "s").front()
    answer = ask(load_search(home, "s"), "note", trial=1, text=" the rare class\x1b ", star=True)
    assert answer.words == "trial 1 has a new note and trial 1 has a star"
    run = load_search(home, "s")
    (note,) = run.history.trials[1].notes
    assert (note.by, note.text) == ("ann", r"the rare class\x1b") and abs(note.time - time.time()) < 100
    assert list(run.history.trials[1].stars) == ["ann"] and run.front() == before
    assert ask(run, "note", trial=1, star=False).words == "trial 1 has no star any more"
    assert not load_search(home, "s").history.trials[1].stars
    for wrong in ({"trial": 1}, {"trial": 1, "text": "x" * 2001}, {"trial": 99, "text": "x"}, {"trial": 1, "text": 7}):
        with pytest.raises(UsageError):
            ask(load_search(home, "s"), "note", **wrong)


def test_the_command(tmp_path):
    home, _ = made(tmp_path)
    done = tuner_here("note", "s", 2, "look at this", "--star", "--home", home.root)
    assert done.returncode == 0 and "trial 2 has a new note" in done.stdout, done.stderr
    shown = tuner_here("trials", "s", 2, "--home", home.root).stdout
    assert "look at this" in shown and "star of " in shown
    row = json.loads(tuner_here("trials", "s", "--home", home.root, "--json").stdout)[3]
    assert row["trial"] == 2 and row["notes"][0]["text"] == "look at this" and len(row["stars"]) == 1
    assert "note by " in tuner_here("logs", "s", 2, "--home", home.root).stdout
    assert tuner_here("note", "s", 2, "--home", home.root).returncode == 2
    assert json.loads(tuner_here("note", "s", 2, "--no-star", "--home", home.root, "--json").stdout)["done"]


def test_a_note_does_not_make_a_running_search_plan_anew(tmp_path):
    """Its driver opens its optimiser again after each change that users ask for; a note is none."""
    from types import SimpleNamespace

    from tuner.execution.ray_callback import SearchCallback
    from tuner.results.listener import Listeners

    home, history = made(tmp_path)
    plans = []
    optimizer = SimpleNamespace(out=set(), take_over=plans.append)
    run = load_search(home, "s")
    callback = SearchCallback(run, optimizer, Listeners([], print), print)
    for kind, about, planned in (("note", {"text": "x"}, 0), ("confirm", {}, 1)):
        (run.folder / "requests").mkdir(exist_ok=True)
        (run.folder / "requests" / f"{kind}.json").write_text(
            json.dumps({"kind": kind, "by": "ann", "about": {"trial": 0, **about}})
        )
        assert callback.take_up() is bool(planned) and len(plans) == planned
    assert [n.text for n in run.history.trials[0].notes] == ["x"]


# ---- what the page is told ------------------------------------------------------------------------------------------


def test_the_front_that_grows_is_the_front(tmp_path):
    home, history = made(tmp_path)
    watched = Watched(home, "s")
    watched.look()
    drawn = watched.run.history.changes
    assert watched.front == front_of(SPEC, history)
    for trial, (mean, worst) in enumerate([(0.3, 0.1), (0.7, 0.5), (0.72, 0.3)], 6):
        finish(history, trial, mean, worst)
        watched.look()
        assert watched.front == front_of(SPEC, history), trial
    now = watched.now(drawn, [[0.2, 1.0], [0.0, 1.0]])
    assert now["front"]["members"] == [row_label(row) for row in front_of(SPEC, history).rows]
    assert {p["trial"] for p in now["points"]} == {6, 7, 8} and now["front"]["stairs"][0][0] == 0.2
    assert now["latest"][0]["label"] == "trial 8" and now["latest"][0]["front"]
    assert now["ended"] == 9 == now["total"] and now["bill"]["trained"] == history.epochs_trained()
    assert watched.now(watched.run.history.changes, None)["points"] == []
    history.append("start", 9, params=history.trials[8].params, method="srat", seed=1, of=8)
    for epoch in range(1, 5):
        history.append("epoch", 9, metrics=metrics(epoch, 0.2, 0.1))
    history.append("curve", 9, curve=curve(0.2, 0.1))
    history.append("end", 9, state="finished")
    drawn = watched.run.history.changes
    watched.look()  # a replicate: trial 8 counts with a lower mean now
    moved, plain = watched.now(drawn, None)["points"], history.row(8, SPEC.objectives)
    assert {p["trial"] for p in moved} == {8} and moved[0]["y"] == plain["worst_class_robust_acc"] < 0.3
    assert watched.front == front_of(SPEC, history) and "9" not in watched.now(0, None)["front"]["members"]


def test_what_runs(tmp_path):
    home, history = made(tmp_path)
    running = Running(home.search("s"))
    history.append("start", 6, params={"start": 0.5}, method="srat", preview=True)
    history.append("start", 7, params={"start": 0.6}, method="srat")
    history.append("epoch", 7, metrics=metrics(1, 0.5, 0.1))
    for trial, host, epoch in ((6, "node-1", 3), (7, "node-2", 1)):
        running.heard(trial, host, epoch)
    running.write()
    watched = Watched(home, "s")
    watched.look()
    found = {t["trial"]: t for t in watched.now(-1, None)["running"]}
    assert (found[6]["what"], found[6]["epoch"], found[6]["of"], found[6]["host"]) == ("preview", 3, 4, "node-1")
    assert (found[7]["what"], found[7]["epoch"], found[7]["of"]) == ("in full", 1, 4)
    (curve_,) = watched.now(-1, None)["curves"]
    assert curve_["label"] == "trial 7" and curve_["epochs"] == [1] and curve_["running"]
    before = watched.version
    running.heard(6, "node-1", 4)
    running.write()
    assert watched.version != before, "a preview that goes on is news too"


def test_of_many_trials_the_best_are_drawn(tmp_path, monkeypatch):
    home, history = made(tmp_path, trials=30)
    monkeypatch.setattr(picture, "DRAWN", 3)
    pictured = Pictured(home, "s")
    assert pictured.renew() and not pictured.renew()
    drawn = {p["trial"] for p in pictured.data["points"]}
    members = {row["trial"] for row in history_front(history)}
    assert members <= drawn and 0 in drawn and len(drawn) <= len(members) + 4
    assert "of 30 trials are drawn" in pictured.data["note"] and pictured.importances[0]["words"]
    finish(history, 30, 0.9, 0.8)
    assert pictured.renew() and 30 in {p["trial"] for p in pictured.data["points"]}


def test_of_very_many_trials_a_page_draws_the_best_and_all_of_the_front(tmp_path):
    home, history = made(tmp_path, trials=30)
    run = load_search(home, "s")
    few, whole = picture_data(run, 3), picture_data(run)
    drawn = {p["trial"] for p in few["points"]}
    assert {row["trial"] for row in history_front(history)} <= drawn and len(drawn) < 30
    assert len({p["trial"] for p in whole["points"]}) == 30 and "are drawn" not in whole["note"]
    assert "of 30 trials are drawn" in few["note"] and few["members"] == whole["members"]
    assert picture_data(run, 30) == whole


def history_front(history):
    return front_of(SPEC, history).rows


def test_what_nvidias_program_prints():
    text = "0, NVIDIA H200, 87, 40960, 143771\n1, NVIDIA H200, [N/A], 0, 143771\n"
    assert rows_of(text) == [
        {"index": 0, "name": "NVIDIA H200", "utilization.gpu": 87, "memory.used": 40960, "memory.total": 143771},
        {"index": 1, "name": "NVIDIA H200", "utilization.gpu": None, "memory.used": 0, "memory.total": 143771},
    ]
    with pytest.raises(ValueError):
        rows_of("NVIDIA-SMI has failed")


# ---- the server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def live(tmp_path):
    home, history = made(tmp_path)
    with LiveServer(home) as server:
        yield server, history


def asked(address, body=None, **headers):
    """(status, headers, JSON or text) of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, about, text = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, about, text = error.code, error.headers, error.read()
    return status, about, json.loads(text) if about["Content-Type"] == "application/json" else text


def test_it_listens_on_loopback_alone_and_answers_its_key_alone(live):
    server, _ = live
    assert server.server_address[0] == "127.0.0.1"
    root, key = server.address[: -len(server.key) - 2], server.key
    assert len(key) >= 24
    for address in ("", "/", "/api/searches", f"/{key[:-1]}/", f"/{key}x/api/searches", f"/x/{key}/"):
        status, _, found = asked(root + address)
        assert status == 403 and "tuner ui" in found["error"], address
    assert asked(server.address)[0] == 200
    for path in ("nothing", "api/search/../s", "search/s/x", "api"):
        assert asked(server.address + path)[0] in (400, 404), path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost.evil", ""])
def test_a_foreign_name_that_is_bound_to_loopback_is_refused(live, host):
    server, _ = live
    assert asked(server.address + "api/searches", Host=host)[0] == 403
    assert asked(server.address + "api/searches", Host="localhost:1234")[0] == 200  # through a tunnel


def test_a_note_needs_the_token_and_this_origin(live):
    server, history = live
    address, about = server.address + "api/search/s/note", {"trial": 1, "text": "<b>hm</b>"}
    origin = server.address[: -len(server.key) - 2]
    assert asked(address, about)[0] == 403
    assert asked(address, about, **{TOKEN: "x"})[0] == 403
    for foreign in ("http://evil.example", "null", origin.replace("127.0.0.1", "localhost"), origin + "0"):
        assert asked(address, about, Origin=foreign, **{TOKEN: server.key})[0] == 403, foreign
    assert not load_search(server.live.home, "s").history.trials[1].notes
    status, _, said = asked(address, about, Origin=origin, **{TOKEN: server.key})
    assert status == 200 and said == {"done": True, "words": "trial 1 has a new note"}
    assert load_search(server.live.home, "s").history.trials[1].notes[0].text == "<b>hm</b>"
    for wrong in ([], {}, {"trial": 99, "text": "x"}, {"trial": 1, "text": ""}, {"trial": 1, "text": "x" * 20_000}):
        status, _, said = asked(address, wrong, **{TOKEN: server.key})
        assert status == 400 and said["error"], wrong
    assert asked(server.address + "api/search/s/skip", about, **{TOKEN: server.key})[0] == 404, "notes alone"


def test_no_other_origin_reads_a_page_and_only_its_own_script_runs(live):
    server, _ = live
    for path in ("", "search/s", "api/searches", "plotly.js"):
        status, headers, _ = asked(server.address + path, Origin="http://evil.example")
        assert status == 200 and not [name for name in headers if name.lower().startswith("access-control")]
        assert (
            headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["X-Content-Type-Options"] == "nosniff"
        )
        assert headers["Referrer-Policy"] == "no-referrer" and "Set-Cookie" not in headers
    nonces = set()
    for path in ("", "search/s"):
        _, headers, text = asked(server.address + path)
        nonce = headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0]
        scripts = [part.partition(b">")[0] for part in text.split(b"<script")[1:]]
        assert all(nonce.encode() in part or b"application/json" in part for part in scripts) and len(scripts) == 3
        assert "default-src 'none'" in headers["Content-Security-Policy"] and b"onclick=" not in text
        nonces.add(nonce)
    assert len(nonces) == 2


def test_what_a_history_says_is_text(tmp_path):
    """A foreign search's history may hold anything."""
    home, history = made(tmp_path)
    named = replace(SPEC, dataset="folder:</script><b>")
    (home.search("s") / "spec.yaml").write_text(named.to_yaml())
    history.append("start", 6, params={}, method="srat")
    history.append("end", 6, state="failed", reason="</script><img src=x onerror=alert(1)>\x1b")
    with LiveServer(home) as server:
        page = asked(server.address + "search/s")[2].decode()
        assert "folder:&lt;/script&gt;&lt;b&gt;" in page and "</script><b>" not in page
        found = asked(server.address + "api/search/s")[2]
        assert found["latest"][0]["reason"] == "</script><img src=x onerror=alert(1)>\\x1b"


def test_what_is_known_is_not_sent_again(live):
    server, history = live
    address = server.address + "api/search/s"
    first = asked(address)[2]
    assert not first["same"] and first["counts"].startswith("6 trials") and first["state"] == "stopped"
    end = time.monotonic() + 60
    while (made_ := asked(address)[2])["picture_of"] < 0:
        assert time.monotonic() < end and not made_["problem"]
        time.sleep(0.1)
    assert made_["picture"]["points"] and made_["importances"] and not made_["points"]
    query = f"?seen={made_['version']}&picture={made_['picture_of']}"
    same = asked(address + query)[2]
    assert same["same"] and "picture" not in same and "latest" not in same
    finish(history, 6, 0.7, 0.6)
    news = asked(address + query)[2]
    assert not news["same"] and news["latest"][0]["label"] == "trial 6" and {p["trial"] for p in news["points"]} == {6}


def test_a_search_that_cannot_be_read_says_why(live):
    server, _ = live
    (server.live.home.search("bad")).mkdir()
    (server.live.home.search("bad") / "spec.yaml").write_text("method: [")
    assert "bad" in asked(server.address + "api/search/bad")[2]["error"]
    assert asked(server.address + "api/search/none")[2]["error"].startswith("no search 'none'")
    rows = {row["search"]: row for row in asked(server.address + "api/searches")[2]}
    assert rows["s"]["trials"] == 6 and rows["bad"]["state"] == "unreadable" and rows["bad"]["note"]


def test_many_at_once(live):
    server, history = live
    found = []

    def look():
        found.append(asked(server.address + "api/search/s")[2]["counts"])

    threads = [threading.Thread(target=look) for _ in range(20)]
    for thread in threads:
        thread.start()
    finish(history, 6, 0.6, 0.4)
    for thread in threads:
        thread.join()
    assert len(found) == 20 and set(found) <= {c for n in (6, 7) for c in found if c.startswith(f"{n} trials")}


def test_tuner_ui_serves_the_live_pages_beside_an_mlflow_elsewhere(tmp_path, monkeypatch, capsys):
    from contextlib import contextmanager

    from tuner.tracking import ui

    home, _ = made(tmp_path)
    served, stop = [], threading.Event()

    @contextmanager
    def until_asked():
        yield stop

    def links(address, uri, home, names):
        assert (address, names) == ("http://mlflow.example:5000", ["s"])
        live = capsys.readouterr().out.split()
        assert live[0] == "live" and live[1].endswith("/search/s")
        served.append(asked(live[1])[0])
        stop.set()
        return {"s": {"trials": "http://mlflow.example:5000/#/x"}}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    monkeypatch.setattr(ui, "_until_signal", until_asked)
    monkeypatch.setattr(ui, "search_links", links)
    ui.serve(home, None, "s")
    assert served == [200] and "http://mlflow.example:5000/#/x" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="no search 'none'"):
        ui.serve(home, None, "none")


def test_a_port_that_is_taken(live):
    server, _ = live
    with pytest.raises(UsageError, match="--live-port"):
        LiveServer(server.live.home, server.server_address[1])
