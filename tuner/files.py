"""Atomic file writes: a file is complete or absent."""

from __future__ import annotations

import os
from pathlib import Path

from trainables.files import aside_of, is_full, naming

CHECKOUT = Path(__file__).parent.parent  # the folder that holds the three packages: a checkout or site-packages
DISTRIBUTION = "robust-tuner"  # the name by which pip knows the three packages, as in pyproject.toml


def says_full(error: BaseException) -> bool:
    """`trainables.files.is_full`, also where another library says it in its own words."""
    return is_full(error) or any(words in str(error) for words in ("No space left on device", "Disk quota exceeded"))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write ``data`` to a temporary file and rename it to ``path``, so neither a reader nor a crash sees half a file.

    Missing folders are created; text is written as UTF-8. ``OSError`` if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(aside_of(path.name))
    try:
        with naming(path), open(aside, "xb") as file:  # x: always a new file, so a link in this place is never followed
            file.write(data.encode() if isinstance(data, str) else data)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
