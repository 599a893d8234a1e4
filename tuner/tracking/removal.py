"""Remove a search with its MLflow runs and its files in a storage, and bring it back within a day."""

from __future__ import annotations

import os
import time
from pathlib import Path

from trainables.files import locked
from trainables.reading import intact, read_text
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home, check_name
from tuner.results.disk import TRASH, empty_trash, removed
from tuner.results.search_run import SearchRun
from tuner.results.searches import stored_search
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import move_search, stored_beside
from tuner.sync.named_places import check_named
from tuner.tracking.after_search import set_deleted


def remove(name: str, home: Home | None = None) -> Path:
    """Move the search ``name`` into the trash of its home, and of its storage, for a day; its MLflow runs are deleted
    as MLflow does it, so that they can be restored. Returns the folder in the trash.

    ``UsageError`` where there is no such search, it is running, or its storage is not named; ``Failed`` where MLflow or
    the storage does not answer: then it may be repeated.
    """
    home = home or Home()
    folder = home.search(name)
    if folder.is_symlink():
        raise UsageError(f"{str(folder)!r} is a link, which is not followed here; remove the link itself")
    run = _readable(name, home)
    home.require_writable()  # before MLflow and a storage are told
    to = f"{int(time.time())}-{check_name(name)}"
    with locked(folder / ".lock", patience=0.5) as mine:
        if not mine:
            raise UsageError(f"search {name!r} is running; stop it first")
        if run:
            set_deleted(run, True)
            if run.spec.storage:
                move_search(run.spec.storage, home, name, f"searches/{name}", f"{TRASH}/{to}")
                write_atomically(folder / "spec.yaml", run.spec.to_stored())  # the storage may have moved since
        (home.root / TRASH).mkdir(exist_ok=True)
        os.rename(folder, home.root / TRASH / to)
    empty_trash(home)
    return home.root / TRASH / to


def restore(name: str, home: Home | None = None) -> SearchRun:
    """Bring back what `remove` has moved, the latest of this name. ``UsageError`` where there is nothing, or another
    search has the name now."""
    home = home or Home()
    folder = home.search(name)
    found = [path for _, of, path in removed(home) if of == name]
    if not found:
        raise UsageError(f"no search {name!r} in the trash of {str(home.root)!r}; what is there is kept for a day")
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"search {name!r} exists; restore takes its old name, so rename or remove that one first")
    home.require_writable()
    spec = intact(lambda: SearchSpec.from_stored(read_text(found[-1] / "spec.yaml"), name=name))
    if spec and spec.storage:
        check_named(spec, home, name, "restore")
        if stored_beside(spec.storage, name, f"{TRASH}/{found[-1].name}"):
            raise UsageError(f"search {name!r} exists in {spec.storage!r}; restore takes its old name")
        move_search(spec.storage, home, name, f"{TRASH}/{found[-1].name}", f"searches/{name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(found[-1], folder)
    run = stored_search(home, name)
    set_deleted(run, False)
    return run


def _readable(name: str, home: Home) -> SearchRun | None:
    """The search; None where its files cannot be read: then its folder alone is moved."""
    if not (home.search(name) / "spec.yaml").exists():
        return stored_search(home, name)  # it may be in the storage alone, or nowhere
    run: SearchRun | None = intact(lambda: stored_search(home, name))
    if run:
        check_named(run.spec, home, name, "rm")
    return run
