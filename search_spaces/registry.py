"""The table of methods: the files of this package, and what other installed packages offer as plug-ins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

# `tuner --help` imports this package; what `param` needs (optuna) is loaded where a space is checked.
if TYPE_CHECKING:
    from search_spaces.param import Param

GROUP = "tuner.methods"  # of entry points
# Files of this package that are not a method's; every other one is.
HELPERS = ("number", "param", "provenance", "registry", "resolve", "training")
NAME = re.compile(r"[a-z][a-z0-9_-]*")


class MethodSpace(Protocol):
    """What a method's file in this package (or a plug-in) holds."""

    Params: type  # a frozen dataclass, each field a `param`
    PAPER: str  # where the method is published
    SUMMARY: str  # one line for tables
    # RECIPE: dict[str, Any], optional: training settings of the authors' code
    # EPOCHS: int, optional: how long the authors train


class Methods(Mapping[str, MethodSpace]):
    """Name -> space. Built-in methods come first, plug-ins after them, both in alphabetical order.

    A file is imported when its method is asked for. Plug-ins are looked for once, when all names or a name that is not
    built in are asked for; one that cannot be used is left out and named in ``problems``.
    """

    def __init__(self, package: str, path: list[str]):
        self.package, self.path = package, path

    @cached_property
    def built_in(self) -> tuple[str, ...]:
        return tuple(sorted(m.name for m in iter_modules(self.path) if m.name not in HELPERS and m.name[0] != "_"))

    def __getitem__(self, name: str) -> MethodSpace:
        """``KeyError`` for an unknown name, ``ValueError`` with the reason for a plug-in that cannot be used."""
        if name in self.built_in:
            return import_module(f"{self.package}.{name}")
        if name in self.problems:
            raise ValueError(self.problems[name])
        return self._plug_ins[name]

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._plug_ins

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._plug_ins

    def __len__(self) -> int:
        return len(self.built_in) + len(self._plug_ins)

    @property
    def problems(self) -> dict[str, str]:
        """By name, in one sentence each, why an installed plug-in is not used."""
        return self._found[1]

    def source(self, name: str) -> str | None:
        """The package of a plug-in with its version; None for a built-in method."""
        return None if name in self.built_in else self._found[2].get(name)

    @property
    def _plug_ins(self) -> dict[str, MethodSpace]:
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[dict[str, MethodSpace], dict[str, str], dict[str, str]]:
        from importlib.metadata import entry_points  # reads every installed package: only where it is needed

        offers: dict[str, list] = {}
        for entry in entry_points(group=GROUP):
            offers.setdefault(entry.name, []).append(entry)
        spaces, problems, sources = {}, {}, {}
        for name, entries in sorted(offers.items()):
            origin = " and of ".join(sorted(_package(entry) for entry in entries))
            try:
                spaces[name], sources[name] = self._load(name, entries), origin
            except Exception as error:  # whatever a plug-in raises must not hide the other methods
                reason = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
                problems[name] = f"method {name!r} of {origin} is not used: {' '.join(reason.split())}"
        return spaces, problems, sources

    def _load(self, name: str, entries: list) -> MethodSpace:
        if name in self.built_in:
            raise Unusable("a built-in method has this name")
        if len(entries) > 1:
            raise Unusable("two packages give the same name")
        if not NAME.fullmatch(name):
            raise Unusable("a name takes small letters, digits, '_' and '-', and begins with a letter")
        space = entries[0].load()
        check_space(space)
        if not isinstance(getattr(space, "METHOD", None), str):
            raise Unusable("its METHOD must be the dotted name of the module with the Method subclass")
        return space


class Unusable(ValueError):
    """The reason alone, without the method's name."""


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
    from search_spaces.param import SOURCES, coerce

    earlier: dict[str, tuple] = {}
    for name, param in params.items():
        if param.source not in SOURCES:
            raise Unusable(f"the source of its parameter {name} must be one of: {', '.join(SOURCES)}")
        values = [param.default, *(value for defaults in param.by.values() for value in defaults.values())]
        if [coerce(param, value) for value in values] != values:
            raise Unusable(f"a default of its parameter {name} is not of the type of the range")
        for other, allowed in [*param.when.items(), *param.by.items()]:
            if not set(allowed) <= set(earlier.get(other, ())):
                raise Unusable(f"its parameter {name} depends on {other}, which is no earlier choice with these values")
        earlier[name] = getattr(param.range, "choices", ())


def _package(entry) -> str:
    """What to call the package of an entry point, e.g. ``package cool-methods 1.2``."""
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else f"{entry.value!r}"
