"""What lies in a storage, for which search, and what no search needs: as `tuner.results.disk` says it of a home.

A storage has a folder of every search that uses it, so it says itself what is needed. There are no locks in it, so what
was written within the last hour stays, and all of it while a search has a lease.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trainables.files import inside
from trainables.storage import Storage, absolute_storage
from tuner.errors import Failed, UsageError
from tuner.files import write_atomically
from tuner.home import SEARCH_NAME, Home
from tuner.results.disk import (
    DAY_S,
    NEW_S,
    NOT_ON_THE_FRONT,
    REMOVED,
    TRASH,
    WEIGHTS,
    Item,
    kept_trials,
    starts_from,
    stems_of,
    trials_text,
    verdict,
)
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import INIT
from tuner.sync.mirror import HISTORY, LEASE, REQUESTS
from tuner.sync.shared_dataset import DATASET
from tuner.sync.storage_spec import storage_errors

READ = ("spec.yaml", HISTORY, INIT, DATASET)
_STEM = re.compile(r"stems/([0-9a-f]{16})/[^/]+")
_DATA = re.compile(r"datasets/([^/]+)/[^/]+")
_WEIGHTS = re.compile(rf"inits/({WEIGHTS.pattern})")
_TRASH = re.compile(rf"{TRASH}/([^/]+)/.+")
_TRAINED = re.compile(r"searches/([^/]+)/(trials|previews)/(-?\d{1,9})/[^/]+")

Files = dict[str, tuple[int, float]]  # name in the storage -> its bytes, its time in seconds since 1970


def stored_inventory(storage: str) -> list[Item]:
    """All that can be told apart in a storage, needed or not. ``Failed`` or ``UsageError`` where it cannot be read."""
    with storage_errors(storage), tempfile.TemporaryDirectory(prefix="tuner-gc-") as folder:
        where = absolute_storage(storage) or ""
        store = Storage(where)
        files = {name: (size, ns / 1e9) for name, size, ns in store.listed() if _inside(store, name)}
        return list(_items(where, files, *_searches(store, files, Path(folder))))


def _inside(store: Storage, name: str) -> bool:
    """Whether no link on the way leads elsewhere: what lies behind one is not the storage's."""
    if store.fs.type_name != "local":
        return True
    with suppress(ValueError):
        return not inside(Path(store.root), name).is_symlink()
    return False


def _searches(store: Storage, files: Files, folder: Path) -> tuple[list[SearchRun], list[str]]:
    """The searches, copied to ``folder`` as far as they are looked at; and why nothing may be removed that any of them
    may use."""
    names = sorted({name.split("/")[1] for name in files if name.startswith("searches/") and name.count("/") > 1})
    home, runs, everything = Home(folder), [], []
    home.storage = None
    for name in names:
        run = _copied(store, files, home, name) if SEARCH_NAME.fullmatch(name) else None
        if run is None:
            everything.append(f"search {name[:80]} cannot be read")
        else:
            runs.append(run)
            everything += [f"search {name} is running"] * _runs(files, name)
    return runs, everything


def _copied(store: Storage, files: Files, home: Home, name: str) -> SearchRun | None:
    for part in READ:
        if f"searches/{name}/{part}" in files:
            write_atomically(home.search(name) / part, store.read(f"searches/{name}/{part}") or b"")
    try:
        text = (home.search(name) / "spec.yaml").read_text(encoding="utf-8")
        return SearchRun(SearchSpec.from_stored(text, name=name), home, name, History(home.search(name)))
    except (UsageError, Failed, ValueError, OSError):
        return None


def _runs(files: Files, name: str) -> bool:
    """A lease is renewed every half a minute at least, and removed at the end of its driver."""
    lease = files.get(f"searches/{name}/{LEASE}")
    return lease is not None and not _is_old(lease[1])


def _is_old(written: float, seconds: float = NEW_S) -> bool:
    return time.time() - written > seconds


def _items(storage: str, files: Files, runs: list[SearchRun], everything: list[str]) -> Iterator[Item]:
    stems, unsaid = stems_of(runs)
    users = {
        "data": (_DATA, everything, {run.name: {_data_of(run)} for run in runs}),
        "stem": (_STEM, [*everything, *unsaid], stems),
        "weights": (_WEIGHTS, everything, {run.name: {f"{starts_from(run)}.safetensors"} for run in runs}),
    }
    for kind, (pattern, why_all, has) in users.items():
        for name, parts in _grouped(files, pattern).items():
            having = [run for run, names in has.items() if name in names]
            needed, why = verdict(having, why_all, not _is_old(max(files[part][1] for part in parts)))
            yield _item(storage, files, kind, name, parts, needed, why, tuple(having))
    for run in runs:
        yield from _checkpoints(storage, files, run)
    for name, parts in _grouped(files, _TRASH).items():
        removed = REMOVED.fullmatch(name)
        old = removed is not None and _is_old(float(removed[1]), DAY_S)
        why = "removed more than a day ago" if old else "tuner restore brings it back"
        yield _item(storage, files, "trash", removed[2] if removed else name, parts, not old, why, ())


def _data_of(run: SearchRun) -> str:
    with suppress(OSError, ValueError):
        return (run.folder / DATASET).read_text(encoding="utf-8").strip()
    return ""


def _checkpoints(storage: str, files: Files, run: SearchRun) -> Iterator[Item]:
    asked = any(name.startswith(f"searches/{run.name}/{REQUESTS}/") for name in files)
    busy = _runs(files, run.name) or asked
    kept, why = (None, "the search is running, or about to") if busy else kept_trials(run)
    found = [(name, match) for name in files if (match := _TRAINED.fullmatch(name)) and match[1] == run.name]
    for needed in (True, False):
        names = [
            name
            for name, match in found
            if (kept is None or (match[2] == "trials" and int(match[3]) in kept)) is needed
        ]
        if names:
            number = trials_text(len({name.rpartition("/")[0] for name in names}))
            said = why if needed else NOT_ON_THE_FRONT
            yield _item(storage, files, "checkpoints", f"{run.name}: {number}", names, needed, said, (run.name,))


def _grouped(files: Files, pattern: re.Pattern[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in files:
        if match := pattern.fullmatch(name):
            groups.setdefault(match[1], []).append(name)
    return groups


def _item(
    storage: str, files: Files, kind: str, name: str, parts: list[str], needed: bool, why: str, users: tuple[str, ...]
) -> Item:
    size = sum(files[part][0] for part in parts)
    return Item(kind, name, size, needed, why, users, storage=storage, files=tuple(parts))
