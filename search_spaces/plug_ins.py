"""Tables of names to which other installed packages add, each through a group of entry points.

A table is made of the built-in rows and of a group, such as ``tuner.models``. What a package offers there is checked
when it is found. What cannot be used costs one sentence that names package and entry point, and hides nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

NAME = re.compile(r"[a-z][a-z0-9_-]*")
Row = TypeVar("Row")


class Unusable(ValueError):
    """The reason alone, without the name of what cannot be used."""


@dataclass(frozen=True)
class PlugIn:
    """What a package offers under one name.

    ``entry``: as in the package's metadata, "module" or "module:object". ``modules``: the top-level modules and packages
    that it consists of. ``code``: 16 hex digits of their source files as they were when this process found them.
    """

    group: str
    name: str
    entry: str
    row: Any
    package: str
    version: str
    modules: tuple[str, ...]
    code: str

    @property
    def source(self) -> str:
        return f"package {self.package} {self.version}"

    @property
    def mark(self) -> str:
        """What a search remembers of it: package, version and code."""
        return f"{self.package} {self.version} {self.code}"


class Table(Mapping[str, Row], Generic[Row]):
    """Name -> row. Built-in rows come first, plug-ins after them in alphabetical order; none takes a built-in's name.

    Plug-ins are looked for once, when all names or one that is not built in are asked for.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, Row],
        check: Callable[[Any], None],
        needs: Callable[[Any], Iterable[str]] = lambda row: (),
    ):
        """``kind``: what a row is, in words. ``check``: raises for a row that cannot be used. ``needs``: the modules
        that a row names and that are imported later than it."""
        self.kind, self.group, self.built_in, self._check, self._needs = kind, group, built_in, check, needs

    def __getitem__(self, name: str) -> Row:
        """``KeyError`` for an unknown name, ``ValueError`` with the reason for a plug-in that cannot be used."""
        if name in self.built_in:
            return self.built_in[name]
        self.refuse_broken(name)
        return self.plug_ins[name].row

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or (_may_be_offered(name) and name in self.plug_ins)

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self.plug_ins

    def __len__(self) -> int:
        return len(self.built_in) + len(self.plug_ins)

    @property
    def plug_ins(self) -> dict[str, PlugIn]:
        return self._found[0]

    @property
    def problems(self) -> dict[str, str]:
        """By name, in one sentence each, why an installed plug-in is not used."""
        return self._found[1]

    def plug_in(self, name: str) -> PlugIn | None:
        """None for a built-in name and an unknown one."""
        return self.plug_ins[name] if name not in self.built_in and name in self else None

    def source(self, name: str) -> str | None:
        """The package of a plug-in with its version; None for a built-in name."""
        found = self.plug_in(name)
        return found and found.source

    def refuse_broken(self, name: str) -> None:
        """``ValueError`` with the reason where the name is that of a plug-in that cannot be used."""
        if name not in self.built_in and _may_be_offered(name) and name in self.problems:
            raise ValueError(self.problems[name])

    @cached_property
    def _found(self) -> tuple[dict[str, PlugIn], dict[str, str]]:
        from importlib.metadata import entry_points  # reads every installed package: only where it is needed

        offers: dict[str, list] = {}
        for entry in entry_points(group=self.group):
            offers.setdefault(entry.name, []).append(entry)
        found, problems = {}, {}
        for name, entries in sorted(offers.items()):
            try:
                found[name] = self._load(name, entries)
            except (Exception, SystemExit) as error:  # whatever a plug-in raises must not hide the others
                reason = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
                origin = " and of ".join(sorted(_package(entry) for entry in entries))
                problems[name] = f"{self.kind} {name!r} of {origin} is not used: {' '.join(reason.split())}"
        return found, problems

    def _load(self, name: str, entries: list) -> PlugIn:
        if name in self.built_in:
            raise Unusable(f"a built-in {self.kind} has this name")
        if len(entries) > 1:
            raise Unusable("two packages give the same name")
        if not NAME.fullmatch(name):
            raise Unusable("a name takes small letters, digits, '_' and '-', and begins with a letter")
        (entry,) = entries
        row = entry.load()
        self._check(row)
        modules = tuple(sorted({module.partition(".")[0] for module in (entry.module, *self._needs(row))}))
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.value, "unknown")
        return PlugIn(self.group, name, entry.value, row, package, version, modules, _code(modules))


def _may_be_offered(name: object) -> bool:
    """Of what is no name (parquet:DIR) nothing is looked for among all installed packages."""
    return isinstance(name, str) and ":" not in name


def _package(entry) -> str:
    """What to call the package of an entry point, e.g. ``package cool-methods 1.2``."""
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else f"{entry.value!r}"


def source_roots(module: str) -> list[Path]:
    """Where a top-level module or package lies: its file, or its folders. ``Unusable`` where there is none."""
    spec = find_spec(module)
    if spec is None or not (spec.submodule_search_locations or spec.has_location):
        raise Unusable(f"there is no module {module}")
    return [Path(place) for place in spec.submodule_search_locations or [spec.origin]]


def _code(modules: Iterable[str]) -> str:
    """16 hex digits of the modules' source files; even the edit of a comment changes them."""
    digest = hashlib.sha256()
    for root in (root for module in modules for root in source_roots(module)):
        for file in sorted(root.rglob("[!.]*.py")) if root.is_dir() else [root]:
            digest.update(f"{file.relative_to(root.parent).as_posix()}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
