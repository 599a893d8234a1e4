"""Which files of a folder are `train` and which `test`, by their names alone: a remote folder is listed before anything
is copied. Names are relative, with "/" between their parts; a folder's own name ends in "/".

Entries whose name begins with "." are ignored everywhere (``.ipynb_checkpoints``, macOS's ``._0.png``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from trainables.data.spec import DataError

# Words for a split as data hubs read them in file names (Hugging Face datasets, "Structure your repository").
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
# train-00000-of-00002.parquet, also with the hash that older hubs append; 0000.parquet lies in a folder of its split
_NUMBERED = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?$")
IMAGES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Layout:
    """``train``, ``test``: names of the files to read, sorted; ``unread``: in words, what was left out. ``labels``: the
    file that says of what class each image of ``test`` is, where their folders do not."""

    train: list[str]
    test: list[str]
    unread: str = ""
    labels: str | None = None

    @property
    def files(self) -> list[str]:
        return self.train + self.test + ([self.labels] if self.labels else [])


def canonical(word: str) -> str:
    """The split that a word means: ``val`` is ``validation``; a word that means none is its own."""
    return _SPLIT_OF_WORD.get(word.lower(), word)


def layout(kind: str, names: Collection[str], test_split: str, where: str) -> Layout:
    """The files of ``parquet:`` or ``folder:``; ``where`` is its name in messages.

    ``DataError`` where one of the two splits is missing, or is the other.
    """
    if canonical(test_split) == "train":
        raise DataError(f"test split {test_split!r} is what a search trains on; name another")
    shown = sorted(name for name in names if not is_hidden(name))
    if kind == "parquet":
        return _parquet(shown, test_split, where)
    return _folder(shown, _count_files(names) - _count_files(shown), test_split, where)


def _count_files(names: Collection[str]) -> int:
    return sum(not name.endswith("/") for name in names)


def is_hidden(name: str) -> bool:
    """Of a file, by its path below the data: it or a folder on the way begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


# --- parquet: one or more files a split, at the top, in data/, or in a folder of the split --------------------------


def _parquet(names: list[str], test_split: str, where: str) -> Layout:
    of_split: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(".parquet"):
            of_split.setdefault(_split_of(name, test_split), []).append(name)
    wanted = {"train": "train", "test": _wanted(test_split, of_split)}
    for split, key in (("train", "train"), (test_split, wanted["test"])):
        if key not in of_split:
            raise DataError(
                f"{where} holds no {split}.parquet, and no {split}-*-of-*.parquet in it or its data/ or {split}/; "
                f"a parquet dataset needs train and test{_others(of_split)}"
            )
    train, test = (of_split[key] for key in wanted.values())
    sets = sorted({_dataset_of(name, test_split) for name in train + test})
    if len(sets) > 1:
        raise DataError(
            f"{where} holds several data sets ({some([name or 'its own files' for name in sets], 10)}); name the "
            "folder of one of them"
        )
    unread = [name for split, files in of_split.items() if split not in wanted.values() for name in files]
    return Layout(train, test, f"not read: {some(unread)}" if unread else "")


def _split_of(name: str, test_split: str) -> str:
    """What a Parquet file belongs to: the words in its own name decide, then the folders around it, inside out."""
    *folders, stem = (re.sub(r"\.parquet$", "", part, flags=re.IGNORECASE) for part in name.split("/"))
    base = _NUMBERED.sub("", stem)
    for part in (stem, base, *reversed(folders)):
        if part == test_split or part.lower() in _SPLIT_OF_WORD:
            return part if part == test_split else canonical(part)
    if "-of-" in stem:  # hubs write the whole name of a split before the number: test_hard is not test
        return base
    return next((canonical(word) for word in re.split(r"[-_. ]+", base) if word.lower() in _SPLIT_OF_WORD), base)


def _dataset_of(name: str, test_split: str) -> str:
    """The folder of a data set that has several ("configurations"): what stands before the split's own folder."""
    before: list[str] = []
    for folder in name.split("/")[:-1]:
        folder = folder.removesuffix(".parquet")  # as Spark calls it
        if folder == test_split or folder.lower() in _SPLIT_OF_WORD:
            break
        before.append(folder)
    return "/".join(before)


def _wanted(split: str, present: Collection[str]) -> str:
    """``split`` as it is written, else the one that means the same."""
    same = sorted(name for name in present if canonical(name) == canonical(split))
    return split if split in present or not same else same[0]


def _others(present: Collection[str]) -> str:
    """A hint at the splits that are there and could count as test."""
    others = sorted(name for name in present if name and canonical(name) != "train")
    return f"; to test on one of {some(others, 10)}, say --test-split {some(others[:1])}" if others else ""


# --- folder: SPLIT/CLASS/**/IMAGE; test also as Tiny-ImageNet's val: SPLIT/images/IMAGE and SPLIT/SPLIT_annotations.txt


def _folder(names: list[str], hidden: int, test_split: str, where: str) -> Layout:
    tops = sorted({name.partition("/")[0] for name in names if "/" in name})
    chosen = [_wanted(split, tops) for split in ("train", test_split)]
    train, test = (_images(names, top, where, _others(tops)) for top in chosen)
    _check_no_empty_class(names, chosen[0], train, where)
    listed = f"{chosen[1]}/{chosen[1]}_annotations.txt"
    labels = listed if listed in names and {class_of(name) for name in test} == {"images"} else None
    read = len(train) + len(test) + bool(labels)
    other = sum(_count_files([n for n in names if n.startswith(f"{top}/")]) for top in chosen) - read
    left = [f"{n} {what} files" for n, what in ((hidden, "hidden"), (other, "other")) if n]
    left += [f"{top}/" for top in tops if top not in chosen and top.lower() in _SPLIT_OF_WORD]
    return Layout(train, test, f"not read: {some(left)}" if left else "", labels)


def _images(names: list[str], top: str, where: str, hint: str) -> list[str]:
    images = [n for n in names if n.startswith(f"{top}/") and n.count("/") >= 2 and n.lower().endswith(IMAGES)]
    if not images:
        raise DataError(
            f"{where} holds no images {top}/CLASS/* ({' '.join(IMAGES)}); a folder dataset needs it for both train and "
            f"test{hint}"
        )
    return images


def _check_no_empty_class(names: list[str], top: str, images: list[str], where: str) -> None:
    """As torchvision: a folder of `train` without images is a mistake, not a class to leave out."""
    classes = {class_of(name) for name in names if name.startswith(f"{top}/") and name.count("/") >= 2}
    empty = classes - {class_of(name) for name in images}
    if empty:
        raise DataError(f"class {min(empty)!r} of {where}/{top} has 0 images; every class needs at least one")


def class_of(name: str) -> str:
    """The class of ``SPLIT/CLASS/**/IMAGE``."""
    return name.split("/")[1]


def some(names: Collection[str], most: int = 5) -> str:
    """Names in a sentence: the first few, and how many more. One with a line break or the like is quoted."""
    shown = [name if name.isprintable() else repr(name) for name in [*names][:most]]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*shown, *more])
