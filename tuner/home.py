"""The home folder: everything local to a user (`--home`, `TUNER_HOME`, default `tuner-home/`)."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import tempfile
from pathlib import Path

from trainables.reading import is_text
from trainables.urls import SIGN_IN, check_public
from tuner.errors import UsageError

LONGEST_NAME = 100
SEARCH_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid search name, else raise ``UsageError``.

    The name is also that of the search's folder, so it must not lead out of the home folder.
    """
    if not SEARCH_NAME.fullmatch(name):
        raise UsageError(
            f"search name {name!r} is not allowed; use 1 to {LONGEST_NAME} of letters, digits, '.', '_', '-', "
            "starting with a letter or digit"
        )
    return name


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without an entry in passwd
        return "unknown"


def owner_name() -> str:
    """The same as the owner of a search, whose name is part of the names of resources and labels."""
    return re.sub(r"[^\w.-]", "-", user_name(), flags=re.ASCII).lstrip("_.-")[:63] or "unknown"


class Home:
    """Paths below the home folder. Nothing is created until it is needed.

    A leading ``~`` is the user's own home folder. ``storage``: the path or URL used by searches that name none
    themselves (else ``TUNER_STORAGE``). ``UsageError`` for one with a password.
    """

    def __init__(self, root: str | os.PathLike | None = None, storage: str | None = None):
        named = str(root or os.environ.get("TUNER_HOME") or "tuner-home")
        try:  # a shell expands ~ only where it begins an unquoted word: not in --home=~/x, an .env file or a unit
            self.root = Path(named).expanduser().absolute()
        except RuntimeError:
            raise UsageError(f"home folder {named!r} names a user that this machine does not have") from None
        if not is_text(str(self.root)):  # MLflow, SQLite and a spec keep it as text
            raise UsageError(f"home folder {named!r} has a name that is no text in UTF-8; choose another")
        try:
            self.searches.exists()
        except OSError as error:  # its name is too long, or it lies in a folder of somebody else's
            raise UsageError(f"home folder {str(self.root)!r} cannot be read ({error.strerror})") from None
        self.storage = storage or os.environ.get("TUNER_STORAGE") or None
        try:
            check_public("--storage", self.storage or "", SIGN_IN)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def place(self, storage: str | None, *parts: object) -> str:
        """A path or URL that other nodes can also reach: below ``storage`` if there is one, else below this home."""
        from trainables.storage import below

        return below(storage or self.root, *parts)

    @property
    def flag(self) -> str:
        """What a hint adds to a command for this home, with a space before it; empty where it is the default."""
        return "" if self.root == Home().root else f" --home {shlex.quote(str(self.root))}"

    @property
    def searches(self) -> Path:
        return self.root / "searches"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    def search(self, name: str) -> Path:
        """The folder of the search ``name``, which may not exist yet. ``UsageError`` if the name is not allowed."""
        return self.searches / check_name(name)

    def require_own_files(self, name: str) -> None:
        """``UsageError`` if a link in the folder of the search ``name`` leads out of it: what is written there would
        overwrite another file. A folder that came from somebody else may hold one."""
        from trainables.files import link_out_of

        link = link_out_of(self.search(name))
        if link:
            raise UsageError(
                f"search {name!r} holds a link that leads out of its folder: {str(link)!r}; remove it, or put there "
                "what it leads to"
            )

    def require_writable(self, folder: Path | None = None) -> None:
        """Create the home folder, or a ``folder`` in it; ``UsageError`` if it cannot be created or written to."""
        try:
            for path in (self.root, folder or self.root):
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path):
                    pass
        except OSError as error:
            raise UsageError(
                f"home folder {str(self.root)!r} cannot be written ({error.strerror}); "
                "choose another with --home or TUNER_HOME"
            ) from None
