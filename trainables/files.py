"""Names and files that somebody else may have put there: where a name may lead, and what may be opened.

A search's folder, a storage or a data set can come from anyone, and a home can lie where others write. So a name never
leads out of its folder, a link is never followed, and a file that exists is never emptied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_ODD = {errno.ELOOP: "it is a link, which is not followed here", errno.ENXIO: "it is not a regular file"}


def is_name(part: object) -> bool:
    """Whether ``part`` names one file or folder, in whatever folder it is put."""
    text = str(part)
    return text.isprintable() and text not in ("", ".", "..") and not set(text) & {"/", "\\"}


def inside(folder: Path, name: str) -> Path:
    """Where a file that a storage calls ``name`` lies below ``folder`` here.

    ``ValueError`` where that would be outside of it: names come from anyone with write access to the storage.
    """
    parts = name.split("/")
    path = folder.joinpath(*parts)
    # the second: a link in between leads elsewhere
    if not all(map(is_name, parts)) or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the storage holds a file called {name!r}, which would be written outside of "
            f"{str(folder)!r}; nothing was taken from it"
        )
    return path


def link_out_of(folder: Path) -> Path | None:
    """A link below ``folder`` that leads out of it; None where there is none."""
    root = folder.resolve()
    for where, folders, files in os.walk(root):  # which does not follow links
        for path in (Path(where, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                return path
    return None


_ASIDE = re.compile(r"\..+\.([0-9a-f]{8}|[0-9a-f]{12})")  # 8: of earlier versions
WRITTEN_S = 10.0  # a file that is being written grows at least this often


def aside_of(name: str) -> str:
    """The name under which a file is written before it takes ``name``; no two writers have the same."""
    return f".{name}.{uuid.uuid4().hex[:12]}"


def remove_abandoned(folder: str | os.PathLike, seconds: float = WRITTEN_S, below: bool = True) -> None:
    """Remove half-written files in ``folder``, and ``below`` it, that have not grown for ``seconds``: their writers
    were killed."""
    newest = time.time() - seconds
    for where, folders, files in os.walk(folder):  # which does not follow links
        folders[:] = folders if below else []
        for path in (Path(where, name) for name in files if _ASIDE.fullmatch(name)):
            with contextlib.suppress(OSError):
                if stat.S_ISREG((about := path.lstat()).st_mode) and about.st_mtime <= newest:
                    path.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An ``OSError`` of this block names ``path``, which those of write and close do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def regular(path: str | os.PathLike, flags: int) -> int:
    """For ``open(path, mode, opener=regular)``: ``OSError`` unless ``path`` is, or becomes, a regular file.

    A link would lead to any file of the user's, and a pipe would wait for ever.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _ODD:
            raise
        raise OSError(error.errno, _ODD[error.errno], os.fspath(path)) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENXIO, _ODD[errno.ENXIO], os.fspath(path))
    return file


def private(path: str | os.PathLike, flags: int) -> int:
    """For ``open(path, "x", opener=private)``: a new file that no other user reads, whatever the umask."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def locked(path: Path, patience: float = math.inf) -> Iterator[bool]:
    """Hold the lock of file ``path``, which is created where it is missing; yields whether this process has it. False:
    it tried for ``patience`` seconds in vain. The kernel releases it when its holder dies, so no lease has to expire.

    ``OSError`` where the file cannot be opened (see `regular`) or its file system has no locks.
    """
    with open(path, "ab", opener=regular) as file:
        until, waits = time.monotonic() + patience, 0 if math.isinf(patience) else fcntl.LOCK_NB
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | waits)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.05)
        yield True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of file ``path``; not where there is none to be had. Looking takes it for an
    instant, so whoever wants it needs some ``patience``."""
    with contextlib.suppress(OSError), open(path, "rb", opener=regular) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
