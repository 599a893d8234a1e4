"""Optuna's progress messages and advice, held back around our calls of it and nowhere else."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from optuna.exceptions import ExperimentalWarning

# Where many values are equal, a worst class of 0 say, the fit of Optuna's Gaussian process may fail, which it warns of;
# it then goes on with default kernel parameters.
_LEVELS = {"optuna": logging.WARNING, "optuna._gp.gp": logging.ERROR}
_ADVISORS = r"(optuna|scipy|torch|tuner\.optimizer)(\.|$)"  # modules whose warnings are advice on calls made here

_lock = threading.Lock()
_inside = 0  # threads and nested calls
_undo = ExitStack()


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Inside, Optuna logs warnings only, and its and SciPy's advice is not shown. A caller's stricter level stays.

    Settings of logging and warnings belong to the process, and proposals are computed on a thread of their own: the
    first to enter saves and changes them, the last to leave restores what the caller had set.
    """
    global _inside
    with _lock:
        if not _inside:
            _enter()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _enter() -> None:
    _undo.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module=_ADVISORS)
    warnings.simplefilter("ignore", ExperimentalWarning)  # shown as of the module that calls Optuna
    for name, level in _LEVELS.items():
        logger = logging.getLogger(name)
        _undo.callback(logger.setLevel, logger.level)
        logger.setLevel(max(logger.level, level))
