"""Which code computed a result."""

from __future__ import annotations

from functools import lru_cache

from tuner.files import CHECKOUT, DISTRIBUTION


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, with ``+COMMIT`` where the code runs from a checkout."""
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version(DISTRIBUTION)
    except PackageNotFoundError:
        number = "unknown"
    if (CHECKOUT / ".git").exists():
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        number += f"+{done.stdout.strip()}" if done.returncode == 0 else ""
    return number
