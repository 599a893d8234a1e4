"""Errors that end a command. Each message is one sentence for the user; the class decides the exit code."""

from __future__ import annotations

from typing import Any


class UsageError(ValueError):
    """Wrong usage: the message names the value and what is allowed. Exit code 2."""


class Failed(RuntimeError):
    """The command ran but failed. Exit code 1."""


class Interrupted(Exception):
    """The user stopped the search; finished work is kept. Exit code 130. ``result`` is what `--json` prints."""

    def __init__(self, result: dict[str, Any]):
        super().__init__("interrupted")
        self.result = result


class Stopped(Failed):
    """A search stopped before its end, through no wish of the user's; finished work is kept. Exit code 1. ``result`` is
    what `--json` prints."""

    def __init__(self, sentence: str, result: dict[str, Any]):
        super().__init__(sentence)
        self.result = result


class TakenOver(Failed):
    """Another driver owns the search now: anything this one still sent would overwrite the other's work."""


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked. Exit code 1, or 2 where the user's input was wrong."""

    def __init__(self, sentence: str, exit_code: int = 1):
        super().__init__(sentence)
        self.exit_code = exit_code

    def format_message(self) -> str:  # `tuner.cli.main` prints it unchanged
        return str(self)
