"""The equations, one file per method of the same name as its file in `search_spaces`, which says how to add one."""

from importlib import import_module
from typing import Any

from search_spaces import METHODS, method_space
from search_spaces.resolve import resolve
from trainables.method import Method, Task
from trainables.reading import named_line


def method_class(name: str) -> type[Method]:
    """The `Method` subclass whose ``name`` is ``name``, from the file of that name here or a plug-in's ``METHOD``.

    ``ValueError`` in one sentence for an unknown name and for a plug-in without such a class.
    """
    space, package = method_space(name), METHODS.source(name)
    if package is None:
        return _class_in(f"{__name__}.{name}", name)
    try:
        return _class_in(space.METHOD, name)
    except Exception as error:  # a plug-in's module may raise anything
        raise ValueError(f"method {name!r} of {package} cannot be trained: {named_line(error)}") from error


def _class_in(module: str, name: str) -> type[Method]:
    for value in vars(import_module(module)).values():
        if isinstance(value, type) and issubclass(value, Method) and vars(value).get("name") == name:
            return value
    raise ImportError(f"{module} has no subclass of trainables.method.Method with name = {name!r}")


def build_method(name: str, params: dict[str, Any], task: Task) -> Method:
    """A method ready to train: ``params`` checked and completed; ``ValueError`` says in one sentence what does not
    fit."""
    values = resolve(name, params)
    return method_class(name)(method_space(name).Params(**values), task)
