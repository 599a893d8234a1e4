"""What goes wrong, by what a command ends with: one sentence each."""

from __future__ import annotations

from typing import Any


class UsageError(ValueError):
    """Wrong usage: one sentence that carries the value and what is allowed; the command line exits with 2."""


class Failed(RuntimeError):
    """Ran but failed: one sentence; the command line exits with 1."""


class Interrupted(Exception):
    """The user stopped the search; what is finished is kept. ``result`` is what `--json` prints."""

    def __init__(self, result: dict[str, Any]):
        super().__init__("interrupted")
        self.result = result


class TakenOver(Failed):
    """Another driver has the search: what this one still sent would undo what that one did."""


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked: one sentence, exit code 1 (2 where the user's input was wrong)."""

    def __init__(self, sentence: str, exit_code: int = 1):
        super().__init__(sentence)
        self.exit_code = exit_code

    def format_message(self) -> str:  # `tuner.cli.main` prints it as it is
        return str(self)
