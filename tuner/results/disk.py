"""What lies in a home, for which search, and what no search needs.

Needed of a finished search are the checkpoints of its front, of its default settings and of its references, with those
of their best epochs; of any other all. Decoded data and stems are needed where a search has them. What is not needed
can be made again, or was never asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainables.files import is_locked, locked
from trainables.reading import LOG_BYTES, Damaged, intact, read_bytes, read_text
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.results.fronts import front_of
from tuner.results.search_run import SearchRun
from tuner.results.searches import search_names, stored_search
from tuner.results.steering import pending
from tuner.results.summary import state_of
from tuner.sync.shared_dataset import DATASET

DAY_S = 24 * 3600.0
NEW_S = 3600.0  # what was written so lately may be of a search that has not said so yet
TRASH = "trash"  # folder of the home, for a day, with TIME-NAME for each search that was removed
REMOVED = re.compile(r"(\d{1,12})-(.+)")
_STEM = re.compile(rb'"stem": "([0-9a-f]{16})"')


@dataclass(frozen=True)
class Item:
    """``kind``: data, stem, checkpoints, leftover or trash. ``searches``: who needs it; ``why`` it is kept or not, in
    words. ``bytes``: on the disk, links not followed; of files with several names (`tuner clone`) for each name."""

    kind: str
    name: str
    bytes: int
    needed: bool
    why: str
    searches: tuple[str, ...] = ()
    paths: tuple[Path, ...] = field(default=(), repr=False)
    lock: Path | None = None  # held while it is removed

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("paths", "lock")}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; a link counts as itself."""
    with suppress(FileNotFoundError):  # it was being replaced
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
    total = 0
    for where, _, files in os.walk(path):  # which does not follow links
        for name in files:
            with suppress(FileNotFoundError):
                total += Path(where, name).lstat().st_size
    return total


def inventory(home: Home) -> list[Item]:
    """All that can be told apart in a home, needed or not."""
    runs, unread = [], []
    for name in (n for n in search_names(Home(home.root)) if home.search(n).exists()):
        try:
            runs.append(stored_search(Home(home.root), name))
        except (UsageError, Failed, Damaged, OSError):
            unread.append(name)
    everything = [f"search {name} cannot be read" for name in unread]
    everything += [f"search {run.name} is running" for run in runs if _running(run)]
    return [
        *_data(home, runs, everything),
        *_stems(home, runs, everything),
        *(item for run in runs for item in _checkpoints(run)),
        *_leftovers(home, runs),
        *_trash(home),
    ]


def collect(items: Iterable[Item]) -> int:
    """Remove what is not needed; the bytes that became free. What a driver has taken since is left alone."""
    free = 0
    for item in items:
        if item.needed:
            continue
        if item.lock is None:
            free += _remove(item)
            continue
        with suppress(OSError), locked(item.lock, patience=0.2) as mine:
            free += _remove(item) if mine else 0
    return free


def _remove(item: Item) -> int:
    for path in item.paths:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)  # which does not follow links
    return item.bytes


def _running(run: SearchRun) -> bool:
    return is_locked(run.folder / ".lock")


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _is_new(path: Path) -> bool:
    times = [path.lstat().st_mtime, *(entry.lstat().st_mtime for entry in _entries(path) if path.is_dir())]
    return time.time() - max(times) < NEW_S


def _shared(kind: str, path: Path, users: list[str], everything: list[str], lock: Path) -> Item:
    """Data or a stem, which any search may use."""
    why = "" if users else everything[0] if everything else "it is new" if _is_new(path) else "no search has it"
    needed = bool(users) or why != "no search has it"
    return Item(kind, path.name, size_of(path), needed, why, tuple(users), (path,), lock)


# ---- decoded data ----------------------------------------------------------------------------------------------------


def _data(home: Home, runs: list[SearchRun], everything: list[str]) -> Iterator[Item]:
    for path in _entries(home.root / "datasets"):
        if path.name.startswith(".") or path.name == "raw" or path.is_symlink() or not path.is_dir():
            continue  # raw: what was downloaded, or put there
        users = [run.name for run in runs if _decodes(run, path.name)]
        yield _shared("data", path, users, everything, path.with_name(f".{path.name}.lock"))


def _decodes(run: SearchRun, folder: str) -> bool:
    """Whether a decoded folder may be of the search's data: several versions of the same files look alike."""
    kept = intact(lambda: read_text(run.folder / DATASET).strip())
    return folder.startswith(decoded_prefix(run.spec.dataset)) or bool(kept and folder in (kept, kept[:-33]))


def decoded_prefix(dataset: str) -> str:
    """With what the names of a data set's decoded folders begin (`trainables.data.store`)."""
    kind, colon, where = dataset.partition(":")
    if not colon:
        return f"{dataset}-v"
    name = where.partition("?")[0] if "://" in where else str(Path(where).expanduser().resolve())
    return f"{kind}-" + re.sub(r"[^\w.-]", "_", name.rstrip("/").rpartition("/")[2]) + "-"


# ---- stems -----------------------------------------------------------------------------------------------------------


def _stems(home: Home, runs: list[SearchRun], everything: list[str]) -> Iterator[Item]:
    forks = {run.name: _forked(run) for run in runs}
    unsaid = [
        f"search {run.name} has not said which one it trains"
        for run in runs
        if not forks[run.name] and any(t.stem_trained for t in run.history.everything())
    ]
    for path in _entries(home.root / "stems"):
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        users = [name for name, stems in forks.items() if path.name in stems]
        yield _shared("stem", path, users, [*everything, *unsaid], path.with_name(f".{path.name}.lock"))


def _forked(run: SearchRun) -> set[str]:
    path = run.folder / "history.jsonl"
    return {found.decode() for found in _STEM.findall(read_bytes(path, LOG_BYTES))} if path.exists() else set()


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoints(run: SearchRun) -> Iterator[Item]:
    numbered = {
        part: {path.name: path for path in _entries(run.folder / part) if re.fullmatch(r"-?\d{1,9}", path.name)}
        for part in ("trials", "previews")
    }
    kept, why = _kept(run)
    for needed in (True, False):
        paths = [
            path
            for part, folders in numbered.items()
            for name, path in folders.items()
            if (kept is None or (part == "trials" and int(name) in kept)) is needed
        ]
        if paths:
            said = why if needed else "trials that are not on the front"
            number = f"{len(paths)} trial{'s' * (len(paths) != 1)}"
            size = sum(map(size_of, paths))
            lock = run.folder / ".lock"
            yield Item("checkpoints", f"{run.name}: {number}", size, needed, said, (run.name,), tuple(paths), lock)


def _kept(run: SearchRun) -> tuple[set[int] | None, str]:
    """The trials whose checkpoints are needed, None: all of them; and why."""
    spec, history = run.history.in_force(run.spec), run.history
    run = SearchRun(spec, run.home, run.name, history)
    if _running(run) or pending(run.folder):
        return None, "the search is running, or about to"
    if state_of(run) != "finished":
        return None, "the search can be resumed"
    front = {row["trial"] for row in front_of(spec, history).rows}
    return front | set(history.references) | {
        n[0] for n in history.numbers.values()
    }, "the front and what it is compared with"


# ---- the rest --------------------------------------------------------------------------------------------------------


def _leftovers(home: Home, runs: list[SearchRun]) -> Iterator[Item]:
    for run in runs:
        ray = run.folder / "ray"
        if ray.exists() and not _running(run):
            why = "a driver that was killed left it"
            yield Item("leftover", f"{run.name}: ray", size_of(ray), False, why, (), (ray,), run.folder / ".lock")
    aside = [*home.searches.glob(".*"), *(home.root / "datasets").glob(".*.part-*")]
    for path in sorted(path for path in aside if time.time() - path.lstat().st_mtime > DAY_S):
        yield Item("leftover", path.name, size_of(path), False, "a command that was killed left it", (), (path,))


def removed(home: Home) -> list[tuple[float, str, Path]]:
    """What lies in the trash, the latest last: when it was removed, the search's name, the folder."""
    found = [(REMOVED.fullmatch(path.name), path) for path in _entries(home.root / TRASH) if not path.is_symlink()]
    return sorted((float(match[1]), match[2], path) for match, path in found if match)


def empty_trash(home: Home) -> int:
    """Remove what has been in the trash for a day; the bytes that became free."""
    return collect(_trash(home))


def _trash(home: Home) -> Iterator[Item]:
    for when, name, path in removed(home):
        old = time.time() - when > DAY_S
        why = "removed more than a day ago" if old else f"tuner restore {name} brings it back"
        yield Item("trash", name, size_of(path), not old, why, (), (path,))
