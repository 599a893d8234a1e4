"""The weights with which trials begin where a search starts from a checkpoint: a file named by its content, in the
search's storage or home, so that workers on any machine have it and nobody needs the user's file any more."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor, nn

from trainables.model_io import load_weights
from trainables.reading import Damaged
from trainables.storage import Storage, below

DIGEST = re.compile(r"[0-9a-f]{64}")


class Gone(Damaged, OSError):
    """The weights lay in the storage when the search began, and do not now. A mount that is away may come back."""


def keep_weights(where: str | Path, weights: dict[str, Tensor]) -> str:
    """Write a model's weights below ``where``, unless they are there; returns their name, the file's SHA-256.
    ``OSError``."""
    data = save({name: value.contiguous() for name, value in weights.items()})
    digest = hashlib.sha256(data).hexdigest()
    store = Storage(below(where, "inits"))
    if store.read(_file(digest)) != data:
        store.write(_file(digest), data)
    return digest


def load_initial(model: nn.Module, where: str | Path, digest: str) -> None:
    """Give ``model`` these weights, with the normalisation that belongs to them. ``Gone`` where they are not there,
    ``Damaged`` where they are other ones; ``OSError``."""
    store = Storage(below(where, "inits"))
    data = store.read(_file(digest)) if DIGEST.fullmatch(digest) else None
    if data is None:
        raise Gone(f"the weights to start from, {_file(digest)!r}, are not in {store.where!r}; start a search anew")
    if hashlib.sha256(data).hexdigest() != digest:
        raise Damaged(f"{_file(digest)!r} in {store.where!r} is cut or altered: its content does not fit its name")
    load_weights(model, load(data))


def has_weights(where: str | Path, digest: str) -> bool:
    """Whether these weights are there; `load_initial` looks whether they are whole. ``OSError``."""
    return _file(digest) in {name for name, _ in Storage(below(where, "inits")).files()}


def bring_weights(source: str | Path, where: str | Path, digest: str) -> bool:
    """Copy these weights from below ``source`` to below ``where``; whether they were there, and whole. ``OSError``."""
    data = Storage(below(source, "inits")).read(_file(digest))
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        return False
    Storage(below(where, "inits")).write(_file(digest), data)
    return True


def _file(digest: str) -> str:
    return f"{digest}.safetensors"
