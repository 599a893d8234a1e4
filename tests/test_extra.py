"""Extra images: fitted to the data set's classes and size, a fixed share of every batch, and in nothing that judges."""

import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tests.make_data import row_numbers, shard, write_parquet
from trainables.batches import Batches
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data import DataError, DataSpec, check, open_splits, open_test
from trainables.data.store import mapped
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.methods.at import At
from trainables.model_io import load_trial
from trainables.stem import stem_key
from tuner.errors import UsageError
from tuner.execution import driver
from tuner.execution.trial_config import first_trial
from tuner.home import Home
from tuner.results.disk import _decodes
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec

NAMES = ["cat", "t-shirt/top", "dog"]


@pytest.fixture
def made(tmp_path):
    """(data set, extra data, home): the extra images are numbered from 500, and their file counts classes otherwise."""
    dataset = write_parquet(tmp_path / "own", names=NAMES)
    shard(tmp_path / "more" / "a.parquet", [0, 1, 1, 0], names=["dog", "cat"], first=500)
    shard(tmp_path / "more" / "deep" / "b.parquet", ["t-shirt/top", "cat"], first=504)
    (tmp_path / "more" / "notes.txt").write_text("generated")
    return dataset, f"parquet:{tmp_path / 'more'}", tmp_path / "home"


def test_labels_are_matched_by_name_and_nothing_that_judges_changes(made):
    dataset, extra, home = made
    own, more = (open_splits(DataSpec(dataset, "none", extra=e), home) for e in ("none", extra))
    assert row_numbers(more.extra.x) == list(range(500, 506)) and more.extra.labels.tolist() == [2, 0, 0, 2, 1, 0]
    assert own.extra is None and own.trained_on is own.train
    for split in ("train", "val", "watch"):
        assert torch.equal(getattr(own, split).index, getattr(more, split).index)
    assert own.class_counts == more.class_counts and (own.mean, own.std) == (more.mean, more.std)
    tests = [open_test(DataSpec(dataset, "none", extra=e), home) for e in ("none", extra)]
    assert torch.equal(tests[0].x, tests[1].x)
    summary = check(DataSpec(dataset, "none", extra=extra), home)
    assert summary.extra == (3, 1, 2) and "and 6 extra to train on" in summary.words
    assert "extra" not in check(DataSpec(dataset, "none"), home).words


def test_rows_after_the_splits_own_are_extra_images(made):
    dataset, extra, home = made
    splits = open_splits(DataSpec(dataset, "none", extra=extra), home)
    n = len(splits.train)
    rows = torch.tensor([n + 5, 0, n, n - 1])
    x, y = splits.trained_on.batch(rows)
    own_x, own_y = splits.train.batch(torch.tensor([0, n - 1]))
    assert row_numbers((x * 255).round())[::2] == [505, 500] and y.tolist()[::2] == [0, 2]
    assert torch.equal(x[1::2], own_x) and torch.equal(y[1::2], own_y)


def test_images_of_another_size_and_labels_without_names(made, tmp_path):
    dataset, _, home = made
    shard(tmp_path / "other" / "c.parquet", [2, 0], first=600, size=16)
    summary = check(DataSpec(dataset, "none", extra=f"parquet:{tmp_path / 'other'}"), home)
    assert summary.extra == (1, 0, 1)
    assert summary.extra_note == "labels without names, taken as they are: c.parquet; images resized to 8x8"


@pytest.mark.parametrize(
    "labels, names, words",
    [
        ([0, 3], None, "row 1 has label 3, which is out of range; labels must be integers from 0 to 2"),
        ([0, -1], None, "row 1 has label -1, which is out of range"),
        (["cat", "bird"], None, "images of class 'bird', which is not among the classes of train"),
        ([0, 1], ["dog", "dog"], "names two classes 'dog'"),
    ],
)
def test_wrong_labels_are_one_sentence(made, tmp_path, labels, names, words):
    shard(tmp_path / "wrong" / "c.parquet", labels, names=names)
    with pytest.raises(DataError) as refused:
        check(DataSpec(made[0], "none", extra=f"parquet:{tmp_path / 'wrong'}"), made[2])
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_files_and_names_that_are_none(made, tmp_path):
    (tmp_path / "empty").mkdir()
    for extra, words in (
        (f"parquet:{tmp_path / 'empty'}", "hold no .parquet files"),
        (f"parquet:{tmp_path / 'nowhere'}", "names no folder"),
        ("folder:x", "they take none or parquet:DIR"),
        ("parquet:s3://b/x", "they take none or parquet:DIR"),
    ):
        with pytest.raises(DataError, match=words):
            check(DataSpec(made[0], "none", extra=extra), made[2])


def test_changed_files_are_read_again(made, tmp_path):
    dataset, extra, home = made
    spec = DataSpec(dataset, "none", extra=extra)
    assert check(spec, home).extra == (3, 1, 2) == check(spec, home).extra
    shard(tmp_path / "more" / "a.parquet", [0] * 9, names=["dog", "cat"], first=500)
    assert check(spec, home).extra == (1, 1, 9)
    kept = sorted(path.name for path in (home / "datasets").iterdir() if path.name.startswith("extra-more-"))
    assert len(kept) == 2 and mapped(home / "datasets" / kept[0] / "extra.arrow").meta["classes"][1] == "t-shirt-top"


# ---- batches ---------------------------------------------------------------------------------------------------------


class Sampling:
    def __init__(self, weights=None):
        self.weights = weights

    def sampling_weights(self):
        return self.weights


LABELS = torch.arange(40) % 4
EXTRA = torch.tensor([0, 0, 1, 2, 2, 2, 1])  # none of class 3


def drawn(method, seed=0, **changes):
    batches = Batches(LABELS, 4, **{"batch_size": 10, "passes": 2, "extra": EXTRA, "share": 0.3, **changes})
    return batches, [*batches.epoch(method, torch.Generator().manual_seed(seed))]


def test_each_batch_has_its_share_and_an_epoch_its_length():
    batches, found = drawn(Sampling())
    assert len(batches) == len(found) == 8 == len(Batches(LABELS, 4, 10, 2))
    for rows in found:
        assert len(rows) == 10 and (rows < 40).sum() == 7 and rows.max() < 47
    for a_pass in (found[:4], found[4:]):
        own = torch.cat([rows[rows < 40] for rows in a_pass])
        assert len(own.unique()) == len(own) == 28  # none of the split's own comes twice in a pass
    more = torch.cat([rows[rows >= 40] for rows in found])
    assert len(more) == 24 and sorted(more[:7].tolist()) == sorted(more[7:14].tolist()) == list(range(40, 47))
    assert [rows.tolist() for rows in drawn(Sampling())[1]] == [rows.tolist() for rows in found]
    assert [rows.tolist() for rows in drawn(Sampling(), seed=1)[1]] != [rows.tolist() for rows in found]


@pytest.mark.parametrize("share, extras", [(0.3, 3), (0.001, 1), (0.999, 9), (0.25, 2)])
def test_a_share_is_rounded_and_neither_kind_is_left_out(share, extras):
    assert {int((rows >= 40).sum()) for rows in drawn(Sampling(), share=share)[1]} == {extras}


def test_classes_drawn_by_a_method_are_those_of_extra_images_too():
    weights = torch.tensor([0.0, 0.5, 0.0, 0.5])
    batches, found = drawn(Sampling(weights))
    rows = torch.cat([rows[-3:] for rows in found])
    labels = batches.labels[torch.cat(found)]
    assert set(labels.tolist()) == {1, 3}
    assert all((row >= 40) == (batches.labels[row] == 1) for row in rows)  # class 3 has no extra images
    assert {int(row) for row in rows if row >= 40} == {42, 46}


def test_a_partner_is_of_the_split_and_of_the_class():
    batches, _ = drawn(Sampling())
    rows = torch.tensor([3, 41, 46, 40]).repeat(50)
    partners = batches.partners(rows, torch.Generator().manual_seed(0))
    assert (partners < 40).all() and (partners != rows).all()
    assert torch.equal(batches.labels[partners], batches.labels[rows])


# ---- trials ----------------------------------------------------------------------------------------------------------


def test_a_trial_trains_on_them_and_goes_on_bit_by_bit(made, tmp_path):
    dataset, extra, home = made
    torch.set_num_threads(1)
    training = asdict(training_for(dataset, batch_size=8, attack_steps=1, eval_attack=1))
    config = TrialConfig("at", {}, training, dataset=dataset, imbalance="none", home=str(home), max_epochs=2)
    mixed = replace(config, extra=extra, extra_ratio=0.5)
    trainer, plain = Trainer(mixed), Trainer(config)
    assert trainer.task.class_counts.tolist() == plain.task.class_counts.tolist() == [16, 12, 8]
    seen = []
    batch = trainer.images.batch
    trainer.images.__dict__["batch"] = lambda rows: seen.append(rows) or batch(rows)
    metrics = [trainer.run_epoch()]
    assert [(rows >= 36).sum().item() for rows in seen] == [4] * len(trainer.batches) == [4] * 4
    assert trainer.stats.train_count.sum() == 32 and metrics[0] != plain.run_epoch()
    save_checkpoint(tmp_path / "trial", trainer, metrics[0])
    trainer.run_epoch()
    again = Trainer(mixed)
    assert load_checkpoint(tmp_path / "trial", again)
    again.run_epoch()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), again.model.parameters()))
    keys = [stem_key(Trainer(replace(c, fork=1))) for c in (config, mixed, replace(mixed, extra_ratio=0.25))]
    assert "extra" not in keys[0] and keys[1]["extra"] == keys[2]["extra"] and keys[1] != keys[2]
    assert isinstance(trainer.method, At) and np.isfinite(metrics[0]["train_loss"])


def test_a_trained_model_is_verified_and_exported_without_them(made, tmp_path):
    """They may be large, and gone or elsewhere by then."""
    dataset, extra, home = made
    training = asdict(training_for(dataset, batch_size=8, attack_steps=1, eval_attack=1))
    config = TrialConfig("at", {}, training, dataset=dataset, imbalance="none", home=str(home), max_epochs=1)
    trainer = Trainer(replace(config, extra=extra, extra_ratio=0.5))
    save_checkpoint(tmp_path / "trial", trainer, trainer.run_epoch())
    shutil.rmtree(tmp_path / "more")
    model, about = load_trial(tmp_path / "trial", home)
    assert about["config"]["extra"] == extra and torch.equal(model.head.weight, trainer.model.head.weight)


def test_a_search_hands_them_to_its_trials(made, tmp_path, monkeypatch):
    dataset, extra, home = made
    monkeypatch.chdir(tmp_path)
    spec = SearchSpec(method="at", dataset=dataset, imbalance="none", extra_data="parquet:more", extra_ratio=0.4)
    run = SearchRun(spec, Home(home), spec.search_name, History(None))
    config = first_trial(run)
    assert (config.extra, config.extra_ratio) == (extra, 0.4) and config.data_spec.extra == extra
    assert (
        replace(spec, extra_ratio=0.5).hash() != spec.hash() != replace(spec, extra_data="none", extra_ratio=0.3).hash()
    )
    assert _decodes(run, "extra-more-0a1b") and not _decodes(run, "extra-other-0a1b")
    with pytest.raises(UsageError, match=re.escape("--extra-ratio 0.4 is the share of --extra-data, which is missing")):
        SearchSpec(extra_ratio=0.4)
    with pytest.raises(UsageError, match="--extra-data 'more' is not allowed; it takes none or parquet:DIR"):
        SearchSpec(extra_data="more")


def test_a_search_goes_on_with_the_extra_images_it_began_with_alone_in_any_home(made, tmp_path, monkeypatch):
    """No storage keeps them: they were taken from the folder that has the name there, whatever it holds."""
    storage = str(tmp_path / "storage")
    spec = SearchSpec(dataset=made[0], imbalance="none", extra_data="parquet:more", name="s", storage=storage)
    monkeypatch.setattr(driver, "_run", lambda run, *rest: run)
    monkeypatch.chdir(tmp_path)
    here, there = Home(tmp_path / "a"), Home(tmp_path / "b", storage)
    run = driver.search(spec, here)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert first_trial(driver.resume("s", there)).extra == first_trial(run).extra == made[1]
    file = tmp_path / "more" / "a.parquet"
    shutil.copy(file, tmp_path / "kept.parquet")
    shard(file, [0, 1, 1, 1], names=["dog", "cat"], first=500)
    for home in (here, there, Home(tmp_path / "c", storage)):
        with pytest.raises(UsageError, match="the extra images of 'parquet:more' are not those with which search 's'"):
            driver.resume("s", home)
    shutil.copy(tmp_path / "kept.parquet", file)
    driver.resume("s", there)
    images = there.search("s") / "images"
    images.write_text(images.read_text().split()[0])  # as an earlier version noted it
    driver.resume("s", there)
    assert len(images.read_text().split()) == 2
