"""A real PostgreSQL on loopback for tests, with a password, in a folder of its own; gone when the block ends."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

BIN = next(
    (str(Path(p).parent) for p in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)),
    os.path.dirname(shutil.which("initdb") or ""),
)
WHY_NOT = "" if BIN else "PostgreSQL's programs are not installed (Debian: apt-get install -y postgresql)"
PASSWORD = "geheim-3141"


def _as_user(*command):
    """PostgreSQL refuses to run as root: then it runs as the user that Debian's package made."""
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *map(str, command)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def postgres():
    """Yields ``postgresql://USER:PASSWORD@127.0.0.1:PORT/postgres``."""
    folder = Path(tempfile.mkdtemp(prefix="tuner-pg"))
    folder.chmod(0o755)
    word, data = folder / "word", folder / "data"
    word.write_text(PASSWORD)
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        for path in (word, data):
            shutil.chown(path, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        _as_user(
            f"{BIN}/initdb",
            "-D",
            data,
            "-U",
            "tuner",
            "--auth=scram-sha-256",
            f"--pwfile={word}",
            "-E",
            "UTF8",
            "--no-sync",
        )
        _as_user(
            f"{BIN}/pg_ctl",
            "-D",
            data,
            "-w",
            "-l",
            data / "log",
            "-o",
            f"-h 127.0.0.1 -p {port} -k '' -c fsync=off",
            "start",
        )
        yield f"postgresql://tuner:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        if (data / "postmaster.pid").exists():
            _as_user(f"{BIN}/pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
