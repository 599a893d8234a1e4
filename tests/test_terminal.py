"""On a terminal the search shows a live view, and nothing but the result goes to stdout."""

import json
import os
import pty
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

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
