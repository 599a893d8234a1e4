"""Images of the user's own as they are found: P3, P6, P7 and P11 of the list of what people meet."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.make_data import encode, picture, row_numbers, shard, write_folder, write_parquet
from trainables.data import DataError, DataSpec, Reading, check, open_splits, open_test, prepare
from trainables.data.files import tracks_of
from trainables.data.layout import layout
from trainables.data.parquet import read_parquet
from trainables.data.store import mapped

NAMES = ["cat", "dog", "ship"]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def counts(dataset: str, home: Path, **reading) -> dict[str, list[int]]:
    return check(DataSpec(dataset, "none", reading=Reading(**reading)), home).counts


def classes_of_test(dataset: str, home: Path, **reading) -> dict[int, str]:
    """Of each test image, by its number, the name of its class."""
    spec = DataSpec(dataset, "none", reading=Reading(**reading))
    split, classes = open_test(spec, home), check(spec, home).classes
    return dict(zip(row_numbers(split.x), (classes[c] for c in split.y.tolist())))


def refused(dataset: str, home: Path, **reading) -> str:
    with pytest.raises(DataError) as caught:
        check(DataSpec(dataset, "none", reading=Reading(**reading)), home)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- P3: classes are matched by name ------------------------------------------------------------------------


def test_p3_labels_are_matched_by_name_between_train_and_test(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=NAMES)
    shard(tmp_path / "d/test.parquet", [0, 1, 2], names=["ship", "dog", "cat"], first=1000)
    dataset = f"parquet:{tmp_path / 'd'}"
    assert check(DataSpec(dataset, "none"), home).classes == NAMES
    assert classes_of_test(dataset, home) == {1000: "ship", 1001: "dog", 1002: "cat"}


def test_p3_labels_are_matched_between_the_files_of_one_split(tmp_path, home):
    shard(tmp_path / "d/train-0-of-2.parquet", [0, 1, 2], names=NAMES)
    shard(tmp_path / "d/train-1-of-2.parquet", [0, 1, 2], names=["dog", "ship", "cat", "unused"], first=3)
    shard(tmp_path / "d/test.parquet", [0, 1, 2], names=NAMES, first=1000)
    train = mapped(prepare(f"parquet:{tmp_path / 'd'}", home) / "train.arrow")
    assert row_numbers(torch.from_numpy(train.images.copy())) == list(range(6))
    assert train.labels.tolist() == [0, 1, 2, 1, 2, 0]


def test_p3_a_test_class_that_train_does_not_have_is_refused(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=NAMES)
    shard(tmp_path / "d/test.parquet", [0, 1, 2], names=["cat", "dog", "wasp"])
    said = refused(f"parquet:{tmp_path / 'd'}", home)
    assert "test.parquet has images of class 'wasp'" in said and "classes of train: cat, dog, ship" in said


def test_p3_a_name_of_two_lines_is_quoted(tmp_path, home):
    names = ["a\nb", "dog", "ship"]
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=names)
    shard(tmp_path / "d/test.parquet", [0, 1, 2], names=["wasp", "dog", "ship"])
    assert r"classes of train: 'a\nb', dog, ship" in refused(f"parquet:{tmp_path / 'd'}", home)
    for split in ("train", "test"):
        for name in names if split == "train" else ["wasp"]:
            (tmp_path / "f" / split / name).mkdir(parents=True)
            Image.fromarray(picture(1)).save(tmp_path / "f" / split / name / "x.png")
    assert r"train: 'a\nb', dog, ship" in refused(f"folder:{tmp_path / 'f'}", home)


@pytest.mark.parametrize("wrong", ["train", "test"])
def test_p3_two_classes_of_one_name_cannot_be_matched(tmp_path, home, wrong):
    names = {"train": NAMES, "test": ["ship", "dog", "cat"], wrong: ["cat", "cat", "ship"]}
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=names["train"])
    shard(tmp_path / "d/test.parquet", [0, 1, 2], names=names["test"])
    assert f"{wrong}.parquet names two classes 'cat'" in refused(f"parquet:{tmp_path / 'd'}", home)


def test_p3_a_label_without_a_name_is_refused_where_names_are_matched(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=NAMES)
    for label in (-1, 3):
        shard(tmp_path / "d/test.parquet", [0, 1, label], names=["ship", "dog", "cat"])
        assert f"test.parquet row 2 has label {label}, which is out of range" in refused(
            f"parquet:{tmp_path / 'd'}", home
        )


@pytest.mark.parametrize("names, said", [(["a/b", "a-b"], "two classes called 'a-b'"), (["a", " "], "without a name")])
def test_p3_every_class_has_a_name_of_its_own(tmp_path, home, names, said):
    for split in ("train", "test"):
        shard(tmp_path / f"d/{split}.parquet", [0, 1] * 5, names=names)
    assert said in refused(f"parquet:{tmp_path / 'd'}", home)


def test_p3_data_decoded_before_names_were_matched_are_not_used(tmp_path, home):
    """Their folder has another name, so the wrong test labels in it are never met again."""
    dataset = write_parquet(tmp_path / "d")
    files = [(tmp_path / f"d/{split}.parquet").resolve() for split in ("train", "test")]
    stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    before = hashlib.sha256(repr((1, "parquet", stats)).encode()).hexdigest()[:16]  # as that version named it
    assert prepare(dataset, home).name != f"parquet-d-{before}"


def test_p3_all_files_take_their_labels_from_one_column(tmp_path, home):
    """CIFAR-100 has two; a file with the coarse one alone would be judged under fine labels."""
    for split, columns in (("train", ["fine_label", "coarse_label"]), ("test", ["coarse_label"])):
        file = tmp_path / f"d/{split}.parquet"
        shard(file, [0, 1] * 5)
        table = pq.read_table(file)
        pq.write_table(pa.table({"image": table["image"], **{name: table["label"] for name in columns}}), file)
    said = refused(f"parquet:{tmp_path / 'd'}", home)
    assert "test.parquet has no column 'fine_label', from which" in said and "train.parquet takes its labels" in said


def test_p3_a_second_column_of_labels_does_not_matter(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1] * 5)
    table = pq.read_table(tmp_path / "d/train.parquet").rename_columns(["image", "target"])
    pq.write_table(table, tmp_path / "d/train.parquet")
    table = pa.table({"image": table["image"], "label": pa.array([1, 0] * 5), "target": table["target"]})
    pq.write_table(table, tmp_path / "d/test.parquet")
    assert classes_of_test(f"parquet:{tmp_path / 'd'}", home)[0] == "0"


def test_p3_a_file_that_names_no_classes_counts_as_the_others_and_is_said(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=NAMES)
    shard(tmp_path / "d/test.parquet", [0, 1, 2], first=1000)
    dataset = f"parquet:{tmp_path / 'd'}"
    assert classes_of_test(dataset, home) == {1000: "cat", 1001: "dog", 1002: "ship"}
    said = check(DataSpec(dataset, "none"), home).words
    assert said.endswith("; labels without names, taken as they are: test.parquet")


def column(folder: Path, labels, images=None, names=("image", "label"), metadata=None) -> str:
    """A data set of two equal files with these columns."""
    images = images or [encode(picture(i)) for i in range(len(labels))]
    table = pa.Table.from_arrays([pa.array(images), *[pa.array(labels)] * (len(names) - 1)], names=names)
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(table.replace_schema_metadata(metadata), folder / f"{split}.parquet")
    return f"parquet:{folder}"


def test_p3_names_are_told_apart_to_the_last_character(tmp_path, home):
    """numpy's text has no NUL at its end, so two classes became one."""
    dataset = column(tmp_path / "d", ["cat", "cat\0", "cat "] * 5)
    assert check(DataSpec(dataset, "none"), home).classes == ["cat", "cat\0", "cat "]


def test_p3_two_columns_of_one_name_are_refused(tmp_path, home):
    said = refused(column(tmp_path / "d", [0, 1] * 5, names=("image", "label", "label")), home)
    assert "2 columns called 'label'" in said
    assert "2 columns called 'x'" in refused(
        column(tmp_path / "e", [0, 1] * 5, names=("image", "label", "x", "x")), home
    )


@pytest.mark.parametrize(
    "features",
    [b'{"info":{"features":' + b"[" * 20_000 + b"]" * 20_000 + b"}}"]
    + [b'{"info":{"features":{"label":{"names":{"0":"a","%s":"b"}}}}}' % key for key in (b"9" * 5000, "²".encode())],
    ids=["deep", "digits", "no digit"],
)
def test_p11_metadata_that_are_none_name_nothing(tmp_path, home, features):
    dataset = column(tmp_path / "d", [0, 1] * 5, metadata={b"huggingface": features})
    assert check(DataSpec(dataset, "none"), home).classes == ["0", "1"]


def test_p7_a_path_that_is_no_text_makes_no_tracks(tmp_path, home):
    images = [{"bytes": encode(picture(i)), "path": i} for i in range(10)]
    assert counts(column(tmp_path / "d", [0, 1] * 5, images), home)["test"] == [5, 5]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["label", "path"])
def test_s12_a_long_text_that_stands_for_many_rows_is_kept_once(tmp_path, home, where):
    """60 GB as they are, 60 kB in the file."""
    rows, text = 60_000, "a" * 10**6
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows, dtype=np.int32) % 2), pa.array([text, "b"]))
    images = pa.array([encode(picture(0))] * rows)
    if where == "path":
        images = pa.StructArray.from_arrays([images, repeated], names=["bytes", "path"])
    table = pa.table({"image": images, "label": repeated if where == "label" else pa.array([0, 1] * (rows // 2))})
    for stored in (table, table.replace_schema_metadata(None)):
        pq.write_table(stored, tmp_path / "x.parquet", store_schema=stored is table)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            found = read_parquet(tmp_path / "x.parquet", 64)
            assert found.rows == rows
        except DataError as problem:
            assert "expands into more than" in str(problem)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kilobytes"


def test_s12_the_name_of_a_class_has_a_length(tmp_path, home):
    assert "name is 256 characters long" in refused(column(tmp_path / "d", ["a" * 256, "b"] * 5), home)


# --- P6: folders by torchvision's rules ---------------------------------------------------------------------


def test_p6_images_of_subfolders_count(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    deeper = tmp_path / "d/train/bee/more/still"
    deeper.mkdir(parents=True)
    for row in range(50, 56):
        Image.fromarray(picture(row)).save(deeper / f"{row}.PNG")
    found = counts(dataset, home)
    assert [a + b for a, b in zip(found["train"], found["val"])] == [10, 16] and found["test"] == [3, 3]


def test_p6_the_classes_are_torchvisions(tmp_path, home):
    from torchvision.datasets import ImageFolder

    dataset = write_folder(tmp_path / "d")
    (tmp_path / "d/train/bee/x/y").mkdir(parents=True)
    Image.fromarray(picture(7)).save(tmp_path / "d/train/bee/x/y/z.webp")
    Image.fromarray(picture(8)).save(tmp_path / "d/train/ant/A.JPEG")
    theirs = ImageFolder(tmp_path / "d/train")
    ours = mapped(prepare(dataset, home) / "train.arrow")
    assert ours.meta["classes"] == theirs.classes and ours.labels.tolist() == theirs.targets


def test_p6_hidden_entries_are_ignored_and_counted(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    for place in ("train/.ipynb_checkpoints", "test/.ipynb_checkpoints", "train/ant/.thumbs"):
        (tmp_path / "d" / place).mkdir()
        Image.fromarray(picture(3)).save(tmp_path / "d" / place / "3.png")
    (tmp_path / "d/train/ant/._0.png").write_bytes(b"what macOS leaves")
    (tmp_path / "d/train/ant/labels.txt").write_text("no image")
    summary = check(DataSpec(dataset, "none"), home)
    assert summary.classes == ["ant", "bee"] and sum(summary.counts["train"] + summary.counts["val"]) == 20
    assert "not read: 4 hidden files, 1 other files" in summary.words
    assert "2 classes" in summary.words and "16 train, 4 val, 6 test" in summary.words


def test_p6_a_class_without_images_is_said(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    (tmp_path / "d/train/wasp/empty").mkdir(parents=True)
    assert "class 'wasp' of" in refused(dataset, home)


def test_p6_links_are_followed_but_not_in_circles(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    shutil.move(tmp_path / "d/train/bee", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "d/train/bee")
    os.symlink(tmp_path / "d/train", tmp_path / "d/train/ant/round")
    found = counts(dataset, home)
    assert [a + b for a, b in zip(found["train"], found["val"])] == [10, 10]


def test_p6_what_is_no_regular_file_is_named(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    odd = tmp_path / "d/train/bee/odd.png"
    os.symlink(tmp_path / "nowhere.png", odd)
    assert f"{odd} is no regular file" in refused(dataset, home)
    odd.unlink()
    os.mkfifo(odd)
    assert f"{odd} is no regular file" in refused(dataset, home)


# --- P7: groups only where a pattern makes groups -----------------------------------------------------------


def test_p7_class_index_is_no_track(tmp_path, home):
    for split, n in (("train", 12), ("test", 6)):
        for c in range(2):
            (tmp_path / f"d/{split}/{c:05d}").mkdir(parents=True)
            for i in range(n):
                Image.fromarray(picture(100 * c + i)).save(tmp_path / f"d/{split}/{c:05d}/{c:05d}_{i:04d}.png")
    summary = check(DataSpec(f"folder:{tmp_path / 'd'}", "none"), home)
    assert summary.grouped_by is None and summary.counts["train"] == [10, 10]


@pytest.mark.parametrize(
    "paths, groups",
    [
        (["0/0_0.png", "0/0_1.png", "1/1_0.png", "1/1_1.png"], None),  # class_index
        (["0/1_0.png", "0/1_1.png", "1/2_0.png", "1/2_1.png"], None),  # the same, counted from 1
        (["0/0_0.png", "0/1_0.png", "1/0_1.png", "1/1_1.png"], None),  # index_class: one image each
        (["0/0_0.png", "0/0_1.png", "0/1_0.png", "1/0_0.png"], [0, 0, 1, 2]),
        (["0/0_0.png", "0/0_1.png", "0/1_0.png", "1/dog.png"], None),
        (["0/0_0.png", "0/0_1.png", None], None),
    ],
)
def test_p7_tracks(paths, groups):
    found = tracks_of(paths)
    assert (found if found is None else found.tolist()) == groups


def test_p7_groups_can_be_switched_off(tmp_path, home):
    dataset = write_parquet(tmp_path / "d", counts=(60, 48, 6), track=6)  # the last class has one track
    said = refused(dataset, home)
    assert "class '2' has 1 track(s)" in said and "--groups none takes every image on its own" in said
    assert counts(dataset, home, groups="none")["train"] == [48, 38, 5]
    (tmp_path / "e").mkdir()
    whole = write_parquet(tmp_path / "e", counts=(60, 48, 30), track=6)
    assert "23 tracks by the file names stay together (--groups none" in check(DataSpec(whole, "none"), home).words


# --- P11: as data hubs publish them -------------------------------------------------------------------------

PUBLISHED = {  # files of the hub -> those of train and of test
    "one file": (["train.parquet", "test.parquet"], 1, 1),
    "data folder": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        2,
        1,
    ),
    "older hash": (
        ["data/train-00000-of-00001-b42a77f445573d08.parquet", "data/test-00000-of-00001-b42a77f445573d08.parquet"],
        1,
        1,
    ),
    "folders of splits": (["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"], 2, 1),
    "converted by the hub": (["default/train/0000.parquet", "default/test/0000.parquet"], 1, 1),
    "named after the set": (["cifar-train.parquet", "cifar_test.parquet"], 1, 1),
    "other words": (["Training.parquet", "eval.parquet"], 1, 1),
    "with validation": (["train.parquet", "validation.parquet", "test.parquet"], 1, 1),
    "a second test set": (["train-0-of-1.parquet", "test-0-of-1.parquet", "test_hard-0-of-1.parquet"], 1, 1),
    "numbered": (["train0.parquet", "train1.parquet", "test_0.parquet"], 2, 1),
    "Spark": (["train.parquet/part-00000-3f0a.snappy.parquet", "test.parquet/part-00000-77.snappy.parquet"], 1, 1),
    "capitals": (["TRAIN.PARQUET", "Test.parquet"], 1, 1),
    "hidden": (["train.parquet", "test.parquet", ".cache/train.parquet", "._test.parquet"], 1, 1),
    "beside others": (["train.parquet", "test.parquet", "README.md", "images.zip"], 1, 1),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_p11_files_of_the_splits(case):
    names, train, test = PUBLISHED[case]
    found = layout("parquet", names, "test", "d")
    assert (len(found.train), len(found.test)) == (train, test) and set(found.files) <= set(names)


NAMED = {  # --test-split -> its files
    "validation": ["validation-00000-of-00001.parquet"],
    "val": ["validation-00000-of-00001.parquet"],
    "test": ["test-00000-of-00001.parquet"],
    "test_hard": ["test_hard-00000-of-00001.parquet"],
}


@pytest.mark.parametrize("split", NAMED)
def test_p11_a_named_split_is_test(split):
    names = [f"data/{s}-00000-of-00001.parquet" for s in ("train", "test", "validation", "test_hard")]
    found = layout("parquet", names, split, "d")
    assert found.test == [f"data/{name}" for name in NAMED[split]] and found.train == [names[0]]
    unread = sorted(set(names) - set(found.files))
    assert found.unread == f"not read: {', '.join(unread)}"


def test_p11_a_split_may_be_called_anything():
    names = ["train.parquet", "fold2.parquet", "fold3.parquet"]
    assert layout("parquet", names, "fold2", "d").test == ["fold2.parquet"]
    assert layout("folder", ["train/a/1.png", "fold2/a/1.png"], "fold2", "d").test == ["fold2/a/1.png"]


def test_p11_what_is_missing_is_named():
    for names, said in (
        (
            ["train.parquet", "validation.parquet"],
            "holds no test.parquet.*to test on one of validation, say --test-split",
        ),
        (["test.parquet"], "holds no train.parquet"),
        (["a/train.parquet", "a/test.parquet", "b/train.parquet", "b/test.parquet"], r"several data sets \(a, b\)"),
        (["train.parquet", "data/train.parquet", "test.parquet"], r"several data sets \(its own files, data\)"),
    ):
        with pytest.raises(DataError, match=said):
            layout("parquet", names, "test", "d")
    for split in ("train", "training"):
        with pytest.raises(DataError, match=f"test split '{split}' is what a search trains on"):
            layout("parquet", ["train.parquet", "test.parquet"], split, "d")


def test_p11_shards_are_one_split_in_order(tmp_path, home):
    folder = tmp_path / "d/data"
    shard(folder / "train-00000-of-00002.parquet", [0, 1, 2] * 4, names=NAMES)
    shard(folder / "train-00001-of-00002.parquet", [2, 1, 0] * 4, names=NAMES, first=12)
    shard(folder / "validation-00000-of-00001.parquet", [0, 1, 2], names=NAMES, first=2000)
    shard(folder / "test-00000-of-00001.parquet", [0, 1, 2], names=NAMES, first=1000)
    dataset = f"parquet:{tmp_path / 'd'}"
    train = mapped(prepare(dataset, home) / "train.arrow")
    assert row_numbers(torch.from_numpy(train.images.copy())) == list(range(24))
    assert train.labels.tolist() == [0, 1, 2] * 4 + [2, 1, 0] * 4
    assert list(classes_of_test(dataset, home)) == [1000, 1001, 1002]
    assert list(classes_of_test(dataset, home, test_split="validation")) == [2000, 2001, 2002]
    folder.joinpath("train-00001-of-00002.parquet").write_bytes(b"cut")
    assert "train-00001-of-00002.parquet is no readable Parquet file" in refused(dataset, home)


def test_p11_a_row_of_a_later_file_is_named(tmp_path, home):
    shard(tmp_path / "d/train-0-of-2.parquet", [0, 1, 2] * 4)
    shard(tmp_path / "d/train-1-of-2.parquet", [0, 1, 2] * 4)
    shard(tmp_path / "d/test.parquet", [0, 1, 2])
    file = tmp_path / "d/train-1-of-2.parquet"
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[5]["bytes"] = b"no image"
    pq.write_table(table.set_column(0, "image", pa.array(images)), file)
    assert "train-1-of-2.parquet row 5 is no image" in refused(f"parquet:{tmp_path / 'd'}", home)


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_p11_labels_may_be_names(tmp_path, home, dtype):
    shard(tmp_path / "d/train-0-of-2.parquet", pa.array(["dog", "cat"] * 5, dtype))
    shard(tmp_path / "d/train-1-of-2.parquet", pa.array(["ship"] * 5, dtype), first=10)
    shard(tmp_path / "d/test.parquet", pa.array(["ship", "dog", "cat"], dtype), first=1000)
    dataset = f"parquet:{tmp_path / 'd'}"
    assert check(DataSpec(dataset, "none"), home).classes == NAMES  # in alphabetical order
    assert mapped(prepare(dataset, home) / "train.arrow").labels.tolist() == [1, 0] * 5 + [2] * 5
    assert classes_of_test(dataset, home) == {1000: "ship", 1001: "dog", 1002: "cat"}


def test_p11_names_beside_numbers(tmp_path, home):
    """Labels that are text fit a hub's ClassLabel by name; numbers alone fit neither."""
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=["ship", "cat", "dog"])
    shard(tmp_path / "d/test.parquet", ["ship", "dog", "cat"], first=1000)
    dataset = f"parquet:{tmp_path / 'd'}"
    assert classes_of_test(dataset, home) == {1000: "ship", 1001: "dog", 1002: "cat"}
    shard(tmp_path / "d/train.parquet", ["ship", "dog", "cat"] * 5)
    shard(tmp_path / "d/test.parquet", [0, 1, 2])
    assert "test.parquet has numbers as labels while those of" in refused(dataset, home)
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5)
    shard(tmp_path / "d/test.parquet", ["ship", "dog", "cat"])
    assert "train.parquet has numbers as labels while those of" in refused(dataset, home)
    shard(tmp_path / "d/train.parquet", ["ship", None, "cat"] * 5)
    assert "train.parquet row 1 has label null" in refused(dataset, home)


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_p11_several_sizes(tmp_path, home, kind):
    if kind == "folder":
        dataset = write_folder(tmp_path / "d", sizes=(8, 12))
    else:
        shard(tmp_path / "d/train.parquet", [0, 1] * 10, size=[8] * 15 + [12] * 5)
        shard(tmp_path / "d/test.parquet", [0, 1, 0], size=20)
        dataset = f"parquet:{tmp_path / 'd'}"
    summary = check(DataSpec(dataset, "none"), home)
    assert summary.shape == (3, 32, 32) and "several sizes resized to 32x32 (--image-size" in summary.words
    asked = check(DataSpec(dataset, "none", reading=Reading(image_size=16)), home)
    assert asked.shape == (3, 16, 16) and "resized to 16x16" in asked.words


def test_p11_resized_as_pillow_does(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1] * 3, size=20)
    shard(tmp_path / "d/test.parquet", [0, 1], size=8)
    spec = DataSpec(f"parquet:{tmp_path / 'd'}", "none", reading=Reading(image_size=10))
    splits = open_splits(spec, home)
    train = mapped(prepare(spec.dataset, home, spec.reading) / "train.arrow")
    wanted = Image.fromarray(picture(4, 20)).resize((10, 10), Image.Resampling.BILINEAR)
    assert splits.shape == (3, 10, 10)
    assert torch.equal(
        torch.tensor(train.images[4]).permute(1, 2, 0),
        torch.frombuffer(bytearray(wanted.tobytes()), dtype=torch.uint8).view(10, 10, 3),
    )


def test_p11_each_way_of_reading_is_decoded_apart(tmp_path, home):
    dataset = write_parquet(tmp_path / "d")
    ways = [Reading(), Reading(image_size=8), Reading(image_size=9), Reading(groups="none")]
    assert len({prepare(dataset, home, way).name for way in ways}) == 4


def test_p11_a_folder_with_val_in_place_of_test(tmp_path, home):
    dataset = write_folder(tmp_path / "d")
    (tmp_path / "d/test").rename(tmp_path / "d/val")
    assert "to test on one of val, say --test-split val" in refused(dataset, home)
    assert counts(dataset, home, test_split="val")["test"] == [3, 3]
    assert counts(dataset, home, test_split="validation")["test"] == [3, 3]


def write_tiny(folder: Path) -> str:
    """Tiny-ImageNet as it is unpacked: boxes beside the images of `train`, those of `val` in one folder with a file of
    their classes, those of `test` without."""
    for number, name in enumerate(("n01443537", "n01629819")):
        (folder / "train" / name / "images").mkdir(parents=True)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
        for row in range(6):
            Image.fromarray(picture(10 * number + row)).save(folder / "train" / name / "images" / f"{name}_{row}.JPEG")
    for split in ("val", "test"):
        (folder / split / "images").mkdir(parents=True)
        for row in range(4):
            Image.fromarray(picture(row)).save(folder / split / "images" / f"{split}_{row}.JPEG")
    lines = [f"val_{row}.JPEG\t{name}\t0\t32\t44\t62\n" for row, name in enumerate(["n01629819"] * 3 + ["n01443537"])]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("")
    return f"folder:{folder}"


def test_stl10_as_folders(tmp_path, home):
    """96 pixels as they are, for torchvision's networks, and 64, which ours take."""
    for split in ("train", "test"):
        for number, name in enumerate(("airplane", "bird")):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for row in range(6):
                image = Image.fromarray(picture(10 * number + row)).resize((96, 96))
                image.save(tmp_path / "d" / split / name / f"{row}.png")
    dataset = f"folder:{tmp_path / 'd'}"
    for size, side in ((0, 96), (64, 64)):
        found = check(DataSpec(dataset, "none", reading=Reading(image_size=size)), home)
        assert found.shape == (3, side, side) and found.classes == ["airplane", "bird"]
        assert found.counts["test"] == [6, 6]


def test_p11_tiny_imagenet_as_it_is_unpacked(tmp_path, home):
    dataset = write_tiny(tmp_path / "d")
    found = check(DataSpec(dataset, "none", reading=Reading(test_split="val")), home)
    assert found.classes == ["n01443537", "n01629819"] and found.counts["test"] == [1, 3]
    assert found.note == "not read: 2 other files, test/"
    test = open_test(DataSpec(dataset, "none", reading=Reading(test_split="val")), home)
    assert test.y.tolist() == [1, 1, 1, 0], "the classes of the file's lines, image by image"
    assert "test class 'images' is not among the classes" in refused(dataset, home)  # its test has no labels
    lines = (file := tmp_path / "d/val/val_annotations.txt").read_text()
    file.write_text(lines.replace("val_2.JPEG", "val_9.JPEG"))
    assert refused(dataset, home, test_split="val") == f"{file} has no line with the class of val_2.JPEG"
    file.write_text(lines.replace("n01629819", "n0"))
    assert "test class 'n0' is not among the classes" in refused(dataset, home, test_split="val")
    file.write_bytes(b"\xff")
    assert "is no text in UTF-8" in refused(dataset, home, test_split="val")


def test_p11_test_images_without_labels_point_to_another_split(tmp_path, home):
    shard(tmp_path / "d/train.parquet", [0, 1, 2] * 5, names=NAMES)
    shard(tmp_path / "d/test.parquet", [-1, -1, -1], names=NAMES)
    assert "test row 0 has label -1" in (said := refused(f"parquet:{tmp_path / 'd'}", home)) and "--test-split" in said


@pytest.mark.parametrize(
    "reading, said",
    [
        (dict(image_size=-1), "image_size -1"),
        (dict(image_size=5000), "image_size 5000"),
        (dict(image_size=2.5), "image_size 2.5"),
        (dict(groups="tracks"), "groups 'tracks'"),
    ],
)
def test_p11_wrong_ways_of_reading(tmp_path, home, reading, said):
    assert said in refused(f"parquet:{tmp_path}", home, **reading)


def test_p11_datasets_with_a_name_are_read_in_one_way(home):
    assert "--image-size 16, --groups none is for images of your own" in refused(
        "digits", home, image_size=16, groups="none"
    )


# --- the Hugging Face hub -----------------------------------------------------------------------------------


def test_p11_the_hub_needs_its_client(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    said = refused("parquet:hf://datasets/user/name", home)
    assert "'hf://datasets/user/name' is on the Hugging Face hub" in said and "pip install huggingface_hub" in said
    assert "parquet:hf://datasets/USER/NAME" in refused("hf://datasets/user/name", home)


def test_p11_only_the_files_of_the_splits_are_taken_from_the_hub(tmp_path, home, monkeypatch):
    from fsspec.implementations.dirfs import DirFileSystem

    root = tmp_path / "hub"
    shard(root / "datasets/user/name/data/train-00000-of-00001.parquet", ["dog", "cat"] * 5)
    shard(root / "datasets/user/name/data/test-00000-of-00001.parquet", ["dog", "cat"], first=1000)
    (root / "datasets/user/name/README.md").write_text("about")
    opened = []

    class HfFileSystem(DirFileSystem):
        def open(self, path, *args, **kwargs):
            opened.append(Path(path).name)
            return super().open(path, *args, **kwargs)

    client = ModuleType("huggingface_hub")
    client.HfFileSystem = lambda: HfFileSystem(path=str(root))
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    assert classes_of_test("parquet:hf://datasets/user/name", home) == {1000: "dog", 1001: "cat"}
    assert sorted(opened) == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]


@pytest.mark.parametrize("error", [RuntimeError("gone"), OSError("no network"), FileNotFoundError("404")], ids=repr)
def test_p11_what_the_hubs_client_raises_is_a_sentence(home, monkeypatch, error):
    def client():
        raise error

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfFileSystem=client))
    assert "'hf://datasets/user/name'" in refused("parquet:hf://datasets/user/name", home)


def test_p11_the_hub_is_no_storage():
    from trainables.storage import open_storage

    with pytest.raises(ValueError, match="storage 'hf://datasets/user/name' cannot be opened"):
        open_storage("hf://datasets/user/name")
