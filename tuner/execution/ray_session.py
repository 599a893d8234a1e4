"""What closes a private Ray instance to the other users of its machine: a folder and a token of its own.

Whoever has an instance's token, or can write into its folder, runs code as its user. Ray by itself keeps one token for
all instances in a file that everybody can read, and makes its folders writable for everybody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainables.files import locked, private
from tuner.execution.ray_patches import kill_private, reread_token

PREFIX, RAYS = "ray-", "r"  # a session's folder, and in it the one that Ray fills
# Below the folder Ray adds its session's name and a socket's, and the path of a socket has 107 characters at most.
_LONGEST = 107 - len(f"/{PREFIX}12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


@contextlib.contextmanager
def private_session() -> Iterator[str]:
    """The ``_temp_dir`` for a `ray.init` in this block: in a new folder (0700) that is removed at the end. The block's
    environment makes Ray and its processes ask for a new token, which lies there too (0600).

    ``OSError`` if no folder for temporary files can be written.
    """
    with _private_folder() as folder:
        token = folder / "token"
        with open(token, "x", opener=private) as file:
            file.write(secrets.token_hex(32))
        with _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_AUTH_TOKEN=None):
            yield str(folder / RAYS)  # Ray opens this one to everybody, who cannot reach it


@contextlib.contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """In this block the environment variables have these values (None: they are not set), and Ray knows it."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    reread_token()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder that is locked as long as it is used. What killed processes left is removed first."""
    base = _base()
    _remove_abandoned(base)
    aside = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))  # 0700; under this name nobody takes it for abandoned
    with locked(aside / "lock"):
        folder = base / aside.name[1:]
        aside.rename(folder)
        _in_use.add(folder)
        try:
            yield folder
        finally:
            _in_use.discard(folder)
            _remove(folder)
            _remove_abandoned(base)  # of a search that was left while its Ray was starting, and still wrote then


def _remove(folder: Path) -> None:
    for _ in range(20):  # Ray's processes may still be writing their last lines
        if _removed(folder):
            break
        time.sleep(0.1)


def _removed(folder: Path) -> bool:
    """Remove the folder; if not all of it can be, its lock stays, by which a later search tries again."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink(missing_ok=True)
        if not [path for path in folder.iterdir() if path.name != "lock"]:
            shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


_in_use: set[Path] = set()


def abandon() -> None:
    """Kill the private instance and remove its folder, where the process ends without leaving `private_session`."""
    kill_private()
    for folder in _in_use:
        _remove(folder)


def _base() -> Path:
    """The folder for temporary files: RAY_TMPDIR or the system's, or /tmp where a socket's path would be too long."""
    for base in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir()):
        if base and len(os.path.abspath(base)) <= _LONGEST and os.access(base, os.W_OK | os.X_OK):
            return Path(base).absolute()
    return Path("/tmp")


def _remove_abandoned(base: Path) -> None:
    for old in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            about = old.lstat()
            mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
            if mine and ((old / "lock").exists() or _made_again(old)):
                with locked(old / "lock", patience=0) as unused:
                    if unused:
                        _removed(old)


def _made_again(folder: Path) -> bool:
    """Whether it is a removed one, into which a process of Ray's wrote once more: it has Ray's part alone."""
    parts = [path.name for path in folder.iterdir()]
    return parts == [RAYS] and all(path.name.startswith("session_") for path in (folder / RAYS).iterdir())
