"""The command for a GPU at hand for minutes: all of it once, tiny, on the CPU; then resuming, limits, plan and page."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import call, check, claims, front, live, needs, nosearch, page
from benchmarks.gpu.__main__ import PARTS as NAMES
from benchmarks.gpu.ledger import Ledger, h100, ratios
from benchmarks.gpu.models import Models, chunk, left, plain
from benchmarks.gpu.setup import FULL, TINY
from benchmarks.methods_report import stored_runs
from trainables.data import Split

PARTS = {"check": check, "nosearch": nosearch, "front": front, "claims": claims, "live": live}
WITHOUT = (
    "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None; from benchmarks.gpu.__main__ import main; main()"
)


def setup_of(out, size=TINY, **changes):
    args = argparse.Namespace(tiny=size is TINY, set=[], epochs=None, out=out, resume_from=[], work=out / "work")
    return call.setup_of(argparse.Namespace(**{**vars(args), "data": None, "form": "at", **changes}), "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A whole call, without Ray and MLflow: its output folder and what it said."""
    out = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "--tiny", "--out", str(out)], capture_output=True, text=True, timeout=280
    )
    assert not done.returncode, done.stdout + done.stderr
    return out, done.stdout


# ---- all parts, once -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_parts_run_without_a_gpu(tiny):
    out, said = tiny
    rows = stored_runs(out / "gpu.jsonl")
    assert [said.count(f"{name}: done after") for name in PARTS] == [1] * 5 and tuple(PARTS) == NAMES
    assert tuple(call.PARTS) == NAMES
    assert {row["key"]["row"] for row in rows if row["key"]["part"] == "check"} == {
        "tests",
        "speed",
        "evaluation",
        "loop",
    }
    attacked = {(r["key"]["setting"], r["key"]["point"], r["key"]["attack"]) for r in rows if "chunk" in r["key"]}
    curves = [row for row in rows if row["key"].get("point") == "curve"]
    assert [row["key"]["setting"] for row in curves] == list(TINY.settings)
    for setting in TINY.settings:
        for point in nosearch.POINTS:
            assert {(setting, point, attack) for attack in nosearch.ATTACKS} <= attacked
    assert len(stored_runs(out / "methods.jsonl")) == 2 and len(stored_runs(out / "live.jsonl")) == 2
    for row in rows:
        if "chunk" in row["key"]:
            assert sum(row["count"]) == 6 and sum(row["robust"]) <= sum(row["clean"]) <= 6


@pytest.mark.slow
def test_a_front_is_of_all_methods_and_forks_from_the_reference(tiny):
    """The stem is the plain AT that `nosearch` has trained: the front's trials train their own epochs alone."""
    out, _ = tiny
    (search,) = [row for row in stored_runs(out / "gpu.jsonl") if row["key"].get("row") == "search"]
    assert {method for method, _, _ in search["trials"]} == set(FULL.methods)
    assert {state for _, state, _ in search["trials"]} <= {"finished", "previewed"}
    in_full = sum(full for _, _, full in search["trials"])
    epochs = [line for line in stored_runs(out / "times.jsonl") if (line["part"], line["kind"]) == ("front", "train")]
    assert in_full >= 6 and len(epochs) == in_full + TINY.trials - len(TINY.methods)  # of one epoch each, four previews


@pytest.mark.slow
def test_a_finished_call_leaves_nothing_to_do(tiny, tmp_path):
    out, _ = tiny
    assert {name: part.planned(setup_of(out)) for name, part in PARTS.items()} == dict.fromkeys(PARTS, [])
    later = setup_of(tmp_path, resume_from=[out], work=out / "work")
    assert {name: part.planned(later) for name, part in PARTS.items()} == dict.fromkeys(PARTS, [])
    assert nosearch.planned(setup_of(out, epochs=5))  # another length is another training


@pytest.mark.slow
def test_a_killed_call_goes_on_where_it_stopped(tiny, tmp_path):
    """Without its last rows, the last of them torn: only they are made again, and nothing is trained."""
    out = shutil.copytree(tiny[0], tmp_path / "out")
    whole = stored_runs(out / "gpu.jsonl")
    last = [row for row in whole if row["key"].get("attack") == "autoattack"][-1]
    assert last["key"]["part"] == "front"
    kept = [json.dumps(row) for row in whole if row != last]
    (out / "gpu.jsonl").write_text("\n".join([*kept, json.dumps(last)[:50]]))
    setup = setup_of(out)
    setup.ledger.part = "front"
    before = len(stored_runs(out / "times.jsonl"))
    assert front.planned(setup) == [("rest", 1), ("autoattack", 6)]
    front.run(setup)
    assert [line["kind"] for line in stored_runs(out / "times.jsonl")[before:]] == ["autoattack"]
    again = stored_runs(out / "gpu.jsonl")
    assert again[:-1] == [json.loads(row) for row in kept]
    unlike = {"stages"}  # they have seconds
    assert {k: v for k, v in again[-1].items() if k not in unlike} == {k: v for k, v in last.items() if k not in unlike}


@pytest.mark.slow
def test_a_front_whose_models_are_gone_stays_as_it_is(tiny, tmp_path):
    """Searched again it would be another one."""
    out = shutil.copytree(tiny[0], tmp_path / "out")
    rows = [row for row in stored_runs(out / "gpu.jsonl") if row["key"].get("attack") != "autoattack"]
    (out / "gpu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert front.unit(setup_of(out)) == 0
    shutil.rmtree(out / "work" / "lines")
    assert front.unit(setup_of(out)) is None
    assert nosearch.planned(setup_of(out))


@pytest.mark.slow
def test_tiny_rows_are_no_results(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(call, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="tiny"):
        call.collect([tiny[0]])
    assert not list(tmp_path.iterdir())


# ---- limits and folders ----------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_part_at_its_limit_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    class Endless:
        @staticmethod
        def run(setup):
            process = subprocess.Popen(["sleep", "60"])
            setup.ledger.add({"part": "endless"}, pid=process.pid)
            process.wait()

    monkeypatch.setitem(call.PARTS, "endless", (Endless, 1))
    monkeypatch.setattr(call.Setup, "open_data", lambda self: None)
    monkeypatch.setattr(call.Setup, "device", torch.device("cuda"))  # so that the child leaves its threads alone
    begin = time.monotonic()
    assert call.within(1.0, "endless", setup_of(tmp_path)) == ([], True)
    (row,) = stored_runs(tmp_path / "gpu.jsonl")
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until whoever has adopted it has taken note
            os.kill(row["pid"], 0)
            if "Z" in open(f"/proc/{row['pid']}/stat").read().rpartition(")")[2].split()[0]:
                raise ProcessLookupError
            time.sleep(0.05)


def test_rows_are_collected_once(tmp_path, monkeypatch):
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    monkeypatch.setattr(call, "RESULTS", results)
    monkeypatch.setattr(page, "RESULTS", results)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    ledger = Ledger(out, about(), part="check")
    ledger.add({"part": "nosearch", "setting": "none", "seed": 0, "point": "failed"}, failed="nan")
    ledger.took("data", 1, 3.0)
    for _ in range(2):
        call.collect([out])
    assert [len(stored_runs(results / name)) for name in ("gpu.jsonl", "gpu_times.jsonl")] == [1, 1]


def test_what_is_missing_is_said(monkeypatch):
    assert not needs.missing()
    monkeypatch.setattr(needs, "NEEDED", {"torch": "", "no_such_package": "for check"})
    assert needs.missing() == {"no_such_package": "for check"}
    with pytest.raises(SystemExit, match="there is no"):
        needs.install(SimpleNamespace(glob=lambda _: []), None)


# ---- the plan --------------------------------------------------------------------------------------------------------


def about(size=FULL, **changes):
    return {
        "size": size.name,
        "model": size.model,
        "epochs": size.epochs,
        "set": {},
        "device": "cpu",
        "torch": "0",
        "code": "0",
        **changes,
    }


def test_the_plan_is_arithmetic_from_what_was_measured(tmp_path):
    """By hand: 47,000 images at 0.95 of 7,169.5 a second; AutoAttack's 2 x (82 + 468 + 441) + 2,400 forward passes at
    33 times 647.6 a second; exp:50 is 4700, 3043, 1970, 1275, 826, 534, 346, 224, 145, 94."""
    setup = setup_of(tmp_path, FULL)
    assert setup.images("none") == 47_000 and setup.images("step:100") == 5 * 4700 + 5 * 47
    assert setup.images("exp:50") == 13_157
    assert setup.ledger.seconds([("train", 47_000)], "nosearch") == pytest.approx(6.90, abs=0.01)
    rate = next(r for r in json.loads((page.RESULTS / "attack_speed_h100.json").read_text()) if r["batch"] == 512)
    assert rate["variant"] == "naive" and h100(512)["train"] > 1.3 * h100()["train"]
    assert setup.ledger.seconds([("autoattack", 1000)], "front") == pytest.approx(1000 * 4382 / (33 * 647.6), rel=0.01)
    (begin, trained, _, curve, attacked) = nosearch.planned(setup)
    assert (
        curve == ("curve", 1000)
        and (begin, trained) == (("rest", 1), ("train", 30 * 47_000))
        and attacked == ("autoattack", 3 * 250)
    )


def test_claims_come_by_their_cost(tmp_path, monkeypatch):
    """LRAT and LSAT attack seven times as long. By hand: ten epochs of 0.4 x 47,000 images at 7.04 times the cost."""
    setup, stored = setup_of(tmp_path, FULL), []
    monkeypatch.setattr(Ledger, "stored", lambda self, name: stored)
    first = [run for run in claims.runs(setup) if run["seed"] == 0]
    assert [run["method"] for run in first[-2:]] == ["lrat", "lsat"] and first[0]["method"] == "srat"
    assert claims.amount(setup, first[-2]) == pytest.approx(10 * 0.4 * 47_000 * 7.0388, rel=1e-3)
    assert len(first) == 4 + 6 + 1 + 3 + 2 and claims.runs(setup)[: len(first)] == first
    stored += first[:4]
    assert claims.runs(setup)[:12] == first[4:]


def test_measured_rates_renew_the_plan(tmp_path):
    ledger = Ledger(tmp_path, about(), part="nosearch")
    ledger.took("train", 1000, 10.0)
    ledger.took("train", 1000, 30.0)
    first, second = stored_runs(tmp_path / "times.jsonl")
    assert first["planned"] == pytest.approx(1000 / h100()["train"], abs=0.01) and second["planned"] == 10.0
    again = Ledger(tmp_path, about(), part="front")
    assert again.seconds([("train", 500)], "front") == 10.0  # 2,000 in 40 s, of another part
    again.took("train", 100, 10.0)  # its pieces are shorter: each part learns its own rate
    assert again.seconds([("train", 500)], "front") == 50.0 and again.seconds([("train", 500)], "nosearch") == 10.0
    elsewhere = Ledger(tmp_path, about(device="another"))
    assert elsewhere.seconds([("train", 500)], "check") == pytest.approx(500 / h100()["train"])
    assert ratios([second, {**second, "seconds": 10.0}, {**first, "planned": 0.0}]) == {"nosearch": (20.0, 40.0)}


# ---- models ----------------------------------------------------------------------------------------------------------


def test_chunks_are_balanced_and_share_no_image():
    """Stored class by class, as CIFAR-10's files are."""
    labels = torch.arange(10).repeat_interleave(100)
    test = Split(torch.zeros(1000, 1, 1, 1), torch.arange(1000), labels)
    parts = [chunk(test, number, 50, 4) for number in range(4)]
    assert all(torch.bincount(part.labels).tolist() == [5] * 10 for part in parts)
    assert len(torch.cat([part.index for part in parts]).unique()) == 200
    assert torch.cat([chunk(test, n, 100, 10).index for n in range(10)]).sort().values.tolist() == list(range(1000))


def test_a_chunk_is_left_until_every_model_has_it(tmp_path):
    setup = setup_of(tmp_path, FULL)
    keys = nosearch.keys("none", 0)
    for number in range(4):
        assert left(setup, keys, ("autoattack",)) == [("autoattack", 750)]
        for key in keys[:2]:
            setup.ledger.add({**key, "attack": "autoattack", "chunk": number})
        assert left(setup, keys, ("autoattack",)) == [("autoattack", 250)]
        setup.ledger.add({**keys[2], "attack": "autoattack", "chunk": number})
    assert left(setup, keys, ("autoattack",)) == [] and nosearch.units(setup)[0] == ("exp:50", 0, "autoattack")


def test_a_training_that_diverges_is_a_row(tmp_path, monkeypatch):
    setup = setup_of(tmp_path, replace(TINY, epochs=2))
    setup.open_data()
    models = Models(setup)
    monkeypatch.setattr(models, "run", lambda stage: SimpleNamespace(failed="the loss is nan", curve=None))
    assert plain(models, setup.job("none", 0))[1].failed
    for _ in range(2):
        assert nosearch.targets(setup, models, "none", 0) == []
    (row,) = stored_runs(tmp_path / "gpu.jsonl")
    assert row["failed"] == "the loss is nan"


# ---- the page --------------------------------------------------------------------------------------------------------


def row(part, robust, point="plain", chunk=0, seed=0, setting="none", weights="a", **more):
    key = {"part": part, "setting": setting, "seed": seed, "point": point, "attack": "autoattack", "chunk": chunk}
    of_each = {"count": [10, 10], "clean": [10, 8], "robust": robust, "train_counts": [300, 100], "weights": weights}
    return {"key": key, **about(), **of_each, **more}


def test_a_page_without_rows_says_so():
    text = page.page([], [])
    assert text.count("No rows yet.") == 4 + 4 and "50.8 average and 27.6 worst class" in text and "33.8" in text


def test_a_page_adds_chunks_up():
    """By hand: 14 of 20 and 6 of 20; average 50, natural (3 x 70 + 30) / 4 = 60, worst 30, clean 90."""
    rows = [row("nosearch", [8, 2]), row("nosearch", [6, 4], chunk=1)]
    text = page.page(rows, [])
    (line,) = [line for line in text.splitlines() if line.startswith("| resnet18, 30 epochs | none | plain | 0")]
    cells = [cell.split()[0] for cell in line.strip("| ").split(" | ")[4:]]
    assert cells == ["40", "50.0", "60.0", "30.0", "90.0"]
    assert "(2 trainings)" not in text
    assert "40 (2 trainings)" in page.page([rows[0], {**rows[1], "weights": "b"}], [])


def test_a_page_has_the_curve_of_no_search():
    """By hand: (8 + 2) / 20 and 2 / 10; (6 + 4) / 20 and 4 / 10."""
    points = [{"tau": tau, "count": [10, 10], "robust": right} for tau, right in ((0, [8, 2]), (0.5, [6, 4]))]
    key = {"part": "nosearch", "setting": "none", "seed": 0, "point": "curve"}
    text = " ".join(page.page([{"key": key, **about(), "points": points, "steps": 50}], []).split())
    assert "20 images under PGD-50" in text and "tau 0: 50.0/20.0; tau 0.5: 50.0/40.0." in text


def test_the_picture_has_all_three(tmp_path):
    page.picture([row("front", [8, 2], method="srat"), row("nosearch", [6, 4])], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_goals_are_reached_by_one_model_in_both():
    """49 / 30.5 needs both in one model: 55 / 30 and 45 / 40 have each but one."""
    two = [
        {**row("front", r, point=p, method="srat"), "count": [100, 100]} for p, r in (("1", [80, 30]), ("2", [50, 40]))
    ]
    text = page.goals(two)
    assert "at least 50.8 average and 27.6 worst class | **yes**: 55.0 and 30.0" in text
    assert "at least 49.0 average and 30.5 worst class | no: 55.0 and 30.0" in text
    assert "an average of at least 33.8 | No rows yet." in text
    assert "33.8 | 45.0 on 200 images" in page.goals(
        [{**row("nosearch", [50, 40], setting="exp:50"), "count": [100, 100]}]
    )


def test_rows_of_different_trainings_are_not_one_model():
    rows = [row("nosearch", [8, 2]), {**row("nosearch", [6, 4], chunk=1), "epochs": 20}]
    assert [m.images for m in page.models(rows, "autoattack")] == [20, 20]


def test_seeds_have_a_mean():
    rows = [row("nosearch", [8, 2], seed=s) for s in (0, 1)]
    assert "- resnet18, 30 epochs, none, plain, 2 seeds: average 50.0 ± 0.0, worst class 20.0 ± 0.0" in page.page(
        rows, []
    )
