"""What `tuner --version` prints, read from the installed packages' metadata without importing them."""

from __future__ import annotations

import platform
from importlib import metadata

LIBRARIES = ("torch", "ray", "optuna", "mlflow")
NOT_INSTALLED = "not installed"


def versions() -> dict[str, str]:
    """Name and version of this program, of Python and of the libraries that decide about results."""
    return {"tuner": _ours(), "python": platform.python_version(), **{name: _of(name) for name in LIBRARIES}}


def _ours() -> str:
    """The version of the distribution that installed the command, whatever the distribution is called."""
    for command in metadata.entry_points(group="console_scripts", name="tuner"):
        if command.value == "tuner.cli:main" and command.dist:
            return command.dist.version
    return NOT_INSTALLED


def _of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED
