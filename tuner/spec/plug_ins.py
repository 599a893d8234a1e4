"""What of other packages a search uses, and whether it is here as it was.

A search remembers each as ``{"method focal": "your-package 0.1 3f2a99c15d1e8b07"}``: package, version and the hash of
its source. So a search made with a package says which one where it is missing, and is not continued with another code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from search_spaces import METHODS
from search_spaces.plug_ins import PlugIn, Table
from trainables.datasets import DATASETS
from trainables.models.names import MODELS
from trainables.threats import LINF, THREATS
from tuner.errors import UsageError

# What decides about trials, by kind; what only listens to a search is in `tuner.results.listener`.
TABLES: dict[str, Table[Any]] = {table.kind: table for table in (METHODS, DATASETS, MODELS, THREATS)}
_USED = re.compile(rf"({'|'.join(TABLES)}) (\S+)")
_MARK = re.compile(r"(\S+) (\S+) ([0-9a-f]{16})")


def used_plug_ins(methods: Iterable[str], dataset: str, model: str, threat: str = LINF) -> dict[str, str]:
    """Those that a search of these names uses, as it remembers them."""
    one_each = {"dataset": dataset, "model": model.partition(":")[0], "threat": threat}
    names = [*(("method", method) for method in methods), *one_each.items()]
    found = {f"{kind} {name}": TABLES[kind].plug_in(name) for kind, name in names}
    return {what: plug_in.mark for what, plug_in in found.items() if plug_in}


def check_remembered(plug_ins: Any) -> None:
    """``UsageError`` for what is no such mapping, which a spec file may hold."""
    if not isinstance(plug_ins, dict):
        raise UsageError(f"spec field plug_ins {str(plug_ins)[:80]!r} is not allowed; it takes 'key: value' pairs")
    for what, mark in plug_ins.items():
        if not _USED.fullmatch(str(what)) or not _MARK.fullmatch(str(mark)):
            raise UsageError(
                f"spec field plug_ins {str(what)[:80]!r}: {str(mark)[:80]!r} is not allowed; leave the field out, and "
                "what is installed is written into it"
            )


def missing(plug_ins: Mapping[str, str]) -> str | None:
    """The first of ``plug_ins`` that is not installed here, in one sentence with its package; None: all are."""
    for what, mark in plug_ins.items():
        if _of(what) is None:
            kind, name = what.split(" ", 1)
            package, version, _ = mark.split(" ")
            return TABLES[kind].problems.get(name) or (
                f"{kind} {name!r} is of package {package} {version}, which is not installed here; install it"
            )
    return None


def require_same(plug_ins: Mapping[str, str]) -> None:
    """``UsageError`` unless all of ``plug_ins`` are here as they were."""
    if sentence := differing(plug_ins):
        raise UsageError(sentence)


def differing(plug_ins: Mapping[str, str]) -> str | None:
    """The first of ``plug_ins`` that is `missing` here or has another code, in one sentence; None: there is none."""
    if sentence := missing(plug_ins):
        return sentence
    for what, mark in plug_ins.items():
        here, (package, version, code) = _of(what), mark.split(" ")
        if here and here.code != code:
            kind, name = what.split(" ", 1)
            return (
                f"{kind} {name!r} of package {package} {version} (code {code[:8]}) is of {here.source} (code "
                f"{here.code[:8]}) here; install what the search was made with, or start one with another --name"
            )
    return None


def _of(what: str) -> PlugIn | None:
    kind, name = what.split(" ", 1)
    return TABLES[kind].plug_in(name)
