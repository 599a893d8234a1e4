"""The built-in methods, which are the files of this package, and what a method's file has to hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from search_spaces.plug_ins import Unusable

# `tuner --help` imports this package; what `param` needs (optuna) is loaded where a space is checked.
if TYPE_CHECKING:
    from search_spaces.param import Param

# Files of this package that are not a method's; every other one is.
HELPERS = ("coordinates", "number", "param", "plug_ins", "provenance", "registry", "resolve", "training")


class MethodSpace(Protocol):
    """What a method's file in this package (or a plug-in) holds."""

    Params: type  # a frozen dataclass, each field a `param`
    PAPER: str  # where the method is published
    SUMMARY: str  # one line for tables
    # RECIPE: dict[str, Any], optional: training settings of the authors' code
    # EPOCHS: int, optional: how long the authors train
    # LINF_ONLY: dict[str, tuple], optional: values of parameters that are made for L-infinity
    # FINE_TUNING: dict[str, Any], optional: parameters' values under RECIPE, where that begins with a trained model
    # STEM: dict[str, Any], optional: form, head and val_losses of its `Method` where they are not plain AT's (those of a
    # plug-in are read from its class); val_losses may be the values of `STEM_PARAMS` with which they are measured


class Files(Mapping[str, MethodSpace]):
    """The built-in methods, in alphabetical order; a file is imported when its method is asked for."""

    def __init__(self, package: str, path: list[str]):
        self.package = package
        self.names = tuple(sorted(m.name for m in iter_modules(path) if m.name not in HELPERS and m.name[0] != "_"))

    def __getitem__(self, name: str) -> MethodSpace:
        if name not in self.names:
            raise KeyError(name)
        return import_module(f"{self.package}.{name}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def check_plug_in(space: Any) -> None:
    """`check_space`, and that it names the module of its equation."""
    check_space(space)
    if not isinstance(getattr(space, "METHOD", None), str):
        raise Unusable("its METHOD must be the dotted name of the module with the Method subclass")


def check_space(space: Any) -> None:
    """``Unusable`` unless ``space`` is a sound `MethodSpace`: every line with a meaning, a known source and a default
    inside its range, conditions (``when``, ``by``) on choices of earlier lines only."""
    from search_spaces.param import params_of

    for attribute in ("PAPER", "SUMMARY"):
        if not isinstance(getattr(space, attribute, None), str):
            raise Unusable(f"its {attribute} must be a line of text")
    if not dataclasses.is_dataclass(getattr(space, "Params", None)):
        raise Unusable("its Params must be a dataclass")
    for field in dataclasses.fields(space.Params):
        if "range" not in field.metadata:
            raise Unusable(f"its parameter {field.name} must be given by param(default, range, meaning)")
    _check_params(params_of(space.Params))
    _check_recipe(getattr(space, "RECIPE", {}))


def _check_recipe(recipe: Any) -> None:
    from search_spaces.param import coerce, params_of
    from search_spaces.training import Training

    known = params_of(Training)
    if not isinstance(recipe, dict) or not set(recipe) <= set(known):
        raise Unusable("its RECIPE must be a dict of training settings")
    if {name: coerce(known[name], value) for name, value in recipe.items()} != recipe:
        raise Unusable("a value of its RECIPE is not of the type of the setting")


def _check_params(params: dict[str, Param]) -> None:
    from search_spaces.coordinates import COORDINATES
    from search_spaces.param import SOURCES, coerce

    earlier: dict[str, tuple] = {}
    for name, param in params.items():
        if param.source not in SOURCES:
            raise Unusable(f"the source of its parameter {name} must be one of: {', '.join(SOURCES)}")
        if param.acts_as and param.acts_as.name not in COORDINATES:
            raise Unusable(f"the coordinate of its parameter {name} must be one of: {', '.join(COORDINATES)}")
        values = [param.default, *(value for defaults in param.by.values() for value in defaults.values())]
        if [coerce(param, value) for value in values] != values:
            raise Unusable(f"a default of its parameter {name} is not of the type of the range")
        for other, allowed in [*param.when.items(), *param.by.items()]:
            if not set(allowed) <= set(earlier.get(other, ())):
                raise Unusable(f"its parameter {name} depends on {other}, which is no earlier choice with these values")
        earlier[name] = getattr(param.range, "choices", ())

