"""What may vary: one file per method, and the registry of methods.

A method's equation is in ``trainables/methods/<name>.py``, its hyperparameters in ``search_spaces/<name>.py``.
"""

from search_spaces import at, srat

METHODS = {
    "at": at,
    "srat": srat,
}


def method_space(name: str):
    """The module with a method's ``Params``, ``PAPER`` and ``SUMMARY``; ``ValueError`` lists the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of: {', '.join(sorted(METHODS))}")
    return METHODS[name]
