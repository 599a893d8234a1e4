"""What a test reaches decides its marks, so that nobody writes them by hand.

A test that reaches `subprocess` - by itself, by a fixture or by a helper of tests/ - starts processes; one that also
names a command that trains starts Ray. What the packages start by themselves is not seen here: conftest.py refuses a
process to a test without the mark, in words that say which one to add.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

TRAINS = {"search", "resume", "verify", "submit", "--head"}  # words of `tuner` and `ray` with which Ray starts
STARTS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output"},
    "multiprocessing": {"Process", "Pool", "get_context"},
}


def marks_of(item: pytest.Item) -> set[str]:
    """`process`, `ray`, `browser`: those of them that the test and its fixtures need."""
    return set().union(*(_marks(function) for function in [item.function, *fixtures_of(item)]))


def fixtures_of(item: pytest.Item, scopes: tuple[str, ...] = ("function", "class", "module", "session")) -> Iterator:
    """The functions of the fixtures that a test uses, directly or through others."""
    for defined in item._fixtureinfo.name2fixturedefs.values():
        if defined[-1].scope in scopes:
            yield defined[-1].func


def process_in(function: Callable) -> bool:
    """Whether a function of tests/ starts a process."""
    return "process" in _marks(function)


_known: dict[Any, set[str]] = {}


def _marks(function: Callable) -> set[str]:
    if function not in _known:
        starts, words = set[str](), set[str]()
        _walk(function, starts, words, set())
        marks = {"process"} if "process" in starts else set[str]()
        marks |= {"ray"} if marks and words & TRAINS else set()
        _known[function] = marks | ({"browser", "process"} if "Browser" in starts else set())
    return _known[function]


def _walk(what: Any, starts: set[str], words: set[str], seen: set[int]) -> None:
    """Collect what a function of tests/ and the helpers that it calls start (`process`, `Browser`), and their words."""
    if id(what) in seen:
        return
    seen.add(id(what))
    if isinstance(what, (list, tuple)):
        words.update(word for word in what if isinstance(word, str))
    elif isinstance(what, type):
        for method in vars(what).values():
            _walk(method, starts, words, seen)
    elif isinstance(function := getattr(what, "__wrapped__", what), FunctionType):
        found = set(_names(function.__code__, words))
        starts |= found & {"Browser"}
        starts |= {"process" for module, calls in STARTS.items() if module in found and calls & found}
        modules = [function.__globals__, *(vars(sys.modules[n]) for n in found if _ours_by_name(n))]
        modules += [vars(m) for n in found if isinstance(m := function.__globals__.get(n), ModuleType) and _ours(m)]
        for used in (module[name] for module in modules for name in found if name in module):
            if _ours(used) or isinstance(used, (list, tuple)):
                _walk(used, starts, words, seen)


def _ours(what: Any) -> bool:
    return str(getattr(what, "__module__", None) or getattr(what, "__name__", "")).startswith("tests.")


def _ours_by_name(name: str) -> bool:
    return name.startswith("tests.") and name in sys.modules


def _names(code: CodeType, words: set[str]) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, words)
        elif isinstance(constant, str):
            words.add(constant)
        elif isinstance(constant, tuple):
            words.update(word for word in constant if isinstance(word, str))
