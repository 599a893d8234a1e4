"""A search's folder kept in its storage too (``--storage``), so that another home finds it and can go on.

The home is where the driver works; trials write their checkpoints and trunks into the storage themselves. Without a
storage nothing here does anything: the home is then what nodes share.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from trainables.storage import inside
from tuner.errors import TakenOver, UsageError
from tuner.files import write_atomically
from tuner.home import NAME, Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.storage_spec import spoken_errors

EVERY_S, MOST_S = 2.0, 30.0  # how often changes are sent: sending takes a tenth of the time at most
HISTORY, LEASE = "history.jsonl", "driver.json"
_PATIENCE = 2.5  # intervals in which a lease has not changed: its driver is gone
_NOT_OURS = ("ray", "trials", "verify/seeds")  # Ray's own folder; checkpoints, which trials put into the storage


def open_search(storage: str, name: str):
    from trainables.storage import Storage, below

    return Storage(below(storage, "searches", name))


def stored_names(storage: str) -> list[str]:
    """The searches in a storage."""
    from trainables.storage import Storage

    with spoken_errors(storage):
        return [name for name in Storage(storage).folders("searches") if NAME.fullmatch(name)]


def pull(storage: str, home: Home, name: str) -> bool:
    """Bring the search's folder up to date; False where the storage has no such search.

    The history only grows. Where ours has more, this home was cut off before it could send; where both have something
    of their own, somebody went on elsewhere, and what trials left in the storage belongs to that.
    """
    folder = home.search(name)
    with spoken_errors(storage):
        store = open_search(storage, name)
        theirs = store.read(HISTORY) or b""
        if store.read("spec.yaml") is None:
            return False
        behind = _behind(folder, theirs)
        found = {file: inside(folder, file) for file in _small_files(store)}  # all are looked at before one is written
        for file in sorted(found, key=lambda file: file == HISTORY):  # last, because it says all is here
            if behind or not found[file].exists():
                write_atomically(found[file], theirs if file == HISTORY else store.read(file) or b"")
    return True


def _behind(folder: Path, theirs: bytes) -> bool:
    """Whether a history holds what that of the folder does not."""
    path = folder / HISTORY
    return not (path.read_bytes() if path.exists() else b"").startswith(theirs)


def _small_files(store) -> Iterator[str]:
    yield from (file for file, _ in store.files() if file != LEASE)
    for folder in store.folders():
        if folder not in _NOT_OURS:
            files = (f"{folder}/{file}" for file, _ in store.files(folder, recursive=True))
            yield from (file for file in files if not file.startswith(_NOT_OURS))


def push(storage: str, home: Home, name: str) -> None:
    """Send what a command wrote into a search's folder."""
    with spoken_errors(storage):
        Mirror(storage, home, name).send()


@contextlib.contextmanager
def mirrored(spec: SearchSpec, home: Home, name: str) -> Iterator[None]:
    """While a driver runs: take the search over, bring it here, send changes in the background and, at the end, all."""
    if not spec.storage:
        yield
        return
    mirror = Mirror(spec.storage, home, name)
    with spoken_errors(spec.storage):
        mirror.claim()
    pull(spec.storage, home, name)
    stop = threading.Event()
    thread = threading.Thread(target=mirror.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        mirror.close()


class Mirror:
    """Sends what has changed of a search's folder; a driver's holds the search's lease meanwhile (``claim``)."""

    def __init__(self, storage: str, home: Home, name: str):
        self.store, self.folder, self.name = open_search(storage, name), home.search(name), name
        self.storage, self.who = storage, f"{socket.gethostname()}:{home.root}"
        self._sent: dict[str, tuple[int, int]] = {}
        self._every, self._due = EVERY_S, math.inf  # what our lease announces, and when it must change; inf: none

    def send(self) -> None:
        for path in sorted(self.folder.rglob("*"), key=lambda path: path.name == HISTORY):
            file = path.relative_to(self.folder).as_posix()
            if path.name.startswith(".") or file.startswith(_NOT_OURS) or not path.is_file():
                continue
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_size)
            if self._sent.get(file) != state:
                if time.monotonic() > self._due:  # many files, or a storage that became slow
                    self._hold(self._every)
                data = path.read_bytes()
                self.store.write(file, data[: data.rfind(b"\n") + 1] if file == HISTORY else data)
                self._sent[file] = state

    def run(self, stop: threading.Event) -> None:
        from trainables.storage import explain

        every, said = EVERY_S, False
        while not stop.wait(every):
            begin = time.monotonic()
            try:
                self._check()
                with contextlib.suppress(FileNotFoundError):  # a file that was replaced just now
                    self.send()
                every = min(max(EVERY_S, 10 * (time.monotonic() - begin)), MOST_S)
                self._hold(every)
                said = False
            except TakenOver as error:
                print(f"{error}; its trials still write their checkpoints there: end it", file=sys.stderr, flush=True)
                return
            except Exception as error:  # whatever it is: clients of clouds have errors of their own
                if not said:
                    print(
                        f"{explain(self.storage, error)}; results are kept in {self.folder} and sent when it answers",
                        file=sys.stderr,
                        flush=True,
                    )
                said = True

    def claim(self) -> None:
        """One driver per search: ``UsageError`` while another home's is alive, which its lease shows by changing.

        Two that start within the same second from two homes are not told apart.
        """
        first = self.store.read(LEASE)
        theirs = json.loads(first) if first else None
        if theirs and theirs["who"] != self.who:
            deadline = time.monotonic() + _PATIENCE * theirs["every"]
            while time.monotonic() < deadline:
                time.sleep(0.5)
                now = self.store.read(LEASE)
                if now is None:
                    break
                if now != first:
                    raise UsageError(
                        f"search {self.name!r} is running already, from {theirs['who']}; wait for it, or "
                        "give this one another --name"
                    )
        self._lease(MOST_S)  # bringing the search here may take a while

    def _lease(self, every: float) -> None:
        """Announce that it will change within ``every`` seconds."""
        text = json.dumps({"who": self.who, "every": every, "beat": uuid.uuid4().hex})
        self.store.write(LEASE, text.encode())
        self._every, self._due = every, time.monotonic() + 1.5 * every  # well before others lose their patience

    def _check(self) -> None:
        """``TakenOver`` where another driver went on meanwhile: this machine slept, or could not reach the storage."""
        found = self.store.read(LEASE)
        if found is None and not _behind(self.folder, self.store.read(HISTORY) or b""):
            return  # it was removed, but by nobody who went on
        who = json.loads(found)["who"] if found else "a driver that has ended since"
        if who != self.who:
            raise TakenOver(
                f"search {self.name!r} was taken over by {who}; nothing more is sent to {self.storage!r}, "
                f"what this driver found is in {self.folder}"
            )

    def _hold(self, every: float) -> None:
        self._check()
        self._lease(every)

    def close(self) -> None:
        """Send the rest and give the search up; if it is another's by now, only say so."""
        try:
            with spoken_errors(self.storage):
                self._hold(MOST_S)  # pictures come last, and a page of them has 5 MB
                self.send()
        except TakenOver as error:
            print(error, file=sys.stderr, flush=True)
        else:
            with contextlib.suppress(OSError):
                self.store.remove(LEASE)


# ---- Ray's own folder --------------------------------------------------------------------------------------------


# ---- data ---------------------------------------------------------------------------------------------------------
