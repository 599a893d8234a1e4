"""The home folder: everything local to a user (`--home`, `TUNER_HOME`, default `tuner-home/`)."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from tuner.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """A search's name is also a folder's: letters, digits, '.', '_', '-', so it cannot leave the home folder."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"search name {name!r} is not allowed; use 1 to 100 of letters, digits, '.', '_', '-', "
            "starting with a letter or digit"
        )
    return name


class Home:
    """Paths below the home folder. Nothing is created until it is needed."""

    def __init__(self, root: str | os.PathLike | None = None, storage: str | None = None):
        self.root = Path(root or os.environ.get("TUNER_HOME") or "tuner-home").absolute()
        self.storage = storage or os.environ.get("TUNER_STORAGE") or None  # of searches that name none

    def place(self, storage: str | None, *parts: object) -> str:
        """A path or URL that trials on other nodes see too: below the search's storage, else below this home."""
        from trainables.storage import below

        return below(storage or self.root, *parts)

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
        return self.searches / check_name(name)

    def require_writable(self) -> None:
        """Create the folder, or say in one sentence why it cannot be used."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UsageError(
                f"home folder {str(self.root)!r} cannot be written ({error.strerror}); "
                "choose another with --home or TUNER_HOME"
            ) from None
