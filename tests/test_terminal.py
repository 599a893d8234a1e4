"""On a terminal the search shows a live view, and nothing but the result goes to stdout."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.conftest import SMALL, tuner_process


def test_live_view_on_a_terminal(tmp_path):
    screen, terminal = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(screen, 65536)
            except OSError:  # the terminal is closed
                return
            seen.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    # what a `ray start` that was killed leaves behind; a local search must neither join nor wait for it
    ray_folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # not tmp_path: a socket's path has at most 107 characters
    os.mkdir(f"{ray_folder}/ray")
    Path(ray_folder, "ray", "ray_current_cluster").write_text("127.0.0.9:1")
    args = ["--method", "dafa", "--trials", 3, *SMALL, "--fix", "start=0.3", "--fix", "floor=1.0", "--home", tmp_path]
    env = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", "RAY_TMPDIR": ray_folder}
    process = tuner_process("search", *args, "--json", env=env, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    out, _ = process.communicate(timeout=240)
    reader.join(5)
    shutil.rmtree(ray_folder, ignore_errors=True)
    screen_text = b"".join(seen).decode(errors="replace")
    assert process.returncode == 0 and json.loads(out)["trials"]["finished"] == 3
    assert "front on val, hypervolume" in screen_text and "running" in screen_text and "epoch" in screen_text
    assert "class weights were raised to floor=1" in screen_text, "what a method had to change is said at once"
    assert "\x1b[" in screen_text, "a live view moves the cursor"


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_p1_a_closed_stream_is_silence(tmp_path, closed):
    """The next file that is opened must not get its number: what is printed would go into it."""
    says = "import sys; sys.argv = ['tuner', 'methods']; from tuner.cli import main; main()"
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, says], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_p5_a_stdout_that_is_full_is_one_line(options):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        process = tuner_process("methods", *options, stdout=full, stderr=subprocess.PIPE, fresh=True)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and said.count("\n") == 1 and "stdout" in said and "Traceback" not in said
