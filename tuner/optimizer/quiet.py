"""Optuna's progress messages and advice, held back around our calls of it and nowhere else."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from optuna.exceptions import ExperimentalWarning

# Where many values are equal, a worst class of 0 say, the fit of Optuna's Gaussian process may fail, which it warns of;
# it then goes on with default kernel parameters.
_LEVELS = {"optuna": logging.WARNING, "optuna._gp.gp": logging.ERROR}
_ADVISORS = re.compile(r"(optuna|scipy|torch|tuner\.optimizer)(\.|$)")  # modules that warnings of our calls come from
FILTERS = [  # (action, message, category, module, line)
    ("ignore", None, ExperimentalWarning, None, 0),
    ("ignore", None, Warning, _ADVISORS, 0),
]

_lock = threading.Lock()
_inside = 0  # threads and nested calls
_undo = ExitStack()


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Inside, Optuna logs warnings only, and its and SciPy's advice is not shown. A caller's stricter level stays.

    Settings of logging and warnings belong to the process, which may have several searches on several threads: the
    first to enter changes the settings, the last to leave undoes that. What other threads change in between stays: this
    is why it does not use ``warnings.catch_warnings``.
    """
    global _inside
    with _lock:
        if not _inside:
            _raise_levels()
        _add_filters()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _add_filters() -> None:
    """For every entry: a ``catch_warnings`` elsewhere may have replaced the list since the first one."""
    filters = _filters()
    if not any(entry is FILTERS[0] for entry in filters):
        filters[0:0] = FILTERS
        _undo.callback(_remove, filters)


def _raise_levels() -> None:
    for name, level in _LEVELS.items():
        logger = logging.getLogger(name)
        _undo.callback(logger.setLevel, logger.level)
        logger.setLevel(max(logger.level, level))


def _remove(filters: list[Any]) -> None:
    """Ours leave the list that they were put in, and the copy that another thread's ``catch_warnings`` made of it."""
    for found in (filters, _filters()):
        found[:] = [entry for entry in found if not any(entry is ours for ours in FILTERS)]


def _filters() -> list[Any]:
    return cast(list[Any], warnings.filters)
