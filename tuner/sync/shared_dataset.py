"""Keep a search's decoded data in its storage, so that nodes do not need the original data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.reading import intact, is_text, read_text
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.sync.storage_spec import storage_errors

if TYPE_CHECKING:
    from trainables.data import DataSpec

DATASET = "dataset"  # file in the search's folder with the name of the decoded data
BEGAN = "began-in"  # the same with the folder from which relative paths of its data count
IMAGES = "images"  # the same with what tells its training set, and its extra images, from other ones


def dataset_of(spec: SearchSpec, folder: Path) -> str:
    """The data set name that trials open: the decoded data in the storage if they are there, else the spec's own.

    ``folder``: the search's. ``UsageError`` if the name stored in it is not valid.
    """
    from trainables.data.store import DECODED
    from trainables.storage import below

    key = folder / DATASET
    if spec.storage and key.exists():
        name = read_text(key).strip()
        if not DECODED.fullmatch(name):
            raise UsageError(f"{key} holds {name[:80]!r}, which is no name of decoded data")
        return f"stored:{below(spec.storage, 'datasets', name)}"
    return found_at(spec.dataset, folder)


def found_at(data: str, folder: Path) -> str:
    """``data`` for a process in another folder: where a relative path leads to nothing here, it counts from where the
    search in ``folder`` began."""
    from trainables.data import absolute

    (kind, _, where), here = data.partition(":"), absolute(data)
    if here == data or os.path.exists(here.partition(":")[2]):
        return here
    there = intact(lambda: Path(read_text(folder / BEGAN), Path(where).expanduser()).resolve())
    return f"{kind}:{there}" if there else here


def keep_place(spec: SearchSpec, folder: Path) -> None:
    """Note in the search's ``folder`` from where relative paths of its data count."""
    from trainables.data import absolute

    began, data = folder / BEGAN, (spec.dataset, spec.extra_data)
    if not began.exists() and any(absolute(one) != one for one in data) and is_text(os.getcwd()):
        write_atomically(began, os.getcwd())


def data_spec(spec: SearchSpec, dataset: str, folder: Path) -> DataSpec:
    """The images of the search in ``folder``, whose data set is found under the name ``dataset``."""
    from trainables.data import DataSpec, Reading

    reading, extra = Reading(spec.image_size, spec.test_split, spec.groups), found_at(spec.extra_data, folder)
    return DataSpec(dataset, spec.imbalance, spec.seed, spec.val_fraction, spec.val_per_class, reading, extra)


def keep_images(spec: SearchSpec, folder: Path, decoded: Path | None, extra: str | None) -> None:
    """Note in the search's ``folder`` what its training set is (`train` and `val` are chosen from it), unless a storage
    keeps that, and what its extra images are, which none keeps. ``decoded``: the folder of the decoded data; ``extra``:
    the content of the extra images. ``UsageError`` where the search began with others: trials before and after could
    not be compared."""
    if decoded is None or (spec.storage and extra is None):
        return
    now, known = _compared(spec, folder, decoded, extra)
    if not known:  # a new search, or one of a version that did not note it
        write_atomically(folder / IMAGES, now)


def _compared(spec: SearchSpec, folder: Path, decoded: Path, extra: str | None = None) -> tuple[str, bool]:
    """What the images are, and whether all of it was noted; `keep_images` says what is raised."""
    from trainables.data.store import sketch

    now = [sketch(decoded), *([extra] if extra else [])]
    then = intact(lambda: read_text(folder / IMAGES).split()) or []
    images = f"training images of {spec.dataset!r}", f"extra images of {spec.extra_data!r}"
    for what, here, before in zip(images, now, then):
        if here != before:
            raise UsageError(
                f"the {what} are not those with which search {spec.search_name!r} began, so its trials could not be "
                "compared; put those back, or choose another --name"
            )
    return " ".join(now), len(then) >= len(now)


def share_dataset(spec: SearchSpec, home: Home, folder: Path) -> None:
    """Decode the data and put them into the storage, unless they are there; ``Failed`` if it cannot be written.

    ``folder``: the search's. Without a storage nothing happens. ``UsageError`` where the search began without one, with
    other training images.
    """
    from trainables.data import prepare, share

    if not spec.storage or (folder / DATASET).exists():
        return
    found = data_spec(spec, dataset_of(spec, folder), folder)
    decoded = prepare(found.dataset, home.root, found.reading)
    _compared(spec, folder, decoded)
    with storage_errors(spec.storage):
        name = share(decoded, spec.storage)
    write_atomically(folder / DATASET, name)
