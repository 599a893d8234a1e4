"""P10: a file of the user's that is called as a module, such as random.py, replaces nothing in any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SHADOWED, shadowing
from tuner.execution.ray_patches import _InOurOrder, importing_as_here

STANDARD, INSTALLED, OWN, SCRIPT = "/python/lib/python3.11", "/venv/lib/site-packages", "/home/me/work", "/venv/bin"


@pytest.mark.parametrize(
    "here, from_ray, workers",
    [
        # the script `tuner`: the current folder is not searched here, so not by workers
        ([SCRIPT, STANDARD, INSTALLED], [SCRIPT, OWN], [SCRIPT]),
        # python script.py in the current folder, and python -m in it
        ([OWN, STANDARD, INSTALLED], [OWN, OWN], [OWN]),
        # a notebook, and `python -m tuner.cli`: behind the standard library and what is installed
        ([STANDARD, "", INSTALLED], [OWN], [STANDARD, OWN]),
        ([STANDARD, INSTALLED, OWN], [OWN], [STANDARD, INSTALLED, OWN]),
        ([STANDARD, INSTALLED], [OWN], []),
    ],
)
def test_p10_workers_search_in_the_order_of_the_driver(monkeypatch, here, from_ray, workers):
    monkeypatch.setattr(sys, "path", here)
    monkeypatch.setattr("os.path.abspath", lambda place: place or OWN)
    added = _InOurOrder()
    added.extend(from_ray)
    found = []
    for folder in added:  # as Ray does in a worker
        found.insert(0, folder)
    assert found == workers


def test_p10_ray_adds_its_folders_to_that_list():
    """Ray sends what is in it to the workers."""
    job = importing_as_here()
    job._py_driver_sys_path.extend([sys.path[1]])
    assert sys.path[1].encode() in job._serialize()
    from ray._private import worker

    assert "job_config._py_driver_sys_path.extend(" in Path(worker.__file__).read_text()


@pytest.mark.process
def test_p10_the_command_starts_beside_such_files(tmp_path):
    for args in (["--version"], ["search", "--dry-run"]):
        command = [sys.executable, "-m", "tuner.cli", *args]
        done = subprocess.run(command, cwd=shadowing(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_p10_a_search_runs_beside_such_files(finished):
    """`finished` was run in such a folder."""
    result, home, _ = finished
    assert {f"{name}.py" for name in SHADOWED} <= {f.name for f in (home.parent / "work").iterdir()}
    assert result["state"] == "finished" and result["trials"]["failed"] == 0
