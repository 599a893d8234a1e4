"""The leaderboard: figures from certificates' flags, sources and verdicts, and which rows are compared with which."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import tuner_here
from trainables.data.store import CLASS_NAME
from tuner.errors import UsageError
from tuner.home import Home
from tuner.sync.mirror import push
from tuner.verification.certificate import FORMAT, KIND, packed, packed_labels
from tuner.verification.leaderboard import cells, leaderboard
from tuner.verification.published import PUBLISHED

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
CLEAN = np.array([1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
ROBUST = np.array([1, 1, 1, 0, 1, 0, 1, 0], dtype=bool)  # 3 of 4, 1 of 2, 1 of 2


def certificate(name="mine", *, labels=True, robust=ROBUST, role="front", **spec):
    stored = {
        "kind": KIND,
        "format": FORMAT,
        "search": name,
        "spec": {"method": "dafa", "dataset": "cifar10", "imbalance": "none", "model": "resnet18", **spec},
        "attack": "apgd",
        "images": len(LABELS),
        "classes": ["a", "b", "c"],
        "data": "0" * 64,
        "rows": [
            {
                "trial": 3,
                "offsets": {"kind": "none", "tau": 0, "values": []},
                "role": role,
                "checkpoint": "1" * 64,
                "eps": 8 / 255,
                "search_steps": 10,
                "clean": packed(CLEAN),
                "robust": packed(robust),
            }
        ],
    }
    return stored | ({"labels": packed_labels(LABELS), "train_counts": [40, 20, 4]} if labels else {})


def put(folder, stored, here=True):
    """``here``: with the result of the only model beside it, as `tuner verify` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verified.json").write_text(json.dumps(stored))
    if here:
        (folder / "verify" / "apgd").mkdir(parents=True)
        (folder / "verify" / "apgd" / ("model.json" if stored["rows"][0]["role"] == "model" else "3.json")).touch()
    return folder / "verified.json"


def test_what_was_verified_in_another_home_is_found_in_the_storage(tmp_path):
    storage, there, here = str(tmp_path / "s"), Home(tmp_path / "a"), Home(tmp_path / "b", str(tmp_path / "s"))
    put(there.search("mine"), certificate())
    (there.search("mine") / "spec.yaml").write_text("method: dafa")
    push(storage, there, "mine")
    assert leaderboard(["mine"], here)["rows"][0]["verdict"] == "tested here"


def test_figures_are_those_of_the_flags(tmp_path):
    home = Home(tmp_path)
    put(home.search("mine"), certificate())
    rows = leaderboard(["mine"], home)["rows"]
    (mine,) = (row for row in rows if row["verdict"] == "tested here")
    assert mine["average"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3) and mine["worst"] == 0.5
    assert mine["clean"] == pytest.approx((1 + 1 + 0.5) / 3) and mine["few"] == 0.5
    assert mine["average_ci"][0] < mine["average"] < mine["average_ci"][1]
    assert (mine["name"], mine["eps"], mine["attack"], mine["images"]) == ("mine: dafa (trial 3)", "8/255", "apgd", 8)
    assert mine["network"] == "resnet18" and mine["threat"] == "linf" and mine["front"]


def test_published_rows_stand_beside_their_own_data_alone(tmp_path):
    home = Home(tmp_path)
    put(home.search("mine"), certificate())
    put(home.search("thinned"), certificate("thinned", imbalance="exp:50:all", dataset="parquet:/data/cifar10"))
    put(home.search("fewer"), certificate("fewer", imbalance="exp:50"))  # 4,700 images of the head, not all 5,000
    put(home.search("digits"), certificate("digits", dataset="digits"))
    assert {r["name"] for r in leaderboard(["mine"], home)["rows"]} >= {"TRADES", "DAFA", "IDBH"}
    assert "RobustLT" not in {r["name"] for r in leaderboard(["mine"], home)["rows"]}
    assert {r["name"] for r in leaderboard(["thinned"], home)["rows"]} >= {"RobustLT", "AT-BSL"}
    assert len(leaderboard(["digits"], home)["rows"]) == len(leaderboard(["fewer"], home)["rows"]) == 1
    stored = certificate("l2")
    stored["rows"][0]["threat"] = "l2"
    put(home.search("l2"), stored)
    assert len(leaderboard(["l2"], home)["rows"]) == 1
    assert len(leaderboard([], home)["rows"]) == len(PUBLISHED)


def test_other_images_of_the_same_data_are_a_group_of_their_own(tmp_path):
    home = Home(tmp_path)
    put(home.search("small"), certificate("small", image_size=16, test_split="test"))
    put(home.search("val"), certificate("val", image_size=0, test_split="validation"))
    put(home.search("whole"), certificate("whole", image_size=0, test_split="test"))
    assert [r["data"] for r in leaderboard(["small"], home)["rows"]] == ["cifar10 16x16"]
    assert [r["data"] for r in leaderboard(["val"], home)["rows"]] == ["cifar10 validation"]
    assert {r["data"] for r in leaderboard(["whole"], home)["rows"]} == {"cifar10"}
    assert len(leaderboard(["whole"], home)["rows"]) > 1, "beside what is published"


def test_names_are_as_long_as_data_have_them(tmp_path):
    """The certificate of a class's name that the data may have was damaged, and a long path was cut before its name."""
    stored = certificate("long", dataset=f"parquet:/{'scratch/' * 40}cifar10") | {
        "classes": ["a", "b", CLASS_NAME * "c"]
    }
    put(Home(tmp_path).search("long"), stored)
    assert {row["data"] for row in leaderboard(["long"], Home(tmp_path))["rows"]} == {"cifar10"}


def test_a_long_name_cuts_no_number(tmp_path):
    """Names without spaces took the room of the intervals, of which the table showed `(75.8..100.…`."""
    for name in ("model-f046fe84", "another-model-f046fe84"):
        put(tmp_path / "models" / name, certificate(name, role="model", dataset="own-data-of-mine"))
    done = tuner_here("leaderboard", "model-f046fe84", "another-model-f046fe84", "--home", tmp_path)
    assert done.returncode == 0 and "…" not in done.stdout


def test_a_received_certificate_without_training_images_is_damaged(tmp_path):
    file = put(tmp_path / "received", {**certificate("theirs"), "train_counts": [0, 0, 0]})
    with pytest.raises(UsageError, match="is damaged: ValueError 'a whole number'"):
        leaderboard([str(file)], Home(tmp_path))


def test_the_front_of_what_is_published_by_hand():
    """CFA, DAFA and both of FAAL's with more than DAFA's 30.53 in the worst class; (46.68, 30.10) is beaten by DAFA."""
    front = {(r["name"], round(100 * r["average"], 2)) for r in leaderboard([])["rows"] if r["front"]}
    assert front == {("CFA", 50.78), ("DAFA", 49.05), ("FAAL with AWP", 47.62), ("FAAL, 2 epochs", 45.51)}


def test_what_a_row_is_worth_is_said(tmp_path):
    home = Home(tmp_path)
    file = put(tmp_path / "received", certificate("theirs"))
    verdicts = {row["name"]: row["verdict"] for row in leaderboard([str(file)], home)["rows"]}
    assert verdicts["theirs: dafa (trial 3)"] == "sender's word"
    assert (verdicts["DAFA"], verdicts["IDBH"]) == ("published", "second-hand")
    put(home.root / "models" / "robust-1", certificate("robust-1", role="model"))
    first, *_ = leaderboard(["robust-1"], home)["rows"]
    assert (first["name"], first["verdict"]) == ("robust-1", "tested here")
    put(home.search("imported"), certificate("imported"), here=False)  # which has its sender's certificate
    rows = leaderboard(["imported"], home)["rows"]
    assert [row["verdict"] for row in rows if row["name"].startswith("imported")] == ["sender's word"]
    assert {row["source"] for row in leaderboard([], home)["rows"]} and all(row.source for row in PUBLISHED)


def test_a_certificate_of_an_earlier_version_has_its_average_alone(tmp_path):
    file = put(tmp_path / "old", certificate(labels=False))
    (row,) = (r for r in leaderboard([str(file)], Home(tmp_path))["rows"] if r["attack"])
    assert row["average"] == pytest.approx(5 / 8) and row["worst"] is None and not row["front"]


def test_wrong_names(tmp_path):
    for name, part in [
        ("nobody", "has no certificate"),
        ("../x", "is neither a file nor a name"),
        ("9" * 300, "is neither a file nor a name"),
    ]:
        with pytest.raises(UsageError, match=part):
            leaderboard([name], Home(tmp_path))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="is no certificate"):
        leaderboard([str(tmp_path / "x.json")], Home(tmp_path))


def test_the_command_and_its_page(tmp_path):
    file = put(tmp_path / "received", certificate("theirs", model="<b>net</b>"))
    done = tuner_here("leaderboard", file, "--home", tmp_path, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert all(part in done.stdout for part in ("on split test", "DAFA", "sender", "no verdict"))
    page = (tmp_path / "page.html").read_text()
    assert "<b>net</b>" not in page and "&lt;b&gt;net" in page and "second-hand" in page
    done = tuner_here("leaderboard", "--home", tmp_path, "--json")
    assert len(json.loads(done.stdout)) == len(PUBLISHED)
    assert tuner_here("leaderboard", "--home", tmp_path, "--html", tmp_path).returncode == 2
    header, rows = cells(leaderboard([]))
    assert all(len(row) == len(header) for row in rows)
