"""`tuner import`: a search's folder, or a bundle, that somebody sent becomes a search of this home.

Taken is what cannot be made again: the spec, the history, what it began from, checkpoints, the certificate. Not taken
are pages (which hold scripts), results of `tuner verify` (which count as tested here), the study, and requests. Nothing
is executed, no link is followed, no name leads out of the new folder, and no search is overwritten.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainables.files import aside_of, naming, regular
from trainables.reading import MIB, Damaged, read_text
from tuner.errors import Failed, UsageError
from tuner.files import write_atomically
from tuner.home import Home, check_name
from tuner.results.bundle import FILES, HISTORY, SPEC, Bundle, read_bundle
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.searches import check_settings, load_search, search_names
from tuner.spec.search_spec import SearchSpec

CHECKPOINT = "checkpoint.pt"  # as `trainables.checkpoint` calls it, which loads torch
TRAINED = re.compile(rf"(?:trials|previews)/-?\d{{1,9}}/{re.escape(CHECKPOINT)}")
ON_THE_WAY = re.compile(r"warm-start|(?:trials|previews)(?:/-?\d{1,9})?")  # folders of what is taken
CHECKPOINT_BYTES = 64 * 1024 * MIB  # of one
COPIED_AT_ONCE = 4 * MIB


@dataclass(frozen=True)
class Found:
    """In a folder: the files that are taken, with their bytes, and the number of others."""

    taken: dict[str, int]
    others: int


@dataclass(frozen=True)
class Imported:
    """``checkpoints``: of how many trials; ``others``: how many files of the folder were left where they are."""

    run: SearchRun
    checkpoints: int
    others: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "search": self.run.name,
            "folder": str(self.run.folder),
            "trials": len(self.run.history.trials),
            "checkpoints": self.checkpoints,
            "not_taken": self.others,
        }


def import_search(source: Path | str, home: Home | None = None, *, name: str | None = None) -> Imported:
    """Copy the search in folder or bundle ``source`` into the home, under ``name`` or the name that it has.

    A storage or study database that its spec names is not taken over: the search is this home's. ``UsageError`` where
    the source is no search, holds a link, is too large, or its name is taken; ``Failed`` for a damaged history.
    """
    home, source = home or Home(), Path(source)
    if name is not None:
        check_name(name)
    given = _names(source) if os.path.isdir(source) else read_bundle(source)
    home.require_writable(home.searches)
    aside = home.searches / aside_of("import")  # whole or absent: the folder is renamed at the end
    try:
        if isinstance(given, Bundle):
            for part, data in given.files.items():
                write_atomically(aside / part, data)
        else:
            _copy_folder(source, given.taken, aside)
        spec = _spec(source, aside, name)
        folder = home.search(check_name(spec.search_name))
        if folder.exists() or folder.is_symlink() or spec.search_name in search_names(home):
            raise UsageError(f"search {spec.search_name!r} exists already; choose another --name")
        history = History(aside)
        check_settings(SearchRun(spec, home, spec.search_name, history))
        checkpoints = _drop_unknown(aside, history)
        write_atomically(aside / SPEC, spec.to_yaml())
        os.rename(aside, folder)
    except (Damaged, Failed) as error:
        raise Failed(str(error).replace(str(aside), str(source))) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    others = given.others if isinstance(given, Found) else 0
    return Imported(load_search(home, spec.search_name), checkpoints, others)


def _spec(source: Path, aside: Path, name: str | None) -> SearchSpec:
    """The spec as this home keeps it."""
    alone = {"storage": None, "study_storage": None}
    try:
        text = read_text(aside / SPEC, FILES[SPEC])
        spec = SearchSpec.from_stored(text, **alone)
        return SearchSpec.from_stored(text, **alone, name=name or spec.search_name)
    except (UsageError, Damaged) as error:
        said = str(error).replace(str(aside), str(source))
        raise UsageError(f"the search in {str(source)!r} cannot be read: {said}") from None


def _copy_folder(source: Path, names: dict[str, int], aside: Path) -> None:
    """The history first: a checkpoint of which it tells is there, or a later one."""
    if (size := sum(names.values())) > (free := shutil.disk_usage(aside.parent).free):
        raise UsageError(f"{str(source)!r} has {size / MIB:.0f} MiB and there are {free / MIB:.0f} MiB free here")
    for name in sorted(names, key=lambda name: name != HISTORY):
        with _opened(source / name) as file:
            _copy(file, aside / name, FILES.get(name, CHECKPOINT_BYTES))


def _names(source: Path) -> Found:
    """``UsageError`` where it is no search's folder, or holds a link in place of what is taken."""
    if not all((source / name).exists() for name in (SPEC, HISTORY)):  # before all of a disk is walked through
        raise UsageError(f"{str(source)!r} is no search's folder: it holds no {SPEC} with a {HISTORY}")
    taken, others = dict[str, int](), 0
    for where, folders, files in os.walk(source):  # which does not follow links
        for path in (Path(where, name) for name in (*folders, *files)):
            name = path.relative_to(source).as_posix()
            if name in FILES or TRAINED.fullmatch(name) or ON_THE_WAY.fullmatch(name):
                if path.is_symlink():
                    raise UsageError(f"{str(path)!r} is a link, which is not followed here; put there what it leads to")
                if not ON_THE_WAY.fullmatch(name):
                    taken[name] = path.lstat().st_size
            else:
                others += path.name in files
    return Found(taken, others)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=regular) as file:
            yield file
    except OSError as error:
        if error.filename != str(path):
            raise
        raise UsageError(f"{str(path)!r} cannot be read ({error.strerror})") from None


def _copy(file: BinaryIO, to: Path, most: int) -> None:
    """``UsageError`` for more than ``most`` bytes, whatever the file's size was when it was looked at."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with naming(to), open(to, "xb") as copy:
        while part := file.read(COPIED_AT_ONCE):
            if copy.tell() + len(part) > most:
                raise UsageError(f"{to.name} is larger than the {most / MIB:g} MiB that it may have")
            copy.write(part)


def _drop_unknown(aside: Path, history: History) -> int:
    """Remove checkpoints of trials of which the history does not tell; of how many others there is one."""
    kept = 0
    for folder in (path for part in ("trials", "previews") for path in (aside / part).glob("*")):
        if int(folder.name) not in history:
            shutil.rmtree(folder)
        elif folder.parent.name == "trials":
            kept += 1
    return kept
