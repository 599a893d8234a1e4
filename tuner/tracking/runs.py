"""The layout of a search in MLflow: experiment, runs, tags, names and the saved chart view.

These functions use a client that the caller passes; only `log_system_metrics` imports MLflow.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import time
import urllib.parse
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.files import locked
from trainables.reading import intact, read_text
from trainables.urls import masked
from tuner import escape
from tuner.files import write_atomically
from tuner.home import Home, user_name
from tuner.spec.objectives import shown_metrics
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_FILE = "mlflow.key"
VIEW_TAG = "mlflow.sharedViewState."
# Saved views are not a public API of MLflow: they are written only for versions whose pages were checked by hand.
VIEW_VERSIONS = ((3, 15), (3, 19))  # from the first up to, but not including, the second


def tracking_uri(home: Home) -> str:
    """Where runs are stored: ``MLFLOW_TRACKING_URI``, else a database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(home.mlflow_db)


def database_uri(path: Path) -> str:
    """The URI of an SQLite file, whatever characters its path has.

    MLflow makes the folder that a URI of the form sqlite:///PATH names, without decoding it: beside a home with a % it
    would make another. Of the other form it does not.
    """
    if not set("%?") & set(str(path)):
        return f"sqlite:///{path}"
    return f"sqlite+pysqlite:///{urllib.parse.quote(str(path))}"


PERMANENT_ERRORS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")  # retrying cannot help
LOGIN_REFUSED = (
    "refuses the user or password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN)"
)


def refusal(error: Exception) -> str | None:
    """If MLflow's server refuses what it is asked, so that retrying cannot help: its refusal in words, without secrets.

    401 is its answer to a wrong user, password or token. 403 has other reasons (no permission, a host name that is not
    allowed), which the server says.
    """
    text = " ".join(str(error).split())
    if "error code 401" in text:
        return LOGIN_REFUSED
    if "error code 403" not in text:
        return None
    said = re.search(r"Response body: '(.*?)'?$", text)
    return f"refuses this (403: {masked(said[1] if said and said[1] else text)[:200]})"


def configure_mlflow() -> None:
    """Set MLflow's defaults before its import: short waits for a server that does not answer, no output on stdout, no
    telemetry. What the environment sets already stays."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)


def metric_name(name: str) -> str:
    """``name`` in a form that MLflow allows. A name that had to be changed gets a checksum, so that no two collide."""
    clean = "/".join(re.sub(r"[^\w.\- ]", "_", part).strip(" .") or "_" for part in name.split("/"))[:200]
    return name if clean == name else f"{clean}-{zlib.crc32(name.encode(errors='surrogatepass')):08x}"


@dataclass
class Changes:
    """What is still to be written to one run. Times are in seconds since 1970 unless stated otherwise."""

    name: str = ""
    started: float = 0.0
    params: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # key, value, time in ms, step
    status: str = ""
    ended: float = 0.0
    files: list[Path] = field(default_factory=list)
    documents: dict[str, dict] = field(default_factory=dict)  # name of a JSON file -> its content

    def add(self, new: Changes) -> None:
        """Merge later changes into these."""
        self.params.update(new.params)
        self.tags.update(new.tags)
        self.metrics += new.metrics
        self.files += new.files
        self.documents.update(new.documents)
        self.name, self.started = new.name or self.name, new.started or self.started
        if new.status:
            self.status, self.ended = new.status, new.ended


def open_database(home: Home, client_of: Callable[[str], MlflowClient]) -> None:
    """Create MLflow's database in the home unless it exists; else its artifacts are those of the home as it is now
    called. ``client_of``: makes a client from a tracking URI.

    MLflow's first connection runs migrations for seconds; two at once, or one that is killed, leave a database that
    MLflow cannot open. So it is created under a lock and another name, and then renamed.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with locked(home.root / ".mlflow.lock"):
        if home.mlflow_db.exists():
            _follow_home(home)
            return
        aside = home.root / ".mlflow.db.new"
        aside.unlink(missing_ok=True)
        client_of(database_uri(aside)).search_experiments(max_results=1)
        os.replace(aside, home.mlflow_db)


# Tables and columns in which MLflow keeps where artifacts are.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def _follow_home(home: Home) -> None:
    """Where the home was moved, renamed or copied: MLflow keeps absolute places, so they are rewritten.

    Those of our searches' experiments alone, and what lies below them.
    """
    now = home.artifacts.as_uri()
    ours = (
        "SELECT DISTINCT e.artifact_location FROM experiments e JOIN runs r ON r.experiment_id = e.experiment_id "
        "JOIN tags t ON t.run_uuid = r.run_uuid WHERE t.key = 'tuner.key' AND e.artifact_location != ? "
        "AND e.artifact_location LIKE 'file://%/artifacts'"
    )
    with closing(sqlite3.connect(home.mlflow_db)) as database, database:
        for (before,) in database.execute(ours, [now]).fetchall():
            for table, column in _PLACES:
                if column in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        [now, len(before) + 1, before, len(before) + 1, f"{before}/"],
                    )


def search_key(folder: Path) -> str:
    """The key by which a search folder finds its runs. It is written before the first run exists, so that a killed
    driver leaves no run without a search. It stands in a filter of MLflow's, so another text there counts as none."""
    if (key := known_key(folder)) is None:
        key = uuid.uuid4().hex
        write_atomically(folder / KEY_FILE, key)
    return key


def known_key(folder: Path) -> str | None:
    """The same where there is one."""
    key = intact(lambda: read_text(folder / KEY_FILE).strip()) or ""
    return key if re.fullmatch(r"[0-9a-f]{32}", key) else None


def experiment_name(spec: SearchSpec) -> str:
    return escape.mlflow(spec.experiment_name, escape.EXPERIMENT_LENGTH)


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment ``name``, created or restored if necessary. Several searches may ask at the same time.

    ``artifacts``: URI of the artifact folder of a new experiment; None: the server's default.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except Exception:
            experiment = client.get_experiment_by_name(name)  # another search may have created it just now
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def parent_run(client: MlflowClient, experiment: str, spec: SearchSpec, name: str, key: str, started: float) -> str:
    """The id of the search's run: the one that carries ``key``, or a new one, ``started`` in seconds since 1970."""
    found = client.search_runs([experiment], f"tags.`tuner.key` = '{key}'", max_results=1)
    if found:
        return found[0].info.run_id
    tags = {
        "tuner.key": key,
        "tuner.kind": "search",
        "tuner.search": name,
        "tuner.method": spec.method_names,
        "tuner.spec": escape.mlflow(spec.to_stored()),
        **_origin(),
    }
    return client.create_run(experiment, milliseconds(started), tags, run_name=name).info.run_id


def parent_changes(spec: SearchSpec, extended: bool = False) -> Changes:
    """The parameters of the search's run, and its status while the search runs. MLflow lets none be changed: the number
    of trials of a search that was ``extended`` is a tag."""
    counts = [*([] if extended else ["trials"]), *(["stems"] if spec.stems > 1 else [])]
    shown = ("method", "dataset", "imbalance", "model", *counts, "max_epochs", "seed", "sampler")
    params = {
        **{n: getattr(spec, n) for n in shown},
        "method": spec.method_names,
        "objectives": ", ".join(spec.objectives),
        "threat": spec.threat_model.name,
    }
    tags = {"tuner.trials": str(spec.trials)} if extended else {}
    return Changes(params={**params, **spec.shared_training()}, tags=tags, status="RUNNING")


def trial_run(client: MlflowClient, experiment: str, parent: str, changes: Changes) -> str:
    """The id of a new run for a trial, a child of the run ``parent``."""
    own = {name: escape.mlflow(value) for name, value in changes.tags.items()}
    tags = {**own, **_origin(), "mlflow.parentRunId": parent}
    started = milliseconds(changes.started or time.time())
    return client.create_run(experiment, started, tags, run_name=changes.name).info.run_id


def trial_runs(client: MlflowClient, experiment: str, parent: str) -> dict[int, str]:
    """Trial number -> run id, of the trials that MLflow already has."""
    children = tagged_runs(client, experiment, "mlflow.parentRunId", parent)
    return {int(r.data.tags["tuner.trial"]): r.info.run_id for r in children if "tuner.trial" in r.data.tags}


def tagged_runs(client: MlflowClient, experiment: str, tag: str, value: str, view: int = 1) -> Iterator[Run]:
    """The runs of an experiment that carry a tag, page by page. ``view``: as `mlflow.entities.ViewType` has it, by
    default (1) those that are not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", view, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _origin() -> dict[str, str]:
    return {"mlflow.user": user_name(), "mlflow.source.name": "tuner", "mlflow.source.type": "LOCAL"}


def milliseconds(seconds: float) -> int:
    """A time as MLflow counts it."""
    return int(seconds * 1000)


def save_view(client: MlflowClient, experiment: str, parent: str, spec: SearchSpec, name: str, version: str) -> None:
    """Save a named view of the search's trials in MLflow: a table with objectives and searched parameters first, a
    scatter plot, parallel coordinates and learning curves.

    ``version``: MLflow's; ``RuntimeError`` if the format of its views is not known.
    """
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if not VIEW_VERSIONS[0] <= numbers < VIEW_VERSIONS[1]:
        raise RuntimeError(f"MLflow {version} is not one of the versions whose saved views are known (3.15 to 3.18)")
    text = json.dumps(_view_state(parent, spec), separators=(",", ":"))
    now = int(time.time() * 1000)
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode())).decode()
    view = {"name": f"{name}: objectives", "createdAt": now, "updatedAt": now, "state": packed}
    client.set_experiment_tag(experiment, VIEW_TAG + parent, json.dumps(view, separators=(",", ":")))


def _view_state(parent: str, spec: SearchSpec) -> dict:
    space = spec.shown_space()
    searched = list(space.searched)
    # a parameter that some trials lack would leave those out of the parallel coordinates
    always = [n for n in searched if not space.params[n].when]
    section = "tuner-charts"
    charts = []
    if len(spec.objectives) > 1:
        x, y = spec.objectives[:2]
        charts.append(
            {
                "type": "SCATTER",
                "uuid": "tuner-scatter",
                "runsCountToCompare": 1000,
                "xaxis": {"key": x, "type": "METRIC"},
                "yaxis": {"key": y, "type": "METRIC"},
            }
        )
    charts.append(
        {
            "type": "PARALLEL",
            "uuid": "tuner-parallel",
            "selectedParams": always,
            "showAllRuns": True,
            "selectedMetrics": list(spec.objectives),
            "runsCountToCompare": 1000,
        }
    )
    charts += [
        {
            "type": "LINE",
            "uuid": f"tuner-line-{name}",
            "metricKey": name,
            "selectedMetricKeys": [name],
            "xAxisKey": "step",
            "yAxisKey": "metric",
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "lineSmoothness": 0,
            "range": {},
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
            "runsCountToCompare": 1000,
            "yAxisExpressions": [],
            "selectedXAxisMetricKey": "",
            "ignoreOutliers": False,
        }
        for name in spec.objectives
    ]
    columns = [f"metrics.`{n}`" for n in shown_metrics(spec.objectives)]
    columns += [
        "tags.`tuner.pareto`",
        "tags.`tuner.front_points`",
        "tags.`tuner.budget`",
        *(["params.`method`"] if len(spec.methods) > 1 else []),
        *(["params.`seed`"] if spec.stems > 1 else []),
        *(f"params.`{n}`" for n in searched),
    ]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{spec.objectives[0]}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "runListHidden": False,
        "columnOrder": columns,
        "isAccordionReordered": True,  # else MLflow sorts the sections alphabetically, its own charts first
        "compareRunCharts": [{"metricSectionId": section, "deleted": False, "isGenerated": False, **c} for c in charts],
        "compareRunSections": [
            {"uuid": section, "name": "Search", "display": True, "isReordered": True, "columns": 2, "cardHeight": 420}
        ],
    }


def links(address: str, experiment: str, parent: str, view: bool) -> dict[str, str]:
    """Links to pages of MLflow at ``address``, by name: the search's trials as a table and as charts, the search's own
    page, and its picture of the front. ``parent``: the search's run; ``view``: whether it has a saved view."""
    base = f"{address.rstrip('/')}/#/experiments/{experiment}/runs"
    key = f"&viewStateShareKey={parent}" if view else ""
    return {
        "trials": f"{base}?workflowType=machine_learning{key}",
        "charts": f"{base}?workflowType=machine_learning&compareRunsMode=CHART{key}",
        "search": f"{base}/{parent}?workflowType=machine_learning",
        "picture": f"{base}/{parent}/artifacts/front.html?workflowType=machine_learning",
    }


def log_system_metrics(run: str, uri: str, warn: Callable[[str], None] | None) -> None:
    """Log the load of the driver's machine to the search's run, if ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` is set.

    MLflow's own monitor does it, and ends with the run. ``warn`` is called if it cannot start; None: do not start it.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as switch

    if warn is None or not switch.get():
        return
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri).start()
    except Exception as error:  # psutil is not installed, or MLflow does not answer: a search needs neither
        warn(f"no system metrics in MLflow: {masked(str(error))[:300]}")
