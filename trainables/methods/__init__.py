"""The equations, one file per method. The registry is ``search_spaces.METHODS``; a file's class has the method's name."""

from importlib import import_module

from search_spaces import method_space


def method_class(name: str):
    """The ``Method`` subclass of a registered method, e.g. ``srat`` -> ``trainables.methods.srat.Srat``."""
    method_space(name)  # an unknown name is refused with the list of known ones
    return getattr(import_module(f"trainables.methods.{name}"), name.capitalize())
