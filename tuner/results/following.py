"""A search that another process may be running, followed from line to line of its history."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from trainables.reading import LOG_BYTES, Damaged, open_regular, read_text
from tuner.errors import Failed
from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.searches import check_settings, is_running, storage_of, stored_spec
from tuner.results.summary import state_of
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import alive, lease_of, pull

SPEC = "spec.yaml"
PULL_S = 3.0  # between two looks into a storage
TAIL = 256  # bytes before the place where we stopped, by which we see that it is still the same file


def _told_by(about: os.stat_result) -> tuple[int, int, int]:
    """By what a file is told from another one, or from what it was: inode, size, time."""
    return about.st_ino, about.st_size, about.st_mtime_ns


def _about(path: Path) -> tuple[int, int, int] | None:
    """The same of a path; None where there is no file."""
    try:
        return _told_by(path.stat())
    except OSError:
        return None


class Followed:
    """A search as its files say it, kept up to date by `look`, which reads only what was appended since.

    ``run``: the search so far, as `load_search` returns it; its history is in memory. A resume may change how it runs,
    and another search may take its name, so the spec is read again where its file has changed. Nothing is written but
    what comes from a storage that the user named. Errors as in `load_search`.
    """

    def __init__(self, home: Home, name: str):
        self._spec_file = _about(home.search(name) / SPEC)  # before it is read: a later one is read again
        self._spec = stored_spec(home, name)
        self.run = SearchRun(self._spec, home, name, History(None))
        self._storage, self._pull_due = storage_of(home), time.monotonic() + PULL_S
        self._lease: tuple[bytes | None, float] = (self._read_lease(), time.monotonic())  # what it was, and since when
        self._begin()
        self.look()

    def _begin(self) -> None:
        self._at, self._lines, self._tail, self._checked = 0, 0, b"", set[int]()
        self._known_state = -1, ""  # as of so many changes of the history
        self._seen: tuple[int, int, int] | None = None  # the file: inode, size, time
        self._error: Exception | None = None  # what was wrong with it then
        self.run = replace(self.run, spec=self._spec, history=History(None))

    def look(self) -> bool:
        """Take in what has happened since; whether there was anything."""
        self._bring()
        self._renew_spec()
        try:
            file = open_regular(self.run.folder / "history.jsonl")
        except FileNotFoundError:  # no trial has started
            return False
        with file:
            about = os.fstat(file.fileno())
            now = _told_by(about)
            if now == self._seen:
                if self._error:
                    raise self._error
                return False
            if about.st_size > LOG_BYTES:
                raise Damaged(f"{file.name!r} is too large for a history")
            again = not self._goes_on(file)
            if again:  # another file: what a storage had, or a copy that was put back
                self._begin()
            try:
                new = self._read(file)
            except (Failed, Damaged) as error:  # what is right by then counts no more; read again once it has changed
                self._begin()
                self._seen, self._error = now, error
                raise
        self._seen = now
        return new or again

    def _renew_spec(self) -> None:
        path = self.run.folder / SPEC
        if (now := _about(path)) in (None, self._spec_file):
            return
        before, named = self._spec, {"name": self.run.name, "storage": self._spec.storage}
        self._spec, self._spec_file = SearchSpec.from_stored(read_text(path), **named), now
        if self._spec.identity() != before.identity():  # another search
            self._begin()
        self.run = replace(self.run, spec=self.run.history.in_force(self._spec))
        self._known_state = -1, ""

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether the file still has, before the place where we stopped, what we read there."""
        file.seek(self._at - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _read(self, file: BinaryIO) -> bool:
        """Apply the whole lines from there on; a last one without an end is still being written."""
        file.seek(self._at)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = whole.decode().split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise Damaged(f"{file.name!r} is no text in UTF-8 (byte {self._at + error.start})") from None
        for line in lines:
            self._lines += 1
            self.run.history.take(line, f"line {self._lines} of {file.name}")
        self._at, self._tail = self._at + len(whole), (self._tail + whole)[-TAIL:]
        self._check_new()
        return bool(lines)

    def _check_new(self) -> None:
        history = self.run.history
        new = [record for record in history.everything() if record.trial not in self._checked]
        check_settings(self.run, new)
        self._checked |= {record.trial for record in new}
        self.run = replace(self.run, spec=history.in_force(self._spec))

    # ---- where the search is elsewhere ----------------------------------------------------------------------------

    def _bring(self) -> None:
        """Bring the folder up to date from the storage, from time to time. One that does not answer is tried again."""
        if self._storage is None or time.monotonic() < self._pull_due:
            return
        with suppress(Exception):  # of any class: cloud clients raise their own; what is here is shown meanwhile
            pull(self._storage, self.run.home, self.run.name)
            lease = self._read_lease()
            if lease != self._lease[0]:
                self._lease = lease, time.monotonic()
        self._pull_due = time.monotonic() + PULL_S

    def _read_lease(self) -> bytes | None:
        return lease_of(self._storage, self.run.name) if self._storage else None

    @property
    def state(self) -> str:
        """``running`` while a driver holds the search's lock here, or renews its lease in the storage; else as
        `state_of`."""
        changes, found = self._known_state
        if changes != self.run.history.changes:
            changes, found = self._known_state = self.run.history.changes, state_of(self.run)
        if found != "stopped":
            return found
        data, since = self._lease
        running = is_running(self.run.home, self.run.name) or alive(data, time.monotonic() - since)
        return "running" if running else found
