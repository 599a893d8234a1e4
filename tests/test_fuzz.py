"""The fuzzer on a few inputs of every entry point (`make fuzz` tries 10,000), and the nonsense that is written down."""

import io
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.conftest import tuner_here
from tests.fuzz import nonsense, trial
from tests.fuzz.__main__ import run as fuzz
from tests.fuzz.corpus import build, picture, rows
from tests.fuzz.targets import TARGETS, received
from tests.histories import curve, fill
from trainables.checkpoint import DamagedCheckpoint, read_checkpoint
from trainables.curve import Curve
from trainables.data import DataError, DataSpec, check
from trainables.data.limits import EXPANSION, IMAGE_PIXELS, SMALL
from trainables.model_io import load_model, load_trial
from trainables.reading import Damaged, intact, read_json, shaped
from trainables.storage import Storage
from tuner.errors import Failed, UsageError
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.history import History
from tuner.results.summary import saved_result
from tuner.spec.search_spec import SearchSpec
from tuner.sync import mirror


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("fuzz"))


ROUNDS = {"verification": 15, "result": 20, "history": 25, "stored_spec": 20}  # slow ones; others have 40


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_foreign_comes_out(name, corpus):
    """Some 500 inputs in all."""
    rounds = ROUNDS.get(name, 40)
    counts, findings = fuzz(rounds, 2026, corpus, [name], slow_s=60)  # tests share the machine
    assert not findings
    assert counts[name]["accepted"] + counts[name]["refused"] == rounds and counts[name]["refused"]


def test_the_fuzzer_sees_what_it_looks_for(capsys):
    def foreign():
        raise KeyError("x")

    def hang():
        while True:
            pass

    def words():
        raise UsageError("two\nlines")

    assert trial.outcome(foreign)[0] == "finding" and "KeyError at" in trial.outcome(foreign)[1]
    assert trial.outcome(words)[0] == "finding"
    assert trial.outcome(lambda: True) == ("accepted", "") and trial.outcome(lambda: False) == ("refused", "")
    with pytest.raises(trial.Hang), trial.watched(0.2):
        hang()
    with pytest.raises(trial.Finding, match="NaN is no JSON"):
        trial.strict_json('{"a": NaN}')


# ---- nonsense ----------------------------------------------------------------------------------------------------


def refused(done):
    assert done.returncode in (1, 2) and done.stderr.strip() and "Traceback" not in done.stderr, done
    assert len(done.stderr) < 1000, "a wrong value is shown in part"


@pytest.mark.parametrize("words", nonsense.OPTIONS, ids=lambda words: " ".join(words)[:50])
def test_nonsense_in_an_option_is_refused(words):
    refused(tuner_here("search", *words, "--dry-run"))


@pytest.mark.parametrize("name", nonsense.SPECS)
def test_nonsense_in_a_spec_is_refused(name, tmp_path):
    """S12: before anything grows or a minute passes."""
    (tmp_path / "spec.yaml").write_text(nonsense.SPECS[name])
    with trial.watched():
        refused(done := tuner_here("search", "--spec", tmp_path / "spec.yaml", "--dry-run"))
    assert ("is not valid YAML" in done.stderr) == (name != "an infinity")


def with_last_event(corpus, folder, change):
    """The search of the corpus with its first epoch event changed, in a home of its own."""
    place = received(corpus, folder, "history.jsonl")
    lines = [json.loads(line) for line in (corpus.search / "history.jsonl").read_text().splitlines()]
    (place / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
    return folder / "home"


def named(home, what):
    """`ls` goes on, and `front` ends in one sentence that names the file."""
    listed = tuner_here("ls", "--home", home, "--json")
    assert listed.returncode == 0 and json.loads(listed.stdout) == [] and what in listed.stderr
    refused(done := tuner_here("front", "s", "--home", home))
    assert what in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name, value", nonsense.METRICS)
def test_s11_nonsense_in_a_metric_is_named(name, value, corpus, tmp_path):
    def change(lines):
        first = next(line for line in lines if line["event"] == "epoch")
        first["metrics"][name] = value
        return lines

    named(with_last_event(corpus, tmp_path, change), "history.jsonl is no event of a search")


SETTINGS = ({"start": "early"}, {"loss": 0.5})  # what only the spec knows to be wrong


@pytest.mark.parametrize("event", nonsense.EVENTS, ids=lambda event: json.dumps(event)[:60])
def test_s11_nonsense_in_an_event_is_named(event, corpus, tmp_path):
    home = with_last_event(corpus, tmp_path, lambda lines: [*lines, event])
    named(home, "cannot be read: trial 2 has" if event.get("params") in SETTINGS else "is no event of a search")


def test_the_events_of_the_list_are_wrong_in_one_thing_only(corpus, tmp_path):
    """Else they would be refused for another reason."""
    right = {"event": "start", "trial": 2, "time": 1.0, "params": {}, "method": "srat"}
    home = with_last_event(corpus, tmp_path, lambda lines: [*lines, right])
    listed = json.loads(tuner_here("ls", "--home", home, "--json").stdout)
    assert listed[0]["trials"] == 3


@pytest.mark.parametrize("change", nonsense.CURVES, ids=str)
def test_s11_nonsense_in_a_curve_is_refused(change):
    right = {
        "classes": ["a", "b"],
        "train_counts": [5, 5],
        "points": [
            {"offsets": {"kind": "none", "tau": 0, "values": []}, "count": [10, 10], "clean": [9, 1], "robust": [5, 0]}
        ],
    }
    assert Curve.of(right).points and Curve.of(curve(0.5, 0.1)).points
    point = {**right["points"][0], **change.get("point", {})}
    wrong = {**right, "points": [point], **{k: v for k, v in change.items() if k != "point"}}
    with pytest.raises(ValueError):
        Curve.of(wrong)


@pytest.mark.parametrize("classes", nonsense.CLASSES, ids=str)
def test_nonsense_in_class_names_is_refused(classes, tmp_path):
    about = {"info": {"features": {"label": {"_type": "ClassLabel", "names": classes}}}}
    for split in ("train", "test"):
        table = pa.Table.from_pylist(rows()).replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="class"):
        check(DataSpec(f"parquet:{tmp_path}", "none"), tmp_path / "home")


def test_weights_that_are_no_numbers_are_refused(corpus, tmp_path):
    config = trial_config(corpus.run, corpus.run.history.trials[0])
    state = read_checkpoint(config.folder)
    state["model"]["head.bias"][0] = math.nan
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(DamagedCheckpoint, match="head.bias are not all finite numbers"):
        load_trial(tmp_path, corpus.home.root)
    assert load_model(corpus.model)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


# ---- damaged files (S11) -------------------------------------------------------------------------------------------


def test_s11_one_damaged_search_does_not_hide_the_others(corpus, tmp_path):
    home = received(corpus, tmp_path).parents[1]
    for name, file, content in (
        ("bytes", "history.jsonl", b'{"event": "start"}\xff\n'),
        ("spec", "spec.yaml", b"\xff"),
        ("deep", "history.jsonl", b"[" * 100_000),
        ("types", "history.jsonl", b'{"event": "start", "trial": 0, "time": 1, "params": {}, "method": ["at"]}\n'),
    ):
        folder = home / "searches" / name
        folder.mkdir()
        (folder / "spec.yaml").write_text("method: at\n")
        (folder / file).write_bytes(content)
    for name, file in (("pipe", "history.jsonl"), ("piped-spec", "spec.yaml")):
        (home / "searches" / name).mkdir()
        (home / "searches" / name / "spec.yaml").write_text("method: at\n")
        (home / "searches" / name / file).unlink(missing_ok=True)
        os.mkfifo(home / "searches" / name / file)
    with trial.watched():
        done = tuner_here("ls", "--home", home, "--json")
    assert done.returncode == 0 and [row["search"] for row in json.loads(done.stdout)] == ["s"]
    lines = done.stderr.splitlines()
    assert len(lines) == 6 and all(len(line) < 400 for line in lines), lines


def test_s11_a_line_that_was_cut_is_left_out_and_a_line_that_was_changed_is_named(tmp_path):
    history = fill(History(tmp_path), SearchSpec(max_epochs=3), trials=1, failed=False)
    text = history.path.read_text()
    line = text.splitlines()[1]
    for end in range(1, len(line)):  # a writer may be killed anywhere
        history.path.write_text(text + line[:end])
        assert list(History(tmp_path).trials) == [0]
    for at in range(11, len(line) - 20):
        if line[at] in '":{}':
            history.path.write_text(text + line[:at] + "x" + line[at + 1 :] + "\n" + line + "\n")
            if intact(lambda: json.loads(line[:at] + "x" + line[at + 1 :])) is None:
                with pytest.raises(Failed, match="is no event of a search"):
                    History(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"state": "finished"}', b'{"state": 1}'])
def test_s11_a_damaged_result_is_none(content, tmp_path):
    (tmp_path / "result.json").write_bytes(content)
    assert saved_result(tmp_path) is None
    (tmp_path / "result.json").write_text('{"state": "finished", "epochs_trained": 3, "wall_s": 1.5}')
    assert saved_result(tmp_path)["epochs_trained"] == 3


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"who": "x"}', b'{"who": "x", "every": Infinity}', b'{"who": "x", "every": 1e9}']
)
def test_s11_a_damaged_lease_is_none_and_nobody_waits_for_it(content, tmp_path):
    place = tmp_path / "storage" / "searches" / "s"
    place.mkdir(parents=True)
    (place / mirror.LEASE).write_bytes(content)
    home = Home(tmp_path / "home")
    with trial.watched():
        mirror.Mirror(str(tmp_path / "storage"), home, "s").claim()
    assert json.loads((place / mirror.LEASE).read_text())["who"].endswith(str(home.root))


def test_s11_shapes():
    assert shaped({"a": [1, 2], "b": "x"}, {"a": [int]}) and shaped(1, float) and shaped(1.5, float)
    for value, shape in (
        (True, int),
        (1.5, int),
        ([1, "x"], [int]),
        ({}, {"a": int}),
        (10**400, float),
        (math.nan, float),
    ):
        assert not shaped(value, shape)


def test_s11_whole_numbers_have_64_bits():
    """As a table holds them: one that is larger, also where a fraction is wanted, ended `tuner verify`."""
    for shape in (int, float):
        assert shaped(2**63 - 1, shape) and not shaped(2**63, shape) and not shaped(-(10**30), shape)
    assert shaped(1e300, float) and not shaped(1.0, int)


def test_s11_a_finished_search_keeps_what_its_history_says(corpus, tmp_path):
    """A result.json that somebody changed is not what a search that is started again prints."""
    from tuner.execution import driver

    folder = received(corpus, tmp_path, "result.json")
    stored = json.loads((corpus.search / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**stored, "front": [], "hypervolume": 7.5}))
    spec = SearchSpec.from_stored((folder / "spec.yaml").read_text())
    found = driver.search(spec, Home(tmp_path / "home"))
    assert json.loads(json.dumps(found["front"])) == stored["front"] and found["hypervolume"] == stored["hypervolume"]
    assert found["wall_s"] == stored["wall_s"]


# ---- limits (S12) --------------------------------------------------------------------------------------------------


def test_s12_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    with trial.watched():
        for name in ("pipe", "zero"):
            with pytest.raises(Damaged, match="is no regular file"):
                read_json(tmp_path / name)
            with pytest.raises(OSError, match="is no regular file"):
                Storage(tmp_path).read(name)
            refused(tuner_here("search", "--spec", tmp_path / name, "--dry-run"))
            refused(tuner_here("search", "--space", tmp_path / name, "--dry-run"))
            refused(tuner_here("audit", tmp_path / name))
    (tmp_path / "large.json").write_text(" " * 2000)
    with pytest.raises(Damaged, match="is larger than"):
        read_json(tmp_path / "large.json", most=1000)


def parquet_of(folder: Path, images: list[bytes], repeats: int = 1):
    """Two files of two classes in which few encoded images stand for many rows."""
    folder.mkdir()
    column = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(len(images) * repeats) % len(images), pa.int32()), images
    )
    labels = pa.array(np.arange(len(images) * repeats) % 2)
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"image": column, "label": labels}),
            folder / f"{split}.parquet",
            compression="zstd",
            store_schema=False,
        )
    return f"parquet:{folder}", (folder / "train.parquet").stat().st_size


def blank(side: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (side, side)).save(data, "PNG")
    return data.getvalue()


def test_s12_sizes_are_computed_before_anything_is_allocated(tmp_path):
    """A file of some kilobytes that would decode into gigabytes, by many rows, by large images, by large values."""
    for number, (images, repeats) in enumerate((([blank(256)] * 2, 100_000), ([blank(6000)] * 2, 40))):
        dataset, size = parquet_of(tmp_path / str(number), images, repeats)
        assert size < 200_000
        with trial.watched(), pytest.raises(DataError, match="would decode into|expands into"):
            check(DataSpec(dataset, "none"), tmp_path / "home")
    dataset, _ = parquet_of(tmp_path / "right", [picture(0, 0), picture(1, 0)], 40)
    assert sum(check(DataSpec(dataset, "none"), tmp_path / "home").counts["train"]) > 50
    assert SMALL < 2**30 and EXPANSION < 1000


@pytest.mark.parametrize("size", [(2**15, 2**15), (IMAGE_PIXELS // 1000 + 1, 1000)])
def test_s12_one_image_has_a_limit(size, tmp_path):
    data = bytearray(blank(8))
    data[16:24] = np.array(size, ">u4").tobytes()
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    dataset, _ = parquet_of(tmp_path / "data", [bytes(data), bytes(data)], 4)
    with pytest.raises(DataError, match="pixels; at most 50,000,000 are read|no image that Pillow can decode"):
        check(DataSpec(dataset, "none"), tmp_path / "home")


@pytest.mark.parametrize("kind", ["EPS", "ICNS", "PDF", "PCX", "TGA", "SGI", "IM"])
def test_s12_formats_that_are_not_listed_are_not_opened(kind, tmp_path, monkeypatch):
    """EPS would start Ghostscript."""
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, kind)
    dataset, _ = parquet_of(tmp_path / "data", [data.getvalue()] * 2, 4)
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(DataError, match="no image that Pillow can decode"):
        check(DataSpec(dataset, "none"), tmp_path / "home")


def test_s12_a_packed_checkpoint_is_a_bomb(tmp_path, monkeypatch):
    """torch packs nothing, so nothing is unpacked."""
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(2**26))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda file: pytest.fail("it was unpacked"))
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(tmp_path)
