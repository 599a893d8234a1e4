"""A real search through Ray that previews its proposals and trains the best in full, and one whose trials stay at
chance."""

import json
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient
from optuna import get_all_study_summaries, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tests.conftest import tuner
from tests.histories import run_of
from trainables.checkpoint import read_checkpoint
from trainables.config import TrialConfig
from trainables.loop import Trainer
from trainables.offsets import TAUS
from trainables.trial_report import StemReport, TrialReport
from tuner.execution.ray_callback import SearchCallback
from tuner.execution.ray_scheduler import DeadTrials
from tuner.execution.ray_searcher import ProposalSearcher
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.promotion import promotable
from tuner.results.searches import load_search
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

QUICK = ["--max-epochs", 4, "--set", "attack_steps=2", "--set", "eval_attack=2"]


def searched(home, name, *args, **how):
    done = tuner("search", *QUICK, *args, "--name", name, "--home", home, "--json", **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), History(home / "searches" / name), done.stderr


@pytest.fixture(scope="module")
def previewing(tmp_path_factory):
    """Eight proposals fork at epoch 3 of 4 and train one; from the fourth on, one in four trains in full. Two trials
    run at a time."""
    home = tmp_path_factory.mktemp("previewing")
    args = ["--method", "trades", "--trials", 9, "--constraint", "clean_acc>=0.15", "--max-concurrent", 2]
    two = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    return *searched(home, "previews", *args, "--set", "passes=1", env=two), home


def test_proposals_are_previewed_and_the_best_train_in_full(previewing):
    result, history, stderr, home = previewing
    full, previewed = (history.with_state(state) for state in (TrialState.FINISHED, TrialState.PREVIEWED))
    assert result["state"] == "finished" and len(full) + len(previewed) == 9 and 3 <= len(full) <= 6
    assert result["trials"] == {"finished": len(full), "previewed": len(previewed), "stopped": 0, "failed": 0}
    for record in history.trials.values():
        assert record.full == (record.state == TrialState.FINISHED)
        assert [m["epoch"] for m in record.epochs] == ([1, 2, 3, 4] if record.full else [])
        assert (record.preview is None) == (record.trial == 0), "the default setting trains in full at once"
    for record in [t for t in history.trials.values() if t.preview]:
        assert record.preview.epochs == 1 and record.preview.metrics["epoch"] == 4
        assert [point.offsets.tau for point in record.preview.curve.points] == [0, *TAUS]
    assert "sampler auto" in stderr and "scheduler preview: 8 previews, of which the best 1/4 (2, or more if " in stderr


def test_those_are_promoted_that_were_the_best_by_then(previewing, tmp_path):
    """The file up to each promotion says so itself."""
    result, history, _, home = previewing
    run, lines = load_search(Home(home), "previews"), history.path.read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    order = [(e["event"], e["trial"]) for e in events]
    promoted = [number for event, number in order if event == "promote"]
    assert sorted(promoted) == [t.trial for t in history.trials.values() if t.preview and t.full] and promoted
    for place, (event, number) in enumerate(order):
        if event == "promote":
            (tmp_path / "history.jsonl").write_text("".join(lines[:place]))
            assert promotable(run.spec.scheduling, run.spec.goal, History(tmp_path)) == number
    for number in range(1, 9):
        mine = [event for event, trial in order if trial == number and event != "stem"]
        training = ["promote", *["epoch"] * 4, "curve", "end"] if number in promoted else []
        assert mine == ["start", "preview", *training], number


def test_only_full_trainings_keep_their_models(previewing):
    """Both by the setting that was proposed; a preview's model is of no use once it is recorded."""
    _, history, _, home = previewing
    folder = home / "searches" / "previews"
    for record in history.trials.values():
        assert not (folder / "previews" / str(record.trial) / "checkpoint.pt").exists()
        path = folder / "trials" / str(record.trial) / "checkpoint.pt"
        assert path.exists() == record.full
        if record.full:
            config = torch.load(path, weights_only=True)["config"]
            assert (config["params"], config["fork"], config["cool_down"]) == (record.params, 0, None)


def test_every_epoch_is_on_the_bill(previewing):
    """By hand: three of the stem of TRADES' form and three of plain AT's; one of each preview; four of the default
    setting and of each promoted trial; the last of plain AT, which takes three from its stem."""
    result, history, stderr, _ = previewing
    promoted = sum(t.full for t in history.trials.values()) - 1
    whole = 3 + 3 + 8 + 4 + 4 * promoted + 1
    assert result["epochs_trained"] == history.epochs_trained() == whole
    assert {key: result["bill"][key] for key in ("stem", "previews", "preview_epochs", "full", "epochs")} == {
        "stem": 6,
        "previews": 8,
        "preview_epochs": 8,
        "full": 2 + promoted,
        "epochs": whole,
    }
    assert result["epochs_saved_by"] == {"stem": 0, "previews": 4 * (8 - promoted) - 8, "at_chance": 0}
    assert [(t.stem_epochs, len(t.epochs)) for t in history.references.values()] == [(3, 4)]
    # two stems of 3, eight previews of 1, two default and promoted trials of 4 each, 1 of plain AT: 27 of 4
    assert "cost: about 6.8 trainings' worth: 6 epochs of stems, 8 previews and 4 trainings in full" in stderr


def test_previewed_and_infeasible_trials_are_never_on_the_front(previewing):
    result, history, _, _ = previewing
    for row in result["front"]:
        record = history.trials[row["trial"]]
        assert record.state == TrialState.FINISHED and row["epoch"] == 4 and row["clean_acc"] >= 0.15
    assert result["infeasible"] == [
        t.trial
        for t in history.with_state(TrialState.FINISHED)
        if all(metrics["clean_acc"] < 0.15 for _, metrics in t.points)
    ]
    assert result["paper"]["trial"] == 0 and isinstance(result["paper"]["feasible"], bool)


def test_study_and_mlflow_say_what_was_previewed(previewing):
    result, history, _, home = previewing
    storage = JournalStorage(JournalFileBackend(str(home / "searches" / "previews" / "study.log")))
    (summary,) = get_all_study_summaries(storage)
    for trial in load_study(study_name=summary.study_name, storage=storage).trials:
        assert trial.state.name == ("COMPLETE" if history.trials[trial.number].preview else "PRUNED")
        assert set(trial.constraints) == {"clean_acc>=0.15"}
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    parent = client.get_run(result["mlflow"]["run_id"])
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(runs) == 9 + 1
    for run in runs:
        record = history.record(int(run.data.tags["tuner.trial"]))
        assert run.data.tags["tuner.budget"] == ("full" if record.state == TrialState.FINISHED else "preview")
        assert run.info.status == "FINISHED"


def test_what_stays_at_chance_is_stopped_and_the_references_are_not(tmp_path):
    """Under an attack that may change every pixel at will nothing can be learnt: every model names one class."""
    args = ["--method", "mail", "--trials", 3, "--burn-in", "own", "--max-concurrent", 1, "--offsets", "none"]
    result, history, stderr = searched(tmp_path, "dead", *args, "--set", "eps=1", "--set", "passes=2")
    assert result["trials"] == {"finished": 1, "previewed": 0, "stopped": 2, "failed": 0}
    for number, epochs in ((0, 4), (1, 2), (2, 2), (-1, 4)):
        record = history.record(number)
        assert len(record.epochs) == epochs and record.state == ("finished" if epochs == 4 else "stopped")
        assert record.reason == ("" if epochs == 4 else "at chance after epoch 2")
    assert result["state"] == "finished" and result["epochs_trained"] == 2 * 4 + 2 * 2
    assert result["epochs_saved_by"] == {"stem": 0, "previews": 0, "at_chance": 4}
    assert f"trial 1 stopped: {history.trials[1].reason}" in stderr
    trained_alone(history, tmp_path, stderr)
    ended = [history.trials[0], history.references[-1]]
    assert all(len(record.curve.points) == 1 and sum(record.curve.points[0].count) > 900 for record in ended)
    assert {row["offsets"]["tau"] for row in [*result["front"], *result["no_search"]]} <= {0}


def trained_alone(history, home, stderr):
    """By --burn-in own: there is no stem, and plain AT ends with the figures of a training that nobody knows of."""
    assert "no stem: --burn-in own" in stderr and not list(home.glob("stems/*/*"))
    records = history.everything()
    assert len(records) == 4 and all(t.full and not t.preview and not t.stem_epochs for t in records)
    assert all(not m.get("stem") for t in records for m in t.epochs)
    folder = history.folder / "trials"
    told = [TrialConfig(**read_checkpoint(folder / str(number))["config"]) for number in (0, -1)]
    assert {(c.fork, c.cool_down) for c in told} == {(0, None)} and all(c.stem == {} for c in told)
    torch.set_num_threads(1)
    alone = Trainer(replace(told[-1], folder=None))
    rows = [alone.run_epoch() for _ in range(4)]
    assert told[-1].method == "at" and without_times(rows) == without_times(history.references[-1].epochs)


def without_times(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in rows]


def test_the_scheduler_stops_what_the_optimizer_calls_dead():
    """Ray flattens what a trial reports; a step on the stem has no metrics."""
    asked = []

    def dead(number, metrics):
        asked.append((number, metrics))
        return metrics["clean_acc"] < 0.2

    scheduler = DeadTrials(SimpleNamespace(dead=dead, skipped=lambda number: number == 8))
    skipped, trial = (SimpleNamespace(config={"trial": {"trial": number}}) for number in (8, 7))
    assert scheduler.on_trial_result(None, skipped, {"metrics": None, "stem/trained": 1}) == TrialScheduler.STOP
    for result, answer in (
        ({"metrics": None, "stem/trained": 1}, TrialScheduler.CONTINUE),
        ({"metrics/epoch": 3, "metrics/clean_acc": 0.3}, TrialScheduler.CONTINUE),
        ({"metrics/epoch": 4, "metrics/clean_acc": 0.1}, TrialScheduler.STOP),
    ):
        assert scheduler.on_trial_result(None, trial, result) == answer
    assert asked == [(7, {"epoch": 3, "clean_acc": 0.3}), (7, {"epoch": 4, "clean_acc": 0.1})]


@pytest.mark.parametrize("seed", range(5))
def test_the_scheduler_runs_the_trial_that_rays_own_would(seed):
    """Ray's looks at all trials each time, however many have ended."""
    draw, ours = random.Random(seed), DeadTrials(SimpleNamespace())
    trials, states = [], ["PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"]
    controller = SimpleNamespace(
        get_trials=lambda: trials,
        get_live_trials=lambda: {t for t in trials if t.status not in ("TERMINATED", "ERROR")},
    )
    assert ours.choose_trial_to_run(controller) is None
    for number in range(200):
        if number % 5 == 0:
            trials.append(Waiting(f"t{number}", "PENDING"))
            ours.on_trial_add(controller, trials[-1])
        draw.choice(trials).status = draw.choice(states)
        assert ours.choose_trial_to_run(controller) is FIFOScheduler().choose_trial_to_run(controller)


def test_a_trial_that_is_skipped_while_no_worker_has_it_may_be_tried_again(tmp_path):
    """Its process had died, and the next one was never begun: it counted as being with a worker until the end."""
    spec, history = SearchSpec(method="trades", trials=2, scheduler="none", sampler="random"), History(tmp_path)
    optimizer = AskTell(spec, history)
    watch = SearchCallback(run_of(spec, history, Home(tmp_path)), optimizer, Listener(), print)
    searcher = ProposalSearcher(optimizer, configure=lambda record: watch.started(record) or {"number": record.trial})
    assert searcher.suggest("a")["number"] == 0
    searcher.on_trial_complete("a", error=True)
    history.append("skip", 0)
    optimizer.take_over(spec)
    assert searcher.suggest("b")["number"] == 1 and optimizer.out == {1}


@dataclass(eq=False)
class Waiting:
    trial_id: str
    status: str


def test_a_preview_that_ray_completes_late_does_not_end_its_trial(tmp_path):
    """Ray tells of an end after it has told the last result: by then the trial may have been promoted."""
    history, told = History(None), []
    run = SimpleNamespace(spec=None, history=history, folder=tmp_path)
    optimizer = SimpleNamespace(tell=told.append, back=lambda number: None)
    callback = SearchCallback(run, optimizer, SimpleNamespace(trial_ended=lambda record: None), say=print)
    history.append("start", 1, params={}, method="srat", preview=True)
    history.append("preview", 1, epochs=1, metrics={"epoch": 4})
    history.append("promote", 1)
    for cool_down, state in ((1, TrialState.RUNNING), (None, TrialState.STOPPED)):
        trial = SimpleNamespace(config={"trial": {"trial": 1, "cool_down": cool_down}})
        callback.on_trial_complete(0, [], trial)
        assert history.trials[1].state == state
    assert told == [1]


def test_what_ray_reports_becomes_events(tmp_path):
    """Of a preview only the end is recorded, and its trial of Ray's may end then; promoted, it is a trial like any
    other. What is said twice is recorded once."""
    spec, history = SearchSpec(method="trades", trials=6, max_epochs=4, sampler="random"), History(tmp_path)
    optimizer = AskTell(spec, history)
    watch = SearchCallback(run_of(spec, history, Home(tmp_path)), optimizer, Listener(), print)

    def report(number, **fields):
        watch.on_trial_result(0, [], None, TrialReport(number, **fields).to_result())

    def metrics(epoch, **more):
        return {"epoch": epoch, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.2, **more}

    def ended(number):
        watch.on_trial_complete(0, [], SimpleNamespace(config={"trial": {"trial": number}}))

    def finish(number):
        for epoch in range(1, 5):
            report(number, metrics=metrics(epoch), done=epoch == 4)
        ended(number)

    watch.started(optimizer.next())
    finish(0)
    past = [metrics(epoch, stem=True) for epoch in (1, 2, 3)]
    for number in (1, 2, 3):
        record = optimizer.next()
        assert (record.trial, record.full) == (number, False)
        watch.started(record)
        if number == 1:
            report(number, stem=StemReport(trained=3))
            report(number, stem=StemReport(trained=2, name="t", spare=True))
        report(number, metrics=past[-1], stem=StemReport(past=past, name="s"))
        report(number, metrics=metrics(4, robust_acc=number / 10), done=True)
        report(number, metrics=metrics(4), done=True)
        ended(number)
        assert history.trials[number].state == TrialState.PREVIEWED and history.trials[number].epochs == []
    assert history.trials[1].preview.metrics["robust_acc"] == 0.1 and history.trials[1].stem_trained == 2
    assert history.trials[1].stem_reached == {3}, "the other was of a stem under another seed"
    watch.started(optimizer.next())
    assert (history.trials[1].state, history.trials[1].full) == (TrialState.RUNNING, True)
    report(1, metrics=past[-1], stem=StemReport(past=past, name="s"))
    report(1, metrics=metrics(4), done=True)
    ended(1)
    events = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e["trial"] == 1] == [
        *("start", "stem", "stem", "preview", "promote", "fork", "epoch", "end")
    ]
    assert [e["preview"] for e in events if e["event"] == "start" and e["trial"]] == [True] * 3
    assert [e["event"] for e in events if e["trial"] == 0] == ["start", *["epoch"] * 4, "end"]
    assert history.trials[1].state == TrialState.FINISHED and history.trials[1].stem_epochs == 3


def test_a_preview_that_diverges_fails_and_the_others_go_on(tmp_path):
    spec, history = SearchSpec(method="trades", trials=6, max_epochs=4, sampler="random"), History(tmp_path)
    watch = SearchCallback(run_of(spec, history, Home(tmp_path)), AskTell(spec, history), Listener(), print)
    for number in (0, 1):
        watch.started(watch.optimizer.next())
    failed = TrialReport(1, failed="the loss is not finite in epoch 4", done=True)
    watch.on_trial_result(0, [], None, failed.to_result())
    record = history.trials[1]
    assert (record.state, record.full, record.preview) == (TrialState.FAILED, False, None)
    assert record.reason == "the loss is not finite in epoch 4" and watch.optimizer.next().trial == 2


def test_an_interrupted_trial_is_handed_out_again_but_not_twice():
    """Ray may tell late that a preview's actor died, when the trial has been promoted and trains under another id."""
    history = History(None)
    for number in (1, 2):
        history.append("start", number, params={}, method="trades", preview=True)
    records = [history.trials[n] for n in (1, 2, 1)]
    optimizer = SimpleNamespace(history=history, ready=True, next=lambda: records.pop(0) if records else None)
    searcher = ProposalSearcher(optimizer, configure=lambda record: {"number": record.trial})
    assert [searcher.suggest(name)["number"] for name in ("a", "b")] == [1, 2]
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c")["number"] == 2, "it goes on from its checkpoint"
    history.append("preview", 1, epochs=1, metrics={"epoch": 4})
    history.append("promote", 1)
    assert searcher.suggest("d")["number"] == 1
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("e") is None
    searcher.on_trial_complete("d", error=True)
    assert searcher.suggest("f")["number"] == 1
