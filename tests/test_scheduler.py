"""A real search through Ray that stops trials early, and one that pauses and promotes them."""

import json

import pytest
from mlflow import MlflowClient
from optuna import get_all_study_summaries, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import tuner
from tuner.history import FULL, STOPPED, History
from tuner.rungs import rung_levels
from tuner.spec import SearchSpec

QUICK = ["--method", "trades", "--max-epochs", 9, "--set", "passes=1", "--set", "attack_steps=2", "--set",
         "eval_attack=2", "--grace", 1]


def searched(home, name, *args):
    done = tuner("search", *QUICK, *args, "--name", name, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), History(home / "searches" / name), done.stderr


@pytest.fixture(scope="module")
def stopping(tmp_path_factory):
    home = tmp_path_factory.mktemp("stopping")
    return (*searched(home, "stops", "--trials", 9, "--constraint", "clean_acc>=0.5",
                       "--max-concurrent", 1, "--reduction", 3), home)


def test_trials_are_stopped_at_rungs_and_counted(stopping):
    result, history, stderr, _ = stopping
    spec = SearchSpec(method="trades", max_epochs=9, grace=1, reduction=3)
    assert result["state"] == "finished" and result["trials"]["stopped"] == len(history.with_state(STOPPED)) >= 2
    assert result["trials"]["finished"] >= 2 and sum(result["trials"].values()) == 9
    assert all(len(t.epochs) in rung_levels(spec) for t in history.with_state(STOPPED))
    assert all(len(t.epochs) == 9 for t in history.with_state(FULL))
    assert result["epochs_trained"] == sum(len(t.epochs) for t in history.trials.values()) < 81
    assert "scheduler pareto-asha" in stderr and "sampler auto" in stderr


def test_stopped_and_infeasible_trials_are_never_on_the_front(stopping):
    result, history, _, _ = stopping
    for row in result["front"]:
        record = history.trials[row["trial"]]
        assert record.state == FULL and row["epoch"] == 9 and record.last["clean_acc"] >= 0.5
    assert result["infeasible"] == [t.trial for t in history.with_state(FULL) if t.last["clean_acc"] < 0.5]
    assert result["paper"]["trial"] == 0 and isinstance(result["paper"]["feasible"], bool)


def test_study_and_mlflow_say_what_was_stopped(stopping):
    result, history, _, home = stopping
    storage = JournalStorage(JournalFileBackend(str(home / "searches" / "stops" / "study.log")))
    (summary,) = get_all_study_summaries(storage)
    for trial in load_study(study_name=summary.study_name, storage=storage).trials:
        record = history.trials[trial.number]
        assert trial.state.name == ("COMPLETE" if record.state == FULL else "PRUNED")
        assert trial.user_attrs["epoch"] == len(record.epochs) and set(trial.constraints) == {"clean_acc>=0.5"}
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    parent = client.get_run(result["mlflow"]["run_id"])
    for run in client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"):
        record = history.trials[int(run.data.tags["tuner.trial"])]
        assert run.data.tags["tuner.budget"] == ("full" if record.state == FULL else "stopped")
        assert run.info.status != "RUNNING"


def test_pause_and_promote_through_ray(tmp_path):
    result, history, _ = searched(tmp_path, "pauses", "--trials", 8, "--on-rung", "pause", "--reduction", 2,
                                  "--max-concurrent", 2)
    assert result["state"] == "finished" and sum(result["trials"].values()) == 8
    assert result["trials"]["stopped"] == len(history.with_state(STOPPED)) >= 2
    for record in history.trials.values():  # a promoted trial goes on where it stood: every epoch once
        assert [e["epoch"] for e in record.epochs] == list(range(1, len(record.epochs) + 1))
    assert all(len(t.epochs) in (1, 2, 4) for t in history.with_state(STOPPED))
    first = min(len(t.epochs) for t in history.with_state(STOPPED))
    lines = [json.loads(line) for line in (tmp_path / "searches" / "pauses" / "history.jsonl").read_text().splitlines()]
    trained = [line["trial"] for line in lines if line["event"] == "epoch"]
    assert first == 1 and any(b - a > 1 for a, b in _gaps(trained)), "nobody was paused in between"


def _gaps(trained):
    """(place, next place) of each trial's epochs in the log."""
    for trial in set(trained):
        places = [i for i, t in enumerate(trained) if t == trial]
        yield from zip(places, places[1:])
