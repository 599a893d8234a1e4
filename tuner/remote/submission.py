"""Run a search as a job of a Ray cluster: check, pack, submit, follow and stop it.

A job is one folder: ``job.json`` (what to run, with which versions), the spec, and the three packages with the plug-ins
that are installed here, unless the cluster's image has them. Neither data nor secrets are sent: a job only names the
secret environment variables that it needs, and their values come from the cluster's own environment.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search_spaces.plug_ins import source_roots
from trainables.reading import intact, parse_json
from trainables.urls import secret_in
from tuner.errors import ClusterError, UsageError
from tuner.escape import to_stderr
from tuner.execution.ray_instance import GROWS
from tuner.execution.resources import unsatisfiable_resources
from tuner.files import CHECKOUT, DISTRIBUTION
from tuner.home import check_name, owner_name
from tuner.remote.dashboard import ENDED, INTERRUPTED, OUR_KEY, OWNER_KEY, PRIORITY_KEY, Dashboard
from tuner.results.listener import LISTENERS
from tuner.spec.plug_ins import TABLES
from tuner.spec.search_spec import EXPORT, SearchSpec
from tuner.sync.named_places import SENT_WITH

PACKAGES = ("search_spaces", "trainables", "tuner")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
UPLOAD_LIMIT = 100 * 2**20  # bytes that Ray's dashboard takes, zipped (its documentation says more: ray#55877)
STOP_WAIT_S = 180  # from SIGTERM to SIGKILL; Ray's default, 3 s, is too short for a driver to write its result
POLL_S = 0.5
START_S = 20  # how long a starting cluster may take to report its first node
AWAY_S = 60  # how long a follower keeps asking a cluster that does not answer
RESULT = "tuner-result: "  # the line with what `search --json` would print, a result or {"error": ...}
# A job's shell is started by Ray's supervisor of jobs, a worker of the raylet, whose arguments name the interpreter
# that Ray itself runs in. That need not be on the head's PATH.
ENTRYPOINT = (
    'raylet=$(sed -n "s/^PPid:[[:space:]]*//p" /proc/$PPID/status 2>/dev/null); '
    'python=$(tr "\\0" "\\n" 2>/dev/null </proc/${raylet:-none}/cmdline '
    '| sed -n "s/^--python_worker_command=\\([^ ]*\\) .*/\\1/p"); '
    'exec "${TUNER_PYTHON:-${python:-python}}" -m tuner.job'
)
TRIAL = re.compile(r"(?<!^export):(\d+|no_search)$")  # of SEARCH:TRIAL, in ``init``
_RAY_LINE = re.compile(r"Running entrypoint for job|\S+ \S+\tINFO job_manager|\S+ \S+ INFO job_manager")
# The variables whose values a job may carry, where everyone on the cluster reads them; a URL without a sign-in.
OPEN_VARIABLES = (
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "CUBLAS_WORKSPACE_CONFIG"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES", "HTTP_PROXY", "HTTPS_PROXY", "LANG", "LC_ALL", "MKL_NUM_THREADS"),
    *("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_TRACKING_URI", "NCCL_DEBUG"),
    *("NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SOCKET_IFNAME", "NO_PROXY", "NUMEXPR_NUM_THREADS"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONUNBUFFERED", "PYTORCH_ALLOC_CONF"),
    *("PYTORCH_CUDA_ALLOC_CONF", "TUNER_DEBUG", "TUNER_HOME", "TUNER_PYTHON", "TUNER_STORAGE", "TZ"),
)


def submit_search(
    cluster: Dashboard, spec: SearchSpec, home: str | None = None, env: Sequence[str] = (), package: str = "send"
) -> str:
    """Check a search and send it; returns the job's id.

    ``UsageError`` for a spec that would mean something else on the cluster; ``ClusterError`` where the cluster lacks
    resources, has other versions or does not take the job. The other arguments are those of `submit`.
    """
    check_fits(cluster, spec)
    check_travels(spec)
    spec = replace(spec, owner=spec.owned_by)  # on the cluster the user is another
    job = {"command": "search", "search": spec.search_name, "home": cluster_home(home)}
    return submit(cluster, job, env, package, spec)


def submit_resume(
    cluster: Dashboard,
    search: str,
    home: str | None = None,
    said: Mapping[str, str | None] | None = None,
    changes: Mapping[str, Any] | None = None,
    env: Sequence[str] = (),
    package: str = "send",
) -> str:
    """Send a job that goes on with a search in the cluster's ``home`` or in a storage; returns the job's id.

    ``said``: the places that are named again (``storage``, ``dataset``, ``study_storage``), which the job names in its
    turn. ``changes``: how the search goes on, by the names of its fields, such as ``trials``. The other arguments are
    those of `submit`. Errors as in `submit_search`.
    """
    return submit(cluster, resume_job(search, home, said, changes), env, package)


def resume_job(
    search: str,
    home: str | None = None,
    said: Mapping[str, str | None] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The job of `submit_resume`, checked without a cluster."""
    check_name(search)
    places, changes = dict(said or {}), dict(changes or {})
    check_travels(SearchSpec(**{field: value for field, value in places.items() if value is not None}))
    SearchSpec(**changes, gpus_per_trial=1)  # says what is wrong with them; whether it has GPUs is known there alone
    return {"command": "resume", "search": search, "home": cluster_home(home), **places, "changes": changes}


def submit(
    cluster: Dashboard,
    job: dict[str, Any],
    env: Sequence[str] = (),
    package: str = "send",
    spec: SearchSpec | None = None,
) -> str:
    """Send a ``job`` for ``tuner.job``; returns its id.

    ``env``: NAME (must be set on the cluster) or NAME=VALUE (readable by everyone there). ``package``: "send" our code
    along or use that of the cluster's "image". ``spec``: of a search that begins.
    """
    check_versions(cluster)
    names, values = parse_env(env)
    if package not in ("send", "image"):
        raise UsageError(f"--package {package!r} is not allowed; choose one of: image, send")
    job_id = f"{job['search']}-{uuid.uuid4().hex[:6]}"
    job = {**job, "env": names, "versions": ours()}
    with tempfile.TemporaryDirectory(prefix="tuner-submit-") as folder:
        pack(Path(folder), job, spec.to_yaml() if spec else "", package)
        again = ["--address", cluster.address, *(["--package", package] if package != "send" else [])]
        again += [part for item in env for part in ("--env", item)]
        values = {**values, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), SENT_WITH: shlex.join(again)}
        if cluster.may_grow():
            values[GROWS] = "1"
        whose = {OWNER_KEY: spec.owned_by, PRIORITY_KEY: spec.priority} if spec else {OWNER_KEY: owner_name()}
        return _send(cluster, job_id, {OUR_KEY: job["search"], **whose}, folder, values)


def _send(cluster: Dashboard, job_id: str, about: dict[str, str], folder: str, values: dict[str, str]) -> str:
    # without this, Ray's client omits a token that is needed or insists on one that is not; read when ray is imported
    os.environ["RAY_AUTH_MODE"] = "token" if cluster.headers else "disabled"
    logging.getLogger("ray").setLevel(logging.ERROR)
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging", "ray.job_submission"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(cluster.address, headers=dict(cluster.headers))
        return client.submit_job(
            entrypoint=ENTRYPOINT,
            submission_id=job_id,
            metadata=about,
            runtime_env={"working_dir": folder, "env_vars": values},
        )
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError(
            f"the cluster at {cluster.address} did not take the job: {' '.join(str(error).split())[:300]}"
        ) from None


# ---- checks before anything is sent ------------------------------------------------------------------------------


def ours() -> dict[str, str]:
    return {"ray": version("ray"), "python": platform.python_version(), "tuner": version(DISTRIBUTION)}


def check_versions(cluster: Dashboard) -> None:
    """``ClusterError`` unless the cluster has our minor versions of Ray and Python."""
    theirs, here = cluster.versions(), ours()
    for what in ("ray", "python"):
        if theirs[what].split(".")[:2] != here[what].split(".")[:2]:
            raise ClusterError(
                f"this machine has {what} {here[what]} and the cluster at {cluster.address} {theirs[what]}; submit "
                f"from an environment with {what} {'.'.join(theirs[what].split('.')[:2])}, or upgrade the cluster"
            )


def check_fits(cluster: Dashboard, spec: SearchSpec) -> None:
    """``ClusterError`` if a trial needs more than any node has, unless an autoscaler may add such a node.

    Otherwise the trial would wait for ever.
    """
    deadline = time.monotonic() + START_S
    # a head node that starts answers before it is in its own list of nodes
    while not (rows := cluster.nodes()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if not rows:
        raise ClusterError(f"the cluster at {cluster.address} has no living node; look at `ray status` on its head")
    wrong = unsatisfiable_resources(spec, [node["resources_total"] for node in rows])
    if wrong and not cluster.may_grow():
        raise ClusterError(f"{cluster.address}: {wrong}", 2)


def check_travels(spec: SearchSpec) -> None:
    """``UsageError`` for a path that may mean something else on another node."""
    weights = "" if spec.init == "none" or TRIAL.search(spec.init) else spec.init.removeprefix(EXPORT)
    study = (spec.study_storage or "").partition("sqlite:///")[2]
    paths = {field: getattr(spec, field).partition(":")[2] for field in ("dataset", "extra_data")}
    for field, path in {**paths, "init": weights, "study_storage": study}.items():
        if path and not path.startswith("/") and "://" not in path:
            raise UsageError(
                f"--{field.replace('_', '-')} {getattr(spec, field)!r} is a relative path; files are never sent, so "
                "give the absolute path, or of data a URL, under which every node of the cluster sees it"
            )
    check_storage_travels(spec.storage)


def check_storage_travels(storage: str | None) -> None:
    """``UsageError`` for a storage that is a relative path, is not supported or contains a password."""
    if not storage:
        return
    from trainables.storage import absolute_storage

    if "://" not in storage and not storage.startswith(("/", "~")):
        raise UsageError(
            f"--storage {storage!r} is relative; on a cluster it is a URL, or an absolute path that every node sees"
        )
    try:
        absolute_storage(storage)
    except ValueError as error:
        raise UsageError(f"--storage: {error}") from None


def cluster_home(home: str | None) -> str | None:
    """``--home`` for a cluster, as given; ``UsageError`` for a relative path. ``~`` is the cluster's home folder."""
    if home is not None and not str(home).startswith(("/", "~")):
        raise UsageError(f"--home {str(home)!r} is relative; on a cluster it is an absolute path that every node sees")
    return None if home is None else str(home)


def parse_env(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """``--env`` as (names that must be set on the cluster, name -> value that everyone there may read).

    ``UsageError`` for what is no variable's name, and for a value of a variable that is none of ``OPEN_VARIABLES``.
    """
    names, values = [], {}
    for item in given:
        name, equals, value = item.partition("=")
        shown = f"{name}=..." if equals else name
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(
                f"--env {shown!r} is not allowed; give a variable's NAME, or NAME=VALUE for one that is no secret"
            )
        if not equals:
            names.append(name)
        elif name not in OPEN_VARIABLES or _sign_in(value):
            raise UsageError(
                f"--env {shown} is not allowed, since everyone on the cluster can read a job's environment; set "
                f"{name} where Ray starts (container secret, service file) and give --env {name}; by value go "
                f"{', '.join(OPEN_VARIABLES)}, without a sign-in"
            )
        else:
            values[name] = value
    return names, values


def _sign_in(value: str) -> bool:
    """Whether a value may hold a password: a URL, also without its scheme, as proxies are written."""
    return bool(secret_in(value)) if "://" in value else "@" in value


def pack(folder: Path, job: dict[str, Any], spec: str, package: str) -> None:
    """Fill the folder of a job; ``ClusterError`` if it is larger than Ray accepts."""
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "spec.yaml").write_text(spec)
    if package == "send":
        for name in PACKAGES:
            shutil.copytree(CHECKOUT / name, folder / name, ignore=LEFT_OUT)
        pack_plug_ins(folder)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if size > UPLOAD_LIMIT:
        raise ClusterError(
            f"the package is {size / 2**20:.0f} MiB and Ray takes {UPLOAD_LIMIT // 2**20} MiB; is there data in the "
            "package folders? install the package in the cluster's image and give --package image"
        )


def pack_plug_ins(folder: Path) -> None:
    """Put the packages with methods, data sets, models and listeners that are installed here beside ours: their
    modules, and the metadata by which they are found there. All of them: a job that resumes a search does not know
    which it uses."""
    for plug_in in (found for table in (*TABLES.values(), LISTENERS) for found in table.plug_ins.values()):
        info = folder / f"{plug_in.package.replace('-', '_')}-{plug_in.version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {plug_in.package}\nVersion: {plug_in.version}\n")
        entries = info / "entry_points.txt"
        known = entries.read_text() if entries.exists() else ""
        entries.write_text(f"{known}[{plug_in.group}]\n{plug_in.name} = {plug_in.entry}\n")
        for root in (root for module in plug_in.modules for root in source_roots(module)):
            if root.is_dir():
                shutil.copytree(root, folder / root.name, ignore=LEFT_OUT, dirs_exist_ok=True)
            else:
                shutil.copy(root, folder)


# ---- a job that runs ---------------------------------------------------------------------------------------------


def follow(cluster: Dashboard, job_id: str, show: bool = True) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Print a job's lines to stderr until it has ended, by its status; returns (its `job_row`, its result or None).

    ``show=False`` prints nothing. ``ClusterError`` for a job that does not exist, and once the cluster has not answered
    for ``AWAY_S`` seconds; the job itself may go on.
    """
    stream, outage, row = _Stream(show), _Outage(cluster, job_id, show), None
    while True:
        try:
            row = cluster.job(job_id)
            stream.write(cluster.logs(job_id) if row["state"] != "pending" else "", done=row["state"] in ENDED)
            outage.over()
        except ClusterError as error:  # the dashboard is busy or restarting, the network is cut, the head is lost
            if row is None and error.exit_code == 2:  # there is no such job
                raise
            outage.note(error)
            row = {"state": "unknown"}
        if row["state"] in ENDED:
            if show and not stream.text and row["message"]:
                to_stderr(row["message"])
            return row, stream.result
        # each answer contains the whole log, so a long one is asked for less often
        time.sleep(max(POLL_S, len(stream.text) / 4e6))


class _Outage:
    """The time for which a cluster has not answered a follower."""

    def __init__(self, cluster: Dashboard, job_id: str, show: bool) -> None:
        self._command = f"tuner logs {job_id} -f --address {cluster.address}"
        self._show = show
        self._since: float | None = None  # ``time.monotonic()`` of the first request without an answer

    def over(self) -> None:
        self._since = None

    def note(self, error: ClusterError) -> None:
        """``ClusterError`` if the outage has lasted for more than ``AWAY_S`` seconds."""
        if self._since is None:
            self._since = time.monotonic()
            if self._show:
                to_stderr(f"{error}; asking again for {AWAY_S} s")
        if time.monotonic() - self._since > AWAY_S:
            raise ClusterError(
                f"{error}; the job may go on: `{self._command}` follows it again", error.exit_code
            ) from None


class _Stream:
    """Prints the new part of a growing log, complete lines only, and keeps the line with the result."""

    def __init__(self, show: bool) -> None:
        self.text, self.result = "", None
        self._show, self._printed = show, 0

    def write(self, text: str, done: bool) -> None:
        self.text = text or self.text
        end = len(self.text) if done else self.text.rfind("\n") + 1
        for line in self.text[self._printed : end].splitlines():
            if line.startswith(RESULT):
                result = intact(lambda: parse_json(line[len(RESULT) :]))
                self.result = result if isinstance(result, (dict, list)) else None  # of a search, or doctor's rows
            elif self._show and not _RAY_LINE.match(line):
                to_stderr(line)
        self._printed = max(self._printed, end)


def plain_log(text: str) -> str:
    """A job's log without Ray's own lines and the line with the result."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith(RESULT) and not _RAY_LINE.match(line)
    )


def stop(
    cluster: Dashboard, job_id: str, wait_s: float = STOP_WAIT_S + 30, owner: str | None = None
) -> tuple[dict[str, Any], bool]:
    """Send SIGTERM to the job's driver, which keeps finished work, and wait for its end. ``owner``: whose job it is,
    where it is not the user's own.

    Returns (the job's `job_row`, whether it was still running). ``UsageError`` for a job of another owner;
    ``ClusterError`` if it has not ended within ``wait_s``.
    """
    row, mine = cluster.job(job_id), owner or owner_name()
    if row["state"] in ENDED:
        return row, False
    if row["owner"] not in (None, mine):  # earlier versions did not say whose it is
        raise UsageError(
            f"job {job_id!r} is {row['owner']}'s, not {mine}'s; if it is to be stopped: tuner stop {job_id} --owner "
            f"{shlex.quote(row['owner'])}"
        )
    cluster.stop(job_id)
    deadline = time.monotonic() + wait_s
    while row["state"] not in ENDED:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {job_id!r} was told to stop {wait_s:.0f} s ago and is still {row['state']}; see `tuner logs "
                f"{job_id}`"
            )
        time.sleep(POLL_S)
        row = cluster.job(job_id)
    return row, True


def go_on_command(cluster: Dashboard, row: dict[str, Any]) -> str:
    """What goes on with a job that has ended: as its driver said it, which knows home and storage."""
    said = re.findall(r"^go on +(tuner resume .*)$", cluster.logs(row["id"]), re.MULTILINE)
    words = intact(lambda: shlex.split(said[-1])) or []
    if words[2:3] == [row["search"]] and shlex.join(words) == said[-1]:  # whatever else a log may hold, to be typed
        return said[-1]
    return f"tuner resume {row['search']} --address {cluster.address}"


def exit_code(row: dict[str, Any]) -> int:
    """The exit code of an ended job: that of its driver, 130 for a stopped one, 1 for one that was killed."""
    if row["state"] == "stopped":
        return INTERRUPTED
    return row["exit_code"] if row["exit_code"] in (0, 2) else 1
