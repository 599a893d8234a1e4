"""How a field of a search is written down: its default, its kind, its panel and its meaning in one call.

    @dataclass(frozen=True)
    class SearchFields:
        trials: int = option(16, Whole(1), BUDGET, "Number of trials.")

The command line, its help, the validation, the hash of a search and the JSON schema are all derived from these calls.
Nothing heavy is imported here or by the kinds: `tuner --help` reads the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

ALWAYS: Any = object()  # ``before`` of a field that the stored spec of any search holds


class Kind(Protocol):
    """What values a field takes. The kinds are in ``tuner.spec.validation``."""

    @property
    def argument(self) -> Any:
        """The type of the option on the command line: ``str``, ``int``, ``float``, ``Path`` or ``list[str]`` where it
        may be repeated."""

    @property
    def metavar(self) -> str:
        """What stands for a value in the help."""

    @property
    def suggestions(self) -> Callable[[], Iterable[str]] | None:
        """The values that a shell completes, looked up when it asks; None: there is nothing to suggest."""

    def check(self, option: Option, value: Any) -> Any:
        """``value`` as the field keeps it; ``UsageError`` names a wrong value and what is allowed."""

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema (draft 2020-12)."""


@dataclass(frozen=True)
class Option:
    """A field of a search, as read back from its dataclass.

    ``name``: of the field and in a spec file. ``flag``: on the command line, without the dashes.
    ``help``: whole sentences, in which ``{names}`` stands for the names of a choice.
    ``unset``: what happens where the default is None, in words.
    ``hashed``: whether it can change a result, so that a search with another value has another name.
    ``before``: what the stored spec of a search means that was made before there was this field: what the code then
    did. A search with this value keeps the name that it had. Not None, which in a spec stands for the default.
    """

    name: str
    default: Any
    kind: Kind
    panel: str
    help: str
    flag: str
    unset: str | None
    hashed: bool
    before: Any

    @property
    def sentence(self) -> str:
        """The help, with the names of a choice where it says ``{names}``."""
        suggestions = self.kind.suggestions
        if suggestions is None or "{names}" not in self.help:
            return self.help
        return self.help.replace("{names}", ", ".join(suggestions()))

    @property
    def default_shown(self) -> str | None:
        """The default in words, or None where there is nothing to say."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, (tuple, dict)):
            return ", ".join(self.default) or self.unset
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def option(
    default: Any,
    kind: Kind,
    panel: str,
    help_: str,
    *,
    flag: str | None = None,
    unset: str | None = None,
    hashed: bool = True,
    before: Any = ALWAYS,
) -> Any:
    """A dataclass field that carries all that ``Option`` says; ``help_`` is one or more whole sentences."""
    metadata = {
        "kind": kind,
        "panel": panel,
        "help": help_,
        "flag": flag,
        "unset": unset,
        "hashed": hashed,
        "before": before,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass by their names, in the order of their lines; a field of another kind is none."""
    return dict(_options_of(cls))


@cache
def _options_of(cls: type) -> dict[str, Option]:
    return {f.name: _read(f) for f in dataclasses.fields(cls) if "kind" in f.metadata}


def _read(field: dataclasses.Field) -> Option:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    flag = field.metadata["flag"] or field.name.replace("_", "-")
    return Option(field.name, default, **{**field.metadata, "flag": flag})
