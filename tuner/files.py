"""Files that are complete or absent."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent  # the folder of the three packages: a checkout, or site-packages


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write aside, then rename: a reader or a crash never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(aside, "xb") as file:  # x: made anew, never through a link that lies there
            file.write(data.encode() if isinstance(data, str) else data)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
