"""What is added to a search's MLflow runs after it has ended: test metrics, and registered models."""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.urls import masked
from tuner.errors import Failed
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.tracking import runs
from tuner.tracking.runs import Changes, metric_name, milliseconds

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel


@contextmanager
def _client(home: Home) -> Iterator[MlflowClient]:
    """An MLflow client; in this block its errors become ``Failed``, one sentence without secrets."""
    runs.configure_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = runs.tracking_uri(home)
    where = f"MLflow at {masked(uri)}"
    try:
        if uri == runs.database_uri(home.mlflow_db):
            runs.open_database(home, lambda u: MlflowClient(tracking_uri=u))
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        if refusal := runs.refusal(error):
            raise Failed(f"{where} {refusal}") from None
        text = masked(" ".join(str(error).split()))[:300]
        raise Failed(f"{where} reports an error: {text}") from None
    except OSError as error:
        raise Failed(f"{where} cannot be reached: {masked(str(error))[:300]}") from None


def _run_ids(client: MlflowClient, run: SearchRun) -> tuple[str, dict[int, str]]:
    """The id of the search's run, and those of its trials' runs by trial number; ``Failed`` if MLflow has none."""
    experiment = client.get_experiment_by_name(runs.experiment_name(run.spec))
    key = runs.search_key(run.folder)
    found = experiment and client.search_runs([experiment.experiment_id], f"tags.`tuner.key` = '{key}'", max_results=1)
    if not found:
        raise Failed(f"MLflow does not have search {run.name!r}; `tuner sync {run.name}{run.home.flag}` fills it in")
    parent = found[0].info.run_id
    return parent, runs.trial_runs(client, experiment.experiment_id, parent)


def _trial_run(run_ids: dict[int, str], trial: int, run: SearchRun) -> str:
    if trial not in run_ids:
        raise Failed(
            f"MLflow does not have trial {trial} of search {run.name!r}; "
            f"`tuner sync {run.name}{run.home.flag}` fills it in"
        )
    return run_ids[trial]


def set_deleted(run: SearchRun, deleted: bool) -> None:
    """Delete the runs of a search as MLflow does it, or restore them. Nothing happens where MLflow never heard of it.

    ``Failed`` if MLflow cannot be reached.
    """
    local = runs.tracking_uri(run.home) == runs.database_uri(run.home.mlflow_db)
    if not (run.folder / runs.KEY_FILE).exists() or (local and not run.home.mlflow_db.exists()):
        return
    with _client(run.home) as client:
        from mlflow.entities import ViewType

        experiment = client.get_experiment_by_name(runs.experiment_name(run.spec))
        if not experiment:
            return
        view = ViewType.ACTIVE_ONLY if deleted else ViewType.DELETED_ONLY
        change = client.delete_run if deleted else client.restore_run

        def found(tag: str, value: str) -> list[str]:
            tagged = runs.tagged_runs(client, experiment.experiment_id, tag, value, view)
            return [r.info.run_id for r in tagged]

        for parent in found("tuner.key", runs.search_key(run.folder)):
            for run_id in [*found("mlflow.parentRunId", parent), parent]:  # the parent last: it finds the others
                change(run_id)


def log_test(result: dict[str, Any], run: SearchRun) -> None:
    """Add the result of `tuner verify` to MLflow: metrics ``test/...`` (``test-tau-0.75/...`` with offsets of that tau)
    and the tags ``tuner.test_attack`` and ``tuner.test_role`` to the trials' runs, the report to the search's.

    ``Failed`` if MLflow does not have them or cannot be reached.
    """
    from tuner.tracking.tracker import write

    with _client(run.home) as client:
        parent, run_ids = _run_ids(client, run)
        now, roles = milliseconds(time.time()), dict[int, list[str]]()
        for row in result["rows"]:
            trial_run = _trial_run(run_ids, row["trial"], run)
            values = {k: v for k, v in row.items() if k.endswith("_acc") or k == "nsd"} | {
                f"{k}/{c}": v[k] for c, v in row["per_class"].items() for k in ("robust_acc", "clean_acc")
            }
            tau = row["offsets"]["tau"]
            split = f"test-tau-{tau:g}" if tau else "test"
            metrics = [(metric_name(f"{split}/{k}"), float(v), now, row["epoch"]) for k, v in values.items()]
            roles.setdefault(row["trial"], []).extend([row["role"], *row["also"]])
            tags = {
                "tuner.test_attack": result["attack"],
                "tuner.test_role": ", ".join(dict.fromkeys(roles[row["trial"]])),
            }
            write(client, trial_run, Changes(metrics=metrics, tags=tags))
        files = [run.folder / f"verified.{kind}" for kind in ("html", "parquet", "json")]
        write(client, parent, Changes(files=files))


def _save_for_mlflow(bundle: Path, about: dict[str, Any], to: Path, logged: LoggedModel) -> None:
    """Write folder ``to``: the model in MLflow's own PyTorch flavour, as an exported program. No code of ours and no
    pickled object is in it, so it loads where ``MLFLOW_ALLOW_PICKLE_DESERIALIZATION`` is false, too."""
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from trainables.model_io import load_model

    shape, classes = about["architecture"]["shape"], len(about["architecture"]["classes"])
    specs = (TensorSpec(np.dtype(np.float32), (-1, *size)) for size in (shape, [classes]))
    inputs, outputs = (Schema([spec]) for spec in specs)
    mlflow.pytorch.save_model(
        load_model(bundle),
        str(to),
        serialization_format="pt2",
        mlflow_model=Model(
            logged.artifact_location, logged.source_run_id, model_uuid=logged.model_id, model_id=logged.model_id
        ),
        signature=ModelSignature(inputs, outputs),
        input_example=np.zeros((2, *shape), np.float32),  # of one image MLflow would fix the batch size
        pip_requirements=[f"torch=={about['torch'].split('+')[0]}", "numpy"],
        extra_files=[str(bundle / name) for name in ("README.md", "model.json", "model.safetensors")],
    )
    saved = Model.load(str(to))
    saved.flavors["python_function"]["config"]["device"] = "cpu"  # a program stays on the device it was exported on
    saved.save(str(to / "MLmodel"))


def register(bundle: Path, about: dict[str, Any], run: SearchRun, model: str, alias: str) -> dict[str, str]:
    """Register an exported folder as a new version of ``model``, to which ``alias`` then points.

    ``bundle``: the folder; ``about``: its description (trial, torch version, architecture). Returns the version's
    {"name", "version", "alias", "model_id"}. ``Failed`` if MLflow does not have the trial or cannot be reached.
    """
    with _client(run.home) as client:
        import mlflow.exceptions
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

        tags = {"tuner.search": run.name, "tuner.trial": str(about["trial"])}
        if about["offsets"]["tau"]:
            tags["tuner.offsets"] = f"{about['offsets']['kind']}:{about['offsets']['tau']:g}"
        logged = _log_model(client, bundle, about, run, f"{model}-{alias}", tags)
        try:
            client.create_registered_model(model)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        where, made_by, model_id = logged.artifact_location, logged.source_run_id, logged.model_id
        version = client.create_model_version(model, where, made_by, tags=tags, model_id=model_id).version
        client.set_registered_model_alias(model, alias, version)
        client.set_logged_model_tags(
            model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": model, "version": str(version)}])}
        )
    return {"name": model, "version": str(version), "alias": alias, "model_id": model_id}


def _log_model(
    client: MlflowClient, bundle: Path, about: dict[str, Any], run: SearchRun, name: str, tags: dict[str, str]
) -> LoggedModel:
    """The exported folder as a logged model of MLflow, an output of its trial's run, with its metrics on val."""
    import tempfile

    from mlflow.entities import LoggedModelOutput, Metric

    _, run_ids = _run_ids(client, run)
    trial_run = _trial_run(run_ids, about["trial"], run)
    experiment, step = client.get_run(trial_run).info.experiment_id, about["epochs"]
    allowed = re.sub(r"[/:.%\"']", "_", name)
    params = {key: str(value) for key, value in about["params"].items()}
    logged = client.create_logged_model(experiment, allowed, trial_run, tags, params, "classifier")
    try:
        with tempfile.TemporaryDirectory() as aside, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's advice about type hints and examples
            _save_for_mlflow(bundle, about, Path(aside, "model"), logged)
            client.log_model_artifacts(logged.model_id, f"{aside}/model")
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.log_outputs(trial_run, [LoggedModelOutput(logged.model_id, step)])
    now, tau = milliseconds(time.time()), about["offsets"]["tau"]
    split = f"val-tau-{tau:g}" if tau else "val"
    metrics = [
        Metric(metric_name(f"{split}/{key}"), float(value), now, step, model_id=logged.model_id)
        for key, value in about["metrics"][0].items()
        if "acc" in key and value is not None
    ]
    client.log_batch(trial_run, metrics)
    return client.finalize_logged_model(logged.model_id, "READY")
