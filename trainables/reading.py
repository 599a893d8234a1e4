"""Reading files that somebody else may have written, or that a disk has damaged.

A file is read only if it is regular (no pipe, no device: these never end) and no larger than its kind ever is. A
damaged *source* (what a user wrote, or the only record of something) is named in one sentence, `Damaged`; a damaged
*derived* file (what can be made again) counts as absent, `intact`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")

MIB = 2**20
LOG_BYTES = 4096 * MIB  # of a history; a million epochs of ten classes
TEXT_BYTES = 64 * MIB  # of a small JSON file: a result, a certificate, a card


class Damaged(ValueError):
    """One sentence that names the file."""


def open_regular(path: str | Path) -> BinaryIO:
    """The opened file; ``Damaged`` where it is no regular file, ``OSError`` where it cannot be opened."""
    # without O_NONBLOCK, opening a pipe waits for its writer
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Damaged(f"{str(path)!r} is no regular file")
    return file


def read_bytes(path: str | Path, most: int) -> bytes:
    """The file's bytes; ``Damaged`` where it is no regular file or larger than ``most`` bytes, else ``OSError``."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise Damaged(f"{str(path)!r} is larger than the {most / MIB:g} MiB that such a file may have")
        return file.read()


def read_text(path: str | Path, most: int = TEXT_BYTES) -> str:
    """The same as text; ``Damaged`` where it is no UTF-8."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{str(path)!r} is no text in UTF-8 (byte {error.start})") from None


def is_text(name: str) -> bool:
    """Whether a name, which on disks may be any bytes, can be written into a file of text."""
    return "\0" not in name and not any("\ud800" <= char <= "\udfff" for char in name)


def parse_json(text: str | bytes) -> Any:
    """The JSON value in ``text``; ``ValueError`` whatever is wrong with it."""
    from pydantic_core import from_json  # some 40 ms, which commands that read no JSON need not spend

    try:
        return from_json(text)  # the same value to the bit, in a third of json's time
    except (ValueError, TypeError):  # also of what json alone reads, such as half of a surrogate pair
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | Path, most: int = TEXT_BYTES) -> Any:
    """The JSON value in a file; ``Damaged`` where there is none."""
    text = read_text(path, most)
    try:
        return parse_json(text)
    except ValueError as error:
        raise Damaged(f"{str(path)!r} holds no JSON ({error})") from None


def one_line(error: Exception) -> str:
    """What a library says is wrong, for the end of a sentence."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def named_line(error: BaseException) -> str:
    """The same with the error's class before it, of code of somebody else's, which may raise anything."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def shaped(value: Any, shape: Any) -> bool:
    """Whether a JSON value has a shape: a type (numbers are finite and no booleans, whole ones have 64 bits),
    ``[shape]`` of every item of a list, or ``{key: shape}`` of an object, which may have other keys too."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and shaped(value[key], of) for key, of in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(shaped(item, shape[0]) for item in value)
    if shape in (int, float):
        if isinstance(value, int):  # of 64 bits, as tables hold them
            return not isinstance(value, bool) and abs(value) < 2**63
        return shape is float and isinstance(value, float) and math.isfinite(value)
    return isinstance(value, shape)


def intact(read: Callable[[], T]) -> T | None:
    """What ``read`` makes of a derived file; None where the file is absent or damaged."""
    try:
        return read()
    except Exception:  # pickle, zip, zlib, Arrow, safetensors: each has classes of its own for damage
        return None
