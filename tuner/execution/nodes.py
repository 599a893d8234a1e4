"""Ask every node of the Ray cluster what it sees (storage, MLflow, clock), with one small task per node."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

from tuner.home import Home
from tuner.spec.plug_ins import differing
from tuner.spec.search_spec import SearchSpec

ANSWER_S = 90  # a node that has not answered within this time is reported as an error


def connected_ray() -> ModuleType:
    """The ray module, connected as RAY_ADDRESS says; a search that follows uses the same connection."""
    from tuner.execution.ray_instance import join
    from tuner.execution.ray_token import use_token

    use_token()
    import ray

    if not ray.is_initialized():
        join(ray)
    return ray


def ask(function: Callable[..., Any], *args: Any) -> list[dict[str, Any]]:
    """Run ``function(*args)`` once on every living node.

    One row per node: {"node": its address, "answer": ...}, or {"node", "error": one line}.
    """
    ray = connected_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    address_of = {}
    for node in ray.nodes():
        if node["Alive"]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            address_of[remote.options(scheduling_strategy=strategy).remote(*args)] = node["NodeManagerAddress"]
    ready, silent = ray.wait(list(address_of), num_returns=len(address_of), timeout=ANSWER_S)
    rows = [{"node": address_of[ref], "error": f"no answer in {ANSWER_S} s"} for ref in silent]
    for ref in ready:
        try:
            rows.append({"node": address_of[ref], "answer": ray.get(ref)})
        except Exception as error:
            rows.append({"node": address_of[ref], "error": str(error).strip().splitlines()[-1][:200]})
    return rows


def inspect_node(place: str, mark: str, uri: str | None) -> dict[str, Any]:
    """Runs on a node: its host name, what is wrong with the shared ``place`` and with MLflow at ``uri`` (None:
    nothing), and its clock in seconds since 1970.

    ``mark``: a file that the driver has written into ``place``; a node that does not find it sees another folder.
    """
    from trainables.storage import Storage, storage_problem
    from tuner.tracking.health import mlflow_problem

    wrong = storage_problem(place)
    if not wrong and Storage(place).read(mark) is None:
        wrong = f"{place!r} there is another place than on the driver's machine"
    return {"host": socket.gethostname(), "place": wrong, "mlflow": mlflow_problem(uri), "time": time.time()}


def clock() -> float:
    """Runs on a node: its clock, in seconds since 1970."""
    return time.time()


def survey(place: str, uri: str | None) -> list[dict[str, Any]]:
    """Run `inspect_node` on every node while a mark of the driver's lies in ``place``; rows as in `ask`."""
    from trainables.files import aside_of
    from trainables.storage import Storage

    store, mark = Storage(place), aside_of("mark")
    store.write(mark, b"tuner")
    try:
        return ask(inspect_node, place, mark, uri)
    finally:
        store.remove(mark)


def place_problem(rows: list[dict[str, Any]], place: str) -> str | None:
    """From the rows of `survey`: which nodes cannot use ``place``, where checkpoints go, in one sentence; else None."""
    blind = {row["node"]: row["answer"]["place"] for row in rows if "answer" in row and row["answer"]["place"]}
    if not blind:
        return None
    nodes = f"{len(blind)} of {len(rows)} nodes ({', '.join(sorted(blind)[:5])})"
    if "://" in place:
        return f"on {nodes}: {next(iter(blind.values()))}"
    return (
        f"the folder {place!r} is not the same folder on every node: {nodes} cannot see or write it; name one that "
        "all share (NFS, persistent volume) with --home or --storage, or a --storage such as s3://BUCKET/FOLDER"
    )


def nodes_plug_in_problem(plug_ins: dict[str, str]) -> str | None:
    """Which nodes lack one of a search's ``plug_ins`` or have another code of it, in one sentence; None: no node does.

    A private Ray runs in the driver's own environment, and is not asked.
    """
    if not plug_ins or not os.environ.get("RAY_ADDRESS"):
        return None
    rows = ask(differing, plug_ins)
    lacking = {row["node"]: row["answer"] for row in rows if row.get("answer")}
    if not lacking:
        return None
    nodes = ", ".join(sorted(lacking)[:5])
    return f"on {len(lacking)} of {len(rows)} nodes ({nodes}): {next(iter(lacking.values()))}"


def nodes_storage_problem(spec: SearchSpec, home: Home) -> Future[str | None]:
    """What keeps nodes from using the search's storage, in one sentence, or None. At once None on a single node.

    Every node starts a process to answer, which takes seconds, so the answer is a future. An error on the way to it is
    raised by ``result()``.
    """
    problem: Future[str | None] = Future()
    if sum(node["Alive"] for node in connected_ray().nodes()) < 2:
        problem.set_result(None)
        return problem

    def wait() -> None:
        place = home.place(spec.storage)
        try:
            problem.set_result(place_problem(survey(place, None), place))
        except Exception as error:
            problem.set_exception(error)

    threading.Thread(target=wait, name="nodes", daemon=True).start()
    return problem
