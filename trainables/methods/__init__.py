"""The equations, one file per method. The registry is ``search_spaces.METHODS``; a file's class has the
method's name."""

from importlib import import_module
from typing import Any

from search_spaces import method_space
from search_spaces.resolve import resolve
from trainables.method import Method, Task


def method_class(name: str) -> type[Method]:
    """The ``Method`` subclass of a registered method, e.g. ``srat`` -> ``trainables.methods.srat.Srat``."""
    method_space(name)  # an unknown name is refused with the list of known ones
    return getattr(import_module(f"trainables.methods.{name}"), name.capitalize())


def build_method(name: str, params: dict[str, Any], task: Task) -> Method:
    """A method ready to train: ``params`` checked and completed; ``ValueError`` says in one sentence what
    does not fit."""
    values = resolve(name, params)
    return method_class(name)(method_space(name).Params(**values), task)
