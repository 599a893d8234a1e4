"""How a number may be written: ``0.031``, ``1e-3``, or as a quotient, ``8/255``."""

from __future__ import annotations

import re
from typing import Any

_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = rf"{_DECIMAL}(?:\s*/\s*{_DECIMAL})?"  # as a regular expression, for schemas and larger expressions

_INFINITE = float("inf")


def number(value: Any) -> float:
    """A number, or text that is one, as a float. ``ValueError`` for anything else, a quotient by zero, and what is too
    large for a float; an infinity or NaN that is no text stays what it is."""
    if isinstance(value, str):
        if not re.fullmatch(rf"\s*{NUMBER}\s*", value, re.ASCII):
            raise ValueError(f"{value!r} is no number")
        above, _, below = value.partition("/")
        divisor = float(below) if below else 1.0
        quotient = float(above) / divisor if divisor else _INFINITE
        if not abs(quotient) < _INFINITE:
            raise ValueError(f"{value!r} is no finite number")
        return quotient
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{value!r} is no finite number") from None
