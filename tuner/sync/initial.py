"""The weights that a search starts from (``--init``): what its folder keeps of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from trainables.reading import Damaged, read_json, shaped
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.spec.search_spec import SearchSpec

INIT = "init.json"  # file in the search's folder
RECORD = {
    "source": str,  # what was asked for
    "file": str,  # SHA-256 of the file
    "weights": str,  # their name in the storage, or home (`trainables.initial`)
    "notes": [str],
    "accuracy": {"images": int, "clean_acc": float, "attacked": int, "robust_acc": float},  # on val, before training
}
_HEX = re.compile("[0-9a-f]{64}")


def init_of(spec: SearchSpec, folder: Path) -> dict[str, Any] | None:
    """What the search in ``folder`` starts from; None where that is random weights, or nothing is recorded yet.
    ``UsageError`` for a damaged record."""
    path = folder / INIT
    if not spec.starts_from or not path.exists():
        return None
    try:
        record = read_json(path)
    except Damaged as error:
        raise UsageError(str(error)) from None
    if not shaped(record, RECORD) or not all(_HEX.fullmatch(record[key]) for key in ("file", "weights")):
        raise UsageError(f"{str(path)!r} does not say what the search starts from")
    return record


def keep_init(folder: Path, record: dict[str, Any]) -> None:
    write_atomically(folder / INIT, json.dumps(record, indent=1))


def init_text(record: dict[str, Any]) -> str:
    """One sentence: how accurate the weights are before anything is trained, and whether they know images of `val`."""
    found, known = record["accuracy"], shaped(record, {"val": str}) and record["val"]  # earlier versions did not look
    val = f"; {known}" if known else ""
    return (
        f"init: {record['source']} classifies {found['clean_acc']:.3f} of {found['images']} images of val right, and "
        f"{found['robust_acc']:.3f} of {found['attacked']} under attack, before training{val}"
    )
