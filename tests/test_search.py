"""One real search through the command line, read back from every place it leaves results."""

import json

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import SMALL, tuner, tuner_here
from trainables.offsets import TAUS
from tuner.results.history import History
from tuner.results.pareto import Front, nondominated

OBJECTIVES = ["natural_robust_acc", "worst_class_robust_acc"]


def test_result_json_has_what_scripts_rely_on(finished):
    result, home, _ = finished
    assert {
        "search",
        "state",
        "objectives",
        "split",
        "front",
        "hypervolume",
        "reference",
        "paper",
        "no_search",
        "gain",
        "trials",
        "epochs_trained",
        "epochs_saved",
        "wall_s",
        "home",
        "mlflow",
    } <= set(result)
    assert result["state"] == "finished" and result["split"] == "val" and result["objectives"] == OBJECTIVES
    assert result["trials"] == {"finished": 6, "previewed": 0, "stopped": 0, "failed": 0}
    # six trials, and plain AT to compare with; all but the default setting take up to two epochs from the stem
    records = list(History(home / "searches" / "first").trials.values())
    forks = [(t.params["form"], min(round(3 * t.params["start"]), 2)) for t in records[1:]]
    stems = 2 + max((fork for form, fork in forks if form == "trades"), default=0)  # plain AT's, and TRADES'
    saved = sum(fork for _, fork in forks) + 2 - stems
    assert result["epochs_trained"] == 7 * 3 - saved and result["epochs_saved"] == saved
    assert result["epochs_saved_by"] == {"stem": saved, "previews": 0, "at_chance": 0}
    bill = result["bill"]
    assert (bill["stem"], bill["previews"], bill["full"], bill["epochs"]) == (stems, 0, 7, result["epochs_trained"])
    assert result["reference"] == [0, 0] and result["home"] == str(home)
    for row in [*result["front"], result["paper"], *result["no_search"]]:
        assert {"trial", "epoch", "offsets", *OBJECTIVES, "robust_acc", "clean_acc", "params"} <= set(row)
        assert row["epoch"] == 3 and set(row["offsets"]) == {"kind", "tau", "values"}
    for row in result["front"]:
        assert 0 <= row["p_front"] <= 1 and {*OBJECTIVES, "robust_acc", "clean_acc"} == set(row["ci"])
    assert [(row["trial"], row["offsets"]["tau"]) for row in result["no_search"]] == [(-1, t) for t in (0, *TAUS)]
    assert set(result["gain"]) == {"over_no_search", "over_paper"}
    assert all({"value", "ci", "verdict"} <= set(gain["hypervolume"]) for gain in result["gain"].values())
    assert result["paper"]["trial"] == 0
    assert result["paper"]["params"] == {
        "loss": "ce",
        "one_minus_beta": 1e-4,
        "strength": 1.0,
        "start": 0.8,
        "sep_weight": 0.5,
        "temperature": 0.1,
        **_unsearched(result["paper"]["params"]),
    }


def _unsearched(params):
    return {k: params[k] for k in ("form", "reduction") if k in params}


def test_front_is_the_nondominated_set_of_the_history(finished):
    """Every trained model with each of its offsets, by the counts of images that it classified right."""
    result, home, _ = finished
    points = points_of(home / "searches" / "first")
    assert len(points) == 6 * 7
    best = [key for i, key in enumerate(points) if i in nondominated(list(points.values()), [True, True])]
    assert sorted((r["trial"], r["offsets"]["tau"]) for r in result["front"]) == sorted(best)
    for row in result["front"]:
        assert [row[name] for name in OBJECTIVES] == pytest.approx(points[row["trial"], row["offsets"]["tau"]])


def points_of(folder):
    """(trial, tau) -> natural average and worst class, by the counts of images."""
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    curves = {e["trial"]: e["curve"] for e in events if e["event"] == "curve" and e["trial"] >= 0}
    points = {}
    for trial, curve in curves.items():
        train = np.array(curve["train_counts"])
        for point in curve["points"]:
            assert point["count"] == curve["points"][0]["count"], "all points on the same images"
            rates = np.array(point["robust"]) / np.array(point["count"])
            points[trial, point["offsets"]["tau"]] = (rates @ train / train.sum(), rates.min())
    return points


def area(points):
    """What they enclose with the axes: strips from the largest first objective to the smallest."""
    best = sorted(points, reverse=True)
    heights = np.maximum.accumulate([y for _, y in best])
    widths = -np.diff([x for x, _ in best] + [0.0])
    return float(widths @ heights)


def test_each_trial_received_what_the_sampler_proposed(finished):
    """The echo test: the study's proposals, the history and what the trials say they trained with are the same; and the
    study's values are what the trials' curves enclose."""
    _, home, _ = finished
    folder = home / "searches" / "first"
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    history, points = History(folder), points_of(folder)
    assert len(study.trials) == len(history.trials) == 6
    for trial in study.trials:
        echo = torch.load(folder / "trials" / str(trial.number) / "checkpoint.pt", weights_only=True)["config"]
        assert echo["trial"] == trial.number
        assert echo["params"] == history.trials[trial.number].params
        assert trial.params.items() <= echo["params"].items() and trial.params
        assert trial.state.name == "COMPLETE"
        assert trial.value == pytest.approx(area([at for (n, _), at in points.items() if n == trial.number]))
        assert trial.user_attrs["objectives"] == [history.trials[trial.number].last[o] for o in OBJECTIVES]
    assert len({json.dumps(t.params, sort_keys=True) for t in study.trials}) == 6


def test_the_reference_was_trained_as_the_trials_were(finished):
    _, home, _ = finished
    folder = home / "searches" / "first"
    plain, first = (
        torch.load(folder / "trials" / name / "checkpoint.pt", weights_only=True)["config"] for name in ("-1", "0")
    )
    assert (plain["method"], plain["params"], plain["trial"]) == ("at", {}, -1)
    differ = {name for name in first if plain[name] != first[name]}
    assert differ == {"method", "params", "trial", "folder", "fork", "stem"}
    assert (first["fork"], plain["fork"]) == (0, 2), "a default setting trains alone, plain AT is the stem"
    assert plain["stem"] == plain["training"] == first["training"]
    history = History(folder)
    assert list(history.references) == [-1] and history.references[-1].started >= history.trials[0].started
    assert len(history.references[-1].epochs) == 3 and history.references[-1].state == "finished"


def test_history_parquet_is_tidy(finished):
    _, home, _ = finished
    table = pq.read_table(home / "searches" / "first" / "history.parquet").to_pydict()
    assert sorted(zip(table["trial"], table["epoch"])) == [(t, e) for t in range(-1, 6) for e in (1, 2, 3)]
    assert {
        "clean_acc",
        "tail_robust_acc",
        "natural_robust_acc",
        "few_robust_acc",
        "nsd",
        "robust_acc_gap",
        "robust_acc/0",
        "clean_acc/9",
        "train_loss",
        "weight_ess",
        "train_s",
        "eval_s",
        "param/sep_weight",
    } <= set(table)
    assert all(0 <= v <= 1 for v in table["robust_acc"] + table["worst_class_robust_acc"] + table["clean_acc"])


def test_mlflow_layout(finished):
    result, home, _ = finished
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    assert result["mlflow"]["tracking_uri"] == f"sqlite:///{home}/mlflow.db"
    parent = client.get_run(result["mlflow"]["run_id"])
    assert client.get_experiment(parent.info.experiment_id).name == "digits-exp:10-cnn"
    assert parent.data.tags["tuner.search"] == "first" and parent.data.tags["tuner.method"] == "srat"
    assert parent.info.status == "FINISHED" and "method: srat" in parent.data.tags["tuner.spec"]
    assert parent.data.metrics["hypervolume"] == pytest.approx(result["hypervolume"])
    assert parent.data.metrics["front_size"] == len(result["front"])
    names = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"front.html", "front.png", "front.parquet", "spec.yaml"} <= names
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(runs) == 7 and all(r.info.status == "FINISHED" for r in runs)
    (reference,) = [r for r in runs if r.data.tags["tuner.kind"] == "reference"]
    assert reference.info.run_name == "no search" and reference.data.tags["tuner.role"] == "no_search"
    assert reference.data.tags["tuner.pareto"] == "false"
    assert parent.data.metrics["no_search_hypervolume"] == pytest.approx(
        Front.of(result["no_search"], OBJECTIVES).hypervolume
    )
    front, history = {r["trial"] for r in result["front"]}, History(home / "searches" / "first")
    assert sum(r.data.tags["tuner.pareto"] == "true" for r in runs) == len(front)
    assert all(r.data.tags["tuner.budget"] == "full" for r in runs)
    for run in runs:
        steps = {m.step for m in client.get_metric_history(run.info.run_id, "robust_acc")}
        assert steps == {1, 2, 3}
        for name, value in history.judged(int(run.data.tags["tuner.trial"])).items():  # without offsets, on all of val
            assert name in ("epoch", "train_s", "eval_s") or run.data.metrics[name] == value, name
        assert run is reference or {"loss", "sep_weight", "start"} <= set(run.data.params)


def test_plain_lines_on_stderr_and_no_terminal_codes(finished):
    _, _, stderr = finished
    assert "trial 0 finished" in stderr and "6/6 done" in stderr and "\x1b[" not in stderr


def test_starting_a_finished_search_again_is_harmless_and_quick(finished, monkeypatch):
    result, home, _ = finished
    monkeypatch.setattr("subprocess.Popen", None)  # neither Ray nor anything else is started
    again = tuner_here("search", "--method", "srat", "--trials", 6, *SMALL, "--name", "first", "--home", home, "--json")
    assert json.loads(again.stdout) == result


def test_a_name_belongs_to_one_spec(finished):
    _, home, _ = finished
    done = tuner_here("search", "--trials", 7, *SMALL, "--name", "first", "--home", home, "--json")
    assert done.returncode == 2 and "'first'" in json.loads(done.stdout)["error"] and "trials" in done.stdout


def test_front_and_ls_read_it_back(finished):
    result, home, _ = finished
    (row,) = json.loads(tuner("front", "first", "--home", home, "--json").stdout)
    assert row["front"] == result["front"] and row["hypervolume"] == result["hypervolume"]
    (line,) = json.loads(tuner("ls", "--home", home, "--json").stdout)
    assert {"search", "method", "dataset", "state", "trials", "created"} <= set(line) and line["state"] == "finished"
    near = tuner("front", "frist", "--home", home)
    assert near.returncode == 2 and "did you mean first" in near.stderr


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(tmp_path, parquet_dir):
    """A real divergence: a network without batch norm at learning rates up to 1, on a real Parquet data set."""
    (tmp_path / "space.yaml").write_text("lr: [0.09, 1.0]")
    done = tuner(
        "search",
        "--method",
        "at",
        "--dataset",
        f"parquet:{parquet_dir}",
        "--imbalance",
        "none",
        "--model",
        "squeezenet1_1",
        "--space",
        tmp_path / "space.yaml",
        "--trials",
        4,
        "--max-epochs",
        1,
        "--max-concurrent",
        1,
        "--set",
        "attack_steps=2",
        "--set",
        "eval_attack=2",
        "--set",
        "batch_size=16",
        "--sampler",
        "random",
        "--name",
        "div",
        "--home",
        tmp_path,
        "--json",
    )
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["state"] == "finished"
    assert result["trials"]["failed"] >= 1 and result["trials"]["finished"] >= 1 and sum(result["trials"].values()) == 4
    failed = [t for t in History(tmp_path / "searches" / "div").trials.values() if t.state == "failed"]
    assert all("loss is" in t.reason and "in epoch 1" in t.reason for t in failed) and failed
    client = MlflowClient(result["mlflow"]["tracking_uri"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "attributes.status = 'FAILED'")
    assert len(runs) == len(failed) and all("loss is" in r.data.tags["tuner.reason"] for r in runs)
