"""What is added to a search's MLflow runs after it has ended: test metrics, and models in the registry."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.errors import Failed
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.tracking import runs as layout
from tuner.tracking.runs import Changes, metric_name, without_secrets


@contextmanager
def _client(home: Home):
    """A client; whatever MLflow answers becomes one sentence without secrets."""
    layout.quiet()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = layout.tracking_uri(home)
    where = f"MLflow at {without_secrets(uri)}"
    try:
        if uri == f"sqlite:///{home.mlflow_db}":
            layout.make_store(home, lambda u: MlflowClient(tracking_uri=u))
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        if layout.is_refusal(error):
            raise Failed(f"{where} {layout.REFUSES}") from None
        text = without_secrets(" ".join(str(error).split()))[:300]
        raise Failed(f"{where} does not take it: {text}") from None
    except OSError as error:
        raise Failed(f"{where} cannot be reached: {without_secrets(str(error))[:300]}") from None


def _runs(client, run: SearchRun) -> tuple[str, dict[int, str]]:
    """The search's own run, and those of its trials."""
    experiment = client.get_experiment_by_name(run.spec.experiment_name)
    key = layout.search_key(run.folder)
    found = experiment and client.search_runs([experiment.experiment_id], f"tags.`tuner.key` = '{key}'", max_results=1)
    if not found:
        raise Failed(f"MLflow does not have search {run.name!r}; `tuner sync {run.name}` fills it in")
    parent = found[0].info.run_id
    return parent, layout.trial_runs(client, experiment.experiment_id, parent)


def log_test(result: dict[str, Any], run: SearchRun) -> None:
    """Metrics ``test/...`` and the tag ``tuner.test_attack`` on the trials' runs, the report on the search's."""
    from tuner.tracking.tracker import write

    with _client(run.home) as client:
        parent, trials = _runs(client, run)
        now = int(time.time() * 1000)
        for row in result["rows"]:
            if row["trial"] not in trials:
                raise Failed(
                    f"MLflow does not have trial {row['trial']} of search {run.name!r}; "
                    f"`tuner sync {run.name}` fills it in"
                )
            values = {k: v for k, v in row.items() if k.endswith("_acc")} | {
                f"{k}/{c}": v[k] for c, v in row["per_class"].items() for k in ("robust_acc", "clean_acc")
            }
            metrics = [(metric_name(f"test/{k}"), float(v), now, row["epoch"]) for k, v in values.items()]
            write(client, trials[row["trial"]], Changes(metrics=metrics, tags={"tuner.test_attack": result["attack"]}))
        folder = run.folder
        write(client, parent, Changes(files=[folder / "verified.html", folder / "verified.parquet"]))


def register(bundle: Path, about: dict[str, Any], run: SearchRun, model: str, alias: str) -> dict[str, str]:
    """A new version of registered model ``model``, made of an exported folder; ``alias`` points to it."""
    import tempfile

    with _client(run.home) as client:
        import mlflow.pyfunc
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        _, trials = _runs(client, run)
        trial_run = trials.get(about["trial"])
        if trial_run is None:
            raise Failed(
                f"MLflow does not have trial {about['trial']} of search {run.name!r}; "
                f"`tuner sync {run.name}` fills it in"
            )
        kind, classes = np.dtype(np.float32), len(about["architecture"]["classes"])
        signature = ModelSignature(
            Schema([TensorSpec(kind, (-1, *about["architecture"]["shape"]))]), Schema([TensorSpec(kind, (-1, classes))])
        )
        with tempfile.TemporaryDirectory() as aside, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about type hints and examples
            mlflow.pyfunc.save_model(
                f"{aside}/model",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"bundle": str(bundle)},
                signature=signature,
                pip_requirements=[f"torch=={about['torch'].split('+')[0]}", "numpy"],
            )
            client.log_artifacts(trial_run, f"{aside}/model", f"model-{alias}")
        try:
            client.create_registered_model(model)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(trial_run).info.artifact_uri}/model-{alias}"
        tags = {"tuner.search": run.name, "tuner.trial": str(about["trial"])}
        version = client.create_model_version(model, source, trial_run, tags=tags).version
        client.set_registered_model_alias(model, alias, version)
    return {"name": model, "version": str(version), "alias": alias}
