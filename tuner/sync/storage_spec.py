"""The storage that a spec or an environment names, and what its errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec


def with_storage(spec: SearchSpec, home: Home) -> SearchSpec:
    """The spec with its storage filled in (TUNER_STORAGE) and absolute."""
    where = spec.storage or home.storage
    if not where:
        return spec
    from trainables.storage import absolute_storage

    try:
        return replace(spec, storage=absolute_storage(where))
    except ValueError as error:
        raise UsageError(f"--storage: {error}") from None


def check_storage(spec: SearchSpec) -> None:
    """``UsageError`` where this machine cannot use the storage."""
    from trainables.storage import storage_problem

    problem = spec.storage and storage_problem(spec.storage)
    if problem:
        raise UsageError(problem)


@contextlib.contextmanager
def spoken_errors(storage: str) -> Iterator[None]:
    """What a storage refuses, as one of our errors: ``Failed``, or ``UsageError`` where its address is wrong."""
    from trainables.storage import explain

    try:
        yield
    except OSError as error:
        raise Failed(explain(storage, error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
