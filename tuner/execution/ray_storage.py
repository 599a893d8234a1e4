"""Where Ray Tune keeps its own files."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

from tuner.results.search_run import SearchRun
from tuner.sync.mirror import open_search


def ray_place(run: SearchRun) -> dict[str, Any]:
    """Where Ray Tune keeps what it wants to; a paused trial's note must be seen from every node."""
    if not run.spec.storage or run.spec.on_rung != "pause":
        return {"storage_path": str(run.folder)}
    store = open_search(run.spec.storage, run.name)
    return {"storage_path": store.root, "storage_filesystem": store.fs}


def forget_ray(run: SearchRun) -> None:
    shutil.rmtree(run.folder / "ray", ignore_errors=True)
    if run.spec.storage and run.spec.on_rung == "pause":
        store = open_search(run.spec.storage, run.name)
        with contextlib.suppress(OSError):
            store.fs.delete_dir(f"{store.root}/ray")
