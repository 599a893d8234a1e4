"""Submitting without a cluster: addresses, secrets, versions, the package, and what a job's states mean."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from tests.test_submit import free_ports
from tuner import job
from tuner.cli import app, cluster
from tuner.errors import ClusterError, UsageError
from tuner.home import Home
from tuner.job import home_of, problem
from tuner.remote import submission
from tuner.remote.dashboard import Dashboard, cluster_address, job_row
from tuner.spec.search_spec import SearchSpec
from tuner.sync.named_places import resume_command


def test_nobody_answers():
    (port,) = free_ports(1)
    with pytest.raises(ClusterError, match="no Ray cluster answers at .*refused"):
        Dashboard(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["http://", "head:port", "ray://head:10001"])
def test_address_that_is_none(address):
    with pytest.raises(UsageError, match="dashboard"):
        cluster_address(address)


def test_env_by_name_and_value():
    """Which values are refused: tests/test_urls.py."""
    given = ["MLFLOW_TRACKING_PASSWORD", "TUNER_PYTHON=1=2"]
    assert submission.parse_env(given) == (["MLFLOW_TRACKING_PASSWORD"], {"TUNER_PYTHON": "1=2"})


@pytest.mark.parametrize(
    "field, here, there",
    [
        ("dataset", "folder:here", "folder:/here"),
        ("dataset", "parquet:~/here", "parquet:s3://bucket/here"),
        ("extra_data", "parquet:here", "parquet:/here"),
        ("init", "weights.pt", "/weights.pt"),
        ("init", "export:here", "export:/here"),
        ("init", "export:3", "first:3"),
        ("init", "some:weights", "first:no_search"),
        ("study_storage", "sqlite:///study.db", "sqlite:////study.db"),
        ("study_storage", "sqlite:///study.db", "postgresql://host/studies"),
        ("storage", "here", "~/here"),
    ],
)
def test_what_cannot_travel(field, here, there):
    with pytest.raises(UsageError, match=f"--{field.replace('_', '-')} '{here}' is (a )?relative.* absolute path"):
        submission.check_travels(SearchSpec(**{field: here}))
    submission.check_travels(SearchSpec(**{field: there}))


def test_the_home_of_a_job(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TUNER_HOME", raising=False)
    assert home_of({"home": None}).root == tmp_path / "tuner-home" and home_of({"home": "~/x"}).root == tmp_path / "x"
    with pytest.raises(UsageError, match="'~nobody-here/x' names a user that this machine does not have"):
        home_of({"home": "~nobody-here/x"})


def test_a_resume_is_checked_without_its_search():
    """Which is on the cluster: a budget of GPU hours is one that it may have."""
    changes = {"budget": "6gpu-h", "trials": 64}
    assert submission.resume_job("first", changes=changes)["changes"] == changes
    for wrong in ({"budget": "6gpus"}, {"seeds": 0}):
        with pytest.raises(UsageError, match="is not allowed"):
            submission.resume_job("first", changes=wrong)


class Silent:
    """A cluster that answers ``rows`` one after the other; an error is raised. At the end it is gone."""

    address = "http://head:8265"

    def __init__(self, *rows):
        self.rows, self.lines = list(rows), ""

    def job(self, job_id):
        found = self.rows.pop(0) if self.rows else ClusterError("no Ray cluster answers")
        if isinstance(found, Exception):
            raise found
        self.lines += f"line {len(self.lines)}\n"
        return {"state": found, "message": "", "exit_code": 0}

    def logs(self, job_id):
        return self.lines


def test_a_follower_bears_a_silent_cluster_for_a_while(monkeypatch, capsys):
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    monkeypatch.setattr(submission, "AWAY_S", 0.3)
    gone = ClusterError("no Ray cluster answers")
    row, _ = submission.follow(Silent("running", gone, gone, "running", gone, "finished"), "j")
    assert row["state"] == "finished"
    err = capsys.readouterr().err
    assert err.count("line") == 3 and err.count("no Ray cluster answers; asking again for 0.3 s") == 2
    begin = time.monotonic()
    with pytest.raises(ClusterError, match="no Ray cluster answers; the job may go on: `tuner logs j -f --address"):
        submission.follow(Silent("running"), "j")
    assert 0.3 <= time.monotonic() - begin < 5
    monkeypatch.setattr(submission, "AWAY_S", 60)
    with pytest.raises(ClusterError, match="no job"):
        submission.follow(Silent(ClusterError("no job 'j'", 2)), "j")


class Other:
    """A cluster of another version."""

    address = "http://head:8265"

    def __init__(self, **versions):
        self._versions = {**submission.ours(), **versions}

    def versions(self):
        return self._versions


@pytest.mark.parametrize("what, theirs", [("ray", "2.9.3"), ("python", "3.10.4")])
def test_other_versions_are_refused(what, theirs):
    with pytest.raises(ClusterError, match=f"has {what} .* {theirs}; submit from"):
        submission.check_versions(Other(**{what: theirs}))
    assert problem({"env": [], "versions": {**submission.ours(), what: theirs}})
    assert problem({"env": [], "versions": submission.ours()}) is None


def told(monkeypatch, capsys, folder, **about):
    """What a job with these lines in its job.json tells followers, and its exit code."""
    folder.mkdir()
    spec = about.pop("spec", None)
    (folder / "spec.yaml").write_text(spec.to_yaml() if spec else "")
    (folder / "job.json").write_text(json.dumps({"env": [], "versions": submission.ours(), **about}))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(app, "HEARERS", [])
    monkeypatch.setattr(sys, "argv", ["tuner"])
    with pytest.raises(SystemExit) as end:
        job.main()
    stream = submission._Stream(show=False)
    stream.write(capsys.readouterr().out, done=True)
    return stream.result, end.value.code or 0


@pytest.mark.slow
def test_a_job_tells_what_it_came_to_and_not_what_an_earlier_one_did(finished, tmp_path, monkeypatch, capsys):
    """One that was refused had the result of the search that has its name, and no error."""
    result, _, _ = finished
    shutil.copytree(finished[1], tmp_path / "home")
    about = {"command": "search", "search": "first", "home": str(tmp_path / "home")}
    spec = SearchSpec.from_stored((tmp_path / "home/searches/first/spec.yaml").read_text())
    known, code = told(monkeypatch, capsys, tmp_path / "a", spec=spec, **about)
    assert code == 0 and known["state"] == "finished" and known["front"] == result["front"]
    other, code = told(monkeypatch, capsys, tmp_path / "b", spec=spec.changed(seed=7), **about)
    assert code == 2 and other.keys() == {"error"} and "exists with another seed" in other["error"]
    about |= {"command": "resume", "changes": {}, "storage": "s3://me:word@b"}
    other, code = told(monkeypatch, capsys, tmp_path / "c", **about)
    assert code == 2 and other.keys() == {"error"} and "carries a password" in other["error"]


@pytest.mark.parametrize(
    "result, state, shown",
    [
        ({"state": "stopped", "spent": "6epochs"}, "finished", {"state": "stopped", "spent": "6epochs"}),
        ({"error": "refused"}, "failed", {"state": "failed", "error": "refused"}),
        ({"state": "finished", "x": float("nan")}, "finished", {"state": "finished", "x": None}),
        (None, "failed", {"state": "failed", "error": "the job ended without a result"}),
        ([{"check": "home"}], "finished", {"state": "finished", "checks": [{"check": "home"}]}),
    ],
)
def test_what_a_follower_prints_is_what_the_search_came_to(result, state, shown, monkeypatch, capsys):
    """A job finishes whose search was stopped by a budget: scripts took that for a whole search."""
    monkeypatch.setattr(submission, "follow", lambda *_: ({"state": state, "exit_code": 0}, result))
    with pytest.raises(typer.Exit):
        cluster._follow(Silent(), "a-1", as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {**shown, "id": "a-1"}


def test_a_follower_that_is_interrupted_prints_json_too(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "follow", interrupted)
    with pytest.raises(typer.Exit) as end:
        cluster._follow(Silent(), "a-1", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert end.value.exit_code == 130 and (printed["id"], printed["state"]) == ("a-1", "running")
    assert "`tuner stop a-1 --address http://head:8265` ends it" in printed["error"]


@pytest.mark.parametrize(
    "said, right",
    [
        ("go on     tuner resume a --storage s3://b/x --home '/my home' --address http://head:8265", True),
        ("go on     tuner resume a; rm -rf ~", False),
        ("go on     tuner resume other", False),
        ("go on     tuner resume a '", False),
    ],
)
def test_a_stopped_job_goes_on_where_its_search_lies(said, right):
    """Whoever had sent it with a home or a storage was shown a command that found no such search."""
    job = Silent()
    job.logs = lambda _: f"go on     tuner resume a --home /before\n{said}\nlast\n"
    command = submission.go_on_command(job, {"id": "a-1", "search": "a"})
    assert command == (said.removeprefix("go on     ") if right else "tuner resume a --address http://head:8265")


class Reached(Other):
    def may_grow(self):
        return False


def test_what_a_job_says_to_go_on_is_typed_where_it_was_sent_from(monkeypatch, tmp_path):
    """And sends it as before: its code was another where the image's is used, its MLflow where --env named that."""
    sent = list[dict[str, str]]()
    monkeypatch.setattr(submission, "_send", lambda *about: sent.append(about[-1]))
    env = ["TUNER_NOTIFY", "MLFLOW_TRACKING_URI=http://mlflow:5000"]
    submission.submit_resume(Reached(), "first", env=env, package="image")
    for name, value in sent[0].items():
        monkeypatch.setenv(name, value)
    command = resume_command(SearchSpec(storage="s3://b/x"), Home(tmp_path), "first", " --budget 12epochs")
    asked = list[tuple]()
    monkeypatch.setattr(cluster, "resume", lambda *about: asked.append(about))
    app.whole_command()(shlex.split(command)[1:], standalone_mode=False)
    said = {"storage": "s3://b/x", "dataset": None, "study_storage": None}
    assert asked == [("http://head:8265", "first", tmp_path, said, {"budget": "12epochs"}, env, "image", False, False)]
    with pytest.raises(UsageError, match="--env and --package are for a job on a Ray cluster"):
        app.whole_command()(["resume", "first", "--package", "image"], standalone_mode=False)


def test_package_is_small_and_whole(tmp_path):
    submission.pack(tmp_path, {"search": "x"}, "method: srat\n", "send")
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    packed = Path(shutil.make_archive(str(tmp_path.parent / "packed"), "zip", tmp_path))  # as Ray sends it
    assert packed.stat().st_size < 2**20 and not [p for p in files if p.suffix == ".pyc"]
    out = subprocess.run(
        [sys.executable, "-c", "import tuner.job, trainables, search_spaces; print(tuner.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert out.stdout.startswith(str(tmp_path)), out.stderr


def test_package_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "UPLOAD_LIMIT", 1000)
    with pytest.raises(ClusterError, match="Ray takes"):
        submission.pack(tmp_path, {}, "", "send")


@pytest.mark.parametrize(
    "status, code, expected",
    [
        ("RUNNING", None, ("running", None)),
        ("STOPPED", None, ("stopped", 130)),
        ("FAILED", 130, ("stopped", 130)),
        ("FAILED", 2, ("failed", 2)),
        ("FAILED", None, ("failed", 1)),
        ("SUCCEEDED", 0, ("finished", 0)),
    ],
)
def test_job_states(status, code, expected):
    row = job_row({"status": status, "driver_exit_code": code, "submission_id": "a", "metadata": None})
    assert (row["state"], row["exit_code"]) == expected
