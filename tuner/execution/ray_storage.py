"""Where Ray Tune keeps its own files, and their removal."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

from tuner.results.search_run import SearchRun
from tuner.sync.mirror import open_search


def ray_storage_options(run: SearchRun) -> dict[str, Any]:
    """Options of ``tune.RunConfig`` that place Ray Tune's files: in the search's folder, or in its storage where trials
    can be paused, because any node may continue a paused trial."""
    if not run.spec.storage or run.spec.on_rung != "pause":
        return {"storage_path": str(run.folder)}
    store = open_search(run.spec.storage, run.name)
    return {"storage_path": store.root, "storage_filesystem": store.fs}


def delete_ray_files(run: SearchRun) -> None:
    """Remove Ray Tune's files of this search, here and in its storage; failures are ignored."""
    shutil.rmtree(run.folder / "ray", ignore_errors=True)
    if run.spec.storage and run.spec.on_rung == "pause":
        store = open_search(run.spec.storage, run.name)
        with contextlib.suppress(OSError):
            store.fs.delete_dir(f"{store.root}/ray")
