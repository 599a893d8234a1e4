"""MLflow behind a password and the prefix of a path: a real server with basic authentication, and the header that a
token becomes."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import urllib.request

import pytest

from tests.answers import refusing_server
from tests.browser import free_port
from tests.histories import run_of
from tests.test_tracking import search_in
from tests.test_wrong_input import run
from tuner.home import Home
from tuner.report.files import write_pictures
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import ui
from tuner.tracking.tracker import Tracker, sync

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
PREFIX = "/team/mlflow"
RIGHT, WRONG = "right-password-2718", "wrong-password-3141"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of `mlflow server --app-name basic-auth`, behind a prefix as a proxy gives it one."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\nadmin_username = anna\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": RIGHT,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        "basic-auth",
        "--static-prefix",
        PREFIX,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder}/runs.db",
        "--artifacts-destination",
        (folder / "artifacts").as_uri(),
    ]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}{PREFIX}"
        assert ui._answers(process, address, threading.Event()), (folder / "log").read_text()
        yield address
    finally:
        ui._end(process)


@pytest.fixture
def made(tmp_path):
    """(home, spec, history) of a search that MLflow has not heard of."""
    home, spec = Home(tmp_path), SearchSpec(max_epochs=4, trials=1, name="first")
    return home, spec, search_in(home, spec, trials=1, failed=False)


def sign_in(monkeypatch, address, password):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def holding(folder, text):
    """Files below the folder that hold the text."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_the_right_password_logs_a_search(server, made, monkeypatch, capsys):
    from mlflow import MlflowClient

    home, spec, history = made
    sign_in(monkeypatch, server, RIGHT)
    said, search = [], run_of(spec, history, home, "first")
    write_pictures(search)
    assert sync(search, warn=said.append) and said == []
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name(spec.experiment_name)
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(r.info.run_name for r in runs) == ["first", "trial 0"]
    (parent,) = (r for r in runs if r.info.run_name == "first")
    assert {"front.html", "front.png"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert holding(home.root, RIGHT) == [] and not any(RIGHT in str(r.data) for r in runs)
    ended = threading.Event()
    ended.set()
    monkeypatch.setattr(ui, "_until_signal", lambda: contextlib.nullcontext(ended))  # Ctrl-C at once
    code, out, _ = run(capsys, monkeypatch, "ui", "--home", home.root, "--search", "first")
    live, first, *lines = out.splitlines()
    others = [line.split()[-1] for line in lines if line.startswith("first ")]
    assert code == 0 and live.startswith("live http://127.0.0.1:") and len(others) == 4
    assert first == f"{server}/#/experiments?workflowType=machine_learning"
    assert all(link.startswith(f"{server}/#/experiments/{experiment.experiment_id}/runs") for link in others)
    signed = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    signed.add_password(None, server, "anna", RIGHT)
    page = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(signed)).open(others[0], timeout=20)
    assert "MLflow" in page.read().decode(), "there is a page at the prefix"


def test_a_wrong_password_stops_no_search_and_is_told_nowhere(server, made, monkeypatch, capsys):
    """The search goes on and says how to fill MLflow in; `tuner sync` with that password is one sentence, exit 1."""
    home, spec, history = made
    sign_in(monkeypatch, server, WRONG)
    said, tried = [], threading.Event()

    def warn(text):
        said.append(text)
        tried.set()

    tracker = Tracker(run_of(spec, history, home, "first"), warn=warn)
    tracker.trial_started(history.trials[0])
    tracker.training_began()
    assert tried.wait(60)
    assert tracker.close("finished", timeout=60) is False
    assert len(said) == 2 and all("refuses the user or password" in s and "\n" not in s for s in said)
    assert "tried again" in said[0] and f"`tuner sync first --home {home.root}` fills it in" in said[1]
    code, out, err = run(capsys, monkeypatch, "sync", "first", "--home", home.root)
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "refuses the user or password" in err and "history has everything" in err
    assert not any(WRONG in text for text in (*said, err)) and holding(home.root, WRONG) == []
    assert load_search(home, "first").spec == spec.changed() and not home.mlflow_db.exists()


def test_a_token_is_sent_as_a_bearer_header(made, monkeypatch):
    home, spec, history = made
    with refusing_server() as address, pytest.MonkeyPatch.context() as patch:
        seen = []
        handle = http.server.BaseHTTPRequestHandler.parse_request

        def parse(self):
            whole = handle(self)
            seen.append(self.headers.get("Authorization"))
            return whole

        patch.setattr(http.server.BaseHTTPRequestHandler, "parse_request", parse)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-1618")
        said = []
        assert not sync(run_of(spec, history, home, "first"), warn=said.append, timeout=60)
    assert seen and set(seen) == {"Bearer token-1618"}
    assert len(said) == 1 and "token-1618" not in said[0] and holding(home.root, "token-1618") == []
