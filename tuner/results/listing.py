"""What `tuner ls` says of each search. A home of many searches keeps it, so that not every history is read again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainables.reading import intact, read_json, shaped
from tuner.errors import Failed, UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.results.events import is_time
from tuner.results.search_run import SearchRun
from tuner.results.searches import is_running, load_search, search_names
from tuner.results.summary import state_of
from tuner.sync.named_places import unasked_storage_note

KEPT = ".listing.json"  # in the home; derived, so a damaged one counts as absent
WORTH = 50  # so many newly read searches are worth writing it: fewer are read within a tenth of a second
LISTED = ("method", "dataset", "state", "trials")
_SHAPE = {"stamp": [int], "method": str, "dataset": str, "state": str, "trials": int, "created": float, "note": str}


def searches(home: Home | None = None, say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """What `tuner ls --json` prints: a row for each search of the home and of its storage, by name. A search that
    cannot be read is left out, and ``say`` hears why; it hears of notes, too."""
    home, rows = home or Home(), []
    listing = Listing(home)
    for name in search_names(home):
        try:
            row = listing.row(name)
        except (UsageError, Failed) as error:  # a search that cannot be read must not hide the others
            say(str(error))
            continue
        except Exception as error:
            say(f"search {name!r} cannot be read: {error}")
            continue
        if row["note"]:
            say(row["note"])
        created = row["created"] and time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(row["created"]))
        rows.append({"search": name, **{key: row[key] for key in LISTED}, "created": created})
    listing.keep()
    return rows


class Listing:
    """The searches of a home, each as method, dataset, state, trials, created (seconds since 1970, None before the
    first trial) and a note, empty where there is nothing to say.

    What is kept of a search holds as long as its spec and its history are the same files, unchanged. Where a storage,
    which may know more, is named, nothing is kept.
    """

    def __init__(self, home: Home):
        self.home = home
        kept = None if home.storage else intact(lambda: read_json(home.root / KEPT))
        self._kept: dict[str, dict[str, Any]] = kept if isinstance(kept, dict) else {}
        self._read: dict[str, dict[str, Any]] = {}

    def row(self, name: str) -> dict[str, Any]:
        """What there is to say of the search; errors as in `load_search`."""
        stamp, row = self._stamp(name), self._kept.get(name, {})
        if not shaped(row, _SHAPE) or not is_time(row["created"]) or row["stamp"] != stamp:
            row = self._read[name] = {"stamp": stamp, **_row(load_search(self.home, name), self.home)}
        return {
            **row,
            "state": "running" if row["state"] == "stopped" and is_running(self.home, name) else row["state"],
        }

    def add(self, run: SearchRun) -> None:
        """The same of a search that its driver has in memory, all of it written."""
        self._read[run.name] = {"stamp": self._stamp(run.name), **_row(run, self.home)}

    def keep(self, worth: int = WORTH) -> None:
        """Keep what was read of ``worth`` searches or more; a home that cannot be written stays as it is."""
        if len(self._read) >= worth and not self.home.storage:
            with suppress(OSError):
                write_atomically(self.home.root / KEPT, json.dumps(self._kept | self._read))

    def _stamp(self, name: str) -> list[int]:
        """Tells whether the files are those that were read. Taken before they are read, so it is never too new."""
        stamp: list[int] = []
        for file in ("spec.yaml", "history.jsonl"):
            with suppress(OSError):
                about = (self.home.search(name) / file).stat()
                stamp += about.st_ino, about.st_size, about.st_mtime_ns
        return stamp


def keep_listed(run: SearchRun) -> None:
    """Keep what there is to say of a search whose driver ends, so that no `tuner ls` has to read its history."""
    listing = Listing(Home(run.home.root))  # as who names no storage sees it
    listing.add(run)
    listing.keep(worth=1)


def _row(run: SearchRun, home: Home) -> dict[str, Any]:
    return {
        "method": run.spec.method_names,
        "dataset": run.spec.dataset,
        "state": state_of(run),
        "trials": len(run.history.trials),
        "created": min((trial.started for trial in run.history.trials.values()), default=None),
        "note": unasked_storage_note(run.spec, home, run.name) or "",
    }
