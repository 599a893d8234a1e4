"""A registered model behind `mlflow models serve`: a real server answers on real images."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.browser import free_port
from tests.test_export import exported  # noqa: F401 - a fixture
from trainables.data import DataSpec, open_test
from tuner.tracking import ui


@pytest.mark.timeout(300)
def test_a_server_answers_as_the_model_does(exported, tmp_path):  # noqa: F811
    import mlflow

    _, _, home = exported
    port, store = free_port(), f"sqlite:///{home}/mlflow.db"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow looks for uvicorn there
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        "models:/digits@knee",
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=tmp_path, start_new_session=True
        )
    try:
        images, labels = open_test(DataSpec("digits"), home).batch(slice(0, 50))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", store)
            here = mlflow.pyfunc.load_model("models:/digits@knee").predict(images.numpy())
        answers = ui._answers(process, f"http://127.0.0.1:{port}", threading.Event())
        assert answers, (tmp_path / "log").read_text()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            headers={"Content-Type": "application/json"},
            data=json.dumps({"inputs": images.tolist()}).encode(),
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            logits = np.array(json.load(answer)["predictions"])
    finally:
        ui._end(process)
    assert logits.shape == (50, 10) and np.allclose(logits, here, atol=1e-5)
    assert (logits.argmax(1) == labels.numpy()).mean() > 0.5
