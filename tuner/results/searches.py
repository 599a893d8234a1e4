"""Searches by name: in a home, and in the storage that was named with it."""

from __future__ import annotations

from dataclasses import replace

from tuner.errors import UsageError
from tuner.home import Home
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec


def search_names(home: Home) -> list[str]:
    """The searches in a home, oldest first, and those that are in its storage alone."""
    specs = home.searches.glob("*/spec.yaml")
    here = [p.parent.name for p in sorted(specs, key=lambda p: p.stat().st_mtime)]
    if not home.storage:
        return here
    from tuner.sync.mirror import stored_names

    return [*(name for name in stored_names(home.storage) if name not in here), *here]


def load_search(home: Home, name: str) -> SearchRun:
    """A search of this home, or of the storage named with it, by name; ``UsageError`` offers the nearest names.

    The storage that stands in a spec is not asked: a folder that somebody sent must not choose whom this machine talks
    to (``tuner.sync.named_places``).
    """
    from tuner.sync.mirror import pull
    from tuner.sync.storage_spec import with_storage

    folder = home.search(name)
    path = folder / "spec.yaml"
    asked = with_storage(SearchSpec(), home).storage
    moved = asked is not None and pull(asked, home, name)
    if not path.exists():
        import difflib

        near = difflib.get_close_matches(name, search_names(home), n=3, cutoff=0.3) or search_names(home)[-3:]
        hint = f"did you mean {', '.join(near)}?" if near else "this home has no search yet"
        raise UsageError(f"no search {name!r} in {str(home.root)!r}; {hint}")
    try:
        spec = SearchSpec.from_yaml(path.read_text())
    except UsageError as error:  # a spec of other versions, or somebody's edit
        raise UsageError(f"search {name!r} cannot be read: {error}") from None
    if moved:
        spec = replace(spec, storage=asked)
    return SearchRun(spec, home, name, History(folder))


def load_front(name: str, home: Home | None = None) -> Front:
    """The Pareto front of a search by name, over its trials of full budget."""
    return load_search(home or Home(), name).front()
