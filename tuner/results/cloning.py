"""Copy a search under another name, with all that its trials have trained."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from trainables.files import aside_of
from trainables.reading import LOG_BYTES, read_bytes
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search, search_names, stored_search
from tuner.sync.initial import INIT
from tuner.sync.mirror import HISTORY
from tuner.sync.shared_dataset import BEGAN, DATASET, IMAGES

# Beside the history and the spec.
COPIED = (INIT, "warm-start/history.jsonl", "warm-start/points.json", DATASET, IMAGES, BEGAN)
TRAINED = ("trials", "previews")


def clone(name: str, to: str, home: Home | None = None) -> SearchRun:
    """Copy the search ``name``, which may be running, under the name ``to``. Checkpoints are not written twice where
    the file system has hard links: they are replaced as a whole, so neither search changes the other's.

    The copy has a study and MLflow runs of its own. ``UsageError`` if there is a search ``to``, or if the checkpoints
    lie in a storage.
    """
    home = home or Home()
    run, folder = stored_search(home, name), home.search(to)
    if run.spec.storage:
        raise UsageError(f"search {name!r} has its checkpoints in {run.spec.storage!r}, where clone does not copy them")
    if not run.history.everything():
        raise UsageError(f"search {name!r} has no trial yet; begin another one with tuner search --name")
    if folder.exists() or to in search_names(home):
        raise UsageError(f"search {to!r} exists already; choose another --name")
    home.require_writable(home.searches)
    aside = folder.with_name(aside_of(to))  # whole or absent: the folder is renamed at the end
    try:
        # The history first: a checkpoint of which it tells is there, or a later one.
        text = read_bytes(run.folder / HISTORY, LOG_BYTES)
        write_atomically(aside / HISTORY, text[: text.rfind(b"\n") + 1])
        for part in COPIED:
            if (run.folder / part).is_file():
                write_atomically(aside / part, read_bytes(run.folder / part, LOG_BYTES))
        for part in TRAINED:
            _link(run.folder / part, aside / part)
        write_atomically(aside / "spec.yaml", replace(run.spec, name=to).to_yaml())
        os.rename(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return load_search(home, to)


def _link(source: Path, target: Path) -> None:
    """The regular files below ``source``, which may be replaced meanwhile, also below ``target``."""
    for where, _, files in os.walk(source):  # which does not follow links
        for path in (Path(where, file) for file in files if not file.startswith(".")):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or not path.is_file():
                continue
            try:
                os.link(path, copy, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:  # a file system without hard links
                shutil.copy2(path, copy, follow_symlinks=False)
