"""A search in MLflow: written to a real SQLite store, read back with MLflow's own client."""

import functools
import json
import logging
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import histories
from tests.browser import free_port
from tests.histories import fill, metrics, run_of, start
from trainables.curve import Curve
from trainables.data import DataSpec, check
from tuner.home import Home
from tuner.report.files import write_pictures
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.results.references import role_of
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import runs as layout
from tuner.tracking.inputs import data_inputs
from tuner.tracking.tracker import ASIDE, Tracker, sync
from tuner.tracking.ui import search_links

WORST = "worst_class_robust_acc"

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_outer_server(monkeypatch):
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture
def spec():
    return SearchSpec(max_epochs=4, trials=6)


@functools.cache
def _tables() -> bytes:
    """A store of MLflow with nothing in it. Making its tables takes most of the time of a test."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "mlflow.db"
        assert [e.name for e in MlflowClient(f"sqlite:///{store}").search_experiments()] == ["Default"]
        return store.read_bytes()


def home_in(folder: Path) -> Home:
    home = Home(folder)
    home.mlflow_db.write_bytes(_tables())
    return home


@pytest.fixture
def askers(monkeypatch):
    """The threads that open a store of MLflow: none is a driver's, which would wait for the answer."""
    _tables()  # made beforehand: that is asked from here
    threads, real = set(), MlflowClient.__init__

    def opened(self, *args, **options):
        threads.add(threading.get_ident())
        real(self, *args, **options)

    monkeypatch.setattr(MlflowClient, "__init__", opened)
    return threads


def search_in(home: Home, spec: SearchSpec, **kinds) -> History:
    folder = home.search(spec.search_name)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    return fill(History(folder), spec, **kinds)


def read_back(home: Home, spec: SearchSpec):
    """(client, parent run, {trial number: run})"""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home.mlflow_db}")
    experiment = client.get_experiment_by_name(spec.experiment_name)
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if r.data.tags["tuner.kind"] == "search"]
    assert len(parents) == 1
    return client, parents[0], {int(r.data.tags["tuner.trial"]): r for r in runs if r is not parents[0]}


def drive(tracker: Tracker, spec: SearchSpec, history: History) -> None:
    """The calls that a driver makes, trial after trial."""
    rows = []
    for record in history.trials.values():
        begun = type(record)(record.trial, record.params, record.method, started=record.started)
        tracker.trial_started(begun)
        for values in record.epochs:
            tracker.epoch_ended(record, values)
        tracker.trial_ended(record)
        if record.state == "finished":
            rows.append(record.row(spec.objectives))
            tracker.front_changed(Front.of(rows, spec.objectives), len(rows))


def test_the_layout_of_a_search(tmp_path, spec, askers):
    home, said = home_in(tmp_path), []
    history = search_in(home, spec)
    tracker = Tracker(run_of(spec, history, home), warn=said.append)
    drive(tracker, spec, history)
    write_pictures(run_of(spec, history, home))
    assert tracker.close("finished", timeout=120)
    assert said == [] and askers and threading.get_ident() not in askers, "the driver waits for MLflow"

    client, parent, trials = read_back(home, spec)
    assert parent.info.run_name == spec.search_name and parent.info.status == "FINISHED"
    assert parent.info.run_id == tracker.run_id
    assert tracker.run_ids == {"parent": tracker.run_id, "trials": {str(t): r.info.run_id for t, r in trials.items()}}
    assert parent.data.tags["tuner.method"] == "srat"
    assert SearchSpec.from_yaml(parent.data.tags["tuner.spec"]) == spec.changed()
    assert "Against the default setting (0 of 6 values published), trial 0" in parent.data.tags["mlflow.note.content"]
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"front.html", "front.png", "front.parquet", "spec.yaml"}
    assert parent.info.artifact_uri.startswith(home.artifacts.as_uri())

    front = Front.of(history.rows(spec.objectives), spec.objectives)
    curve = client.get_metric_history(parent.info.run_id, "hypervolume")
    assert [m.step for m in curve] == [1, 2, 3, 4] and curve[-1].value == pytest.approx(front.hypervolume)
    assert parent.data.metrics["front_size"] == len(front.rows)
    members = {r["trial"] for r in front.rows}
    assert {t for t, r in trials.items() if r.data.tags["tuner.pareto"] == "true"} == members


def summary(spec, home):
    return check(DataSpec(spec.dataset, spec.imbalance, spec.seed), home.root)


def test_data_are_inputs_of_every_run(tmp_path, spec):
    """Those of training and of judging, never test, with a digest that moved data keep and other data have not."""
    home = home_in(tmp_path)
    run = run_of(spec, search_in(home, spec), home)
    tracker = Tracker(run, warn=print, data=summary(spec, home))
    drive(tracker, spec, run.history)
    assert tracker.close("finished", timeout=120)
    _, parent, trials = read_back(home, spec)
    counts = summary(spec, home).counts
    for inputs in (r.inputs.dataset_inputs for r in (parent, *trials.values())):
        found = {i.tags[0].value: i.dataset for i in inputs}
        assert [d.name for d in found.values()] == ["digits: train", "digits: val"]
        assert json.loads(found["training"].profile)["images_per_class"] == counts["train"]
        assert json.loads(found["validation"].profile)["images"] == sum(counts["val"])
        assert json.loads(found["training"].source)["imbalance"] == spec.imbalance
    first, second = (i.dataset.digest for i in parent.inputs.dataset_inputs)
    assert first != second
    digests = {name: [i.dataset.digest for i in data_inputs(s, summary(s, home))] for name, s in OTHERS.items()}
    assert digests["the same"] == [first, second]
    assert not {first, second} & {*digests["another seed"], *digests["other thinning"]}


OTHERS = {
    "the same": SearchSpec(method="dafa", max_epochs=3),
    "another seed": SearchSpec(seed=1),
    "other thinning": SearchSpec(imbalance="exp:20"),
}


def test_the_layout_of_trials(tmp_path, spec):
    home = home_in(tmp_path)
    history = search_in(home, spec)
    tracker = Tracker(run_of(spec, history, home), warn=print)
    drive(tracker, spec, history)
    assert tracker.close("finished", timeout=120)
    client, parent, trials = read_back(home, spec)
    assert sorted(trials) == list(range(7))
    status = {"finished": ("FINISHED", "full"), "stopped": ("KILLED", "stopped"), "failed": ("FAILED", "stopped")}
    for record in history.trials.values():
        run = trials[record.trial]
        assert (run.info.status, run.data.tags["tuner.budget"]) == status[record.state]
        assert run.info.run_name == f"trial {record.trial}"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert all(run.data.params[k] == str(v) for k, v in record.params.items())
        assert run.data.params["eps"] == "0.1"
        assert run.data.metrics == pytest.approx({k: v for k, v in record.last.items()})
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "robust_acc")]
        assert steps == [e["epoch"] for e in record.epochs]
    assert trials[6].data.tags["tuner.reason"] == "the loss is not finite at epoch 1"
    first = client.get_metric_history(trials[0].info.run_id, "robust_acc/3")
    assert [b.timestamp - a.timestamp for a, b in zip(first, first[1:])] == [500, 500, 500]  # 0.4 s train + 0.1 s eval


def test_an_interrupted_search_leaves_nothing_running_and_a_resume_goes_on(tmp_path, spec):
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=2, failed=False)
    start(history, spec, 2, spec.search_space().default())
    history.append("epoch", 2, metrics=metrics(1, 0.5, 0.2))
    tracker = Tracker(run_of(spec, history, home), warn=print)
    for record in history.trials.values():
        tracker.trial_started(record)
    assert tracker.close("stopped", timeout=120)
    _, parent, trials = read_back(home, spec)
    assert (parent.info.status, trials[2].info.status) == ("KILLED", "KILLED")

    again = History(history.folder)
    tracker = Tracker(run_of(spec, again, home), warn=print)
    tracker.trial_started(again.trials[2])
    for epoch in (2, 3, 4):
        again.append("epoch", 2, metrics=metrics(epoch, 0.5, 0.2))
        tracker.epoch_ended(again.trials[2], again.trials[2].last)
    again.append("end", 2, state="finished")
    tracker.trial_ended(again.trials[2])
    assert tracker.close("finished", timeout=120)
    client, parent2, trials2 = read_back(home, spec)
    assert parent2.info.run_id == parent.info.run_id and trials2.keys() == trials.keys()
    assert trials2[2].info.run_id == trials[2].info.run_id and trials2[2].info.status == "FINISHED"
    assert trials2[2].data.tags["tuner.budget"] == "full" and parent2.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(trials2[2].info.run_id, "robust_acc")] == [1, 2, 3, 4]


def test_a_trial_that_is_tried_again_has_no_reason_of_before(tmp_path, spec):
    """It failed, or was skipped, and then trained in full: its run said why it had not."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=1)  # and one that failed
    assert sync(run_of(spec, history, home), timeout=120)
    assert "not finite" in read_back(home, spec)[2][1].data.tags["tuner.reason"]
    history.append("retry", 1, by="ada", request="1")
    tracker = Tracker(run_of(spec, history, home), warn=print)
    history.append("resume", 1)
    tracker.trial_started(history.trials[1])
    history.append("epoch", 1, metrics=metrics(4, 0.5, 0.2))
    history.append("end", 1, state="finished")
    tracker.trial_ended(history.trials[1])
    history.append("extend", -2, trials=9, by="ada", request="2")  # while it runs
    assert tracker.close("finished", timeout=120)
    _, parent, trials = read_back(home, spec)
    assert (parent.data.params["trials"], parent.data.tags["tuner.trials"]) == ("6", "9")
    run = trials[1]
    assert (run.info.status, run.data.tags["tuner.reason"]) == ("FINISHED", "none")


def test_a_trial_that_is_skipped_while_it_waits_has_a_run(tmp_path, spec):
    """The terminal shows it, and `sync` adds it: so does the driver that is told."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=1, failed=False)
    tracker = Tracker(run_of(spec, history, home), warn=print)
    tracker.trial_started(history.trials[0])
    tracker.trial_ended(history.trials[0])
    history.append("add", 1, params=spec.search_space().default() | {"start": 0.3}, method="srat", by="ada")
    history.append("skip", 1, by="ada")
    tracker.trial_ended(history.trials[1])
    assert tracker.close("finished", timeout=120)
    run = read_back(home, spec)[2][1]
    assert (run.info.status, run.data.tags["tuner.reason"]) == ("KILLED", "skipped by ada")
    assert run.data.params["start"] == "0.3" and run.info.end_time >= run.info.start_time


def test_what_a_preview_ended_with_stands_once_in_its_run(tmp_path, spec):
    """It is written when the preview ends, and with the full training: at the time of that it was another value."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=1, failed=False)
    history.append("start", 1, params={}, method="srat", preview=True)
    history.append("preview", 1, epochs=1, metrics=metrics(3, 0.5, 0.2))
    assert sync(run_of(spec, history, home), timeout=120)
    time.sleep(0.002)
    history.append("promote", 1)
    history.append("epoch", 1, metrics=metrics(4, 0.6, 0.3))
    history.append("end", 1, state="finished")
    assert sync(run_of(spec, history, home), timeout=120)
    client, _, trials = read_back(home, spec)
    assert len(client.get_metric_history(trials[1].info.run_id, "preview/robust_acc")) == 1


def test_a_trial_whose_start_was_never_written_gets_its_run_by_sync(tmp_path, spec):
    """The driver before was killed within the second in which messages are gathered."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=2, failed=False)
    tracker = Tracker(run_of(spec, history, home), warn=print)
    tracker.front_changed(Front.of(history.rows(spec.objectives), spec.objectives), 2)
    assert tracker.close("finished", timeout=120)
    assert read_back(home, spec)[2] == {}
    assert sync(run_of(spec, history, home), timeout=120)
    trials = read_back(home, spec)[2]
    assert sorted(trials) == [0, 1] and all(r.data.tags["tuner.kind"] == "trial" for r in trials.values())


def test_the_end_of_a_resume_sends_what_failed_before_any_epoch(tmp_path, spec, monkeypatch):
    """The driver before was killed when a trial had failed and none had ended an epoch."""
    home, told = home_in(tmp_path), []
    monkeypatch.setattr("tuner.tracking.tracker.sync", lambda run, **how: told.append(run.name))
    run = run_of(spec, search_in(home, spec, trials=0, failed=False), home)
    for known in (False, True):
        Tracker(run, warn=print).search_ended(run, "finished")
        assert bool(told) == known
        run.history.append("start", 0, params=spec.search_space().default(), method=spec.method)
        run.history.append("end", 0, state="failed", reason="no room")


@pytest.mark.slow
def test_a_server_that_is_away_blocks_nothing_and_sync_fills_in(tmp_path, spec, monkeypatch, askers):
    home, said = home_in(tmp_path), []
    history = search_in(home, spec)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-3141")
    tracker = Tracker(run_of(spec, history, home), warn=said.append)
    drive(tracker, spec, history)
    time.sleep(5)
    assert tracker.close("finished", timeout=15) is False
    assert threading.get_ident() not in askers, "the driver waits for MLflow"
    assert tracker.run_id is None and "geheim" not in tracker.tracking_uri
    assert len(said) == 2 and "tried again" in said[0] and "tuner sync" in said[1]
    assert not any("geheim" in s or "tok-3141" in s for s in said)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(run_of(spec, history, home), warn=print)
    _, parent, trials = read_back(home, spec)
    assert parent.info.status == "FINISHED" and len(trials) == 7


def everything(home, spec):
    client, parent, trials = read_back(home, spec)
    runs = {-1: parent, **trials}
    return {
        t: (
            r.info.run_id,
            r.info.status,
            r.info.end_time,
            r.data.tags,
            r.data.params,
            {
                k: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(r.info.run_id, k)]
                for k in r.data.metrics
            },
        )
        for t, r in runs.items()
    }


@pytest.mark.slow
def test_sync_changes_nothing_that_is_there_already(tmp_path, spec):
    home = home_in(tmp_path)
    history = search_in(home, spec)
    tracker = Tracker(run_of(spec, history, home), warn=print)
    drive(tracker, spec, history)
    assert tracker.close("finished", timeout=120)
    before = everything(home, spec)
    assert sync(run_of(spec, History(history.folder), home), warn=print)
    after = everything(home, spec)
    for run, values in before.items():
        assert after[run][:2] == values[:2] and after[run][3:] == values[3:], run


def in_process(folder, name, answers):
    spec, home = SearchSpec(max_epochs=4, trials=6, name=name), Home(folder)
    history = search_in(home, spec, trials=2)
    answers.put(sync(run_of(spec, history, home, name), warn=print))


def test_searches_that_start_together_share_a_new_home(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    searches = [spawn.Process(target=in_process, args=(tmp_path, f"s{i}", answers)) for i in range(2)]
    for p in searches:
        p.start()
    assert [answers.get(timeout=200) for _ in searches] == [True] * 2
    for p in searches:
        p.join(60)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    named = [e for e in client.search_experiments() if e.name != "Default"]
    assert len(named) == 1
    runs = client.search_runs([named[0].experiment_id], "tags.`tuner.kind` = 'search'")
    assert sorted(r.info.run_name for r in runs) == ["s0", "s1"]


@pytest.mark.slow
def test_system_metrics_where_mlflows_switch_asks_for_them(tmp_path, spec, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    home, said = home_in(tmp_path), []
    history = search_in(home, spec)
    tracker = Tracker(run_of(spec, history, home), warn=said.append)
    client, deadline = MlflowClient(tracking_uri=f"sqlite:///{home.mlflow_db}"), time.time() + 60
    tracker.training_began()
    assert tracker.run_id
    while not any(k.startswith("system/cpu") for k in client.get_run(tracker.run_id).data.metrics):
        assert time.time() < deadline, said
        time.sleep(0.2)
    assert tracker.close("finished") and said == []


@pytest.mark.parametrize("name", ["robust_acc", "robust_acc/0", "clean_acc/traffic light", "train_s"])
def test_ordinary_metric_names_stay(name):
    assert layout.metric_name(name) == name


def test_any_class_name_becomes_a_metric(tmp_path, spec):
    from mlflow.utils.validation import _validate_metric_name

    odd = ["a%b", "a?b", "é", "..", "/", "", " x ", "a//b", "a:b", "\n", "x" * 400, "cat/../dog", "."]
    names = [layout.metric_name(f"robust_acc/{c}") for c in odd]
    for name in names:
        _validate_metric_name(name)
        assert len(name) <= 250
    assert len(set(names)) == len(odd)
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=1, classes=odd, failed=False)
    assert sync(run_of(spec, history, home))
    _, _, trials = read_back(home, spec)
    assert set(names) <= set(trials[0].data.metrics)


@pytest.mark.slow
def test_a_value_that_mlflow_refuses_is_named_and_stops_nothing_else(tmp_path, spec):
    home, said = home_in(tmp_path), []
    history = search_in(home, spec, trials=2, failed=False)
    tracker = Tracker(run_of(spec, history, home), warn=said.append)
    drive(tracker, spec, history)
    tracker.training_began()
    history.trials[1].params["start"] = 0.123  # MLflow never changes a parameter
    while not tracker.run_ids["trials"]:
        time.sleep(0.2)
    time.sleep(2.5)
    tracker.trial_started(history.trials[1])
    tracker.trial_ended(history.trials[1])
    assert tracker.close("finished", timeout=120) is False
    assert any("start" in s for s in said)
    _, parent, trials = read_back(home, spec)
    assert parent.info.status == "FINISHED" and trials[0].info.status == "FINISHED"


def test_the_saved_view_is_only_written_for_known_versions(spec):
    class Client:
        tags = {}

        def set_experiment_tag(self, experiment, key, value):
            self.tags[key] = value

    with pytest.raises(RuntimeError, match="3.99"):
        layout.save_view(Client(), "1", "abc", spec, "s", "3.99.0")
    layout.save_view(Client(), "1", "abc", spec, "s", "3.18.0")
    view = json.loads(Client.tags["mlflow.sharedViewState.abc"])
    assert view["name"] == "s: objectives" and view["state"].startswith("deflate;")
    assert len(json.dumps(view)) < 20000  # MLflow's limit for a tag of an experiment
    assert "viewStateShareKey=abc" in layout.links("http://h:1/", "1", "abc", True)["charts"]
    assert "viewStateShareKey" not in layout.links("http://h:1/", "1", "abc", False)["charts"]


def test_curves_roles_and_references(tmp_path, spec, monkeypatch):
    home = home_in(tmp_path)
    history = search_in(home, spec, curves=True)
    run = run_of(spec, history, home)
    monkeypatch.setattr(tempfile, "mkdtemp", None)  # what is killed meanwhile leaves nothing outside of the folder
    assert sync(run, warn=print, timeout=120)
    monkeypatch.undo()
    assert not (run.folder / ASIDE).exists()
    client, parent, trials = read_back(home, spec)
    roles = {t: r.data.tags["tuner.role"] for t, r in trials.items()}
    assert roles == {-1: "no_search", 0: "paper", **dict.fromkeys(range(1, 7), "trial")}
    labels = {}
    for r in run.front().rows:
        labels.setdefault(r["trial"], []).append(row_label(r))
    assert max(map(len, labels.values())) > 1, "a trial with several points on the front"
    tagged = {t: r.data.tags.get("tuner.front_points", "none") for t, r in trials.items()}
    assert {t: text.split(", ") for t, text in tagged.items() if text != "none"} == labels
    assert {t for t, r in trials.items() if r.data.tags["tuner.pareto"] == "true"} == set(labels)
    for trial, of_trial in trials.items():
        swept = history.record(trial).curve
        files = [f.path for f in client.list_artifacts(of_trial.info.run_id)]
        assert files == (["curve.json"] if swept else [])
        assert of_trial.data.params.get("offsets_kind") == ("prior" if swept else None)
        assert of_trial.data.tags["tuner.budget"] == ("full" if swept else "stopped")
    stored = json.loads(Path(client.download_artifacts(trials[1].info.run_id, "curve.json", tmp_path)).read_text())
    assert Curve.of(stored) == history.trials[1].curve
    for trial in (0, 1, 2, 3, 4):  # the values of the front, not those of the last epoch; 2 was stopped
        counts = history.trials[trial].curve and history.trials[trial].curve.points[0].robust
        last = history.trials[trial].last[WORST]
        assert trials[trial].data.metrics[WORST] == (min(counts) / 1000 if counts else last)
        steps = [m.step for m in client.get_metric_history(trials[trial].info.run_id, WORST)]
        assert steps == ([1, 2, 3, 4, 4] if counts else [1, 2])
    point = stored["points"][1]
    assert point["metrics"]["worst_class_robust_acc"] == min(point["robust"]) / 1000
    # the reference's classes, of 80, 70, 60 and 50 training images: 0.9, 0.633, 0.367 and 0.1; with offsets of tau 0.5
    # 0.81, 0.597, 0.383 and 0.17; of tau 1 0.72, 0.56, 0.4 and 0.24
    averages = [143.33 / 260, 138.07 / 260, 132.8 / 260]
    boxes = [average * more for average, more in zip(averages, (0.1, 0.07, 0.07))]
    assert parent.data.metrics["no_search_hypervolume"] == pytest.approx(sum(boxes))
    own = Front.of(run.paper_rows(), spec.objectives).hypervolume
    assert parent.data.metrics["paper_hypervolume"] == pytest.approx(own) and own > 0
    assert parent.data.metrics["hypervolume"] == pytest.approx(run.front().hypervolume)


@pytest.mark.parametrize("least, volume", [(0.2, 132.8 / 260 * 0.24), (0.9, None)])
def test_a_references_hypervolume_is_of_what_the_constraints_allow(tmp_path, least, volume):
    """As the front's: worst classes of no search are 0.1, 0.17 and 0.24."""
    spec = SearchSpec(max_epochs=4, constraint=(f"worst_class_robust_acc>={least}",))
    home = home_in(tmp_path)
    tracker = Tracker(run_of(spec, search_in(home, spec, curves=True), home), warn=print)
    found = {name: value for name, value, *_ in tracker._reference_metrics()}
    assert found.get("no_search_hypervolume") == (volume and pytest.approx(volume, abs=1e-4))


def test_a_members_points_may_change(tmp_path, spec):
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=2, failed=False, curves=True)
    tracker = Tracker(run_of(spec, history, home), warn=print)
    for record in history.everything():
        tracker.trial_started(record)
    first = history.rows_of(0, spec.objectives)
    for rows in (first, first[1:], [*first[2:], *history.rows_of(1, spec.objectives)]):
        tracker.front_changed(Front(spec.objectives, tuple(rows)), 1)
    assert tracker.close("stopped", timeout=120)
    _, _, trials = read_back(home, spec)
    assert [trials[t].data.tags["tuner.front_points"] for t in (0, 1)] == ["0@1", "1, 1@0.5, 1@1"]


def test_a_resume_takes_the_tags_of_members_that_fell_off(tmp_path, spec):
    """The driver before had tagged them; of the front it left, this one has only the history."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=2, failed=False, curves=True)
    run = run_of(spec, history, home)
    assert sync(run, timeout=120)
    tagged = read_back(home, spec)[2]
    before = {t for t, r in tagged.items() if r.data.tags["tuner.pareto"] == "true"}
    assert before and before == {row["trial"] for row in run.front().rows}
    tracker = Tracker(run, warn=print)
    start(history, spec, 2, spec.search_space().default())
    tracker.trial_started(history.trials[2])
    for epoch in (1, 4):
        history.append("epoch", 2, metrics=metrics(epoch, 0.9, 0.8))
    history.append("curve", 2, curve=histories.curve(0.9, 0.8))
    history.append("end", 2, state="finished")
    tracker.trial_ended(history.trials[2])
    assert {row["trial"] for row in run.front().rows} == {2}
    tracker.front_changed(run.front(), 4)
    assert tracker.close("stopped", timeout=120)
    trials = read_back(home, spec)[2]
    assert trials[2].data.tags["tuner.pareto"] == "true"
    for trial in before:
        tags = {name: trials[trial].data.tags[name] for name in ("tuner.pareto", "tuner.front_points")}
        assert tags == {"tuner.pareto": "false", "tuner.front_points": "none"}, trial


def test_what_a_resume_sends_is_not_of_1970(tmp_path, spec):
    """It was interrupted before any trial ended."""
    home = home_in(tmp_path)
    history = search_in(home, spec, trials=2, failed=False, curves=True)
    run = run_of(spec, history, home)
    assert sync(run, timeout=120)
    assert Tracker(run, warn=print).close("stopped", timeout=120)
    client, parent, _ = read_back(home, spec)
    points = client.get_metric_history(parent.info.run_id, "no_search_hypervolume")
    assert len(points) == 1 and points[0].timestamp == layout.milliseconds(max(t.ended for t in history.everything()))


def test_roles_where_plain_at_is_searched():
    spec, history = SearchSpec(method=("srat", "at"), max_epochs=4, trials=6), History(None)
    default = spec.of("srat").search_space().default()
    for trial, (method, params) in enumerate(
        [("srat", default), ("at", {}), ("srat", {**default, "start": 0.3}), ("srat", default)]
    ):
        history.append("start", trial, params=params, method=method)
    history.append("start", 4, params=default, method="srat", seed=1, of=0)
    roles = [role_of(spec, history, record) for record in history.everything()]
    assert roles == ["paper", "no_search", "trial", "trial", "paper"]


@pytest.mark.slow
def test_c15_what_mlflow_says_of_a_full_disk_is_said_once_and_in_our_words(tmp_path, spec):
    """Its own logger printed a traceback for each attempt."""
    history = fill(History(tmp_path / "searches" / "s"), spec)
    assert sync(run_of(spec, history, Home(tmp_path), "s"), warn=print, timeout=120)
    for name in ("mlflow.store.db.utils", "mlflow", "alembic.runtime.migration"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR), name


def test_pages_of_a_search_are_its_own_where_another_home_has_one_of_its_name(tmp_path, monkeypatch):
    """One MLflow for two homes: `tuner ui` linked to the latest run of that name."""
    theirs, mine = home_in(tmp_path), Home(tmp_path / "mine")
    spec = SearchSpec(max_epochs=4, trials=6, name="first")
    uri = f"sqlite:///{theirs.mlflow_db}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for home in (mine, theirs):
        assert sync(run_of(spec, search_in(home, spec, trials=1, failed=False), home), timeout=120)
    client = MlflowClient(uri)
    (run,) = client.search_runs(["1"], f"tags.`tuner.key` = '{layout.search_key(mine.search('first'))}'")
    assert f"/runs/{run.info.run_id}?" in search_links("http://x", uri, mine, ["first"])["first"]["search"]
    assert search_links("http://x", uri, Home(tmp_path / "neither"), ["first"]), "it runs on a cluster, say"
