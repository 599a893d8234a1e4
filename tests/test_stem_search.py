"""The stem in a search: who shares it, what every trial is told and trains, and that no kill changes the result."""

import json
import signal
import weakref
from dataclasses import asdict, fields, replace

import pytest
import torch

from tests.conftest import tuner, tuner_here
from trainables.checkpoint import read_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Diverged, Trainer
from trainables.ray_adapter import TrialActor
from trainables.stem import open_fork
from tuner.report.progress import stem_line
from tuner.results.history import History
from tuner.spec.search_spec import SearchSpec

EPOCHS, FORK, LENGTH = 10, 7, 2  # of a search and its previews: round(0.7 * 10), ceil(0.11 * 10)
SEARCH = [
    "search",
    *("--method", "gairat", "--method", "srat"),
    *("--trials", "7", "--max-epochs", str(EPOCHS), "--max-concurrent", "1", "--scheduler", "preview"),
    *("--imbalance", "exp:10", "--val-per-class", "20"),
    *("--set", "passes=1", "--set", "attack_steps=2", "--set", "eval_attack=2"),
    "--json",
]


def spec(**given):
    return SearchSpec(**{"method": "gairat", "max_epochs": 10, "scheduler": "none", **given})


# ---- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, first, last, line",
    [
        ({}, 0, 8, "stem: up to 8 epochs are plain AT"),
        ({"fix": {"start": 0.4}}, 4, 4, "stem: the first 4 epochs are plain AT"),
        ({"fix": {"start": 0.0}}, 0, 0, "no stem: gairat reweights from the first epoch"),
        ({"space": {"start": [0.2, 0.7]}}, 2, 7, "up to 7 epochs"),
        ({"space": {"lr": [0.01, 0.1]}}, 0, 8, "up to 8 epochs"),  # the stem has the common one
        ({"burn_in": "own"}, 0, 0, "no stem: --burn-in own"),
        ({"method": "srat"}, 2, 9, "up to 9 epochs"),  # whatever its loss is
        ({"method": "faal", "fix": {"start": 0.98}}, 9, 9, "the first 9 epochs"),  # the last is the trial's own
        ({"method": "wat"}, 0, 0, "no stem: wat reweights from the first epoch, and nothing is previewed"),
        ({"method": "wat", "scheduler": "preview"}, 7, 7, "the first 7 epochs"),
        ({"method": ("srat", "wat"), "scheduler": "preview"}, 2, 9, "up to 9 epochs"),
        ({"method": "cfa", "scheduler": "preview"}, 0, 7, "up to 7 epochs"),
    ],
)
def test_when_a_search_has_a_stem(given, first, last, line):
    s = spec(**given)
    assert s.forks == (first, last) and line in stem_line(s)


def test_storage_that_nothing_opens_is_said(tmp_path):
    done = tuner_here("search", "--method", "gairat", "--storage", "gopher://x", "--home", tmp_path)
    assert done.returncode == 2 and "storage 'gopher://x' cannot be opened" in done.stderr


# ---- the actor -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    common = {"training": training, "stem": training, "max_epochs": 5, "data_seed": 0}
    return TrialConfig("gairat", **common, home=str(tmp_path), folder=str(tmp_path / "t"), fork=2)


def actor(trial):
    return TrialActor({"trial": trial.to_dict(), "threads": 1})


def until_done(actor):
    reports = [actor.step()]
    while not reports[-1]["done"]:
        reports.append(actor.step())
    return reports


def test_actor_reports_every_epoch_of_the_stem_once(trial):
    reports = until_done(actor(trial))
    assert [r.get("stem", {}).get("trained") for r in reports[:2]] == [1, 2] and reports[0]["metrics"] is None
    fork = reports[2]["stem"]
    assert [m["epoch"] for m in fork["past"]] == [1, 2] and fork["name"] == open_fork(Trainer(trial)).name
    assert [r["metrics"]["epoch"] for r in reports[2:]] == [2, 3, 4, 5] and reports[-1]["curve"]
    assert read_checkpoint(trial.folder)["epoch"] == 5


def test_actor_ends_a_preview_with_its_cool_down(trial):
    reports = until_done(actor(replace(trial, cool_down=2)))
    assert [r["metrics"]["epoch"] for r in reports[2:]] == [2, 3, 4]
    assert [bool(r.get("curve")) for r in reports[2:]] == [False, False, True]


def test_killed_after_its_preview_was_trained_says_it_again(trial):
    first = actor(replace(trial, cool_down=1))
    last = until_done(first)[-1]
    again = actor(replace(trial, cool_down=1)).step()
    assert again["done"] and (again["metrics"], again["curve"]) == (last["metrics"], last["curve"])
    assert [m["epoch"] for m in again["epochs"]] == [1, 2, 3]


def test_paused_at_the_fork_goes_on_without_saying_it_twice(trial):
    first = actor(trial)
    for _ in range(3):
        first.step()
    saved = first.save_checkpoint("")
    second = actor(trial)
    second.load_checkpoint(saved)
    assert second.step()["stem"]["past"] and second.step()["metrics"]["epoch"] == 3


def test_killed_before_its_fork_was_heard_says_it_again(trial):
    first = actor(trial)
    for _ in range(3):
        first.step()
    assert [m["epoch"] for m in actor(trial).step()["stem"]["past"]] == [1, 2]


@pytest.mark.slow
def test_a_worker_that_waits_trains_the_stems_of_replicates(trial, tmp_path):
    waiting = actor(replace(trial, spare_seeds=(1, 2)))
    with open_fork(Trainer(trial)).store.lock() as mine:
        assert mine
        stems = [waiting.step()["stem"] for _ in range(5)]
    assert [stem.get("trained") for stem in stems] == [1, 2, 1, 2, None]
    for place, seed in ((0, 1), (2, 2)):
        other = open_fork(Trainer(replace(trial, seed=seed, trial=9)))
        assert other.ready() and stems[place]["name"] == stems[place + 1]["name"] == other.name
    reports = until_done(waiting)
    assert [r["stem"].get("trained") for r in reports[:3]] == [1, 2, None]
    undisturbed = until_done(actor(replace(trial, home=str(tmp_path / "b"), folder=str(tmp_path / "u"))))
    assert reports[-1]["curve"] == undisturbed[-1]["curve"]
    assert without_times([r["metrics"] for r in reports[2:]]) == without_times([r["metrics"] for r in undisturbed[2:]])


@pytest.mark.slow
def test_a_stem_of_a_replicate_that_diverges_is_no_fault_of_the_trial(trial, monkeypatch):
    run_epoch = Trainer.run_epoch

    def diverging(trainer):
        if trainer.config.seed == 1:
            raise Diverged("the training loss is nan in epoch 1")
        return run_epoch(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", diverging)
    waiting = actor(replace(trial, spare_seeds=(1, 2)))
    with open_fork(Trainer(trial)).store.lock():
        assert [waiting.step()["stem"].get("trained") for _ in range(2)] == [1, 2]
        assert not open_fork(Trainer(replace(trial, seed=1))).store.epochs()
    assert until_done(waiting)[-1]["curve"]


def test_a_worker_frees_a_stem_that_it_leaves_half_trained(trial):
    waiting = actor(replace(trial, spare_seeds=(1,)))
    with open_fork(Trainer(trial)).store.lock():
        assert waiting.step()["stem"].items() >= {"trained": 1, "spare": True}.items()
    half = weakref.ref(waiting.spare)
    steps = [waiting.step()["stem"] for _ in range(3)]
    assert [step.get("trained") for step in steps] == [1, 2, None] and not any("spare" in step for step in steps)
    assert waiting.fork is None and half() is None


def test_a_worker_that_has_its_own_stem_to_train_leaves_others_alone(trial):
    reports = until_done(actor(replace(trial, spare_seeds=(1,))))
    assert [r["stem"].get("trained") for r in reports[:3]] == [1, 2, None]
    assert not open_fork(Trainer(replace(trial, seed=1, trial=9))).store.epochs()


# ---- a real search ---------------------------------------------------------------------------------------------------

# A driver with this before it keeps the checkpoints of previews, which say what the trials received, as
# EPOCH-NUMBER.pt in the folder it is given; and it is killed by SIGKILL before or after the n-th event of a name is
# written.
FIRST = """
import os, shutil, signal
from pathlib import Path
from tuner.execution.ray_callback import SearchCallback
from tuner.results.history import History
kept, (moment, name, nth) = Path({kept!r}), {at!r}
preview, append, seen = SearchCallback._preview, History.append, []
def heard(self, number, report):
    if report.metrics and not report.stem:
        source = Path(self.run.place("previews", number)) / "checkpoint.pt"
        shutil.copy(source, kept / f"{{number}}.pt")
        die("report")
    preview(self, number, report)
def written(self, event, trial, **fields):
    if self.folder is None:
        return append(self, event, trial, **fields)
    if moment == "before":
        die(event)
    append(self, event, trial, **fields)
    if moment == "after":
        die(event)
def die(event):
    seen.append(event)
    if event == name and seen.count(event) == nth:
        os.kill(os.getpid(), signal.SIGKILL)
SearchCallback._preview, History.append = heard, written
"""


def driven(home, *args, at=("after", "nothing", 1), fresh=False):
    """A driver of its own, as the finished process."""
    kept = home / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    return tuner(*args, "--home", home, first=FIRST.format(kept=str(kept), at=at), fresh=fresh)


@pytest.fixture(scope="module")
def undisturbed(once):
    """(home, result, stderr) of the search."""

    def make(home):
        done = driven(home, *SEARCH, "--name", "s", fresh=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    home, (result, stderr) = once("stem-search", make)
    return home, result, stderr


def history(home, name="s"):
    return History(home / "searches" / name)


def without_times(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in rows]


def outcome(home, name="s"):
    """What became of every trial, reference included, but for times."""
    return [
        {
            **{key: getattr(t, key) for key in ("trial", "method", "params", "state", "full", "curve", "stem_epochs")},
            "epochs": without_times(t.epochs),
            "preview": t.preview and (t.preview.epochs, without_times([t.preview.metrics]), t.preview.curve),
        }
        for t in history(home, name).everything()
    ]


def received(home, record, preview):
    """The configuration that a trial was trained with, as its checkpoint holds it."""
    folder = home / "searches" / "s" / "trials" / str(record.trial)
    stored = torch.load(home / "kept" / f"{record.trial}.pt") if preview else read_checkpoint(folder)
    return TrialConfig(**stored["config"])


def test_methods_of_one_search_share_one_stem(undisturbed):
    home, result, stderr = undisturbed
    (folder,) = (path for path in (home / "stems").iterdir() if path.is_dir())
    trials, (reference,) = history(home).trials.values(), history(home).references.values()
    assert {t.method for t in trials if t.preview} == {"gairat", "srat"}
    promoted = [t for t in trials if t.full and t.preview]
    assert promoted and {t.stem_epochs for t in promoted} == {round(t.params["start"] * EPOCHS) for t in promoted}
    events = [json.loads(line) for line in (home / "searches/s/history.jsonl").read_text().splitlines()]
    assert {e["stem"] for e in events if e["event"] in ("fork", "stem")} == {folder.name}
    assert [e["stem_epoch"] for e in events if e["event"] == "stem"] == list(range(1, 10)), "every epoch once"
    assert reference.stem_epochs == 9 == result["bill"]["stem"], "the latest fork, which is srat's"
    assert all(trial.stem_epochs == 0 and not trial.preview for trial in trials if trial.trial < 2), "as the papers do"
    for record in (reference, *promoted):
        assert [m["epoch"] for m in record.epochs] == list(range(1, EPOCHS + 1))
        assert [bool(m.get("stem")) for m in record.epochs] == [e < record.stem_epochs for e in range(EPOCHS)]
        shared = record.stem_epochs
        assert without_times(record.epochs[:shared]) == without_times(reference.epochs[:shared])
    assert "trained once for all trials of that form" in stderr


def test_every_trial_received_what_was_proposed(undisturbed):
    home, *_ = undisturbed
    known, plan = history(home), SearchSpec.from_stored((home / "searches/s/spec.yaml").read_text())
    common = asdict(plan.training())
    previewed, full = 0, 0
    for record in [*known.trials.values(), *known.references.values()]:
        if record.preview:
            told = received(home, record, preview=True)
            start = min(record.params["start"], FORK / EPOCHS)
            assert told.params == {**record.params, "start": start}
            assert (told.method, told.fork, told.cool_down) == (record.method, FORK, LENGTH)
            assert told.training == told.stem == common
            previewed += 1
        if record.full:
            trained = received(home, record, preview=False)
            fork = record.stem_epochs
            assert (trained.method, trained.params, trained.fork) == (record.method, record.params, fork)
            assert trained.training == common and trained.stem == (common if fork else {}) and not trained.cool_down
            full += 1
        if record.preview and record.full:
            same = {f.name for f in fields(TrialConfig)} - {"params", "fork", "cool_down", "folder", "stem"}
            assert {n: getattr(told, n) for n in same} == {n: getattr(trained, n) for n in same}
    assert previewed == 5 and full > 3


@pytest.mark.long
def test_killed_in_every_stage_and_resumed_gives_the_same_result(undisturbed, tmp_path):
    """One search: killed while the stem trains, in the middle of a preview, before the best one is promoted, and in its
    full training."""
    home, result, _ = undisturbed
    stages = [("after", "stem", 4), ("after", "report", 1), ("before", "promote", 1), ("after", "epoch", 1)]
    states = []
    for at in stages:
        args = ["resume", "s", "--json"] if states else [*SEARCH, "--name", "s"]
        done = driven(tmp_path, *args, at=at)
        assert done.returncode == -signal.SIGKILL, (at, done.stderr)
        left = history(tmp_path)
        running = next(t for t in left.everything() if t.state == "running" or at[1] == "promote")
        states.append((running.role, running.full, running.preview is not None))
    assert states[0] == ("no_search", True, False) and states[1] == (None, False, False)
    assert states[3] == (None, True, True)
    done = tuner("resume", "s", "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path) == outcome(home)
    resumed = json.loads(done.stdout)
    assert resumed["front"] == result["front"] and resumed["trials"] == result["trials"]
    assert resumed["gain"] == result["gain"]
    assert (
        resumed["bill"]["previews"] == result["bill"]["previews"] and resumed["bill"]["full"] == result["bill"]["full"]
    )
    for name in ("preview", "promote"):
        told = [
            e["trial"] for e in map(json.loads, history(tmp_path).path.read_text().splitlines()) if e["event"] == name
        ]
        assert told and len(set(told)) == len(told), "nothing is previewed or promoted twice"


def test_two_searches_at_once_train_the_stem_once(tmp_path):
    """An equal seed gives an equal result, also where the stem is another search's."""
    from concurrent.futures import ThreadPoolExecutor

    fixed = ["--method", "srat", "--trials", 2, "--max-epochs", 6, "--fix", "start=0.67", "--home", tmp_path]
    few = [part for part in SEARCH if part not in ("--method", "gairat", "srat")]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda name: tuner(*few, *fixed, "--name", name), ("one", "two")))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    results = [json.loads(d.stdout) for d in done]
    assert [r["state"] for r in results] == ["finished"] * 2 and results[0]["front"] == results[1]["front"]
    assert outcome(tmp_path, "one") == outcome(tmp_path, "two")
    assert sum(r["bill"]["stem"] for r in results) == 4
    assert len({r["epochs_trained"] - r["bill"]["stem"] for r in results}) == 1
    assert sum(t.stem_trained for name in ("one", "two") for t in history(tmp_path, name).everything()) == 4
