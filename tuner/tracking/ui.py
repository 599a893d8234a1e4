"""`tuner ui`: the live pages of a home's searches and MLflow's own, on the loopback address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from trainables.files import regular
from trainables.urls import public
from tuner.errors import UsageError
from tuner.escape import to_stderr, to_stdout
from tuner.files import write_atomically
from tuner.home import Home, check_name
from tuner.report.live.server import LiveServer
from tuner.results.searches import search_names
from tuner.tracking import runs

START_S = 180  # MLflow's server needs up to a minute on a busy laptop


def serve(
    home: Home | None = None, port: int | None = None, open_link: str | None = None, live_port: int | None = None
) -> None:
    """Serve the live pages and start MLflow on 127.0.0.1, print their addresses, and run until Ctrl-C.

    ``port``: MLflow's, and ``live_port``: free ones by default. ``open_link``: the search to link to, by default the
    newest. If ``MLFLOW_TRACKING_URI`` is a server already, MLflow is not started, and links to that are printed.
    ``UsageError`` for an unknown search, a port that is in use or a home that cannot be written; ``RuntimeError`` if
    MLflow does not start or ends by itself.
    """
    home, name = home or Home(), check_name(open_link) if open_link else None
    uri = runs.tracking_uri(home)
    elsewhere = uri.startswith(("http:", "https:"))
    if name is not None and not elsewhere and name not in search_names(home):
        raise UsageError(f"no search {name!r} in {str(home.root)!r}; `tuner ls` names them")
    with LiveServer(home, live_port or 0) as live, _until_signal() as stop:
        to_stdout(f"live {live.address}{f'search/{name}' if name else ''}")
        if elsewhere:
            _print_links(public(uri), uri, home, name, live)
            to_stderr("Ctrl-C ends it")
            stop.wait()
        else:
            _serve_mlflow(uri, home, port or _free_port(), name, live, stop)


def _serve_mlflow(uri: str, home: Home, port: int, name: str | None, live: LiveServer, stop: threading.Event) -> None:
    """Run MLflow until ``stop`` is set."""
    home.require_writable()
    if uri == runs.database_uri(home.mlflow_db):
        runs.configure_mlflow()
        from mlflow import MlflowClient

        runs.open_database(home, lambda uri: MlflowClient(tracking_uri=uri))
    with server(uri, home, port) as (process, address):
        to_stderr(f"starting MLflow on {address} ...")
        if not _answers(process, address, stop):
            if stop.is_set():
                raise KeyboardInterrupt
            raise RuntimeError(f"MLflow did not start on {address}; its output is in {home.root / 'mlflow-server.log'}")
        _print_links(address, uri, home, name, live)
        to_stderr("Ctrl-C ends it")
        while not stop.wait(0.5):
            if process.poll() is not None:
                raise RuntimeError(f"MLflow ended by itself; its output is in {home.root / 'mlflow-server.log'}")


@contextmanager
def server(uri: str, home: Home, port: int) -> Iterator[tuple[subprocess.Popen, str]]:
    """MLflow's server and its address. It runs as a process group of its own, which ends with the block.

    ``UsageError`` if the port cannot be used.
    """
    _check_port(port)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--artifacts-destination",
        home.artifacts.as_uri(),
    ]
    runs.configure_mlflow()
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not in the command, which everybody on the machine may read
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six processes that we never use
        "PYTHONSAFEPATH": "1",  # a random.py in the home folder is not the standard library's
    }
    path = home.root / "mlflow-server.log"
    write_atomically(path, "")  # a new file, whatever was in its place
    with open(path, "ab", opener=regular) as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=home.root, start_new_session=True
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """End the server and its workers, which are alone in their process group."""
    for sign, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and the closing of the terminal set."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    in_main = threading.current_thread() is threading.main_thread()
    old = {s: signal.signal(s, lambda *_: stop.set()) for s in signals} if in_main else {}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _answers(process: subprocess.Popen, address: str, stop: threading.Event) -> bool:
    """Wait until the server answers; False if it ends, ``stop`` is set or START_S have passed."""
    for _ in range(START_S * 4):
        if process.poll() is not None or stop.is_set():
            return False
        try:
            with urllib.request.urlopen(address + "/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            stop.wait(0.25)
    return False


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _check_port(port: int) -> None:
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "a port is 1 to 65535"
        raise UsageError(f"--port {port} cannot be used ({reason}); choose another or leave it out") from None


def _print_links(address: str, uri: str, home: Home, name: str | None, live: LiveServer) -> None:
    to_stdout(f"{address.rstrip('/')}/#/experiments?workflowType=machine_learning")
    for search, pages in search_links(address, uri, home, [name] if name else search_names(home)[-1:]).items():
        live.mlflow[search] = pages
        for page, link in pages.items():
            to_stdout(f"{search} {page:8} {link}")


def search_links(address: str, uri: str, home: Home, names: list[str]) -> dict[str, dict[str, str]]:
    """Search name -> links to its pages at ``address`` (see `runs.links`), for those ``names`` that MLflow has.

    One that ``home`` has is found by its key: another home may have one of the same name in the same MLflow."""
    runs.configure_mlflow()
    from mlflow import MlflowClient

    if not names:
        return {}
    client, links = MlflowClient(tracking_uri=uri), {}
    experiments = {e.experiment_id: e for e in client.search_experiments()}
    for name in names:
        key = runs.known_key(home.search(name))
        of_name = f"tags.`tuner.search` = '{name}' and tags.`tuner.kind` = 'search'"
        is_search = f"tags.`tuner.key` = '{key}'" if key else of_name
        for run in client.search_runs(list(experiments), is_search, max_results=1):
            experiment = experiments[run.info.experiment_id]
            view = runs.VIEW_TAG + run.info.run_id in experiment.tags
            links[name] = runs.links(address, experiment.experiment_id, run.info.run_id, view)
    return links
