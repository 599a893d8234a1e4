"""Check MLflow for `tuner doctor`: from every node whether its server answers, by plain HTTP without importing mlflow;
from here whether it takes a run.
"""

from __future__ import annotations

import base64
import logging
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from trainables.urls import REDIRECTS, masked, open_url, public
from tuner.tracking import runs

ANSWER_S = 15.0
EXPERIMENT = "tuner-doctor"  # of the run that is made to see whether one can be


def mlflow_problem(uri: str | None, timeout: float = 10) -> str | None:
    """What is wrong with the MLflow server at ``uri``, without the address's password; None if it answers or if ``uri``
    is no server. ``timeout`` in seconds."""
    if not uri or not uri.startswith(("http:", "https:")):
        return None
    url = urllib.parse.urlsplit(uri)
    plain = public(uri).rstrip("/")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or url.username
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or url.password or ""
    request = urllib.request.Request(f"{plain}/api/2.0/mlflow/experiments/search?max_results=1")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    elif os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}")
    try:
        with open_url(request, timeout):
            return None
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return (
                f"{plain} refuses the sign-in ({error.code}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD there"
            )
        said = masked(" ".join(error.read(200).decode(errors="replace").split()))
        if error.code in REDIRECTS:
            return f"{plain} {error.reason}"
        return f"{plain} answers {error.code}" + (f": {said}" if said else "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{plain} does not answer ({getattr(reason, 'strerror', None) or reason})"


def run_problem(uri: str) -> str | None:
    """What is wrong with MLflow at ``uri``, a server or a database: a run with a metric and a file is written, read and
    deleted. None if all of that works within ANSWER_S, else in words, without secrets."""
    found: list[str | None] = [f"{masked(uri)} does not answer in {ANSWER_S:.0f} s"]
    thread = threading.Thread(target=lambda: found.__setitem__(0, _try_run(uri)), daemon=True)  # databases retry longer
    runs.configure_mlflow()
    import mlflow.entities  # noqa: F401 - its seconds are not the server's

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    thread.start()
    thread.join(ANSWER_S)
    return found[0]


def _try_run(uri: str) -> str | None:
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = runs.experiment_id(client, EXPERIMENT, None)
        run = client.create_run(experiment, run_name=EXPERIMENT).info.run_id
        try:
            client.log_metric(run, "one", 1.0)
            with TemporaryDirectory() as folder:
                file = Path(folder, "file.txt")
                file.write_text("tuner")
                client.log_artifact(run, str(file))
            read = client.get_run(run).data.metrics, [item.path for item in client.list_artifacts(run)]
        finally:
            client.delete_run(run)
            client.delete_experiment(experiment)
    except Exception as error:  # of any kind: an exception in a thread would be lost
        reason = runs.refusal(error) or f"{type(error).__name__}: {masked(' '.join(str(error).split()))[:300]}"
        return f"{masked(uri)} does not take a run ({reason})"
    return None if read == ({"one": 1.0}, ["file.txt"]) else f"{masked(uri)} does not give back what is written"
