"""The nodes of the Ray cluster this driver is connected to: what each of them sees. One small task per node."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from tuner.home import Home

ANSWER_S = 90  # a node that has not answered by then is reported as silent


def connect():
    """Ray, connected as RAY_ADDRESS says (a search that follows uses the same connection)."""
    from tuner.cluster import join, use_token

    use_token()
    import ray

    if not ray.is_initialized():
        join(ray, {"log_to_driver": False, "logging_level": logging.ERROR})
    return ray


def ask(function, *args) -> list[dict[str, Any]]:
    """``function(*args)`` once on every living node; rows {"node", "answer"} or {"node", "error"}."""
    ray = connect()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[remote.options(scheduling_strategy=strategy).remote(*args)] = node["NodeManagerAddress"]
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    rows = [{"node": asked[ref], "error": f"no answer in {ANSWER_S} s"} for ref in silent]
    for ref in ready:
        try:
            rows.append({"node": asked[ref], "answer": ray.get(ref)})
        except Exception as error:
            rows.append({"node": asked[ref], "error": str(error).strip().splitlines()[-1][:200]})
    return rows


def look(home: str, mark: str, uri: str | None) -> dict[str, Any]:
    """Runs on a node: does it see the driver's mark in the home, may it write there, does MLflow answer."""
    from tuner.reach import mlflow_problem

    folder, seen = Path(home), {"host": socket.gethostname()}
    try:
        seen["sees"] = (folder / mark).exists()
        own = folder / f"{mark}.{uuid.uuid4().hex[:8]}"
        own.write_text(seen["host"])
        own.unlink()
        seen["writes"] = True
    except OSError as error:
        seen.update(writes=False, why=error.strerror)
    return {**seen, "mlflow": mlflow_problem(uri), "time": time.time()}


def clock() -> float:
    return time.time()


def survey(home: Home, uri: str | None) -> list[dict[str, Any]]:
    """``look`` on every node, with the driver's mark laid out for them."""
    home.root.mkdir(parents=True, exist_ok=True)
    mark = home.root / f".mark-{uuid.uuid4().hex[:8]}"
    mark.write_text(str(os.getpid()))
    try:
        return ask(look, str(home.root), mark.name, uri)
    finally:
        mark.unlink(missing_ok=True)


def home_problem(rows: list[dict[str, Any]], home: Home) -> str | None:
    """Which nodes do not share the home folder, in one sentence."""
    blind = [
        row["node"]
        for row in rows
        if "answer" in row and not (row["answer"].get("sees") and row["answer"].get("writes"))
    ]
    if not blind:
        return None
    return (
        f"the home folder {str(home.root)!r} is not the same folder on every node: {len(blind)} of {len(rows)} cannot "
        "see or write "
        f"it ({', '.join(sorted(set(blind))[:5])}); name one that all share (NFS, persistent volume) with --home or "
        "TUNER_HOME"
    )


def shared_home_problem(home: Home) -> str | None:
    """Before a search: nothing to ask where there is one node only."""
    home.require_writable()
    ray = connect()
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return None
    return home_problem(survey(home, None), home)
