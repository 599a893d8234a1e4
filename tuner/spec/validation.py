"""The kinds of values that a field of a search takes: whether a value is allowed, and the same as JSON schema.

A wrong value ends in ``UsageError``: one sentence with the value and what is allowed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.number import NUMBER, number
from tuner.errors import UsageError
from tuner.spec.option import Kind, Option

NUMBER_AS_TEXT = {"type": "string", "pattern": rf"^\s*{NUMBER}\s*$"}
MOST = 10**6  # of anything that is counted: a larger number is a slip


@dataclass(frozen=True)
class Text:
    """Text, which is not empty. ``parse`` raises ``UsageError`` where the text itself is wrong, ``pattern`` says the
    same in the schema.

    ``parsed_later``: other fields decide about it too; what is no text is refused with them, in the same sentence.
    ``examples``: values that a shell suggests and that the schema names as examples, with others allowed.
    """

    pattern: str | Callable[[], str] = r"\S"
    parse: Callable[[str], Any] | None = None
    examples: Callable[[], Iterable[str]] | None = None
    parsed_later: bool = False
    argument, metavar = str, "TEXT"

    @property
    def suggestions(self) -> Callable[[], Iterable[str]] | None:
        return self.examples

    def check(self, option: Option, value: Any) -> str:
        if self.parsed_later:
            return value
        if not isinstance(value, str):  # a spec file may hold anything
            raise UsageError(
                f"{option.name} {value!r} is not allowed; it takes text (in YAML a number needs quotes for that)"
            )
        if self.parse:
            self.parse(value)
        if not value.strip():  # such as --init "$FILE" where FILE is not set
            raise UsageError(f"{option.name} {value!r} is not allowed; it takes text, or leave it out")
        return value

    def schema(self) -> dict[str, Any]:
        pattern = self.pattern if isinstance(self.pattern, str) else self.pattern()
        found: dict[str, Any] = {"type": "string", "pattern": pattern}
        if self.examples:
            found["examples"] = list(self.examples())
        return found


@dataclass(frozen=True)
class Choice:
    """One of several names, which are looked up when they are needed.

    ``refused``: names that a user may expect, with the reason why they are not there. ``broken``: names of installed
    packages that cannot be used, with the sentence that says why. ``hidden``: names that only the project itself may
    give.
    """

    names: Callable[[], Iterable[str]]
    refused: tuple[tuple[str, str], ...] = ()
    broken: Callable[[], Mapping[str, str]] = dict
    hidden: tuple[str, ...] = ()
    argument, metavar = str, "NAME"

    @property
    def suggestions(self) -> Callable[[], Iterable[str]]:
        return self.names

    def check(self, option: Option, value: Any) -> str:
        names = tuple(self.names())
        if value in (*names, *self.hidden):
            return value
        if sentence := self.broken().get(str(value)):
            raise UsageError(sentence)
        allowed = f"choose one of: {', '.join(sorted(names))}"
        for name, reason in self.refused:
            if str(value).replace("-", "") == name:
                raise UsageError(f"{option.flag} {value!r} {reason}; {allowed}")
        raise UsageError(f"unknown {option.flag} {value!r}; {allowed}")

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.names())}


@dataclass(frozen=True)
class Several:
    """A list of values of one kind; a single value stands for a list of one. Kept as a tuple.

    ``required``: at least one, and different ones. ``unwrapped``: a single value is kept as itself.
    """

    item: Kind
    required: bool = True
    unwrapped: bool = False
    argument = list[str]

    @property
    def metavar(self) -> str:
        return self.item.metavar

    @property
    def suggestions(self) -> Callable[[], Iterable[str]] | None:
        return self.item.suggestions

    def check(self, option: Option, value: Any) -> Any:
        if not isinstance(value, (list, tuple, str)) and not self.unwrapped:
            raise UsageError(f"{option.name} {value!r} is not allowed; it takes a list")
        given = value if isinstance(value, (list, tuple)) else (value,)
        values = tuple(self.item.check(option, one) for one in given)
        if self.required and not values:
            names = f" of: {', '.join(sorted(self.suggestions()))}" if self.suggestions else ""
            raise UsageError(f"{option.name} [] is not allowed; give at least one{names}")
        if self.required and len(set(values)) < len(values):
            raise UsageError(f"{option.name} {list(values)} is not allowed; the values must be different")
        return values[0] if self.unwrapped and len(values) == 1 else values

    def schema(self) -> dict[str, Any]:
        items: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        if self.required:
            items |= {"minItems": 1, "uniqueItems": True}
        return {"anyOf": [self.item.schema(), items]}


@dataclass(frozen=True)
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int = MOST
    argument, metavar, suggestions = int, "N", None

    def check(self, option: Option, value: Any) -> int:
        if not _is_number(value) or value != int(value) or not self.least <= value <= self.most:
            raise UsageError(
                f"--{option.flag} {_shown(value)} is not allowed; --{option.flag} takes a whole number of at least "
                f"{self.least} and at most {self.most}"
            )
        return int(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Positive:
    """A number above 0 and up to ``most``."""

    most: float = MOST
    argument, metavar, suggestions = str, "NUMBER", None

    def check(self, option: Option, value: Any) -> float:
        given = _read(value)
        if not _is_number(given) or not 0 < given <= self.most:
            raise UsageError(
                f"--{option.flag} {_shown(value)} is not allowed; --{option.flag} takes a positive number of at most "
                f"{self.most:g}"
            )
        return given

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": self.most}, NUMBER_AS_TEXT]}


@dataclass(frozen=True)
class Share:
    """A part of a whole: a number between 0 and 1, both excluded."""

    argument, metavar, suggestions = str, "NUMBER", None

    def check(self, option: Option, value: Any) -> float:
        given = _read(value)
        if not _is_number(given) or not 0 < given < 1:
            raise UsageError(
                f"--{option.flag} {_shown(value)} is not allowed; --{option.flag} takes a number between 0 and 1, both "
                "excluded"
            )
        return given

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, NUMBER_AS_TEXT]}


@dataclass(frozen=True)
class Gpus:
    """``auto``, a fraction of a GPU or a whole number of them, which is what Ray can give. Kept as a float."""

    argument, metavar = str, "NUMBER"

    def suggestions(self) -> Iterable[str]:
        return ("auto",)

    def check(self, option: Option, value: Any) -> float | str:
        if value == "auto":
            return value
        given = _read(value)
        if _is_number(given) and (0 <= given <= 1 or 1 <= given <= MOST and given == int(given)):
            return float(given)
        raise UsageError(
            f"--{option.flag} {_shown(value)} is not allowed; --{option.flag} takes auto, a fraction from 0 to 1 or a "
            "whole number"
        )

    def schema(self) -> dict[str, Any]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        return {"anyOf": [{"const": "auto"}, share, Whole(1).schema(), NUMBER_AS_TEXT]}


@dataclass(frozen=True)
class Pairs:
    """A mapping from names to values. What the names and values mean is checked where they are used.

    ``from_file``: on the command line it is a YAML file, not ``KEY=VALUE``.
    """

    names: Callable[[], Iterable[str]]
    from_file: bool = False

    @property
    def argument(self) -> Any:
        return Path if self.from_file else list[str]

    @property
    def metavar(self) -> str:
        return "FILE" if self.from_file else "KEY=VALUE"

    @property
    def suggestions(self) -> Callable[[], Iterable[str]] | None:
        return None if self.from_file else lambda: [f"{name}=" for name in self.names()]

    def check(self, option: Option, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UsageError(f"{option.name} {value!r} is not allowed; it takes 'key: value' pairs")
        return _divided(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "propertyNames": {"enum": list(self.names())}}


def _read(value: Any) -> Any:
    """Text that is a number as that number: PyYAML reads 1e-3 and 1/3 as text. Anything else as it is."""
    with contextlib.suppress(ValueError):
        return number(value) if isinstance(value, str) else value
    return value


def _divided(value: Any) -> Any:
    """Quotients in it as numbers, so that both ways to write one make the same search; all else as it is."""
    if isinstance(value, dict):
        return {key: _divided(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_divided(one) for one in value]
    return _read(value) if isinstance(value, str) and "/" in value else value


def _shown(value: Any) -> str:
    """In a message: as it was written where it is a number, else in quotes; cut where it is long."""
    text = str(value).strip() if _is_number(_read(value)) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_number(value: Any) -> bool:
    """A finite one: comparing takes whole numbers that are too large for a float, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
