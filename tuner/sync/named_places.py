"""The places (storage, data set, database) that a command may contact: those its user named, not those in a search's
spec, which may come from someone else."""

from __future__ import annotations

import os
import shlex

from trainables.urls import masked
from tuner.errors import UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.shared_dataset import DATASET, found_at
from tuner.sync.storage_spec import with_storage

SENT_WITH = "TUNER_SENT_WITH"  # environment variable of a job: the options with which it is sent again


def check_named(spec: SearchSpec, home: Home, name: str, command: str, **named: str | None) -> None:
    """``UsageError`` if ``command`` would make this machine contact a place that its user has not named, or if they
    name another one than the search has: what they ask for would not be done.

    A received search's folder holds a spec that someone else wrote. Before this machine's credentials go to a place in
    it, the user must name that place on the command line (a storage also in TUNER_STORAGE). ``named``: what the user
    gave, or None, for each field that ``command`` uses beside the storage.
    """
    named["storage"] = with_storage(SearchSpec(), home).storage
    unnamed = {field: value for field, value in places(spec).items() if field in named and value != named[field]}
    if named["storage"] and (home.search(name) / DATASET).exists():
        unnamed.pop("dataset", None)  # the decoded data in that storage are used instead
    if unnamed:
        flags = " ".join(f"{_flag(field)} {shlex.quote(value)}" for field, value in unnamed.items())
        raise UsageError(
            f"search {name!r} uses {', '.join(map(repr, unnamed.values()))}, which this command does not name; "
            f"if you trust the author of the search: tuner {command} {name} {flags}{home.flag}"
        )
    for field in named.keys() - {"storage"}:
        given, own = named[field], getattr(spec, field)
        if given not in (None, own) and not (field == "dataset" and _same_folder(given, spec, home, name)):
            uses = f"uses {own!r}" if own else "has none"
            raise UsageError(f"{_flag(field)} {masked(given)!r} is not that of search {name!r}, which {uses}")


def _same_folder(given: str, spec: SearchSpec, home: Home, name: str) -> bool:
    """Whether the data that the user names here are those of the search, by another path."""
    from trainables.data import absolute

    return absolute(given) == found_at(spec.dataset, home.search(name))


def places(spec: SearchSpec) -> dict[str, str]:
    """The fields of a spec, with their values, that lead to a storage or to another machine."""
    remote = {
        "dataset": "://" in spec.dataset,
        "study_storage": not str(spec.study_storage or "sqlite:").startswith("sqlite:"),
        "storage": bool(spec.storage),
    }
    return {field: getattr(spec, field) for field, is_remote in remote.items() if is_remote}


def resume_command(spec: SearchSpec, home: Home, name: str, more: str = "") -> str:
    """What a user types to go on with a search, wherever its parts lie; of a job, where it was sent from. ``more``:
    with a space before it."""
    flags = "".join(f" {_flag(field)} {shlex.quote(value)}" for field, value in places(spec).items())
    sent_with = os.environ.get(SENT_WITH)
    return f"tuner resume {name}{more}{flags}{home.flag}{f' {sent_with}' if sent_with else ''}"


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def unasked_storage_note(spec: SearchSpec, home: Home, name: str) -> str | None:
    """A sentence for the user of a read-only command if the spec's storage was not contacted, else None."""
    if not spec.storage or home.storage and spec.storage == with_storage(SearchSpec(), home).storage:
        return None
    return (
        f"search {name!r} is shown as stored on this machine; to include what {spec.storage!r} has of it, name that "
        "with --storage or TUNER_STORAGE"
    )
