"""The budget of a search in the units that people have: epochs, hours of GPUs, or minutes on the clock."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from search_spaces.number import number
from tuner.errors import UsageError

UNITS = {"epochs": "epochs", "gpu-h": "gpu-h", "min": "min", "h": "min"}
MOST = 1e9  # epochs, hours of GPUs or minutes: a larger number is a slip
PATTERN = rf"^((?:0*[1-9]\d*(?:\.\d*)?|0*\.\d*[1-9]\d*)(?:/[1-9]\d*)?)\s*({'|'.join(UNITS)})$"


def limited(text: str) -> float | None:
    """The number, None where it is beyond ``MOST``."""
    with contextlib.suppress(ValueError):  # too large for a float
        return amount if (amount := number(text)) <= MOST else None
    return None


@dataclass(frozen=True)
class Budget:
    """``amount`` of ``unit``: ``epochs`` that are trained, ``gpu-h`` (hours times the GPUs of a trial) or ``min``."""

    amount: float
    unit: str

    @classmethod
    def of(cls, text: str | None) -> Budget | None:
        """``40epochs``, ``6gpu-h``, ``30min`` or ``2h``; ``UsageError`` for another text."""
        if text is None:
            return None
        found = re.match(PATTERN, text)
        amount, unit = (limited(found[1]), found[2]) if found else (None, "")
        if amount is None:
            raise UsageError(f"--budget {text!r} is not allowed; write 40epochs, 6gpu-h, 30min or 2h")
        return cls(amount * 60 if unit == "h" else amount, UNITS[unit])

    @property
    def seconds(self) -> float | None:
        """On the clock; None for a budget of another kind."""
        return 60 * self.amount if self.unit == "min" else None
