"""Data: the published thinning, splits that never meet, one decode per machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets

from search_spaces.param import coerce, params_of
from search_spaces.training import Training
from tests.conftest import tuner
from tests.make_data import picture, row_numbers, write_folder, write_parquet
from trainables.data import DataError, DataSpec, check, class_counts, open_splits, open_test, parse_imbalance, prepare
from trainables.data.decoded import Decoded
from trainables.data.split import thin
from trainables.data.store import mapped
from trainables.datasets import DATASETS, Dataset, Torchvision, dataset_names, training_for
from trainables.models.names import MODELS
from tuner.testing import DatasetContract

ORACLE = json.loads((Path(__file__).parent / "data/oracles/imbalance.json").read_text())
SHARED = Path(__file__).parents[2] / "shared" / "data"


# --- imbalance
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: case["name"])
def test_counts_and_thinning_equal_the_published_code(case):
    p = case["params"]
    counts = class_counts(p["total_samples"] / p["num_classes"], p["num_classes"], p["type"], p["factor"])
    assert counts == case["outputs"]["class_counts"]
    if "selected_indices" in case["outputs"]:
        assert (
            thin(np.array(case["inputs"]["targets"]), counts, p["seed"]).tolist() == case["outputs"]["selected_indices"]
        )


def test_an_odd_number_of_classes_keeps_them_all():
    assert class_counts(100, 5, "step", 0.1) == [100, 100, 10, 10, 10]
    assert class_counts(100, 3, "none", 1) == [100, 100, 100]
    assert class_counts(100, 1, "exp", 0.1) == [100]


@pytest.mark.parametrize("factor", [0.11, 0.19, 0.22, 0.38, 0.44, 0.45, 0.76, 0.88, 0.89, 0.9, 0.97])
def test_counts_take_a_factor_that_is_no_reciprocal(factor):
    """The product that is truncated is with the factor itself: through 1 / factor it can come out one less."""
    for n_max in (100, 200, 5000):
        assert class_counts(n_max, 2, "step", factor) == [n_max, int(n_max * factor)]
        assert class_counts(n_max, 3, "exp", factor)[-1] == int(n_max * factor)


def test_imbalance_is_read():
    assert parse_imbalance("none") == ("none", 1.0)
    assert parse_imbalance("exp:10") == ("exp", 10.0)
    assert parse_imbalance("step:2.5") == ("step", 2.5)


@pytest.mark.parametrize(
    "text", ["exp", "exp:", "exp:0.5", "exp:nan", "exp:inf", "step:-1", "step:x", "none:3", "lt:10", ""]
)
def test_wrong_imbalance_says_what_is_allowed(text):
    with pytest.raises(ValueError, match=rf"imbalance {re.escape(repr(text))} .*none, exp:K or step:K"):
        parse_imbalance(text)


# --- splits
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """name -> dataset string of small datasets that stand alone."""
    root = tmp_path_factory.mktemp("source")
    return {
        "digits": "digits",
        "parquet": write_parquet(root / "plain"),
        "folder": write_folder(root / "folder"),
        "tracks": write_parquet(root / "tracks", counts=(60, 48, 30), track=6),
        "grey": write_parquet(root / "grey", channels=1),
    }


@pytest.mark.parametrize("imbalance", ["none", "exp:3", "step:3"])
@pytest.mark.parametrize("name", ["digits", "parquet", "folder", "tracks", "grey"])
def test_splits_never_meet(small, home, name, imbalance):
    spec = DataSpec(small[name], imbalance, seed=3)
    splits, test = open_splits(spec, home), open_test(spec, home)
    train, val = set(splits.train.index.tolist()), set(splits.val.index.tolist())
    assert len(train) == len(splits.train) and len(val) == len(splits.val)  # no row twice
    assert train and val and not train & val
    if name in ("parquet", "tracks", "folder"):  # by content: images carry their row number
        seen = row_numbers(splits.train.x) + row_numbers(splits.val.x)
        assert len(set(seen)) == len(seen) and max(seen) < 1000 <= min(row_numbers(test.x))
    assert min(splits.val.y.bincount(minlength=len(splits.classes))) > 0
    assert splits.train.y.bincount().tolist() == splits.class_counts
    summary = check(spec, home)
    assert summary.counts["train"] == splits.class_counts
    assert summary.shape == splits.shape == tuple(test.x.shape[1:])
    assert summary.counts["val"] == splits.val.y.bincount().tolist()
    assert summary.counts["test"] == test.y.bincount().tolist()


@pytest.mark.slow  # decodes all of it
@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_real_datasets(home, name):
    if not (SHARED / name / "train.parquet").exists():
        pytest.skip(f"{SHARED / name} is not on this machine")
    spec = DataSpec(f"parquet:{SHARED / name}", "step:100" if name == "cifar10" else "none")
    splits = open_splits(spec, home)
    train, val = splits.train.index, splits.val.index
    assert not set(train.tolist()) & set(val.tolist())
    if name == "cifar10":
        assert splits.class_counts == [4700] * 5 + [47] * 5
        assert splits.val.y.bincount().tolist() == [300] * 10
        assert splits.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)  # known figures
    else:
        file = pq.ParquetFile(SHARED / name / "train.parquet")
        paths = file.read(columns=["image.path"])["image"].to_pylist()
        track = np.array([p["path"].rsplit("_", 1)[0] for p in paths])
        assert not set(track[train]) & set(track[val])
        assert len(train) + len(val) == 39209 and check(spec, home).grouped_by == "track"


def test_tracks_stay_together(small, home):
    spec = DataSpec(small["tracks"], "exp:2")
    splits = open_splits(spec, home)
    paths = pq.read_table(small["tracks"].removeprefix("parquet:") + "/train.parquet")["img"].to_pylist()
    track = np.array([p["path"].rsplit("_", 1)[0] for p in paths])
    assert not set(track[splits.train.index]) & set(track[splits.val.index])
    # One track of the smallest class is kept; 24, 16 and 12 images train; 36, 32 and 18 may judge: 6, 5 and 3 tracks.
    assert splits.class_counts == [24, 16, 12] and splits.val.y.bincount().tolist() == [36, 30, 18]
    assert splits.val.independent(3).tolist() == [6, 5, 3] and splits.val.independent(4, slice(0, 1)).tolist()[3] == 0
    alone = open_splits(DataSpec(small["parquet"], "none"), home).val
    assert alone.groups is None and alone.independent(3).tolist() == alone.y.bincount().tolist()
    assert check(spec, home).grouped_by == "track"
    assert check(DataSpec(small["parquet"], "none"), home).grouped_by is None


@pytest.mark.parametrize("most", [0, 300])
def test_tracks_of_different_length_leak_nothing(tmp_path, home, most):
    def shorten(table):  # the last track of class 0 and the first of class 2 lose frames
        return table.take([i for i in range(len(table)) if i % 5 or 20 < i < 90])

    dataset = write_parquet(tmp_path / "d", counts=(60, 48, 30), track=6, columns=shorten)
    images = pq.read_table(tmp_path / "d/train.parquet")["img"].to_pylist()
    tracks = [image["path"].rsplit("_", 1)[0] for image in images]
    for seed in range(4):
        splits = open_splits(DataSpec(dataset, "exp:2", seed, 0.4, most), home)
        assert not {tracks[i] for i in splits.train.index} & {tracks[i] for i in splits.val.index}
        assert most or len(set(splits.val.y.bincount().tolist())) == 1  # earlier searches evened it out


def test_val_size_and_frequency_order(home):
    splits = open_splits(DataSpec("digits", "exp:10"), home)
    source = mapped(prepare("digits", home) / "train.arrow")
    smallest = np.bincount(source.labels).min()
    assert len(splits.train) + len(splits.val) == len(source.labels)  # no class has 300 images
    assert splits.class_counts == class_counts(int(smallest - round(0.2 * smallest)), 10, "exp", 1 / 10)
    natural = open_splits(DataSpec("digits", "none"), home)
    assert len(natural.train) + len(natural.val) == len(source.labels)  # nothing is thrown away


def test_seed_moves_train_and_val_but_never_test(home):
    a, b, again = (DataSpec("digits", "exp:10", seed) for seed in (0, 1, 0))
    assert not torch.equal(open_splits(a, home).val.index, open_splits(b, home).val.index)
    assert not torch.equal(open_splits(a, home).train.index, open_splits(b, home).train.index)
    open_splits.__globals__["_open_splits"].cache_clear()
    first = open_splits(a, home)
    open_splits.__globals__["_open_splits"].cache_clear()
    assert torch.equal(first.train.index, open_splits(again, home).train.index)
    assert torch.equal(open_test(a, home).x, open_test(b, home).x)


def test_the_test_set_of_digits_is_the_same_on_every_machine(home, tmp_path):
    here, there = (mapped(prepare("digits", h) / "test.arrow").images for h in (home, tmp_path))
    assert np.array_equal(here, there)


def test_digits_are_the_originals(home):
    from sklearn.datasets import load_digits

    spec = DataSpec("digits", "none")
    splits, test = open_splits(spec, home), open_test(spec, home)
    ours = torch.cat([splits.train.x, splits.val.x, test.x])
    labels = torch.cat([splits.train.y, splits.val.y, test.y])
    values, y = load_digits(return_X_y=True)
    back = (ours.flatten(1).double() * 16 / 255).round()  # 17 levels survive the scaling
    rows = sorted(tuple(r) + (int(c),) for r, c in zip(back.tolist(), labels))
    assert rows == sorted(tuple(r) + (int(c),) for r, c in zip(values.tolist(), y))
    assert ours.max() == 255 and ours.min() == 0
    assert 0.19 < len(test) / len(y) < 0.21


def test_a_search_cannot_reach_the_test_file(home, small, monkeypatch):
    from trainables.data import store, tensors

    opened = []
    monkeypatch.setattr(tensors, "mapped", lambda file: opened.append(file.name) or store.mapped(file))
    splits = open_splits(DataSpec(small["parquet"], "none", seed=77), home)
    assert opened == ["train.arrow"] and not hasattr(splits, "test")


def test_batch_and_images(home, small):
    splits = open_splits(DataSpec(small["parquet"], "none"), home)
    rows = torch.tensor([3, 0, 3])
    x, y = splits.train.batch(rows)
    assert x.dtype == torch.float32 and 0 <= x.min() and 0.9 < x.max() <= 1 and y.dtype == torch.int64
    assert torch.equal((x * 255).round().byte(), splits.train.images(rows))
    source = [picture(int(i)) for i in splits.train.index[rows]]
    assert torch.equal(splits.train.images(rows).permute(0, 2, 3, 1), torch.from_numpy(np.stack(source)))
    assert torch.equal(y, splits.train.y[rows]) and len(splits.train.images(slice(0, 5))) == 5
    splits.train.images(rows).zero_()  # a copy: the mapped file is untouched
    assert splits.train.images(rows).any()


# --- the store ----------------------------------------------------------------------------------------------


def test_images_are_the_mapped_file_and_nothing_is_copied(home, small):
    spec = DataSpec(small["parquet"], "none")
    a, b = open_splits(spec, home), open_splits(DataSpec(small["parquet"], "exp:2"), home)
    assert open_splits(spec, home) is a
    pointers = {split.base.data_ptr() for split in (a.train, a.val, b.train, b.val)}
    assert len(pointers) == 1  # one mapping for all
    maps = Path("/proc/self/maps")
    if maps.exists():
        address = pointers.pop()
        lines = [line.split() for line in maps.read_text().splitlines()]
        [line] = [f for f in lines if int(f[0].split("-")[0], 16) <= address < int(f[0].split("-")[1], 16)]
        assert line[-1].endswith("train.arrow") and "w" not in line[1]


def stamps(folder: Path) -> dict:
    return {f.name: (f.stat().st_mtime_ns, f.stat().st_ino) for f in folder.iterdir()}


def test_decoded_once_and_again_when_the_source_changes(tmp_path):
    dataset = write_parquet(tmp_path / "source")
    first = prepare(dataset, tmp_path / "home")
    before = stamps(first)
    assert set(before) == {"train.arrow", "test.arrow", "content"}
    assert prepare(dataset, tmp_path / "home") == first and stamps(first) == before
    os.utime(tmp_path / "source/train.parquet", ns=(1, 1))
    assert prepare(dataset, tmp_path / "home") != first and stamps(first) == before


def _prepare_and_count(dataset, home, barrier, results):
    from trainables.data import store

    decodes, load = [], store.load
    store.load = lambda *found: decodes.append(1) or load(*found)
    barrier.wait()
    folder = prepare(dataset, home)
    results.put((str(folder), len(decodes), len(mapped(folder / "train.arrow").labels)))


def test_two_processes_decode_once(tmp_path):
    dataset, home = write_parquet(tmp_path / "source", counts=(300, 300)), tmp_path / "home"
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (dataset, home, barrier, results)
    workers = [context.Process(target=_prepare_and_count, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({folder for folder, _, _ in found}) == 1
    assert sorted(n for _, n, _ in found) == [0, 1] and {rows for _, _, rows in found} == {600}


def test_a_killed_decode_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    from trainables.data import store

    dataset, home = write_parquet(tmp_path / "source"), tmp_path / "home"
    folder = prepare(dataset, home)
    shutil.rmtree(folder)
    (folder.parent / f".{folder.name}.part-dead").mkdir()  # what a killed process leaves
    real = store._write
    monkeypatch.setattr(store, "_write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(dataset, home)
    assert not folder.exists()
    monkeypatch.setattr(store, "_write", real)
    assert prepare(dataset, home) == folder
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == [folder.name]


def test_the_driver_needs_no_torch(tmp_path):
    dataset = write_parquet(tmp_path / "source")
    code = (
        "import sys; from trainables.data import DataSpec, check\n"
        f"for d in ('digits', {dataset!r}): check(DataSpec(d, 'exp:2'), {str(tmp_path / 'home')!r})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_only_the_rows_of_the_split_move_to_the_gpu(home):
    splits = open_splits(DataSpec("digits", "exp:10"), home, "cuda")
    host = open_splits(DataSpec("digits", "exp:10"), home)
    assert splits.train.base.is_cuda and len(splits.train.base) == len(splits.train)
    rows = torch.randperm(len(splits.train), device="cuda")[:5]
    x, y = splits.train.batch(rows)
    expected = host.train.batch(rows.cpu())
    assert torch.equal(x.cpu(), expected[0]) and torch.equal(y.cpu(), expected[1])


# --- the table ----------------------------------------------------------------------------------------------


def two_colours(raw):
    """A source as a row of the table names it: black and white 6x6 images, the folder for downloads given."""
    assert raw.parts[-2:] == ("datasets", "raw")
    images, labels = np.zeros((20, 1, 6, 6), dtype=np.uint8), np.arange(20) % 2
    images[labels == 1] = 255
    return Decoded((images, labels), (images[:4], labels[:4]), ["black", "white"])


def test_a_new_row_is_all_a_dataset_takes(tmp_path, monkeypatch):
    row = Dataset("black and white", f"{__name__}:two_colours", {"eps": 0.4, "batch_size": 8})
    monkeypatch.setitem(DATASETS.built_in, "colours", row)
    summary = check(DataSpec("colours", "none"), tmp_path)
    assert summary.classes == ["black", "white"] and summary.counts == {"train": [8, 8], "val": [2, 2], "test": [2, 2]}
    assert open_test(DataSpec("colours", "none"), tmp_path).x.unique().tolist() == [0, 255]
    assert (training_for("colours").eps, training_for("colours", eps=0.2).eps) == (0.4, 0.2)
    assert training_for("colours").lr == Training().lr == training_for("folder:/x").lr
    with pytest.raises(DataError, match="unknown dataset 'coulours'; it takes digits, .*, colours, parquet:DIR, fold"):
        check(DataSpec("coulours"), tmp_path)


class TestDigits(DatasetContract):
    dataset = "digits"


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_is_sound(name):
    row, known = DATASETS[name], params_of(Training)
    assert row.about
    assert all(coerce(known[key], value) == value for key, value in row.training.items())
    if isinstance(row.source, Torchvision):
        assert issubclass(getattr(torchvision.datasets, row.source.cls), torchvision.datasets.VisionDataset)
    else:
        assert callable(resolve_name(row.source))


def test_help_names_every_dataset_and_model():
    shown = re.sub(r"\W", "", tuner("search", "--help").stdout)  # without frame, spaces and line breaks
    assert re.sub(r"\W", "", "".join(dataset_names())) in shown and re.sub(r"\W", "", "".join(MODELS)) in shown
