"""Whether a value is one that is allowed; if not, one sentence with the value and what is."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from tuner.errors import UsageError


def one_of(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    """``value`` is among those ``allowed``."""
    if value not in allowed:
        raise UsageError(f"unknown {what} {value!r}; choose one of: {', '.join(sorted(allowed))}")


def text(name: str, value: Any) -> None:
    """``value`` of the field ``name`` is text or None; a spec file may hold anything."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} {value!r} is not allowed; it takes text (in YAML a number needs quotes for that)")


def words(name: str, value: Any) -> tuple[str, ...]:
    """One word or several as a tuple."""
    if not isinstance(value, (str, list, tuple)):
        raise UsageError(f"{name} {value!r} is not allowed; it takes a list")
    return (value,) if isinstance(value, str) else tuple(value)


def pairs(name: str, value: Any) -> dict[str, Any]:
    """A mapping as it is."""
    if not isinstance(value, dict):
        raise UsageError(f"{name} {value!r} is not allowed; it takes 'key: value' pairs")
    return value


def gpus_asked(value: Any) -> float | str:
    """``auto``, a fraction of a GPU or a whole number of them, which is what Ray can give."""
    if value == "auto":
        return value
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)
        if not isinstance(value, bool) and (0 <= number <= 1 or number >= 1 and number == int(number)):
            return number
    raise UsageError(
        f"--gpus-per-trial {value} is not allowed; --gpus-per-trial takes auto, a fraction from 0 to 1 "
        "or a whole number"
    )


def check_number(name: str, value: Any, kind: type, above: float) -> None:
    """``value`` of the flag ``name`` is of ``kind`` (int or float) and greater than ``above``."""
    if value is None and name in ("max_concurrent", "time_budget", "grace"):
        return
    flag = "--" + name.replace("_", "-")
    good = (
        isinstance(value, int)
        and not isinstance(value, bool)
        or (isinstance(value, float) and math.isfinite(value) and (kind is float or value.is_integer()))
    )
    if not good or not value > above:
        least = "a positive number" if kind is float and above == 0 else f"a whole number of at least {above + 1}"
        raise UsageError(f"{flag} {value!r} is not allowed; {flag} takes {least}")
