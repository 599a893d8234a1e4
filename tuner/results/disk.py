"""What lies in a home, for which search, and what no search needs. Of a storage: `tuner.results.stored_disk`.

Needed of a finished search are the checkpoints of its front, of its default settings and of its references, with those
of their best epochs; of any other all. Decoded data, stems and weights to start from are needed where a search has
them, a model of `tuner verify --model` where it was tested. What is not needed can be made again, or was never asked
for.
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

from trainables.data.spec import decoded_start
from trainables.files import is_locked, locked
from trainables.reading import LOG_BYTES, Damaged, intact, read_bytes, read_json, read_text
from trainables.storage import Storage
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.results.fronts import front_of
from tuner.results.search_run import SearchRun
from tuner.results.searches import search_names, stored_search
from tuner.results.steering import pending
from tuner.results.summary import state_of
from tuner.sync.initial import INIT
from tuner.sync.shared_dataset import DATASET
from tuner.sync.storage_spec import storage_errors

DAY_S = 24 * 3600.0
NEW_S = 3600.0  # what was written so lately may be of a search that has not said so yet
NOT_ON_THE_FRONT = "trials that are not on the front"
REPRODUCED = "reproduced"  # folder of the home where `tuner reproduce` trains
WEIGHTS = re.compile(r"[0-9a-f]{64}\.safetensors")  # in the folder inits
TRASH = "trash"  # folder of the home, for a day, with TIME-NAME for each search that was removed
REMOVED = re.compile(r"(\d{1,12})-(.+)")
_STEM = re.compile(rb'"stem": "([0-9a-f]{16})"')


@dataclass(frozen=True)
class Item:
    """``kind``: data, stem, weights, checkpoints, model, leftover or trash. ``searches``: who needs it; ``why`` it is
    kept or not, in words. ``bytes``: on the disk, links not followed; of files with several names (`tuner clone`) for
    each name. ``storage``: where it lies, if not in the home, and ``files`` are its names there."""

    kind: str
    name: str
    bytes: int
    needed: bool
    why: str
    searches: tuple[str, ...] = ()
    paths: tuple[Path, ...] = field(default=(), repr=False)
    lock: Path | None = None  # held while it is removed
    storage: str | None = None
    files: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("paths", "lock", "files")}


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


def inventory(home: Home | None = None) -> list[Item]:
    """All that can be told apart in a home, needed or not."""
    home, runs, unread = home or Home(), [], []
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
        *_weights(home, runs, everything),
        *(item for run in runs for item in _checkpoints(run)),
        *_models(home),
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
    if item.storage:
        with storage_errors(item.storage):
            for name in item.files:
                Storage(item.storage).remove(name)
        return item.bytes
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


def _shared(kind: str, path: Path, users: list[str], everything: list[str], lock: Path | None) -> Item:
    """Data or a stem, which any search may use."""
    needed, why = verdict(users, everything, _is_new(path))
    return Item(kind, path.name, size_of(path), needed, why, tuple(users), (path,), lock)


def verdict(users: list[str], everything: list[str], new: bool) -> tuple[bool, str]:
    """Whether what any search may use is needed, and why. ``users``: the searches that have it; ``everything``: why
    nothing of its kind may be removed."""
    if users:
        return True, ""
    why = everything[0] if everything else "it is new" if new else ""
    return (True, why) if why else (False, "no search has it")


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
    prefixes, (_, extra, where) = [decoded_prefix(run.spec.dataset)], run.spec.extra_data.partition(":")
    prefixes += [decoded_prefix(f"extra:{where}")] if extra else []
    return folder.startswith(tuple(prefixes)) or bool(kept and folder in (kept, kept[:-33]))


def decoded_prefix(dataset: str) -> str:
    """With what the names of a data set's decoded folders begin (`trainables.data.store`)."""
    kind, colon, where = dataset.partition(":")
    if not colon:
        return f"{dataset}-v"
    name = where.partition("?")[0] if "://" in where else str(Path(where).expanduser().resolve())
    return decoded_start(kind, name)


# ---- stems -----------------------------------------------------------------------------------------------------------


def _stems(home: Home, runs: list[SearchRun], everything: list[str]) -> Iterator[Item]:
    forks, unsaid = stems_of(runs)
    for path in _entries(home.root / "stems"):
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        users = [name for name, stems in forks.items() if path.name in stems]
        yield _shared("stem", path, users, [*everything, *unsaid], path.with_name(f".{path.name}.lock"))


def stems_of(runs: list[SearchRun]) -> tuple[dict[str, set[str]], list[str]]:
    """The stems of each search; and of searches that have not said which they train, why all are needed."""
    forks = {run.name: _forked(run) for run in runs}
    unsaid = [
        f"search {run.name} has not said which one it trains"
        for run in runs
        if not forks[run.name] and any(t.stem_trained for t in run.history.everything())
    ]
    return forks, unsaid


def _forked(run: SearchRun) -> set[str]:
    path = run.folder / "history.jsonl"
    return {found.decode() for found in _STEM.findall(read_bytes(path, LOG_BYTES))} if path.exists() else set()


# ---- weights to start from, and models that no search made -----------------------------------------------------------


def _weights(home: Home, runs: list[SearchRun], everything: list[str]) -> Iterator[Item]:
    for path in _entries(home.root / "inits"):
        if WEIGHTS.fullmatch(path.name) and not path.is_symlink():
            users = [run.name for run in runs if starts_from(run) == path.stem]
            yield _shared("weights", path, users, everything, None)


def starts_from(run: SearchRun) -> str | None:
    """The name of the weights that a search starts from."""
    found = intact(lambda: read_json(run.folder / INIT))
    return found.get("weights") if isinstance(found, dict) else None


def _models(home: Home) -> Iterator[Item]:
    for path in _entries(home.root / "models"):
        if path.is_symlink() or not path.is_dir():
            continue
        tested, new = (path / "verified.json").exists(), _is_new(path)
        why = "it was tested" if tested else "it is new" if new else "a verification that was killed left it"
        yield Item("model", path.name, size_of(path), tested or new, why, (), (path,))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoints(run: SearchRun) -> Iterator[Item]:
    numbered = {
        part: {path.name: path for path in _entries(run.folder / part) if re.fullmatch(r"-?\d{1,9}", path.name)}
        for part in ("trials", "previews")
    }
    kept, why = kept_trials(run)
    for needed in (True, False):
        paths = [
            path
            for part, folders in numbered.items()
            for name, path in folders.items()
            if (kept is None or (part == "trials" and int(name) in kept)) is needed
        ]
        if paths:
            said = why if needed else NOT_ON_THE_FRONT
            size = sum(map(size_of, paths))
            name, lock = f"{run.name}: {trials_text(len(paths))}", run.folder / ".lock"
            yield Item("checkpoints", name, size, needed, said, (run.name,), tuple(paths), lock)


def trials_text(number: int) -> str:
    return f"{number} trial{'s' * (number != 1)}"


def kept_trials(run: SearchRun) -> tuple[set[int] | None, str]:
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
    aside = [*home.searches.glob(".*"), *(home.root / "datasets").glob(".*.part-*"), *_entries(home.root / REPRODUCED)]
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
