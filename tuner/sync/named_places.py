"""Which places a command may ask: those that its user named, not those that a received search names."""

from __future__ import annotations

import shlex

from tuner.errors import UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.shared_dataset import DATASET
from tuner.sync.storage_spec import with_storage


def check_named(spec: SearchSpec, home: Home, name: str, command: str, **said: str | None) -> None:
    """``UsageError`` where ``command`` would make this machine ask a place that its user has not named.

    Whoever gave us a search's folder wrote the spec in it, so before this machine's credentials go to a place of that
    spec it is named on the command line too (a storage: or in TUNER_STORAGE). ``said``: what was said of the other
    fields that ``command`` uses.
    """
    said["storage"] = with_storage(SearchSpec(), home).storage
    wanted = {field: value for field, value in places(spec).items() if field in said and value != said[field]}
    if said["storage"] and (home.search(name) / DATASET).exists():
        wanted.pop("dataset", None)  # the decoded data in that storage are used
    if wanted:
        flags = " ".join(f"{_flag(field)} {shlex.quote(value)}" for field, value in wanted.items())
        raise UsageError(
            f"search {name!r} uses {', '.join(map(repr, wanted.values()))}, which this command was not "
            f"told of; if you trust whoever made the search: tuner {command} {name} {flags}"
        )


def places(spec: SearchSpec) -> dict[str, str]:
    """The fields of a spec that lead to other machines, or to a storage."""
    far = {
        "dataset": "://" in spec.dataset,
        "study_storage": not str(spec.study_storage or "sqlite:").startswith("sqlite:"),
        "storage": bool(spec.storage),
    }
    return {field: getattr(spec, field) for field, is_far in far.items() if is_far}


def again(spec: SearchSpec) -> str:
    """The flags with which a later command names the places of a spec."""
    return "".join(f" {_flag(field)} {shlex.quote(value)}" for field, value in places(spec).items())


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def not_asked(spec: SearchSpec, home: Home, name: str) -> str | None:
    """What a command that only reads says where it leaves the storage of a spec alone."""
    if not spec.storage or spec.storage == with_storage(SearchSpec(), home).storage:
        return None
    return (
        f"search {name!r} is shown as it lies here; what {spec.storage!r} has of it is brought where that is named "
        "(--storage or TUNER_STORAGE)"
    )
