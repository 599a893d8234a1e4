"""Where the test images are frames of tracks, a track counts as one image in every interval on `test`."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import binomtest

from tests.conftest import tuner_here
from tests.make_data import encode
from tests.test_escape import ABOUT
from tests.test_gain import verified_alike
from tests.test_references import finish, no_search
from trainables.config import TrialConfig
from trainables.data import DataSpec, Reading, check, open_test, prepare
from trainables.data import store as decoded
from trainables.data.files import tracks_of
from trainables.offsets import NONE
from tuner.home import Home
from tuner.report.model_card import card_markdown
from tuner.results.history import History
from tuner.spec.search_spec import SearchSpec
from tuner.verification.certificate import packed_tracks, read_certificate
from tuner.verification.console import show_verification
from tuner.verification.export import _test_metrics
from tuner.verification.gain import _newcombe, paired
from tuner.verification.intervals import as_tracks, class_mean, independent, wilson, worst_class
from tuner.verification.job import Job
from tuner.verification.leaderboard import cells, leaderboard
from tuner.verification.robustbench import record
from tuner.verification.summary import row_of
from tuner.verification.summary import tracks_of as stored_tracks
from tuner.verification.text import sentences
from tuner.verification.verify import store

# 5 tracks of 4 frames in each class: which frames are right. Three tracks of class 0 are, one of class 1; half of each
# track of class 2, so 2.5 of its tracks.
RIGHT = np.array([[4, 4, 4, 0, 0], [4, 0, 0, 0, 0], [2, 2, 2, 2, 2]])
WILSON = [(0.2307, 0.8824), (0.0362, 0.6245), (0.1704, 0.8296)]  # of 3, 1 and 2.5 of 5
MODEL = """
from torch import eye, nn


def flat():
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = eye(3)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""


def name(c, track, frame):
    return f"{c:05d}/{track:05d}_{frame:05d}.ppm"


def signs(folder, of_test=name):
    """A data set of plain red, green and blue images: `flat` is right where the colour is the class. ``of_test``: the
    name of a test image by its class, track and frame."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = {
        "train": [(c, t, f, c) for c in range(3) for t in range(3) for f in range(2)],
        "test": [
            (c, t, f, c if f < RIGHT[c, t] else (c + 1) % 3) for c in range(3) for t in range(5) for f in range(4)
        ],
    }
    for split, rows in frames.items():
        called = of_test if split == "test" else name
        images = [{"bytes": encode(plain(colour)), "path": called(c, t, f)} for c, t, f, colour in rows]
        pq.write_table(pa.table({"image": images, "label": [c for c, *_ in rows]}), folder / f"{split}.parquet")
    return f"parquet:{folder}"


def plain(colour):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[..., colour] = 255
    return pixels


def unnamed(c, track, frame):
    return f"{20 * c + 4 * track + frame:05d}.ppm"


def asked(folder, dataset, *more):
    (folder / "flat.py").write_text(MODEL)
    return ("--model", f"{folder / 'flat.py'}:flat", "--dataset", dataset, "--set", "eps=0.02", *more, "--home", folder)


def verified(folder, dataset, *more):
    done = tuner_here("verify", *asked(folder, dataset, *more), "--attack", "pgd:1x1", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


# ---- what is known of the test images --------------------------------------------------------------------------------


def test_tracks_of_test_are_read_by_the_names_as_those_of_train(tmp_path):
    dataset = signs(tmp_path / "d")
    spec = DataSpec(dataset, "none")
    split = open_test(spec, tmp_path)
    assert split.independent(3).tolist() == [5, 5, 5] and not open_test(spec, tmp_path).hides_tracks
    assert split.groups.tolist() == np.repeat(range(15), 4).tolist()
    assert check(spec, tmp_path).note == (
        "9 tracks by the file names stay together and 15 tracks of test by the file names count as one image each "
        "(--groups none if they are no tracks)"
    )
    alone = DataSpec(dataset, "none", reading=Reading(groups="none"))
    assert open_test(alone, tmp_path).groups is None and not open_test(alone, tmp_path).hides_tracks
    assert check(alone, tmp_path).note == ""


def test_of_image_folders_too(tmp_path):
    """Of which test may have one of each class, since train has several."""
    for split, tracks in (("train", 3), ("test", 1)):
        for c in range(2):
            (tmp_path / "d" / split / f"{c:05d}").mkdir(parents=True)
            for t in range(tracks):
                for f in range(2):
                    Image.fromarray(plain(c)).save(tmp_path / "d" / split / f"{c:05d}/{t:05d}_{f:05d}.png")
    assert open_test(DataSpec(f"folder:{tmp_path / 'd'}", "none"), tmp_path).independent(2).tolist() == [1, 1]


def test_names_without_tracks_hide_them(tmp_path):
    """As in GTSRB's official test set, whose images are numbered in random order."""
    spec = DataSpec(signs(tmp_path / "d", unnamed), "none")
    assert open_test(spec, tmp_path).groups is None and open_test(spec, tmp_path).hides_tracks
    assert "of test" not in check(spec, tmp_path).note and not open_test(DataSpec("digits"), tmp_path).hides_tracks


@pytest.mark.parametrize(
    "paths, alone, known",
    [
        ([name(c, 7 + c, f) for c in range(2) for f in range(3)], None, [0, 0, 0, 1, 1, 1]),  # one of each class
        ([name(c, t, 0) for c in range(2) for t in range(2)], None, [0, 1, 2, 3]),  # one frame of each
        ([f"{c}/{c:03d}_{f}.png" for c in range(3) for f in range(2)], None, None),  # class/class_index
        ([name(0, 0, 0), name(0, 0, 1), name(0, 1, 0), "1/a.png"], None, None),  # some have no track
        ([name(0, 0, 0), None], None, None),
        ([f"{'9' * 5000}/{t}_0.png" for t in (1, 1, 2)], [0, 0, 1], [0, 0, 1]),  # longer than Python's numbers
        ([], None, None),
        (None, None, None),
    ],
)
def test_what_are_tracks_where_train_has_none_and_where_it_has_some(paths, alone, known):
    for found, expected in ((tracks_of(paths), alone), (tracks_of(paths, known=True), known)):
        assert (found if found is None else found.tolist()) == expected


def test_what_an_earlier_version_decoded_is_decoded_anew(tmp_path, monkeypatch):
    dataset = signs(tmp_path / "d")
    with monkeypatch.context() as before:
        before.setattr(decoded, "OWN_FORMAT", 1)
        old = prepare(dataset, tmp_path)
    assert prepare(dataset, tmp_path) != old and old.is_dir()
    assert prepare("digits", tmp_path).name == "digits-v1", "whose files are as they were"


# ---- intervals by hand -----------------------------------------------------------------------------------------------


def test_intervals_are_those_of_five_images():
    right, count = RIGHT.sum(1), np.full(3, 20)
    labels, tracks = np.repeat(range(3), 20), np.repeat(range(15), 4)
    own = independent(labels, tracks, 4)
    assert own.tolist() == [5, 5, 5, 0] and independent(labels, None, 4).tolist() == [20, 20, 20, 0]
    of_tracks = as_tracks(right, count, own[:3])
    assert of_tracks.tolist() == [3, 1, 2.5]
    assert [wilson(k, 5) for k in of_tracks] == [pytest.approx(ci, abs=1e-4) for ci in WILSON]
    for k in (3, 1):
        theirs = binomtest(k, 5).proportion_ci(method="wilson")
        assert wilson(float(k), 5) == pytest.approx((theirs.low, theirs.high))
    # p = (k + z^2/2) / (5 + z^2) = 0.5566, 0.3303, 0.5; half width z sqrt(sum p (1 - p) / 5) / 3 = 0.2476
    assert class_mean(of_tracks, own[:3]) == pytest.approx((0.43333 - 0.24758, 0.43333 + 0.24758), abs=1e-4)


def test_the_worst_class_may_be_right_in_part_of_a_track():
    """Of half a track among five, Wilson's interval is the wider: p = (0.5 + z^2/2) / (5 + z^2) = 0.2738, and half a
    width z sqrt(0.5 * 4.5 / 5 + z^2/4) / (5 + z^2) = 0.2633. The minimum over draws is nearly always that class's."""
    _, (low, high) = worst_class(np.array([0.5, 5]), np.array([5, 5]))
    assert (low, high) == pytest.approx((0, 0.5371), abs=1e-4) and wilson(0.5, 5)[0] == pytest.approx(0.0105, abs=1e-4)


def test_all_frames_right_are_all_tracks_right_to_the_bit():
    """Else a rate above 1, which no bootstrap draws: 49 * (7 / 49) is more than 7 for some such numbers."""
    count = np.arange(1, 400)
    for tracks in range(1, 60):
        own = np.minimum(tracks, count)
        assert (as_tracks(count, count, own) == own).all()
        assert worst_class(as_tracks(count, count, own), own)[0] <= 1 if tracks == 7 else True


def test_the_worst_class_and_differences_are_those_of_one_frame_a_track():
    """Frames of a track are alike, so one of each says the same."""
    rng = np.random.default_rng(0)
    labels = np.repeat(range(3), [9, 6, 12])
    first, second = rng.random(27) < 0.7, rng.random(27) < 0.4
    train = [30, 20, 10]
    frames = np.repeat(np.arange(27), 4)
    found = paired(labels[frames], first[frames], second[frames], train, tracks=frames)
    for metric, (difference, ci) in paired(labels, first, second, train).items():
        assert found[metric][0] == pytest.approx(difference) and found[metric][1] == pytest.approx(ci)
    narrow = paired(labels[frames], first[frames], second[frames], train)
    assert all(np.diff(narrow[m][1]) < 0.7 * np.diff(found[m][1]) for m in narrow)
    count, right = np.bincount(labels), np.bincount(labels[first])
    many = as_tracks(4 * right, 4 * count, independent(labels[frames], frames, 3))
    assert worst_class(many, count) == worst_class(right, count)


def test_differences_of_tracks_that_are_right_in_part():
    """Two classes of 5 tracks of 4 frames; 11 and 9 frames are right under the first model, 8 and 4 under the second,
    always the first ones: 2.75 against 2 of 5 tracks, 2.25 against 1. Of the lowest class 1 track is right under both,
    1.25 under the first alone and 2.75 under neither."""
    labels, tracks = np.repeat([0, 1], 20), np.repeat(range(10), 4)
    place = np.arange(40) % 20
    first, second = place < np.where(labels == 0, 11, 9), place < np.where(labels == 0, 8, 4)
    found = paired(labels, first, second, [1, 1], tracks=tracks)["worst_class_robust_acc"]
    phi = (1 * 2.75 - 1.25 * 0) / (2.25 * 2.75 * 1 * 4) ** 0.5
    (a, b), (c, d) = wilson(2.25, 5), wilson(1, 5)
    p, q = 0.45, 0.2
    below, above = ((x * x + y * y - 2 * phi * x * y) ** 0.5 for x, y in ((p - a, d - q), (b - p, q - c)))
    cells = np.array([[2.25, 0, 0.75, 2], [2.75, 0, 1.25, 1]])
    newcombe = _newcombe(cells, np.array([[0.55, 0.45], [0.4, 0.2]]))
    assert newcombe == pytest.approx((p - q - below, p - q + above))
    assert found[0] == pytest.approx(p - q) and found[1][0] <= newcombe[0] and found[1][1] >= newcombe[1]


# ---- tuner verify, audit and leaderboard -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    dataset = signs(folder / "signs")
    return folder, dataset, verified(folder, dataset)[0]


def test_a_verification_counts_tracks(tested):
    folder, _, result = tested
    (row,) = result["rows"]
    assert (row["images"], row["tracks"]) == (60, 15)
    assert [v["robust_acc"] for v in row["per_class"].values()] == [0.6, 0.2, 0.5]
    assert [v["ci"] for v in row["per_class"].values()] == [pytest.approx(ci, abs=1e-4) for ci in WILSON]
    assert [(v["images"], v["tracks"]) for v in row["per_class"].values()] == [(20, 5)] * 3
    right, own = np.array([3, 1, 2.5]), np.full(3, 5)
    corrected, worst = worst_class(right, own)
    assert row["worst_class_robust_acc_corrected"] == corrected and row["ci"]["worst_class_robust_acc"] == list(worst)
    for metric in ("robust_acc", "natural_robust_acc", "clean_acc"):  # the training images are balanced
        assert row["ci"][metric] == pytest.approx((0.43333 - 0.24758, 0.43333 + 0.24758), abs=1e-4)
    assert row["worst_class_robust_acc"] == 0.2 and row["robust_acc"] == pytest.approx(0.43333, abs=1e-5)
    home = folder / "models" / result["search"]
    table = pq.read_table(home / "verified.parquet")
    assert table["tracks"].to_pylist() == [15] and table["images"].to_pylist() == [60]
    assert "split test, 60 images of 15 tracks" in (home / "verified.html").read_text()
    assert record(row, SearchSpec())["footnote"].startswith("60 test images of 15 tracks; worst class 1")


def test_the_terminal_says_it(tested, capsys):
    show_verification(tested[2], Home(tested[0]))
    assert "In intervals on test a track counts as one image" in " ".join(capsys.readouterr().out.split())


def test_certificate_and_leaderboard_count_tracks(tested):
    folder, _, result = tested
    row, certificate = result["rows"][0], read_certificate(folder / "models" / result["search"] / "verified.json")
    assert certificate.tracks.tolist() == np.repeat(range(15), 4).tolist() and not certificate.hidden_tracks
    found = leaderboard([result["search"]], Home(folder))
    (mine,) = found["rows"]
    assert (mine["images"], mine["tracks"]) == (60, 15)
    assert list(mine["average_ci"]) == row["ci"]["robust_acc"]
    assert list(mine["worst_ci"]) == row["ci"]["worst_class_robust_acc"]
    assert "pgd:1x1, 60 images of 15 tracks" in cells(found)[1][0]
    assert "signs: In intervals on test a track counts as one image" in found["note"]


def changed(tested, **fields):
    folder, dataset, result = tested
    stored = json.loads((folder / "models" / result["search"] / "verified.json").read_text())
    file = folder / "received.json"
    file.write_text(json.dumps({key: value for key, value in {**stored, **fields}.items() if value is not None}))
    return file


@pytest.mark.parametrize(
    "fields, code, said",
    [
        ({}, 0, None),
        ({"tracks": packed_tracks(np.repeat(range(15), 4)[::-1].copy())}, 0, None),  # numbered otherwise
        ({"tracks": packed_tracks(np.arange(60) // 5)}, 1, "the tracks of the test images here are not the"),
        ({"tracks": packed_tracks(np.arange(60))}, 1, "the tracks of the test images here are not the certificate's"),
        ({"tracks": None}, 0, "does not say of which tracks the test images are, so intervals from it count each"),
        ({"tracks": "00000000"}, 2, "is damaged: ValueError 'tracks'"),
        ({"tracks": 3}, 2, "is damaged: TypeError"),
    ],
)
def test_an_audit_compares_the_tracks(tested, fields, code, said):
    done = tuner_here("audit", changed(tested, **fields), *asked(*tested[:2]), "--json", "--sample", 20)
    assert done.returncode == code, done.stderr
    assert said in done.stderr if said else "tracks" not in done.stderr


def test_an_audit_says_where_nothing_here_knows_the_tracks(tested, tmp_path):
    folder, _, _ = tested
    stored = json.loads(changed(tested).read_text())
    result, _ = verified(tmp_path, signs(tmp_path / "signs", unnamed))
    own = json.loads((tmp_path / "models" / result["search"] / "verified.json").read_text())
    (tmp_path / "theirs.json").write_text(json.dumps({**own, "tracks": stored["tracks"]}))
    given = asked(tmp_path, f"parquet:{tmp_path / 'signs'}")
    done = tuner_here("audit", tmp_path / "theirs.json", *given, "--sample", 20)
    assert done.returncode == 0 and "so those of the certificate are not checked" in done.stderr


def test_hidden_tracks_are_told(tmp_path):
    result, _ = verified(tmp_path, signs(tmp_path / "signs", unnamed))
    (row,) = result["rows"]
    assert row["tracks"] is None and row["images"] == 60
    assert row["per_class"]["0"]["ci"] == list(wilson(12, 20)) and "tracks" not in row["per_class"]["0"]
    page = (tmp_path / "models" / result["search"] / "verified.html").read_text()
    assert "nothing says which test images are of one track" in page and "split test, 60 images ·" in page
    found = leaderboard([result["search"]], Home(tmp_path))
    assert found["rows"][0]["tracks"] is None
    assert "signs: Training images are frames of tracks, but nothing says" in found["note"]


def test_where_groups_says_that_they_are_none_images_count(tmp_path):
    result, _ = verified(tmp_path, signs(tmp_path / "signs"), "--groups", "none")
    (row,) = result["rows"]
    assert "tracks" not in row and row["per_class"]["0"]["ci"] == list(wilson(12, 20))
    assert result["model"]["options"][:2] == ["--groups", "none"], "an audit is asked the same"
    folder = tmp_path / "models" / result["search"]
    assert not {"tracks", "hidden_tracks"} & json.loads((folder / "verified.json").read_text()).keys()
    done = tuner_here("audit", folder / "verified.json", *asked(tmp_path, f"parquet:{tmp_path / 'signs'}"))
    assert done.returncode == 0 and "does not say of which tracks" in done.stderr, "without --groups none"


@pytest.mark.parametrize("of_test", [name, unnamed])
def test_what_an_earlier_version_tested_is_told_its_tracks(tmp_path, of_test):
    """Nothing is attacked again; another attack's results beside it are told too."""
    dataset = signs(tmp_path / "signs", of_test)
    first, _ = verified(tmp_path, dataset)
    beside = tmp_path / "models" / first["search"] / "verify"
    (beside / "pgd-1x1").rename(beside / "apgd")
    first, _ = verified(tmp_path, dataset)
    for attack in ("apgd", "pgd-1x1"):
        flags, result = beside / attack / "model.parquet", beside / attack / "model.json"
        table = pq.read_table(flags)
        pq.write_table(table.drop_columns([c for c in table.column_names if c == "track"]), flags)
        stored = json.loads(result.read_text())
        result.write_text(json.dumps({k: v for k, v in stored.items() if k != "hidden_tracks"}))
        assert "tracks" not in row_of(json.loads(result.read_text()), flags), "such files are read"
    again, said = verified(tmp_path, dataset)
    assert "it is tested already" in said
    assert again["rows"] == first["rows"] and (again["rows"][0]["tracks"] == 15) is (of_test is name)
    other = json.loads((beside / "apgd" / "model.json").read_text())
    assert row_of(other, beside / "apgd" / "model.parquet")["tracks"] == again["rows"][0]["tracks"]
    assert (stored_tracks(beside / "apgd" / "model.parquet") is None) is (of_test is unnamed)


# ---- a search's ------------------------------------------------------------------------------------------------------


@pytest.fixture
def searched():
    spec = SearchSpec(method="wat", trials=2)
    history, default = History(None), spec.search_space().default()
    finish(history, 0, (0, 300, 200), params=default)
    finish(history, 1, (0, 320, 240), params={**default, "beta": 1.5})
    no_search(history, (0, 320, 100))
    return spec, history


def test_gains_of_a_search_count_tracks(monkeypatch, tmp_path, searched):
    """Two classes of 20 images in 5 tracks; all models are alike, so the gain is 0 and its interval has some width."""
    plain_ = verified_alike(monkeypatch, tmp_path / "1", *searched)
    tracks = verified_alike(monkeypatch, tmp_path / "2", *searched, tracks=np.repeat(range(10), 4))
    assert sentences(tracks)[0].startswith("On 40 test images of 10 tracks trial")
    assert sentences(plain_)[0].startswith("On 40 test images trial")
    assert any("a track counts as one image" in line for line in sentences(tracks))
    assert not any("track" in line for line in sentences(plain_))
    for mine, alone in zip(tracks["gain"], plain_["gain"], strict=True):
        assert mine["difference"] == alone["difference"] == 0
        assert np.diff(mine["ci"]) > 1.3 * np.diff(alone["ci"])
    assert "tracks" not in plain_["rows"][0] and tracks["rows"][0]["tracks"] == 10
    hidden = verified_alike(monkeypatch, tmp_path / "3", *searched, hidden_tracks=True)
    assert any("nothing says which test images are of one track" in line for line in sentences(hidden))
    assert [{**g, "row": 0} for g in hidden["gain"]] == [{**g, "row": 0} for g in plain_["gain"]]


@pytest.mark.parametrize("said, found", [({"tracks": np.repeat([0, 1], 2)}, 2), ({"hidden_tracks": True}, None)])
def test_an_export_takes_them_over(monkeypatch, tmp_path, said, found):
    monkeypatch.setattr("trainables.verification_run.fingerprint", lambda folder: "x")
    job = Job(0, TrialConfig("at", folder="f"), tmp_path / "verify" / "apgd" / "0")
    measured = {
        **{"labels": np.array([0, 0, 1, 1]), "broken_by": np.array([-1, 0, -1, -1]), "alarms": [], "epoch": 1},
        **{"classes": ["a", "b"], "train_counts": [30, 3], "threat": "linf", "eps": 0.1, "search_steps": 2},
        **{"device": "cpu", "seconds": 1.0, "checkpoint": "x", "versions": {}, "offsets": NONE.to_dict(), "data": "d"},
        "stages": [{"name": "clean", "tried": 4, "broken": 1, "seconds": 1.0}],
    }
    store(job, "apgd", {"result": {**measured, **said}})
    (metrics,) = _test_metrics(tmp_path, job)
    assert (metrics["images"], metrics["tracks"]) == (4, found)
    assert metrics["ci_per_class"]["b"] == wilson(*((1, 1) if found else (2, 2)))
    store(job, "apgd", {"result": measured})
    (metrics,) = _test_metrics(tmp_path, job)
    assert not {"images", "tracks"} & metrics.keys()


def test_a_model_card_says_it():
    values = {"robust_acc": 0.5, "worst_class_robust_acc": 0.1, "clean_acc": 0.9}
    row = {"split": "test", "attack": "a", "eps": 0.1, **values}

    def card(**more):
        return " ".join(card_markdown({**ABOUT, "metrics": [{**row, **more}]}).split())

    assert "In intervals on test a track counts as one image" in card(images=20, tracks=5)
    assert "nothing says which test images are of one track" in card(images=20, tracks=None)
    assert "track" not in card()
