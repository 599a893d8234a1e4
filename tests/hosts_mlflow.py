"""An MLflow server on PostgreSQL on a test host of its own, from Debian's packages; see tests/hosts.py."""

import glob
import os
import subprocess
import urllib.request

PORT = 5000


def postgres_bin() -> str | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return found[-1] if found else None


def start_mlflow(host) -> str:
    """Start both in the host's namespace and wait until MLflow answers; returns its address."""
    pg, data = postgres_bin(), host.hosts.folder / "pg"
    data.mkdir(mode=0o700)
    as_pg = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        host.hosts.folder.chmod(0o755)
        subprocess.run(["chown", "postgres", data], check=True)
        as_pg = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    subprocess.run(
        [*as_pg, f"{pg}/initdb", "-D", data, "-U", "tuner", "--auth=trust", "-E", "UTF8"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    uri = "postgresql+psycopg://tuner@127.0.0.1/postgres"  # 127.0.0.1 of this namespace: nobody else is there
    host.env = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    ready = f"until {pg}/pg_isready -q -h 127.0.0.1; do sleep 0.2; done"
    server = (
        f"python -m mlflow server --host {host.address} --port {PORT} --workers 1 --allowed-hosts '*' "
        f"--artifacts-destination {host.hosts.folder}/artifacts"
    )
    postgres = " ".join([*as_pg, f"{pg}/postgres", "-D", str(data), "-h", "127.0.0.1", "-k", str(data)])
    host.command = ["bash", "-c", f"cd /; {postgres} & {ready}; exec {server}"]
    host.start()
    address = f"http://{host.address}:{PORT}"
    host.hosts.wait(lambda: _answers(address), 240, "the MLflow server")
    return address


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False
