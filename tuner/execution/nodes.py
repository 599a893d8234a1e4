"""The nodes of the Ray cluster this driver is connected to: what each of them sees. One small task per node."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from concurrent.futures import Future
from typing import Any

from tuner.home import Home
from tuner.spec.search_spec import SearchSpec

ANSWER_S = 90  # a node that has not answered by then is reported as silent


def connected_ray():
    """Ray, connected as RAY_ADDRESS says (a search that follows uses the same connection)."""
    from tuner.execution.ray_instance import join
    from tuner.execution.ray_token import use_token

    use_token()
    import ray

    if not ray.is_initialized():
        join(ray)
    return ray


def ask(function, *args) -> list[dict[str, Any]]:
    """``function(*args)`` once on every living node; rows {"node", "answer"} or {"node", "error"}."""
    ray = connected_ray()
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


def look(place: str, mark: str, uri: str | None) -> dict[str, Any]:
    """Runs on a node: what is wrong with the place that all share (None: it is fine), does MLflow answer."""
    from trainables.storage import Storage, storage_problem
    from tuner.tracking.health import mlflow_problem

    wrong = storage_problem(place)
    if not wrong and Storage(place).read(mark) is None:
        wrong = f"{place!r} there is another place than here"
    return {"host": socket.gethostname(), "place": wrong, "mlflow": mlflow_problem(uri), "time": time.time()}


def clock() -> float:
    return time.time()


def survey(place: str, uri: str | None) -> list[dict[str, Any]]:
    """``look`` on every node, with the driver's mark laid out for them."""
    from trainables.storage import Storage

    store, mark = Storage(place), f"mark-{uuid.uuid4().hex[:8]}"
    store.write(mark, b"tuner")
    try:
        return ask(look, place, mark, uri)
    finally:
        store.remove(mark)


def place_problem(rows: list[dict[str, Any]], place: str) -> str | None:
    """Which nodes do not share the place where checkpoints go, in one sentence."""
    blind = {row["node"]: row["answer"]["place"] for row in rows if "answer" in row and row["answer"]["place"]}
    if not blind:
        return None
    who = f"{len(blind)} of {len(rows)} nodes ({', '.join(sorted(blind)[:5])})"
    if "://" in place:
        return f"on {who}: {next(iter(blind.values()))}"
    return (
        f"the folder {place!r} is not the same folder on every node: {who} cannot see or write it; name one that "
        "all share (NFS, persistent volume) with --home or --storage, or a --storage such as s3://BUCKET/FOLDER"
    )


def unshared(spec: SearchSpec, home: Home) -> Future[str | None]:
    """What keeps nodes from using a search's storage, in one sentence; nothing to ask where there is one node.

    Every node starts a process to answer, which takes seconds.
    """
    found: Future[str | None] = Future()
    if sum(node["Alive"] for node in connected_ray().nodes()) < 2:
        found.set_result(None)
        return found

    def wait() -> None:
        place = home.place(spec.storage)
        try:
            found.set_result(place_problem(survey(place, None), place))
        except Exception as error:  # whoever asks for the result is told
            found.set_exception(error)

    threading.Thread(target=wait, name="nodes", daemon=True).start()
    return found
