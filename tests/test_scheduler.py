"""A real search through Ray that stops trials early, and one that pauses and promotes them."""

import json
import time
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from optuna import get_all_study_summaries, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import tuner
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import Decision
from tuner.spec.search_spec import SearchSpec

QUICK = [
    "--method",
    "trades",
    "--max-epochs",
    9,
    "--set",
    "passes=1",
    "--set",
    "attack_steps=2",
    "--set",
    "eval_attack=2",
    "--grace",
    1,
]


def searched(home, name, *args):
    done = tuner("search", *QUICK, *args, "--name", name, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), History(home / "searches" / name), done.stderr


@pytest.fixture(scope="module")
def stopping(tmp_path_factory):
    home = tmp_path_factory.mktemp("stopping")
    return (
        *searched(
            home, "stops", "--trials", 9, "--constraint", "clean_acc>=0.5", "--max-concurrent", 1, "--reduction", 3
        ),
        home,
    )


def test_trials_are_stopped_at_rungs_and_counted(stopping):
    result, history, stderr, _ = stopping
    spec = SearchSpec(method="trades", max_epochs=9, grace=1, reduction=3)
    assert (
        result["state"] == "finished"
        and result["trials"]["stopped"] == len(history.with_state(TrialState.STOPPED)) >= 2
    )
    assert result["trials"]["finished"] >= 2 and sum(result["trials"].values()) == 9
    assert all(len(t.epochs) in spec.early_stopping.levels for t in history.with_state(TrialState.STOPPED))
    assert all(len(t.epochs) == 9 for t in history.with_state(TrialState.FINISHED))
    trained = sum(len(t.epochs) for t in history.trials.values())
    assert result["epochs_trained"] == trained + 9 and trained < 81, "the reference is never stopped"
    assert result["epochs_saved_by"] == {"trunk": 0, "early_stopping": 81 - trained}
    assert [len(t.epochs) for t in history.references.values()] == [9] and len(result["no_search"]) == 7
    assert "scheduler pareto-asha" in stderr and "sampler auto" in stderr


def test_stopped_and_infeasible_trials_are_never_on_the_front(stopping):
    result, history, _, _ = stopping
    for row in result["front"]:
        record = history.trials[row["trial"]]
        assert record.state == TrialState.FINISHED and row["epoch"] == 9 and row["clean_acc"] >= 0.5
    assert result["infeasible"] == [
        t.trial
        for t in history.with_state(TrialState.FINISHED)
        if all(metrics["clean_acc"] < 0.5 for _, metrics in t.points)
    ]
    assert result["paper"]["trial"] == 0 and isinstance(result["paper"]["feasible"], bool)


def test_study_and_mlflow_say_what_was_stopped(stopping):
    result, history, _, home = stopping
    storage = JournalStorage(JournalFileBackend(str(home / "searches" / "stops" / "study.log")))
    (summary,) = get_all_study_summaries(storage)
    for trial in load_study(study_name=summary.study_name, storage=storage).trials:
        record = history.trials[trial.number]
        assert trial.state.name == ("COMPLETE" if record.state == TrialState.FINISHED else "PRUNED")
        assert trial.user_attrs["epoch"] == len(record.epochs) and set(trial.constraints) == {"clean_acc>=0.5"}
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    parent = client.get_run(result["mlflow"]["run_id"])
    for run in client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"):
        record = history.record(int(run.data.tags["tuner.trial"]))
        assert run.data.tags["tuner.budget"] == ("full" if record.state == TrialState.FINISHED else "stopped")
        assert run.info.status != "RUNNING"


def test_pause_and_promote_through_ray(tmp_path):
    result, history, _ = searched(
        tmp_path, "pauses", "--trials", 8, "--on-rung", "pause", "--reduction", 2, "--max-concurrent", 2
    )
    assert result["state"] == "finished" and sum(result["trials"].values()) == 8
    assert result["trials"]["stopped"] == len(history.with_state(TrialState.STOPPED)) >= 2
    for record in history.trials.values():  # a promoted trial goes on where it stood: every epoch once
        assert [e["epoch"] for e in record.epochs] == list(range(1, len(record.epochs) + 1))
    assert all(len(t.epochs) in (1, 2, 4) for t in history.with_state(TrialState.STOPPED))
    first = min(len(t.epochs) for t in history.with_state(TrialState.STOPPED))
    lines = [json.loads(line) for line in (tmp_path / "searches" / "pauses" / "history.jsonl").read_text().splitlines()]
    trained = [line["trial"] for line in lines if line["event"] == "epoch"]
    assert first == 1 and any(b - a > 1 for a, b in _gaps(trained)), "nobody was paused in between"


def _gaps(trained):
    """(place, next place) of each trial's epochs in the log."""
    for trial in set(trained):
        places = [i for i, t in enumerate(trained) if t == trial]
        yield from zip(places, places[1:])


# ---- without Ray's loop ----------------------------------------------------------------------------------------------


def pausing(tmp_path, **options):
    """(ask/tell, history) of a search with trial 0 finished and two others that wait at the first rung."""
    spec, history = SearchSpec(method="trades", trials=options.pop("trials", 20), on_rung="pause"), History(tmp_path)
    optimizer = AskTell(spec, history, tmp_path, **options)
    for number in range(3):
        record = optimizer.next()
        history.append("start", number, params=record.params, method="trades")
        for epoch in range(1, spec.max_epochs + 1):
            value = 0.5 - number / 10
            history.append(
                "epoch",
                number,
                metrics={
                    "epoch": epoch,
                    "natural_robust_acc": value,
                    "robust_acc": value,
                    "clean_acc": 0.9,
                    "worst_class_robust_acc": value,
                    "train_s": 30.0,
                    "eval_s": 0.0,
                },
            )
            if optimizer.feed(number, history.trials[number].last) == Decision.PAUSE:
                break
        else:
            history.append("end", number, state=TrialState.FINISHED)
            optimizer.tell(number, TrialState.FINISHED)
    assert optimizer.paused == 2
    return optimizer, history


def choose(optimizer):
    """(why the run ends, the trials that are stopped) where all that is left waits at a rung."""
    from ray.tune.experiment import Trial

    from tuner.execution.ray_scheduler import RungScheduler

    reasons, stopped = [], []
    waiting = [SimpleNamespace(config={"trial": {"trial": number}}, status=Trial.PAUSED) for number in (1, 2)]
    controller = SimpleNamespace(get_live_trials=lambda: waiting, stop_trial=stopped.append)
    assert RungScheduler(optimizer, reasons.append).choose_trial_to_run(controller) is None
    return reasons, stopped


def test_when_time_is_short_and_all_others_wait_the_run_ends_and_they_wait_on(tmp_path):
    optimizer, history = pausing(tmp_path, until=time.time() + 1000)
    assert choose(optimizer) == ([], [])  # there is time for more
    optimizer.until = time.time() + 300  # a trial takes 360
    assert optimizer.next() is None and choose(optimizer) == (["time budget"], [])
    again = AskTell(optimizer.spec, History(tmp_path), tmp_path)
    for number in (1, 2):  # a resume hands them out again, and judges them again
        assert again.next().trial == number and history.trials[number].state == TrialState.RUNNING
        assert again.feed(number, history.trials[number].last) == Decision.PAUSE


def test_when_no_more_will_come_the_waiting_trials_end(tmp_path):
    optimizer, _ = pausing(tmp_path, trials=3)
    reasons, stopped = choose(optimizer)
    assert not reasons and len(stopped) == 2
