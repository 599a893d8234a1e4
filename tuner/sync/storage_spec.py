"""The storage that a spec or the environment names, and its errors in our own classes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec


def with_storage(spec: SearchSpec, home: Home) -> SearchSpec:
    """The spec with its storage, or else the home's (TUNER_STORAGE), as an absolute path or URL.

    ``UsageError`` if it cannot be used as one (a URL with a password).
    """
    storage = spec.storage or home.storage
    if not storage:
        return spec
    from trainables.storage import absolute_storage

    try:
        return replace(spec, storage=absolute_storage(storage))
    except ValueError as error:
        raise UsageError(f"--storage: {error}") from None


def check_storage(spec: SearchSpec) -> None:
    """``UsageError`` if this machine cannot use the spec's storage."""
    from trainables.storage import storage_problem

    problem = spec.storage and storage_problem(spec.storage)
    if problem:
        raise UsageError(problem)


@contextlib.contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turn errors of a storage in this block into ``Failed``, or ``UsageError`` if its address is wrong."""
    from trainables.storage import explain

    try:
        yield
    except OSError as error:
        raise Failed(explain(storage, error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
