"""Images that are still encoded, with their labels, and how labels of several files are matched by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from trainables.data.layout import some
from trainables.data.spec import DataError


@dataclass
class Encoded:
    """The images of one file, or of one split. ``chunks()`` yields them in order, in lists."""

    rows: int
    labels: np.ndarray  # (N,) int64
    classes: list[str] | None  # what the labels are called; None: numbers alone
    paths: list[str | None] | None  # the images' own file names, where they are stored
    chunks: Callable[[], Iterator[list]]  # of bytes, or names of files
    place: Callable[[int], str]  # where a row comes from, for messages
    file: str = ""
    columns: tuple[str, ...] = ()  # of the file
    label: str = ""  # the column of the labels
    from_text: bool = False  # labels were names in the file, so it knows only those of its own images


def class_names(parts: Sequence[Encoded]) -> list[str] | None:
    """The classes of a split in the order of their labels; None where no file names any.

    The first list that a file declares; where labels are written as text, all names in alphabetical order.
    """
    named = [part.classes for part in parts if part.classes]
    if any(part.from_text for part in parts):
        return sorted(set(chain.from_iterable(named)))
    return named[0] if named else None


def matched(part: Encoded, classes: list[str] | None, parts: Sequence[Encoded]) -> Encoded:
    """``part`` with labels that count in ``classes``: two files may name the classes in another order.

    A file that names no classes counts as the others do. ``DataError`` for a class that `train` does not have.
    ``parts``: the files of both splits, those of `train` first.
    """
    if part.classes == classes or not classes:
        return part
    if part.classes is None:
        for other in parts:
            if other.from_text:
                raise DataError(f"{part.file} has numbers as labels while those of {other.file} are names")
        return part
    _check_distinct(part.classes, part.file)
    _check_distinct(classes, parts[0].file)
    check_labels(part, len(part.classes))
    number = {name: c for c, name in enumerate(classes)}
    for label in np.unique(part.labels):
        if part.classes[label] not in number:
            raise DataError(
                f"{part.file} has images of class {part.classes[label]!r}, which is not among the classes of train: "
                f"{some(classes, 10)}"
            )
    table = np.array([number.get(name, -1) for name in part.classes], dtype=np.int64)
    return dataclasses.replace(part, labels=table[part.labels])


def _check_distinct(classes: list[str], file: str) -> None:
    twice = [name for c, name in enumerate(classes) if name in classes[:c]]
    if twice:
        raise DataError(f"{file} names two classes {twice[0]!r}, so its labels cannot be matched by name")


def check_labels(part: Encoded, classes: int) -> None:
    """``DataError`` unless the labels are 0 to ``classes`` - 1."""
    wrong = np.flatnonzero((part.labels < 0) | (part.labels >= classes))
    if len(wrong):
        raise DataError(
            f"{part.place(int(wrong[0]))} has label {part.labels[wrong[0]]}, which is out of range; labels must be "
            f"integers from 0 to {classes - 1}"
        )


def in_metrics(classes: list[str]) -> list[str]:
    """Names of classes as metrics have them, in whose own names "/" separates parts."""
    return [name.replace("/", "-") for name in classes]
