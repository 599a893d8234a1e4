"""`tuner doctor`: what works here or, with an address, on a cluster; each failure says what to do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tuner.errors import UsageError
from tuner.home import Home
from tuner.results.listener import LISTENERS
from tuner.spec.plug_ins import TABLES
from tuner.tracking.health import mlflow_problem, run_problem
from tuner.tracking.runs import tracking_uri

NEEDED = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow")
SKEW_S = 5.0  # clocks that differ by more make durations and the times in MLflow wrong
Row = dict[str, Any]


def examine(address: str | None = None, home: str | None = None, storage: str | None = None) -> list[Row]:
    """All checks, in the order in which one would fix what fails: rows {"check", "ok", "detail"}."""
    if address or os.environ.get("RAY_API_SERVER_ADDRESS"):
        return [_versions(), _plug_ins(), *_cluster(address, home, storage)]
    here = Home(home, storage)
    rows = [_versions(), _plug_ins(), _home(here), *_storage(here), _mlflow(here)]
    if not os.environ.get("RAY_ADDRESS"):
        return [*rows, _row("ray", True, "no RAY_ADDRESS: a search starts its own Ray on this machine"), _gpus_here()]
    try:
        return [*rows, *_nodes(here)]
    except Exception as error:
        return [
            *rows,
            _row(
                "ray",
                False,
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} does not answer ({_first_line(error)}); "
                "unset it, or run on the head node with RAY_ADDRESS=auto (and RAY_AUTH_MODE=token where the cluster "
                "has a token)",
            ),
        ]


def _cluster(address: str | None, home: str | None, storage: str | None) -> list[Row]:
    from tuner.errors import ClusterError
    from tuner.remote.dashboard import Dashboard
    from tuner.remote.submission import check_storage_travels, check_versions, cluster_home, follow, submit

    rows: list[Row] = []
    remote_home = cluster_home(home)
    check_storage_travels(storage)
    try:
        cluster = Dashboard(address)
        begin = time.monotonic()
        theirs = cluster.versions()
        detail = f"{cluster.address} answers in {1000 * (time.monotonic() - begin):.0f} ms"
        rows.append(
            _row(
                "ray",
                True,
                f"{detail}, {'with a token' if cluster.headers else 'open: anyone who reaches it can run code'}",
            )
        )
        rows.append(_resources(cluster.nodes()))
        check_versions(cluster)
        rows.append(_row("versions on the cluster", True, f"ray {theirs['ray']}, python {theirs['python']}"))
        job = submit(cluster, {"command": "doctor", "search": "doctor", "home": remote_home, "storage": storage})
        ended, result = follow(cluster, job, show=False)
        if ended["state"] != "finished" or not isinstance(result, list):
            raise ClusterError(f"the test job ended {ended['state']}: {_last_error(cluster.logs(job))}")
        rows.append(_row("jobs", True, f"a job ran in {ended['ended'] - ended['started']:.0f} s"))
        return rows + result
    except ClusterError as error:
        passed = [row["check"] for row in rows]
        failed = next(check for check in ("ray", "versions on the cluster", "jobs") if check not in passed)
        return [*rows, _row(failed, False, str(error))]


def on_cluster(home: Home) -> list[Row]:
    """The checks of the driver's machine and of every node; runs on the cluster."""
    rows = [_home(home), *_storage(home), _mlflow(home)]
    return rows + _nodes(home) if all(row["ok"] for row in rows if row["check"] != "mlflow") else rows


def _nodes(home: Home) -> list[Row]:
    """The checks that every node makes: storage, MLflow, clock."""
    from tuner.execution import nodes

    uri, place = os.environ.get("MLFLOW_TRACKING_URI"), home.place(_absolute(home.storage))
    answers = nodes.survey(place, uri)
    silent = [f"{row['node']}: {row['error']}" for row in answers if "error" in row]
    help_silent = f"{'; '.join(silent)[:300]}; look at that node's `ray status` and its disk and memory"
    blind = nodes.place_problem(answers, place)
    return [
        _row("nodes", not silent, help_silent if silent else f"{len(answers)} answer"),
        _row("storage from workers", not blind, blind or f"all {len(answers)} nodes write {place}"),
        _mlflow_from(answers, uri),
        _clocks(),
    ]


def _mlflow_from(answers: list[dict[str, Any]], uri: str | None) -> Row:
    """Whether the nodes that answered reach MLflow."""
    answered = [row for row in answers if "answer" in row]
    cut = {row["node"]: row["answer"]["mlflow"] for row in answered if row["answer"]["mlflow"]}
    if cut:
        detail = (
            f"{', '.join(sorted(cut)[:5])}: {next(iter(cut.values()))}; open the way from there, or name an address "
            "that nodes can reach"
        )
    elif uri:
        detail = f"{len(answered)} nodes reach it"
    else:
        detail = "only the driver writes to the database in the home"
    return _row("mlflow from workers", not cut, detail)


def _clocks() -> Row:
    """Whether the nodes' clocks agree with ours. The processes have answered before, so they answer without delay.

    A clock is certainly off only by what lies outside the time between question and answer.
    """
    from tuner.execution import nodes

    begin = time.time()
    answers = nodes.ask(nodes.clock)
    end = time.time()
    far = {}
    for row in answers:
        theirs = row.get("answer", begin)
        off = max(begin - theirs, theirs - end, 0.0)
        if off > SKEW_S:
            far[row["node"]] = off
    if far:
        return _row(
            "clocks",
            False,
            "; ".join(f"{node} is {off:.0f} s off" for node, off in sorted(far.items())[:5])
            + "; run a time service (chrony) on it",
        )
    return _row("clocks", True, f"within {max(end - begin, 0.1):.1f} s of the driver's")


def _versions() -> Row:
    found, missing = [f"python {platform.python_version()}"], []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return _row(
            "versions",
            False,
            f"{', '.join(missing)} missing here; install the project with its dependencies (`make test` does)",
        )
    return _row("versions", True, ", ".join(found))


def _plug_ins() -> Row:
    """What installed packages add to the tables of names, and what of it cannot be used."""
    tables = (*TABLES.values(), LISTENERS)
    problems = [sentence for table in tables for sentence in table.problems.values()]
    found = [f"{table.kind} {name} ({plug_in.source})" for table in tables for name, plug_in in table.plug_ins.items()]
    return _row("plug-ins", not problems, "; ".join(problems or found) or "none: no installed package has one")


def _home(home: Home) -> Row:
    try:
        home.require_writable()
    except UsageError as error:
        return _row("home", False, str(error))
    free = shutil.disk_usage(home.root).free / 2**30
    enough = free > 1
    advice = "" if enough else "; make room or choose another --home"
    return _row("home", enough, f"{home.root}, {free:.0f} GiB free{advice}")


def _absolute(storage: str | None) -> str | None:
    from trainables.storage import absolute_storage

    return absolute_storage(storage)


def _storage(home: Home) -> list[Row]:
    """No row where the home is the storage."""
    from trainables.storage import storage_problem

    if not home.storage:
        return []
    try:
        place = _absolute(home.storage)
        problem = storage_problem(place)
    except ValueError as error:
        place, problem = "", str(error)
    return [_row("storage", not problem, problem or f"{place} can be written and read from here")]


def _mlflow(home: Home) -> Row:
    """Whether MLflow takes a run. A home's database that is not there yet is made by the first search."""
    named, uri = os.environ.get("MLFLOW_TRACKING_URI"), tracking_uri(home)
    where = "MLFLOW_TRACKING_URI" if named else "no MLFLOW_TRACKING_URI: the database in the home"
    if not named and not home.mlflow_db.exists():
        return _row("mlflow", True, f"{where}, which the first search makes")
    problem = mlflow_problem(uri) or run_problem(uri)
    if problem:
        advice = "is the server up, and MLFLOW_TRACKING_URI right?" if named else "move that file away, or restore it"
        return _row("mlflow", False, f"{problem}; {advice}")
    return _row("mlflow", True, f"{where}: a run was written, read and deleted")


def _gpus_here() -> Row:
    program = shutil.which("nvidia-smi")
    if not program:
        return _row("gpus", True, "none: trials run on CPUs")
    done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    if done.returncode == 0:
        return _row("gpus", True, f"{len(done.stdout.splitlines())}")
    return _row(
        "gpus",
        False,
        f"nvidia-smi fails ({_first_line(done.stderr or done.stdout)}); reload the driver or run without "
        "--gpus-per-trial",
    )


def _resources(nodes: list[dict[str, Any]]) -> Row:
    def total(kind: str) -> float:
        return sum(node["resources_total"].get(kind, 0) for node in nodes)

    per_node = max((node["resources_total"].get("GPU", 0) for node in nodes), default=0)
    return _row(
        "gpus",
        True,
        f"{len(nodes)} nodes, {total('CPU'):g} CPUs, {total('GPU'):g} GPUs"
        + (f", at most {per_node:g} on a node" if per_node else ": trials run on CPUs"),
    )


def _last_error(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:]
    if not errors:
        return "it printed nothing; is the head node's `python` the one Ray runs with?"
    return errors[-1].removeprefix("Error: ")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _row(check: str, ok: bool, detail: str) -> Row:
    return {"check": check, "ok": bool(ok), "detail": detail}
