"""Contracts: the tests that every method, data set, model, threat model and listener passes, for your own too.

Derive from one, name yours, and let pytest collect it::

    from tuner.testing import MethodContract

    class TestMine(MethodContract):
        method = "mine"

The names are those under which your installed package offers them. This project's own pass the same classes.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("datasets", "listeners", "methods", "models", "threats"))
)

from tuner.testing.datasets import DatasetContract  # noqa: E402 - rewritten, so that a failure shows its values
from tuner.testing.listeners import ListenerContract  # noqa: E402
from tuner.testing.methods import Case, MethodContract  # noqa: E402
from tuner.testing.models import ModelCase, ModelContract  # noqa: E402
from tuner.testing.threats import ThreatContract  # noqa: E402

__all__ = [
    "Case",
    "DatasetContract",
    "ListenerContract",
    "MethodContract",
    "ModelCase",
    "ModelContract",
    "ThreatContract",
]
