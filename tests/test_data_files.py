"""Which files can be read, and a sentence for every one that cannot."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.make_data import encode, picture, row_numbers, write_folder, write_parquet
from trainables.data import DataError, DataSpec, absolute, check, open_splits, prepare
from trainables.data.store import mapped


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


# --- what files may look like
# ----------------------------------------------------------------------------------------


def rename(**names):
    return lambda table: table.rename_columns([names.get(n, n) for n in table.column_names])


def plain_binary(table):
    images = pa.array([v["bytes"] for v in table["img"].to_pylist()], pa.binary())
    return pa.table({"picture": images, "fine_label": table["label"].cast(pa.uint8())})


@pytest.mark.parametrize("columns", [rename(img="image", label="labels"), plain_binary], ids=["renamed", "binary"])
def test_other_column_layouts(tmp_path, columns):
    dataset = write_parquet(tmp_path / "d", columns=columns)
    assert check(DataSpec(dataset, "none"), tmp_path / "home").counts["train"] == [16, 12, 8]
    assert row_numbers(open_splits(DataSpec(dataset, "none"), tmp_path / "home").val.x)[-1] < 45


def test_rows_keep_their_order_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.data.files.CHUNK", 7)
    for dataset in (write_parquet(tmp_path / "d"), write_parquet(tmp_path / "e", columns=plain_binary)):
        source = mapped(prepare(dataset, tmp_path / "home") / "train.arrow")
        assert row_numbers(torch.from_numpy(source.images.copy())) == list(range(45))
        assert source.labels.tolist() == [0] * 20 + [1] * 15 + [2] * 10


def test_class_names_come_from_the_hub_metadata(tmp_path):
    dataset = write_parquet(tmp_path / "d", names=["cat", "t-shirt/top", "dog"])
    assert check(DataSpec(dataset, "none"), tmp_path / "home").classes == ["cat", "t-shirt-top", "dog"]
    plain = write_parquet(tmp_path / "e")
    assert check(DataSpec(plain, "none"), tmp_path / "home").classes == ["0", "1", "2"]


def test_folder_classes_and_sizes(tmp_path):
    same = check(DataSpec(write_folder(tmp_path / "a"), "none"), tmp_path / "home")
    assert same.classes == ["ant", "bee"] and same.shape == (3, 8, 8) and same.note == ""
    mixed = check(DataSpec(write_folder(tmp_path / "b", sizes=(8, 20)), "none"), tmp_path / "home")
    assert mixed.shape == (3, 32, 32) and "32x32" in mixed.note


def test_relative_folders_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("parquet:x/../y") == f"parquet:{tmp_path}/y" and absolute("digits") == "digits"


def test_torchvision_gtsrb_is_split_by_track(tmp_path):
    raw = tmp_path / "home/datasets/raw/gtsrb"
    for c in range(43):
        (raw / f"GTSRB/Training/{c:05d}").mkdir(parents=True)
        for k in range(4):
            size = 8 + k
            Image.fromarray(picture(k, size)).save(raw / f"GTSRB/Training/{c:05d}/{k // 2:05d}_{k % 2:05d}.ppm")
    (raw / "GTSRB/Final_Test/Images").mkdir(parents=True)
    for c in range(43):
        Image.fromarray(picture(c)).save(raw / f"GTSRB/Final_Test/Images/{c:05d}.ppm")
    lines = ["Filename;ClassId", *(f"{c:05d}.ppm;{c}" for c in range(43))]
    (raw / "GT-final_test.csv").write_text("\n".join(lines))
    summary = check(DataSpec("gtsrb", "none", val_fraction=0.5), tmp_path / "home")
    assert summary.grouped_by == "track" and summary.shape == (3, 32, 32) and "32x32" in summary.note
    assert summary.counts == {"train": [2] * 43, "val": [2] * 43, "test": [1] * 43}


def test_torchvision_mnist_from_files(tmp_path):
    raw = tmp_path / "home/datasets/raw/mnist/MNIST/raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 40), ("t10k", 20)):
        pixels = np.random.RandomState(n).randint(0, 256, (n, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + n.to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = bytes([0, 0, 8, 1]) + n.to_bytes(4, "big") + bytes(i % 10 for i in range(n))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    summary = check(DataSpec("mnist", "none"), tmp_path / "home")
    assert summary.shape == (1, 28, 28)
    assert summary.counts["train"] == [3] * 10 and summary.counts["test"] == [2] * 10


# --- wrong input --------------------------------------------------------------------------------------------


def drop(column):
    return dict(columns=lambda table: table.drop_columns([column]))


def as_float(table):
    return table.set_column(1, "label", table["label"].cast(pa.float64()))


WRONG_PARQUET = {  # what is wrong with the files -> what the sentence must carry
    "no image column": (drop("img"), "no image column .*its columns are label"),
    "no label column": (drop("label"), "no label column .*its columns are img"),
    "undecodable image": (dict(images={7: b"not an image"}), "train.parquet row 7 is no image"),
    "truncated image": (dict(images={7: encode(picture(7))[:80]}), "train.parquet row 7 is"),
    "null image": (dict(images={7: None}), "train.parquet row 7 is no image.*empty"),
    "empty image": (dict(images={7: b""}), "train.parquet row 7 is no image.*empty"),
    "colour among grey": (dict(channels=1, images={7: encode(picture(7))}), "row 7 is a colour image"),
    "negative label": (dict(labels={5: -1}), "train row 5 has label -1.*0 to 2"),
    "label beyond the names": (dict(labels={5: 3}, names=["a", "b", "c"]), "train row 5 has label 3.*0 to 2"),
    "huge label": (dict(labels={5: 10**15}), "row 5 has label 1000000000000000, which is out"),
    "gap in the labels": (dict(labels={5: 4}), "class '3' .label 3. has 0 images in train"),
    "label not an integer": (dict(columns=as_float), r"'label' holds 0.0 \(double\).*integers from 0, or names"),
    "null label": (dict(labels={5: None}), "row 5 has label null"),
    "test label unknown to train": (dict(split="test", labels={5: 3}), "test row 5 has label 3.*not a label"),
    "class without test images": (dict(split="test", columns=lambda t: t.slice(4)), "class '0'.*0 images in"),
    "no rows": (dict(columns=lambda t: t.slice(0, 0)), "train.parquet has 0 rows"),
}


@pytest.mark.parametrize("case", WRONG_PARQUET)
def test_wrong_parquet(tmp_path, case):
    change, sentence = WRONG_PARQUET[case]
    dataset = write_parquet(tmp_path / "d", **change)
    with pytest.raises(DataError, match=sentence) as caught:
        check(DataSpec(dataset, "none"), tmp_path / "home")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "home/datasets").glob("[!.]*"))  # nothing half done stays


@pytest.mark.parametrize(
    "spec, sentence",
    [
        (dict(dataset="imagenet"), "unknown dataset 'imagenet'.*digits, cifar10, .*parquet:DIR, folder:DIR"),
        (dict(dataset="hub:x"), "unknown dataset 'hub:x'"),
        (dict(dataset="parquet:"), "'parquet:' names no folder"),
        (dict(dataset="parquet:/no/such"), "'parquet:/no/such' names no folder"),
        (dict(dataset="folder:/no/such"), "'folder:/no/such' names no folder"),
        (dict(imbalance="exp:x"), "imbalance 'exp:x'"),
        (dict(imbalance="exp:1000"), "class '7' .*exp:1000.*less than 111"),
        (dict(imbalance="step:112"), "class '5' .*step:112.*less than 111"),
        (dict(val_fraction=0), "val_fraction 0 is not allowed"),
        (dict(val_fraction=1.0), "val_fraction 1.0 is not allowed"),
        (dict(val_fraction=0.999), "class '8' has 139 image.*val_fraction 0.999"),
        (dict(val_per_class=-1), "val_per_class -1 is not allowed"),
        (dict(val_per_class=2.5), "val_per_class 2.5 is not allowed"),
        (dict(seed=-1), "data seed -1"),
        (dict(seed=1.5), "data seed 1.5"),
    ],
)
def test_wrong_spec(home, spec, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        check(DataSpec(**spec), home)
    assert "\n" not in str(caught.value)


def test_the_largest_imbalance_that_the_message_names_works(home):
    assert check(DataSpec("digits", "exp:110"), home).counts["train"][-1] == 1


def test_a_class_with_one_training_image_cannot_be_thinned(tmp_path):
    dataset = write_parquet(tmp_path / "d", counts=(9, 8, 2))
    with pytest.raises(DataError, match="class '1' .*has 1 training image, .*use imbalance none") as caught:
        check(DataSpec(dataset, "exp:10"), tmp_path / "home")
    assert "less than" not in str(caught.value) and "\n" not in str(caught.value)
    assert check(DataSpec(dataset, "none"), tmp_path / "home").counts["train"][-1] == 1


def test_one_class_is_not_enough(tmp_path):
    folder = write_folder(tmp_path / "d").removeprefix("folder:")
    for split in ("train", "test"):
        shutil.rmtree(f"{folder}/{split}/bee")
    for dataset in (write_parquet(tmp_path / "p", counts=(20,)), f"folder:{folder}"):
        with pytest.raises(DataError, match="1 class .*at least 2") as caught:
            check(DataSpec(dataset, "none"), tmp_path / "home")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["train.parquet", "test.parquet"])
def test_missing_parquet_file(tmp_path, missing):
    dataset = write_parquet(tmp_path / "d")
    (tmp_path / "d" / missing).unlink()
    with pytest.raises(DataError, match=f"{tmp_path / 'd'} holds no {missing}"):
        prepare(dataset, tmp_path / "home")


def test_a_file_that_is_no_parquet(tmp_path):
    dataset = write_parquet(tmp_path / "d")
    (tmp_path / "d/test.parquet").write_bytes(b"hello")
    with pytest.raises(DataError, match="test.parquet is no readable Parquet file") as caught:
        prepare(dataset, tmp_path / "home")
    assert "\n" not in str(caught.value)


def test_a_parquet_with_damaged_pages(tmp_path):
    dataset, file = write_parquet(tmp_path / "d"), tmp_path / "d/train.parquet"
    data = bytearray(file.read_bytes())
    data[4:400] = bytes(396)  # the footer is whole, the first page is not
    file.write_bytes(data)
    with pytest.raises(DataError, match="train.parquet (is no readable Parquet file|row 0 is no image)"):
        prepare(dataset, tmp_path / "home")


def test_wrong_folders(tmp_path):
    dataset = write_folder(tmp_path / "d")
    broken = tmp_path / "d/train/bee/15.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(DataError, match=re.escape(str(broken))):
        prepare(dataset, tmp_path / "home")
    (tmp_path / "d/test/bee").rename(tmp_path / "d/test/wasp")
    broken.unlink()
    with pytest.raises(DataError, match="'wasp' is not among .*ant, bee"):
        prepare(dataset, tmp_path / "home")
    shutil.rmtree(tmp_path / "d/test")
    with pytest.raises(DataError, match="holds no images test/CLASS"):
        prepare(dataset, tmp_path / "home")


def test_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=f"home '{tmp_path}/file/home' cannot be written"):
        prepare("digits", tmp_path / "file/home")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist", "fashion-mnist", "gtsrb"])
def test_no_network_names_the_folder(tmp_path, monkeypatch, name):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    sentence = f"'{name}' .*could not be downloaded.*put .* into {tmp_path}/datasets/raw/{name}"
    with pytest.raises(DataError, match=sentence) as caught:
        prepare(name, tmp_path)
    assert "\n" not in str(caught.value)
