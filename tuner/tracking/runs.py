"""How a search looks in MLflow: experiment, runs, tags, names and the saved chart view.

These functions work on a client that is handed in; only `watch_machine` imports MLflow itself.
"""

from __future__ import annotations

import base64
import fcntl
import getpass
import json
import os
import re
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tuner.files import write_atomically
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec

VIEW_TAG = "mlflow.sharedViewState."
# The saved view is no public API of MLflow: it is written only for the versions whose pages were looked at.
VIEW_VERSIONS = ((3, 15), (3, 18))


def tracking_uri(home: Home) -> str:
    """Where runs go: ``MLFLOW_TRACKING_URI``, else a database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.mlflow_db}"


def without_secrets(text: str) -> str:
    """The text without a password in an address and without the values of MLflow's secret variables."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return re.sub(r"//[^/@\s]+@", "//***@", text)


REFUSED_VALUES = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")  # trying again cannot help
REFUSES = "refuses the user or password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN)"


def is_refusal(error: Exception) -> bool:
    """Is this MLflow's answer to a wrong user, password or token? Trying again with the same one does not help."""
    return any(f"error code {code}" in str(error) for code in (401, 403))


def quiet() -> None:
    """Before MLflow is imported: short waits for a server that is away, nothing on our stdout, nothing sent home."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)


def metric_name(name: str) -> str:
    """A name that MLflow takes; one that had to be changed carries a checksum, so no two classes share one."""
    clean = "/".join(re.sub(r"[^\w.\- ]", "_", part).strip(" .") or "_" for part in name.split("/"))[:200]
    return name if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"


@dataclass
class Changes:
    """What is still to be written to one run. Later messages are merged into earlier ones."""

    name: str = ""
    started: float = 0.0
    params: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # key, value, ms, step
    status: str = ""
    ended: float = 0.0
    files: list[Path] = field(default_factory=list)

    def add(self, new: Changes) -> None:
        self.params.update(new.params)
        self.tags.update(new.tags)
        self.metrics += new.metrics
        self.files += new.files
        self.name, self.started = new.name or self.name, new.started or self.started
        if new.status:
            self.status, self.ended = new.status, new.ended


def make_store(home: Home, client_of) -> None:
    """The home's own database, made once and whole.

    MLflow's first connection migrates for seconds; two at once, or one that is killed, leave a database that no MLflow
    can open. So it is made under a lock, beside its place, and then renamed.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with open(home.root / ".mlflow.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home.mlflow_db.exists():
            return
        aside = home.root / ".mlflow.db.new"
        aside.unlink(missing_ok=True)
        client_of(f"sqlite:///{aside}").search_experiments(max_results=1)
        os.replace(aside, home.mlflow_db)


def search_key(folder: Path) -> str:
    """What ties a search folder to its runs, written before the first run exists: a killed driver leaves no orphan."""
    path = folder / "mlflow.key"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex)
    return path.read_text().strip()


def experiment_id(client, name: str, artifacts: str | None) -> str:
    """The experiment, made if it is missing; several searches may ask at the same time."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except Exception:
            found = client.get_experiment_by_name(name)  # another search was quicker
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def parent_run(client, experiment: str, spec: SearchSpec, name: str, key: str, started: float) -> str:
    """The search's run: the one that carries its key, or a new one."""
    found = client.search_runs([experiment], f"tags.`tuner.key` = '{key}'", max_results=1)
    if found:
        return found[0].info.run_id
    tags = {
        "tuner.key": key,
        "tuner.kind": "search",
        "tuner.search": name,
        "tuner.method": spec.method_names,
        "tuner.spec": spec.to_yaml(),
        **_origin(),
    }
    return client.create_run(experiment, _ms(started), tags, run_name=name).info.run_id


def parent_changes(spec: SearchSpec) -> Changes:
    shown = ("method", "dataset", "imbalance", "model", "trials", "max_epochs", "seed", "sampler")
    params = {
        **{n: getattr(spec, n) for n in shown},
        "method": spec.method_names,
        "objectives": ", ".join(spec.objectives),
    }
    return Changes(params={**params, **asdict(spec.training())}, status="RUNNING")


def trial_run(client, experiment: str, parent: str, changes: Changes) -> str:
    tags = {**changes.tags, **_origin(), "mlflow.parentRunId": parent}
    return client.create_run(experiment, _ms(changes.started or time.time()), tags, run_name=changes.name).info.run_id


def trial_runs(client, experiment: str, parent: str) -> dict[int, str]:
    """Trial number to run, of the trials that MLflow has already."""
    runs, token = {}, None
    while True:
        page = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token)
        runs.update({int(r.data.tags["tuner.trial"]): r.info.run_id for r in page if "tuner.trial" in r.data.tags})
        token = page.token
        if not token:
            return runs


def _origin() -> dict[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without an entry in passwd
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "tuner", "mlflow.source.type": "LOCAL"}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def save_view(client, experiment: str, parent: str, spec: SearchSpec, name: str, version: str) -> None:
    """A named view of the search's trials: objectives and searched parameters first, scatter, parallel coordinates."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if not VIEW_VERSIONS[0] <= numbers < VIEW_VERSIONS[1]:
        raise RuntimeError(f"MLflow {version} is not one of the versions whose saved views are known (3.15 to 3.17)")
    text = json.dumps(_view_state(parent, spec), separators=(",", ":"))
    now = int(time.time() * 1000)
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode())).decode()
    view = {"name": f"{name}: objectives", "createdAt": now, "updatedAt": now, "state": packed}
    client.set_experiment_tag(experiment, VIEW_TAG + parent, json.dumps(view, separators=(",", ":")))


def _view_state(parent: str, spec: SearchSpec) -> dict:
    space = spec.shown_space()
    searched = list(space.searched)
    always = [n for n in searched if not space.params[n].when]  # a run without a value would empty parallel coordinates
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
    columns = [f"metrics.`{n}`" for n in dict.fromkeys([*spec.objectives, "clean_acc"])]
    columns += ["tags.`tuner.pareto`", "tags.`tuner.budget`", *(f"params.`{n}`" for n in searched)]
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
        "isAccordionReordered": True,  # else MLflow sorts: by letter, its own charts first
        "compareRunCharts": [{"metricSectionId": section, "deleted": False, "isGenerated": False, **c} for c in charts],
        "compareRunSections": [
            {"uuid": section, "name": "Search", "display": True, "isReordered": True, "columns": 2, "cardHeight": 420}
        ],
    }


def links(address: str, experiment: str, parent: str, view: bool) -> dict[str, str]:
    """Pages of MLflow at ``address``: the search's trials as a table and as charts, and the search's own page."""
    base = f"{address.rstrip('/')}/#/experiments/{experiment}/runs"
    key = f"&viewStateShareKey={parent}" if view else ""
    return {
        "trials": f"{base}?workflowType=machine_learning{key}",
        "charts": f"{base}?workflowType=machine_learning&compareRunsMode=CHART{key}",
        "search": f"{base}/{parent}?workflowType=machine_learning",
        "picture": f"{base}/{parent}/artifacts/front.html?workflowType=machine_learning",
    }


def watch_machine(run: str, uri: str, warn: Callable[[str], None] | None) -> None:
    """Load of the driver's machine on a search's run, by MLflow's own monitor and where its own switch
    (``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING``) asks for it. The monitor ends with the run. No ``warn``: nothing runs."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as switch

    if warn is None or not switch.get():
        return
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri).start()
    except Exception as error:  # psutil is not installed, or MLflow is away: a search needs neither
        warn(f"no system metrics in MLflow: {without_secrets(str(error))[:300]}")
