"""The command line. ``tuner.cli:main`` is the `tuner` script; `python -m tuner.cli` is the same."""

from tuner.cli.app import main

__all__ = ["main"]
