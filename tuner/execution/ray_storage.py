"""Where Ray Tune keeps its own files."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import open_search


def ray_place(spec: SearchSpec, folder: Path) -> dict[str, Any]:
    """Where Ray Tune keeps what it wants to; a paused trial's note must be seen from every node."""
    if not spec.storage or spec.on_rung != "pause":
        return {"storage_path": str(folder)}
    store = open_search(spec.storage, folder.name)
    return {"storage_path": store.root, "storage_filesystem": store.fs}


def forget_ray(spec: SearchSpec, folder: Path) -> None:
    shutil.rmtree(folder / "ray", ignore_errors=True)
    if spec.storage and spec.on_rung == "pause":
        store = open_search(spec.storage, folder.name)
        with contextlib.suppress(OSError):
            store.fs.delete_dir(f"{store.root}/ray")
