"""The decoded data of a search in its storage, so that no node needs their source."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.storage_spec import spoken_errors

DATASET = "dataset"  # holds the name of the decoded data


def dataset_of(spec: SearchSpec, folder: Path) -> str:
    """What trials open: the decoded data in the storage once it is there, so that no node needs the source."""
    from trainables.data import absolute
    from trainables.data.store import DECODED
    from trainables.storage import below

    key = folder / DATASET
    if spec.storage and key.exists():
        name = key.read_text().strip()
        if not DECODED.fullmatch(name):
            raise UsageError(f"{key} holds {name[:80]!r}, which is no name of decoded data")
        return f"stored:{below(spec.storage, 'datasets', name)}"
    return absolute(spec.dataset)


def share_dataset(spec: SearchSpec, home: Home, folder: Path) -> None:
    """The decoded data into the storage, unless it is there."""
    from trainables.data import prepare, share

    if not spec.storage or (folder / DATASET).exists():
        return
    decoded = prepare(dataset_of(spec, folder), home.root)
    with spoken_errors(spec.storage):
        share(decoded, spec.storage)
    write_atomically(folder / DATASET, decoded.name)
