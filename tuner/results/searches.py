"""Find searches by name: in a home, and in the storage that the user named with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from search_spaces.param import Param
from trainables.files import is_locked
from trainables.reading import Damaged, read_text, shaped
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.summary import state_of
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec


def search_names(home: Home) -> list[str]:
    """The names of the searches: first those that only the home's storage has, then those of the home, oldest first."""
    specs = home.searches.glob("[!.]*/spec.yaml")
    local = [path.parent.name for path in sorted(specs, key=_written)]
    if not home.storage:
        return local
    from tuner.sync.mirror import stored_names

    return [*(name for name in stored_names(home.storage) if name not in local), *local]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed since it was found
        return 0.0


def load_search(home: Home, name: str) -> SearchRun:
    """The search ``name`` of this home, as users have changed it meanwhile (`History.in_force`); else as
    `stored_search`."""
    run = stored_search(home, name)
    return replace(run, spec=run.history.in_force(run.spec))


def stored_search(home: Home, name: str) -> SearchRun:
    """The search ``name`` of this home as it was made, brought up to date from the storage that the user named with it.

    Errors as in `stored_spec`; ``Failed`` also if its history cannot be read.
    """
    run = SearchRun(stored_spec(home, name), home, name, History(home.search(name)))
    check_settings(run)
    return run


def stored_spec(home: Home, name: str) -> SearchSpec:
    """The spec of the search ``name`` as it was made; its folder is brought up to date from the home's storage first.

    The storage in the search's own spec is not contacted: a folder received from someone else must not choose where
    this machine connects to (`tuner.sync.named_places`). ``UsageError`` if there is no such search (the message offers
    similar names) or its spec cannot be read; ``Failed`` if the storage cannot.
    """
    from tuner.sync.mirror import pull

    storage, path = storage_of(home), home.search(name) / "spec.yaml"
    pulled = storage is not None and pull(storage, home, name)
    if not path.exists():
        import difflib

        near = difflib.get_close_matches(name, search_names(home), n=3, cutoff=0.3) or search_names(home)[-3:]
        hint = f"did you mean {', '.join(near)}?" if near else "this home has no search yet"
        raise UsageError(f"no search {name!r} in {str(home.root)!r}; {hint}")
    try:
        moved = {"storage": storage} if pulled else {}
        return SearchSpec.from_stored(read_text(path), name=name, **moved)  # a name may follow from the rest
    except (UsageError, Damaged) as error:  # written by another version, edited by hand, damaged
        raise UsageError(f"search {name!r} cannot be read: {error}") from None


def storage_of(home: Home) -> str | None:
    """The storage that the user named with this home, as a spec has it."""
    from tuner.sync.storage_spec import with_storage

    return with_storage(SearchSpec(), home).storage if home.storage else None


def check_settings(run: SearchRun, records: Iterable[TrialRecord] | None = None) -> None:
    """``Failed`` where a setting has text for a number, or a number for text: what may vary is known to the spec
    alone. Ranges are not compared: another version may have had others. ``records``: without, all of the search."""
    spaces = {lane.method: lane.search_space().params for lane in run.spec.lanes}
    for record in run.history.everything() if records is None else records:
        params = spaces.get(record.method, {})
        for name, value in record.params.items():
            if name in params and not _of_kind(params[name], value):
                raise Failed(f"search {run.name!r} cannot be read: {record.label} has {name}={str(value)[:80]!r}")


def _of_kind(param: Param, value: Any) -> bool:
    if isinstance(param.range, CategoricalDistribution):
        return type(value) in map(type, param.range.choices)
    return shaped(value, float)


def is_running(home: Home, name: str) -> bool:
    """Whether a driver on this machine holds the search's lock."""
    return is_locked(home.search(name) / ".lock")


def shown_state(run: SearchRun) -> str:
    """The search's state as others see it: ``running`` while a driver on this machine holds its lock."""
    state = state_of(run)
    return "running" if state == "stopped" and is_running(run.home, run.name) else state


def load_front(name: str, home: Home | None = None) -> Front:
    """The Pareto front of the search ``name``, over the trials that trained all epochs, with what is known of its rows
    beyond the images that chose them (`Assessment`); errors as in `load_search`."""
    return load_search(home or Home(), name).assessed_front()
