"""Ask every node of the Ray cluster what it sees (storage, data, MLflow, clock), with one small task per node."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trainables.data.extra import extra_files
from trainables.data.spec import DataSpec
from trainables.data.store import source_files
from trainables.datasets import KINDS
from tuner.files import CHECKOUT
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.spec.plug_ins import differing
from tuner.sync.shared_dataset import data_spec, dataset_of

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


@dataclass(frozen=True)
class Needs:
    """What trials need of every node beside the storage: a ``home`` that can be written, and the driver's own files and
    code. ``folders``, ``code``: what `folders_of` and `code_here` say on the driver's machine."""

    home: str
    data: DataSpec
    folders: dict[str, str]
    code: str

    @classmethod
    def of(cls, run: SearchRun) -> Needs:
        data = data_spec(run.spec, dataset_of(run.spec, run.folder), run.folder)
        return cls(str(run.home.root), data, folders_of(data), code_here())


def folders_of(data: DataSpec) -> dict[str, str]:
    """Of the folders (KIND:DIR) from which each machine reads images, a digest of the names and sizes of their files.
    ``DataError``."""
    found = {}
    if data.dataset.partition(":")[0] in KINDS and "://" not in data.dataset:
        found[data.dataset] = source_files(data.dataset, data.reading)
    if data.extra != "none":
        found[data.extra] = extra_files(data.extra)
    told = {name: repr(sorted((file.name, file.size) for file in files)) for name, files in found.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in told.items()}


def code_here() -> str:
    """A digest of the code that decides what a trial is."""
    digest = hashlib.sha256()
    for file in sorted(file for name in ("search_spaces", "trainables") for file in (CHECKOUT / name).rglob("*.py")):
        digest.update(file.relative_to(CHECKOUT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def trials_problem(needs: Needs) -> str | None:
    """Runs on a node: why trials would fail there, or be others than elsewhere, in one sentence; or None."""
    try:
        Home(needs.home).require_writable()
        here = folders_of(needs.data)
    except ValueError as error:  # `UsageError`, `DataError`
        return str(error)
    for name, digest in here.items():
        if digest != needs.folders[name]:
            return f"the files of {name!r} there are not those on the driver's machine"
    if code_here() != needs.code:
        return "the code there is not that of the driver; install the same version, or send yours along (tuner submit)"
    return None


def inspect_node(place: str, mark: str, uri: str | None, needs: Needs | None = None) -> dict[str, Any]:
    """Runs on a node: its host name, what is wrong with the shared ``place``, with MLflow at ``uri`` and with what
    trials need of it (None: nothing), and its clock in seconds since 1970.

    ``mark``: a file that the driver has written into ``place``; a node that does not find it sees another folder.
    """
    from trainables.storage import Storage, storage_problem
    from tuner.tracking.health import mlflow_problem

    wrong = storage_problem(place)
    if not wrong and Storage(place).read(mark) is None:
        wrong = f"{place!r} there is another place than on the driver's machine"
    about = {"host": socket.gethostname(), "place": wrong, "mlflow": mlflow_problem(uri), "time": time.time()}
    return {**about, "trials": needs and trials_problem(needs)}


def clock() -> float:
    """Runs on a node: its clock, in seconds since 1970."""
    return time.time()


def survey(place: str, uri: str | None, needs: Needs | None = None) -> list[dict[str, Any]]:
    """Run `inspect_node` on every node while a mark of the driver's lies in ``place``; rows as in `ask`."""
    from trainables.files import aside_of
    from trainables.storage import Storage

    store, mark = Storage(place), aside_of("mark")
    store.write(mark, b"tuner")
    try:
        return ask(inspect_node, place, mark, uri, needs)
    finally:
        store.remove(mark)


def place_problem(rows: list[dict[str, Any]], place: str) -> str | None:
    """From the rows of `survey`: which nodes cannot use ``place``, where checkpoints go, in one sentence; else None."""
    blind = {row["node"]: row["answer"]["place"] for row in rows if "answer" in row and row["answer"]["place"]}
    if not blind:
        return None
    if "://" in place:
        return _on_nodes(blind, rows)
    nodes = _nodes(blind, rows)
    return (
        f"the folder {place!r} is not the same folder on every node: {nodes} cannot see or write it; name one that "
        "all share (NFS, persistent volume) with --home or --storage, or a --storage such as s3://BUCKET/FOLDER"
    )


def own_problem(rows: list[dict[str, Any]]) -> str | None:
    """From the rows of `survey`: on which nodes trials would fail or be others, in one sentence; else None."""
    found = {row["node"]: row["answer"]["trials"] for row in rows if "answer" in row and row["answer"]["trials"]}
    return _on_nodes(found, rows) if found else None


def _nodes(found: dict[str, str], rows: list[dict[str, Any]]) -> str:
    return f"{len(found)} of {len(rows)} nodes ({', '.join(sorted(found)[:5])})"


def _on_nodes(found: dict[str, str], rows: list[dict[str, Any]]) -> str:
    return f"on {_nodes(found, rows)}: {next(iter(found.values()))}"


def nodes_plug_in_problem(plug_ins: dict[str, str]) -> str | None:
    """Which nodes lack one of a search's ``plug_ins`` or have another code of it, in one sentence; None: no node does.

    A private Ray runs in the driver's own environment, and is not asked.
    """
    if not plug_ins or not os.environ.get("RAY_ADDRESS"):
        return None
    rows = ask(differing, plug_ins)
    lacking = {row["node"]: row["answer"] for row in rows if row.get("answer")}
    return _on_nodes(lacking, rows) if lacking else None


def nodes_problem(run: SearchRun) -> Future[str | None]:
    """What keeps nodes from using the search's storage, or from running its trials as the driver's machine would, in
    one sentence, or None. At once None on a single node.

    Every node starts a process to answer, which takes seconds, so the answer is a future. An error on the way to it is
    raised by ``result()``.
    """
    problem: Future[str | None] = Future()
    if sum(node["Alive"] for node in connected_ray().nodes()) < 2:
        problem.set_result(None)
        return problem

    def wait() -> None:
        place = run.home.place(run.spec.storage)
        try:
            rows = survey(place, None, Needs.of(run))
            problem.set_result(place_problem(rows, place) or own_problem(rows))
        except Exception as error:
            problem.set_exception(error)

    threading.Thread(target=wait, name="nodes", daemon=True).start()
    return problem
