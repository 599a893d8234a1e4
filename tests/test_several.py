"""One real search of two methods with two seeds, killed among its replicates and resumed: what every place says."""

import json
import signal
import subprocess
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import tuner, tuner_process
from tuner.home import Home
from tuner.results.history import History
from tuner.results.pareto import nondominated, row_label
from tuner.results.searches import load_search
from tuner.verification.rows import chosen
from tuner.verification.verify import make_jobs

ARGS = [
    "search",
    "--method",
    "trades",
    "--method",
    "done",
    "--trials",
    "5",
    "--seeds",
    "2",
    "--max-epochs",
    "3",
    "--fix",
    "level=instance",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=3",
    "--set",
    "eval_attack=3",
    "--scheduler",
    "none",
    "--max-concurrent",
    "1",
    "--name",
    "both",
    "--json",
]
OBJECTIVES = ["natural_robust_acc", "worst_class_robust_acc"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(result, home, lines of the history when it was killed, what the resumed search said)"""
    home = tmp_path_factory.mktemp("several")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = tuner_process(*ARGS, "--home", home, start_new_session=True, **pipes)
    path, deadline = home / "searches" / "both" / "history.jsonl", time.time() + 200
    while time.time() < deadline:
        history = History(path.parent)
        if any(r.state == "finished" for r in history.replicates.values()):
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = path.read_text().splitlines()
    done = tuner("resume", "both", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), home, before, done.stderr


def test_it_ends_as_it_would_have(killed, tmp_path):
    result, home, before, stderr = killed
    history = History(home / "searches" / "both")
    assert history.path.read_text().splitlines()[: len(before)] == before
    assert result["state"] == "finished" and result["trials"] == {
        "finished": 5,
        "previewed": 0,
        "stopped": 0,
        "failed": 0,
    }
    (tmp_path / "history.jsonl").write_text("\n".join(before) + "\n")
    assert result["epochs_trained"] == history.epochs_trained() - History(tmp_path).epochs_trained()
    whole = 3 * (5 + 1 + len(history.replicates))  # trials, plain AT, and replicates of both
    assert history.epochs_trained() == whole - history.epochs_saved(3)["stem"]
    assert sum(m["epochs"] for m in result["methods"]) == history.epochs_trained() - 2 * 3, "plain AT is no method's"
    assert result["seeds"] == 2 and result["replicates"] == {"finished": len(history.replicates), "failed": 0}
    assert Counter((r.of, r.seed) for r in history.replicates.values()).most_common(1)[0][1] == 1
    epochs = Counter(
        (e["trial"], e["metrics"]["epoch"])
        for line in history.path.read_text().splitlines()
        if (e := json.loads(line))["event"] == "epoch"
    )
    finished = {e["trial"] for line in before if (e := json.loads(line))["event"] == "end"}
    assert all(n == 1 for (trial, _), n in epochs.items() if trial in finished), "what had ended was trained again"
    assert "--fix level is for done alone: trades knows no such parameter" in stderr


def test_the_front_is_of_means_over_both_seeds(killed):
    result, home, _, _ = killed
    history = History(home / "searches" / "both")
    rows = [*result["front"], result["paper"], *(m["paper"] for m in result["methods"]), *result["no_search"]]
    assert {row["trial"] for row in rows} >= {-1, 0, 1}, "the reference, and each method's paper setting"
    for row in rows:
        assert row["seeds"] == [0, 1] and row["method"] == history.record(row["trial"]).method
        (other,) = [r for r in history.replicates.values() if r.of == row["trial"]]
        first, second = (measured(record, row["offsets"]["tau"]) for record in (history.record(row["trial"]), other))
        for name, a, b in zip(OBJECTIVES, first, second):
            assert row[name] == pytest.approx((a + b) / 2) and row["std"][name] == pytest.approx(abs(a - b) / 2**0.5)
        assert other.params == history.record(row["trial"]).params and len(other.epochs) == 3
    rows = history.rows(OBJECTIVES)
    best = [rows[i] for i in nondominated([[r[o] for o in OBJECTIVES] for r in rows], [True, True])]
    assert sorted(map(row_label, result["front"])) == sorted(map(row_label, best))
    assert {m["method"] for m in result["methods"]} == {"trades", "done"}
    table = pq.read_table(history.folder / "history.parquet").to_pydict()
    assert {(t, s) for t, s, of in zip(table["trial"], table["seed"], table["of"]) if of is not None} == {
        (t, 1) for t in history.replicates
    }


def measured(record, tau):
    """Natural average and worst class of a model with offsets, by its counts of images."""
    (point,) = [p for p in record.curve.points if p.offsets.tau == tau]
    rates = [right / count for right, count in zip(point.robust, point.count)]
    counts = record.curve.train_counts
    return sum(n * rate for n, rate in zip(counts, rates)) / sum(counts), min(rates)


def test_each_was_trained_as_its_method_and_seed_say(killed):
    _, home, _, _ = killed
    folder = home / "searches" / "both"
    for record in History(folder).everything():
        echo = torch.load(folder / "trials" / str(record.trial) / "checkpoint.pt", weights_only=True)["config"]
        assert (echo["method"], echo["seed"]) == (record.method, record.seed)
        assert echo["params"].items() <= record.params.items()


def test_mlflow_has_replicates_beside_trials(killed):
    result, home, _, _ = killed
    history, client = History(home / "searches" / "both"), MlflowClient(result["mlflow"]["tracking_uri"])
    parent = client.get_run(result["mlflow"]["run_id"])
    assert parent.data.tags["tuner.method"] == "trades + done" and parent.info.status == "FINISHED"
    assert parent.data.metrics["hypervolume"] == pytest.approx(result["hypervolume"])
    assert "trades:" in parent.data.tags["mlflow.note.content"]
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    kinds = Counter(r.data.tags["tuner.kind"] for r in runs)
    assert kinds == {"trial": 5, "reference": 1, "replicate": len(history.replicates)}
    for run in runs:
        record = history.record(int(run.data.tags["tuner.trial"]))
        assert run.info.status == "FINISHED" and run.data.tags["tuner.method"] == record.method
        if record.of is not None:
            assert run.data.tags["tuner.replicate_of"] == str(record.of) and run.data.tags["tuner.seed"] == "1"
            name = "no search" if record.of == -1 else f"trial {record.of}"
            assert run.info.run_name == f"{name} seed 1" and run.data.tags["tuner.pareto"] == "false"
    on_front = {r["trial"] for r in result["front"]}
    assert {int(r.data.tags["tuner.trial"]) for r in runs if r.data.tags["tuner.pareto"] == "true"} == on_front


def test_what_is_verified_and_exported_are_the_weights_of_the_searchs_own_seed(killed):
    result, home, _, _ = killed
    run = load_search(Home(home), "both")
    history = run.history
    trials = [row["trial"] for row in result["front"]]
    rows, _ = chosen(run, "all", 1)
    jobs = make_jobs(run, rows, "pgd:2x1", 0)
    papers = [job for job in jobs if "paper" in (job.role, *job.also)]
    assert {history.trials[job.trial].method for job in papers} == {"trades", "done"}, "each method's paper setting"
    for job in (job for job in jobs if job.role == "front"):
        assert job.config.seed == 0 and job.config.trial in trials and job.config.folder.endswith(str(job.trial))
        assert job.config.method == history.trials[job.trial].method
