"""Copy a search's folder to its storage (``--storage``), so that another home can find and resume the search.

The driver works in its home; trials write their checkpoints and stems to the storage themselves. Without a storage
nothing is copied, and the nodes share the home instead.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables.files import inside, is_locked, regular
from trainables.reading import LOG_BYTES, intact, parse_json, read_bytes, read_text, shaped
from trainables.storage import Storage, below, explain
from tuner.errors import TakenOver, UsageError
from tuner.escape import to_stderr
from tuner.files import write_atomically
from tuner.home import SEARCH_NAME, Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.storage_spec import storage_errors

MIN_INTERVAL_S, MAX_INTERVAL_S = 2.0, 30.0  # between two sendings, which shall take at most a tenth of the time
HISTORY, LEASE = "history.jsonl", "driver.json"
REQUESTS = "requests"  # folder of what users ask of a search: a file for each, until its driver takes it up
_MISSED_INTERVALS = 2.5  # a lease that has not changed for so many of its intervals belongs to a driver that is gone
# What a search's driver writes, and what `tuner verify` does. Checkpoints are not among it: trials write them to the
# storage themselves.
DRIVEN = re.compile(
    r"spec\.yaml|history\.(jsonl|parquet)|(result|running)\.json|front\.(html|png|parquet)"
    r"|study\.(log|owner|unreadable\.log)|dataset|images|began-in|init\.json|mlflow\.key"
    r"|warm-start/(history\.jsonl|points\.json)"
)
TESTED = re.compile(r"verified\.(html|json|parquet)|verify/[^/]+/[^/]+\.(json|parquet)")
MIRRORED = re.compile(f"{DRIVEN.pattern}|{TESTED.pattern}")
# What changes without an event of the history: where the one is later, the others are taken.
LATER = {
    "verified.json": TESTED,
    "running.json": re.compile(r"running\.json"),
    "result.json": re.compile(r"result\.json|history\.parquet|front\.(html|png|parquet)"),
}
ENDED = b'"event": "end"', b'"event": "preview"'  # of a trial, as the history has them
_TRAINED = re.compile(r"(trials|previews|verify/seeds/-?\d{1,9})/-?\d{1,10}/checkpoint\.pt")
_NOT_LISTED = ("ray", "trials", "previews", REQUESTS)  # folders of many files that are not mirrored


def open_search(storage: str, name: str) -> Storage:
    """The search's folder in a storage, whether or not it exists."""
    return Storage(below(storage, "searches", name))


def stored_names(storage: str) -> list[str]:
    """The names of the searches in a storage, without names that are not allowed. ``Failed`` if it cannot be read."""
    with storage_errors(storage):
        return [name for name in Storage(storage).folders("searches") if SEARCH_NAME.fullmatch(name)]


def pull(storage: str, home: Home, name: str) -> bool:
    """Bring the home's folder of the search up to date from the storage; False if the storage has no such search.

    Histories only grow. If the local one is longer, this home was cut off before it could send the rest, and local
    files stay. If each has events that the other lacks, another driver resumed the search, and the storage wins: the
    checkpoints in it belong to that history. What is written without an event (`LATER`), such as tests, which several
    homes may make, counts where it was written later.

    ``Failed`` if the storage cannot be read; ``UsageError``, before any file is written, if a file name in it leads out
    of the folder, or if the home has another search of this name. Files that no search writes are left there.
    """
    folder = home.search(name)
    with storage_errors(storage):
        store = open_search(storage, name)
        theirs = store.read(HISTORY) or b""
        if store.read("spec.yaml") is None:
            return False
        if _is_another(folder, theirs):
            raise UsageError(
                f"search {name!r} in {storage!r} is another one than search {name!r} in {str(home.root)!r}; give "
                "another --home to see that of the storage, or no storage to see that of this home"
            )
        paths = {file: inside(folder, file) for file, _ in _stored_files(store)}  # all checked before one is written
        files = _to_bring(
            store, folder, theirs, {file: path for file, path in paths.items() if MIRRORED.fullmatch(file)}
        )
        for file in sorted(files, key=lambda file: file == HISTORY):  # the history last: it says that the rest is here
            write_atomically(paths[file], theirs if file == HISTORY else store.read(file) or b"")
    return True


def _to_bring(store: Storage, folder: Path, theirs: bytes, paths: dict[str, Path]) -> list[str]:
    """Those of the files ``paths`` that are newer in the storage, whose history is ``theirs``, or not here."""
    if _is_behind(folder, theirs):
        return [*paths]
    later = [kind for file, kind in LATER.items() if _is_later(store, folder, file)]
    return [file for file, path in paths.items() if not path.exists() or any(kind.fullmatch(file) for kind in later)]


def _is_behind(folder: Path, theirs: bytes) -> bool:
    """Whether the history ``theirs`` holds events that the folder's own does not."""
    path = folder / HISTORY
    return not (read_bytes(path, LOG_BYTES) if path.exists() else b"").startswith(theirs)


def _is_another(folder: Path, theirs: bytes) -> bool:
    """Whether two searches have one name: their histories begin with other events, which hold their time. One here in
    which nothing has ended, and that nobody runs, is none: a driver that was killed before it had sent anything left
    it."""
    path = folder / HISTORY
    if not path.exists():
        return False
    ours = read_bytes(path, LOG_BYTES)
    if b"\n" not in ours or b"\n" not in theirs or ours.partition(b"\n")[0] == theirs.partition(b"\n")[0]:
        return False
    return any(event in ours for event in ENDED) or is_locked(folder / ".lock")


def _is_later(store: Storage, folder: Path, file: str) -> bool:
    """Whether a file was written there after it was written, or brought, here. Clocks are compared: one that is off
    shows an older one for so long."""
    there, here = store.written(file), folder / file
    return there is not None and (not here.exists() or there > here.stat().st_mtime)


def _stored_files(store: Storage) -> Iterator[tuple[str, int]]:
    """(name, bytes) of what a storage has of a search, but for its lease and the folders of trials."""
    yield from ((file, size) for file, size in store.files() if file != LEASE)
    for folder in store.folders():
        if folder not in _NOT_LISTED:
            yield from ((f"{folder}/{file}", size) for file, size in store.files(folder, recursive=True))


def _lease(data: bytes | None) -> dict[str, Any] | None:
    """What a driver says of itself; None where there is no lease, or a damaged one, which nobody renews."""
    lease = intact(lambda: parse_json(data or b""))
    return lease if shaped(lease, {"who": str, "every": float}) and 0 < lease["every"] <= MAX_INTERVAL_S else None


def lease_of(storage: str, name: str) -> bytes | None:
    """The lease of the driver that runs the search, as it lies in the storage; ``Failed`` if that cannot be read."""
    with storage_errors(storage):
        return open_search(storage, name).read(LEASE)


def alive(lease: bytes | None, unchanged_s: float) -> bool:
    """Whether a driver with this lease is alive, where the lease has not changed for so many seconds."""
    found = _lease(lease)
    return found is not None and unchanged_s < _MISSED_INTERVALS * found["every"]


def running_from(storage: str, home: Home, name: str) -> str | None:
    """A sentence on the driver of another home that runs the search; None: there is none. Waits where a lease lies
    there. ``Failed`` if the storage does not work."""
    with storage_errors(storage):
        who = Mirror(storage, home, name).other_driver()
    return who and _running_from(name, who)


def _running_from(name: str, who: str) -> str:
    return f"search {name!r} is running already, from {who}; wait for it, or give this one another --name"


def move_search(storage: str, home: Home, name: str, source: str, target: str) -> None:
    """Move the folder ``source`` of a storage, of the search ``name``, to ``target``. May be repeated where it was cut
    off. ``UsageError`` if a driver of another home is running the search, ``Failed`` if the storage does not work."""
    with storage_errors(storage):
        if source == f"searches/{name}":
            Mirror(storage, home, name).claim()
        all_ = Storage(storage)
        found = [file for file, _ in all_.files(source, recursive=True)]
        moved = sorted(
            found, key=lambda file: (file == "spec.yaml") is target.startswith("searches/")
        )  # it is listed by it
        for file in moved:
            data = all_.read(f"{source}/{file}")
            if data is not None and file != LEASE:
                inside(home.root, f"{target}/{file}")  # a name that leads nowhere else
                all_.write(f"{target}/{file}", data)
            all_.remove(f"{source}/{file}")
        if all_.fs.type_name == "local" and found:
            all_.fs.delete_dir(f"{all_.root}/{source}")


def stored_beside(storage: str, name: str, folder: str) -> bool:
    """Whether a storage has a search ``name`` and files in ``folder``, too, which are not moved to it yet."""
    with storage_errors(storage):
        there = open_search(storage, name).read("spec.yaml") is not None
        return there and any(True for _ in Storage(storage).files(folder, recursive=True))


def leave_request(storage: str, name: str, file: str, text: str) -> None:
    """Leave a request for the search's driver in its storage; ``Failed`` if the storage cannot be written."""
    with storage_errors(storage):
        open_search(storage, name).write(f"{REQUESTS}/{file}", text.encode())


def push(storage: str, home: Home, name: str, *, tests: bool = True) -> None:
    """Send to the storage what a command wrote into a search's folder, with its ``tests`` or without; ``Failed`` if the
    storage cannot be written.

    Where the search has gone on elsewhere meanwhile, only tests are sent: all else there is newer.
    """
    with storage_errors(storage):
        mirror = Mirror(storage, home, name)
        if tests:
            mirror.send(TESTED)
        if not _is_behind(mirror.folder, mirror.store.read(HISTORY) or b""):
            mirror.send()


def check_kept(spec: SearchSpec, home: Home, name: str) -> None:
    """``UsageError`` where the search keeps its checkpoints in another storage than the spec names, which has not the
    search either; ``Failed`` if that one cannot be read. A search that began without a storage may get one."""
    path = home.search(name) / "spec.yaml"
    if not path.exists() or not path.with_name(HISTORY).exists():
        return
    kept = SearchSpec.from_stored(read_text(path), name=name).storage
    if not kept or kept == spec.storage:
        return
    if spec.storage:
        with storage_errors(spec.storage):
            if open_search(spec.storage, name).read("spec.yaml") is not None:
                return  # another address of the same, or a copy
    raise UsageError(
        f"search {name!r} keeps its checkpoints in {kept!r}; give --storage {shlex.quote(kept)}, or choose another "
        "--name"
    )


@contextlib.contextmanager
def mirrored(spec: SearchSpec, home: Home, name: str) -> Iterator[None]:
    """In this block a driver owns the search: its folder is brought here first, changes are sent in the background, and
    everything at the end. Without a storage nothing happens.

    ``UsageError`` if another driver is running the search, ``Failed`` if the storage does not work.
    """
    if not spec.storage:
        yield
        return
    mirror = Mirror(spec.storage, home, name)
    with storage_errors(spec.storage):
        mirror.claim()
    try:
        known = pull(spec.storage, home, name)
        with storage_errors(spec.storage):
            if not known:  # it may have begun without this storage
                mirror.send_trained()
                mirror.send(TESTED)
            mirror.fetch_requests()
    except BaseException:
        mirror.let_go()
        raise
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
    """Sends the changed files of a search's folder to its storage.

    A driver's mirror also holds the search's lease (`claim`): a small file in the storage that names its owner and
    changes at least once in every interval that it announces, which shows that the driver is alive.
    """

    def __init__(self, storage: str, home: Home, name: str):
        self.store, self.folder, self.name = open_search(storage, name), home.search(name), name
        self.storage, self.owner = storage, f"{socket.gethostname()}:{home.root}"
        self._sent: dict[str, tuple[int, int]] = {}  # file -> its modification time (ns) and size when it was sent
        self._every = MIN_INTERVAL_S  # seconds that our lease announces
        self._due = math.inf  # ``time.monotonic()`` by which the lease must change; inf: there is none

    def send(self, names: re.Pattern[str] = DRIVEN) -> None:
        """Send every file that has changed since it was last sent; the history last, and of it only whole lines.
        ``names``: those that are sent."""
        for path in sorted(self._own_files(names), key=lambda path: path.name == HISTORY):
            file, about = path.relative_to(self.folder).as_posix(), path.lstat()
            if not stat.S_ISREG(about.st_mode):  # a link may lead to any file of the user's, a pipe waits
                continue
            state = (about.st_mtime_ns, about.st_size)
            if self._sent.get(file) != state:
                if time.monotonic() > self._due:  # there are many files, or the storage has become slow
                    self._renew_lease(self._every)
                with open(path, "rb", opener=regular) as opened:
                    data = opened.read()
                self.store.write(file, data[: data.rfind(b"\n") + 1] if file == HISTORY else data)
                self._sent[file] = state

    def send_trained(self) -> None:
        """Send the checkpoints that lie in the folder, of a search that ran without a storage until now."""
        for where, _, files in os.walk(self.folder):  # which does not follow links
            for path in (Path(where, name) for name in files):
                file = path.relative_to(self.folder).as_posix()
                if not _TRAINED.fullmatch(file) or path.is_symlink():
                    continue
                if time.monotonic() > self._due:
                    self._renew_lease(self._every)
                with open(path, "rb", opener=regular) as opened:
                    self.store.write(file, opened.read())

    def _own_files(self, names: re.Pattern[str]) -> Iterator[Path]:
        """What lies in the folder under these names."""
        for where, folders, files in os.walk(self.folder):  # which does not follow links
            if Path(where) == self.folder:
                folders[:] = [name for name in folders if name not in _NOT_LISTED]
            paths = (Path(where, name) for name in files)
            yield from (path for path in paths if names.fullmatch(path.relative_to(self.folder).as_posix()))

    def run(self, stop: threading.Event) -> None:
        """Send changes and renew the lease until ``stop`` is set. Prints the first error of each outage; returns early
        if another driver has taken the search over."""
        every, reported = MIN_INTERVAL_S, False
        while not stop.wait(every):
            begin = time.monotonic()
            try:
                self._check_owner()
                with contextlib.suppress(FileNotFoundError):  # a file was being replaced
                    self.send()
                self.fetch_requests()
                every = min(max(MIN_INTERVAL_S, 10 * (time.monotonic() - begin)), MAX_INTERVAL_S)
                self._renew_lease(every)
                reported = False
            except TakenOver as error:
                to_stderr(f"{error}; end this driver, because its trials still write checkpoints there")
                return
            except Exception as error:  # of any class: cloud clients raise their own
                if not reported:
                    why = explain(self.storage, error)
                    to_stderr(f"{why}; results are kept in {self.folder} and sent when it answers")
                reported = True

    def fetch_requests(self) -> None:
        """Bring here what users of other homes have asked for. ``ValueError`` for a name that leads out of the
        folder."""
        for file, _ in list(self.store.files(REQUESTS)):
            data = self.store.read(f"{REQUESTS}/{file}")
            if data is not None:
                write_atomically(inside(self.folder, f"{REQUESTS}/{file}"), data)
            self.store.remove(f"{REQUESTS}/{file}")

    def claim(self) -> None:
        """Take the search's lease; ``UsageError`` if a driver of another home is alive.

        Two drivers that start within the same second from two homes are not noticed here.
        """
        if who := self.other_driver():
            raise UsageError(_running_from(self.name, who))
        self._write_lease(MAX_INTERVAL_S)  # long enough to bring the search's folder here

    def other_driver(self) -> str | None:
        """The driver of another home that is alive, that is, whose lease changes; None: there is none. The lease of one
        that is gone is removed: nobody waits for it again."""
        first = self.store.read(LEASE)
        theirs = _lease(first)
        if not theirs or self._is_ours(theirs):
            return None
        deadline = time.monotonic() + _MISSED_INTERVALS * theirs["every"]
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.store.read(LEASE)
            if now is None:
                return None
            if now != first:
                return theirs["who"]
        self.store.remove(LEASE)
        return None

    @cached_property
    def _id(self) -> str:
        """What tells this home from one at the same place on another machine of the same name: containers have both
        alike."""
        path = self.folder / ".driver"
        known = intact(lambda: read_text(path))
        if not known:
            write_atomically(path, known := uuid.uuid4().hex)
        return known

    def _is_ours(self, lease: dict[str, Any]) -> bool:
        return lease["who"] == self.owner and lease.get("id", self._id) == self._id  # earlier versions wrote none

    def _write_lease(self, every: float) -> None:
        """Write a new lease, which announces that it will change again within ``every`` seconds."""
        text = json.dumps({"who": self.owner, "id": self._id, "every": every, "beat": uuid.uuid4().hex})
        self.store.write(LEASE, text.encode())
        self._every, self._due = every, time.monotonic() + 1.5 * every  # before others take the lease for abandoned

    def _check_owner(self) -> None:
        """``TakenOver`` if another driver has resumed the search while this machine slept or was cut off."""
        lease = self.store.read(LEASE)
        if lease is None and not _is_behind(self.folder, self.store.read(HISTORY) or b""):
            return  # the lease was removed, but nothing was added to the history
        found = _lease(lease) or {"who": "a driver that has ended since"}
        if not self._is_ours(found):
            raise TakenOver(
                f"search {self.name!r} was taken over by {found['who']}; nothing more is sent to {self.storage!r}, "
                f"the results of this driver are in {self.folder}"
            )

    def _renew_lease(self, every: float) -> None:
        self._check_owner()
        self._write_lease(every)

    def close(self) -> None:
        """Send the rest and remove the lease; if another driver owns the search by now, only print that."""
        try:
            with storage_errors(self.storage):
                self._renew_lease(MAX_INTERVAL_S)  # the pictures are sent last, and a page has 5 MB
                there = dict(_stored_files(self.store))  # not all that was sent, where a mount was away meanwhile
                self._sent = {file: state for file, state in self._sent.items() if there.get(file) == state[1]}
                self.send()
        except TakenOver as error:
            to_stderr(error)
        else:
            self.let_go()

    def let_go(self) -> None:
        """Remove the lease."""
        with contextlib.suppress(OSError):
            self.store.remove(LEASE)
