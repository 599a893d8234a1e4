"""Verification: attacks on models whose robustness is known, intervals by simulation, the command on a real search."""

import json
import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from tests.conftest import tuner, tuner_here
from tests.histories import run_of
from tests.test_references import finish
from tests.verifying import without_ray
from trainables.apgd import apgd
from trainables.data import DataSpec, Split, open_test
from trainables.model_io import load_trial
from trainables.offsets import NONE, Offsets
from trainables.square import mountain_and_valley, square
from trainables.threat_model import L2, LInf
from trainables.verification import Cascade
from tuner.errors import UsageError
from tuner.home import Home
from tuner.results.history import History
from tuner.results.pareto import row_label
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.verification import verify as module
from tuner.verification.export import _test_metrics
from tuner.verification.gain import METRICS
from tuner.verification.intervals import class_mean, wilson, worst_class
from tuner.verification.job import Job
from tuner.verification.rows import chosen
from tuner.verification.summary import row_of, summary
from tuner.verification.text import cells, sentences
from tuner.verification.verify import make_jobs, parse_attack, store, stored, verify_search

# ---- the attacks ----------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Logits W x + b: an image is robust exactly if z_y - z_t > eps * |w_y - w_t| for every other class t, where the
    length is the dual norm's: |.|_1 in L-infinity, |.|_2 in L2."""

    def __init__(self, classes, scale=1.0):
        super().__init__()
        self.head = nn.Linear(16, classes)
        nn.init.normal_(self.head.weight)
        self.head.bias.data = -self.head.weight.data.sum(1) / 2  # grey is on every border
        self.scale = scale

    def forward(self, x):
        return self.scale * self.head(x.flatten(1))


def linear_case(classes, eps, n=200, scale=1.0, dual=1):
    torch.manual_seed(classes)
    model = Linear(classes, scale).eval()
    images = torch.randint(100, 156, (n, 1, 4, 4), dtype=torch.uint8)  # so far from 0 and 1 that clamping plays no part
    x = images.float() / 255
    y = model(x).argmax(1)
    y[::10] = (y[::10] + 1) % classes  # some are wrong to begin with
    z, w = model(x).detach() / scale, model.head.weight.detach()
    reach = z.gather(1, y[:, None]) - z - eps * (w[y][:, None] - w[None]).norm(dual, dim=2)
    reach.scatter_(1, y[:, None], torch.inf)
    return model, Split(images, torch.arange(n), y), reach.amin(1)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("attack", ["apgd", "pgd:20x2"])
@pytest.mark.parametrize("threat, eps, dual", [(LInf, 0.005, 1), (L2, 0.015, 2)])
def test_flags_are_exact_on_linear_models(classes, attack, threat, eps, dual):
    """Steps of either norm on a linear two-class model are optimal; with more classes the targeted attack is."""
    if attack == "pgd:20x2" and classes > 2:
        pytest.skip("cross-entropy alone need not find the closest class")
    model, split, reach = linear_case(classes, eps, dual=dual)
    cascade = Cascade(model, split, attack, eps=eps, search_steps=4, threat=threat)
    stages = list(cascade.run())
    # on the border rounding decides; plain L2 steps of one length go round the ball and end a little before the optimum
    sure = reach.abs() > (2e-3 if attack == "pgd:20x2" and threat is L2 else 1e-4)
    assert torch.equal(cascade.robust[sure], (reach > 0)[sure]) and 0.1 < cascade.robust.float().mean() < 0.9
    assert stages[0].name == "clean" and stages[0].broken >= 20
    for before, after in zip(stages, stages[1:]):  # each attack runs on what stood before it
        assert after.tried == before.tried - before.broken
    assert cascade.alarms == []


@pytest.mark.slow
@pytest.mark.parametrize("threat, eps, dual", [(LInf, 0.005, 1), (L2, 0.015, 2)])
def test_the_official_attacks_are_of_the_norm(monkeypatch, threat, eps, dual):
    """Without FAB and Square, which take seconds and find no more on a linear model."""
    monkeypatch.setattr("trainables.verification.OFFICIAL", ("apgd-ce", "apgd-t"))
    model, split, reach = linear_case(4, eps, dual=dual)
    cascade = Cascade(model, split, "autoattack", eps=eps, search_steps=4, threat=threat)
    list(cascade.run())
    sure = reach.abs() > 1e-4
    assert torch.equal(cascade.robust[sure], (reach > 0)[sure]) and 0.1 < cascade.robust.float().mean() < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("threat, eps, dual", [(LInf, 0.005, 1), (L2, 0.015, 2)])
def test_targeted_attack_finds_what_cross_entropy_cannot(threat, eps, dual):
    """Logits times 1e4: saturated, cross-entropy has no gradient, margins do not care. An alarm says so."""
    model, split, reach = linear_case(10, eps, scale=1e4, dual=dual)
    cascade = Cascade(model, split, "apgd", eps=eps, search_steps=4, threat=threat)
    stages = {s.name: s for s in cascade.run()}
    sure = reach.abs() > 1e-4
    assert torch.equal(cascade.robust[sure], (reach > 0)[sure])
    assert stages["pgd-ce"].broken < stages["pgd-margin"].broken and "large gap" in cascade.alarms[0]


@pytest.mark.slow
@pytest.mark.parametrize("threat, eps, dual", [(LInf, 0.005, 1), (L2, 0.015, 2)])
def test_targeted_attack_alone_is_exact(threat, eps, dual):
    """Without the attacks before it. The closest class is often not the second likeliest, so all targets count."""
    model, split, reach = linear_case(10, eps, dual=dual)
    cascade = Cascade(model, split, "apgd", eps=eps, search_steps=4, threat=threat)
    x, y = split.batch(slice(None))
    sure = (model(x).argmax(1) == y) & (reach.abs() > 1e-4)
    assert torch.equal(cascade._apgd_t(x, y)[sure], (reach < 0)[sure])


def test_square_alone_comes_near():
    model, split, reach = linear_case(10, eps=0.005)
    x, y = split.batch(slice(None))
    sure = (model(x).argmax(1) == y) & (reach.abs() > 1e-4)
    found = square(model, x, y, eps=0.005, queries=1000, generator=torch.Generator().manual_seed(0))
    few = square(model, x, y, eps=0.005, queries=1, generator=torch.Generator().manual_seed(0))
    assert not found[sure & (reach > 0)].any(), "nothing outside the ball"
    breakable = sure & (reach < 0)
    assert found[breakable].float().mean() > 0.9 > 0.5 > few[breakable].float().mean()


def test_square_in_l2_finds_as_much_as_the_authors_code():
    """On a linear model of 8x8 pixels, where what can be broken is known. Theirs tries one place for all images."""
    from pyautoattack.square import SquareAttack

    g, eps = torch.Generator().manual_seed(3), 0.03
    weight = torch.randn(10, 64, generator=g)
    forward = lambda z: (z.flatten(1) - 0.5) @ weight.T  # noqa: E731
    x = 0.4 + 0.2 * torch.rand(300, 1, 8, 8, generator=g)
    z = forward(x)
    y = z.argmax(1)
    reach = z.gather(1, y[:, None]) - z - eps * (weight[y][:, None] - weight[None]).norm(dim=2)
    reach = reach.scatter(1, y[:, None], torch.inf).amin(1)
    found = square(forward, x, y, eps=eps, queries=100, generator=g, threat=L2)
    theirs = SquareAttack(forward, norm="L2", n_queries=100, eps=eps, device="cpu")
    theirs.init_hyperparam(x)
    torch.manual_seed(0)
    _, x_adv = theirs.attack_single_run(x, y)
    broken = int((forward(x_adv).argmax(1) != y).sum())
    assert not found[reach > 1e-4].any(), "nothing outside the ball"
    assert broken > 50 and found.sum() >= 0.95 * broken


@pytest.mark.parametrize("side", [1, 2, 3, 8, 11])
def test_the_l2_moves_of_square_are_the_authors(side):
    from pyautoattack.square import SquareAttack

    torch.manual_seed(side)
    theirs = SquareAttack(None, norm="L2", device="cpu").eta(side)
    ours = mountain_and_valley(side)
    assert any(torch.allclose(theirs, eta, rtol=0, atol=1e-6) for eta in (ours, ours.T))


def test_every_target_is_tried():
    """The likeliest wrong class is out of reach (its weights are the true class's), only the unlikeliest is near."""
    model = Linear(4)
    model.head.weight.data = torch.zeros(4, 16)
    model.head.weight.data[3] = 1.0
    model.head.bias.data = torch.tensor([0.0, -0.01, -0.02, -8.05])
    split = Split(torch.full((5, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(5), torch.zeros(5, dtype=torch.int64))
    cascade = Cascade(model, split, "apgd", eps=0.01, search_steps=4)
    assert cascade._apgd_t(*split.batch(slice(None))).all()


class Steps(nn.Module):
    """A staircase in front of the model: no gradient anywhere, so only a black box gets through."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x + ((x * 64).round() / 64 - x).detach() - x + x.detach())


@pytest.mark.slow
def test_masked_gradients_raise_the_alarm():
    model, split, _ = linear_case(10, eps=0.05)
    cascade = Cascade(Steps(model), split, "apgd", eps=0.05, search_steps=4)
    stages = {s.name: s for s in cascade.run()}
    assert stages["square"].broken > 5 and any("masked" in a and "Square" in a for a in cascade.alarms)


def test_a_weak_attack_that_beats_a_strong_one_raises_the_alarm(monkeypatch):
    nothing = lambda self, x, y: torch.zeros(len(y), dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(Cascade, "_apgd_ce", nothing)
    monkeypatch.setattr(Cascade, "_apgd_t", nothing)
    model, split, _ = linear_case(10, eps=0.005)
    cascade = Cascade(model, split, "apgd", eps=0.005, search_steps=4)
    list(cascade.run())
    assert any("weaker attack beats a stronger one" in a for a in cascade.alarms)


def test_attacks_stay_in_the_ball_and_in_the_pixel_range():
    torch.manual_seed(0)
    model, seen = Linear(10), []

    def forward(x):
        seen.append(x.detach())
        return model(x)

    x, y = torch.rand(8, 1, 4, 4).round(), torch.arange(8)
    apgd(forward, x, y, nn.CrossEntropyLoss(reduction="none"), eps=0.1, steps=10, x_start=x + 0.1)
    for images in seen:
        assert (images - x).abs().max() <= 0.1 + 1e-6 and images.min() >= 0 and images.max() <= 1
    seen.clear()
    model.head.weight.data.zero_()  # never broken: every query sees all images
    model.head.bias.data.copy_(torch.full((10,), -1.0))
    square(lambda z: forward(z).scatter(1, y[:, None], 1.0), x, y, eps=0.1, queries=30)
    assert len(seen) == 31
    for images in seen:
        assert (images - x).abs().max() <= 0.1 + 1e-6 and images.min() >= 0 and images.max() <= 1


def test_attack_names(monkeypatch):
    assert [parse_attack(a) for a in ("apgd", "pgd:100x10")] == ["apgd", "pgd:100x10"]
    for wrong in ("pgd", "pgd:0x1", "pgd:10", "fgsm", "pgd:10x", ""):
        with pytest.raises(UsageError, match=f"'{wrong}'.*autoattack"):
            parse_attack(wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pyautoattack"):
        parse_attack("autoattack")


# ---- how sure -------------------------------------------------------------------------------------------------------


def test_wilson_intervals_by_hand():
    """Newcombe 1998, table I: 81/263 and 15/148; 0 of n reaches z^2 / (n + z^2)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 36) == pytest.approx((0, 1.96**2 / (36 + 1.96**2)), abs=1e-4) and wilson(36, 36)[1] == 1


def test_interval_of_a_weighted_mean_by_hand():
    """16 of 100 and 45 of 50, weighted 3 to 1: mean 0.12 + 0.225; Wilson centres (16 + z^2 / 2) / (100 + z^2) = 0.17258
    and (45 + z^2 / 2) / (50 + z^2) = 0.87146. Variance 0.75^2 * 0.17258 * 0.82742 / 100 + 0.25^2 * 0.87146 * 0.12854 /
    50 = 8.0322e-4 + 1.4002e-4, so half a width is 1.95996 * 0.030712 = 0.06019."""
    right, count = np.array([16, 45]), np.array([100, 50])
    assert class_mean(right, count, np.array([300, 100])) == pytest.approx((0.28481, 0.40519), abs=2e-5)
    assert class_mean(right, count, np.array([7, 7])) == class_mean(right, count)


@pytest.mark.slow
@pytest.mark.parametrize(
    "p, least, gone",
    [
        (np.linspace(0.4, 0.6, 10), 0.9, 0.5),
        (np.linspace(0.2, 0.8, 10), 0.9, 0.5),
        (np.full(10, 0.5), 0.7, 0.3),
        (np.array([0.02] + [0.5] * 9), 0.9, None),
    ],
)
def test_worst_class_interval_covers_and_the_correction_takes_bias_away(p, least, gone):
    """Simulated test sets; ``gone``: the share of the bias that the correction must remove."""
    rng, count = np.random.default_rng(0), np.full(10, 36)
    right = rng.binomial(36, p, size=(150, 10))
    found = [worst_class(r, count, seed=i) for i, r in enumerate(right)]
    assert np.mean([low <= p.min() <= high for _, (low, high) in found]) >= least
    bias, corrected = np.mean(right.min(1) / 36 - p.min()), np.mean([c for c, _ in found]) - p.min()
    assert gone is None or abs(corrected) < (1 - gone) * abs(bias)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verified(finished):
    """(result JSON, home, stderr) of one verification through the command line, with one retrained seed."""
    _, home, _ = finished
    done = tuner("verify", "first", "--seeds", 1, "--most", 2, "--home", home, "--json", fresh=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), home, done.stderr


def test_json_has_what_scripts_rely_on(verified, finished):
    result, home, _ = verified
    assert {"search": "first", "split": "test", "attack": "apgd"}.items() <= result.items()
    on_front = [row_label(r) for r in finished[0]["front"]]
    tested = [r["label"] for r in result["rows"] if r["role"] == "front"]
    assert len(tested) == min(2, len(on_front)) and sorted([*tested, *result["left_out"]]) == sorted(on_front)
    roles = {role for r in result["rows"] for role in (r["role"], *r["also"])}
    assert roles == {"front", "paper", "no_search"} and len({r["label"] for r in result["rows"]}) == len(result["rows"])
    history = History(home / "searches" / "first")
    for row in result["rows"]:
        assert {"trial", "robust_acc", "worst_class_robust_acc", "clean_acc", "ci", "per_class"} <= set(row)
        robust = [c["robust_acc"] for c in row["per_class"].values()]
        assert row["robust_acc"] == pytest.approx(np.mean(robust)) and row["worst_class_robust_acc"] == min(robust)
        assert row["clean_acc"] == pytest.approx(np.mean([c["clean_acc"] for c in row["per_class"].values()]))
        # the 448 training images of digits exp:10, by class
        trained = dict(zip("0123456789", [111, 85, 66, 51, 39, 30, 23, 18, 14, 11]))
        natural = sum(n * row["per_class"][c]["robust_acc"] for c, n in trained.items()) / 448
        assert row["natural_robust_acc"] == pytest.approx(natural) and {"nsd", "few_robust_acc"} <= set(row)
        for name in ("natural_robust_acc", "robust_acc", "worst_class_robust_acc", "clean_acc"):
            low, high = row["ci"][name]
            assert 0 <= low <= row[name] <= high <= 1 and low < high
        assert sum(c["images"] for c in row["per_class"].values()) == row["images"] == 359
        val = next(m for o, m in history.record(row["trial"]).points if o.to_dict() == row["offsets"])
        assert row["val"]["robust_acc"] == val["robust_acc"] and row["robust_acc"] < row["clean_acc"]
        assert row["seeds"]["seeds"] == [1] and len(row["seeds"]["robust_acc"]["values"]) == 1
        again = row["seeds"]["robust_acc"]
        assert again["values"][0] != row["robust_acc"] and again["std"] is None
    assert set(result["front"]) | set(result["fell_off"]) == set(tested)


def test_gains_are_over_the_best_reference_on_val(verified, finished):
    """Against the flags on disk, and the reference that the search's own JSON names."""
    result, _, _ = verified
    rows = {r["label"]: r for r in result["rows"]}
    curve = finished[0]["no_search"]
    best = row_label(max(curve, key=lambda r: sum(r[n] for n in result["objectives"])))
    against = [g for g in result["gain"] if g["over"] == "no_search"]
    assert {g["reference"] for g in against} == {best} and {row_label(curve[0]), best} <= set(rows)
    assert {(g["row"], g["metric"]) for g in against} == {
        (label, metric) for label, r in rows.items() if r["role"] == "front" for metric in METRICS
    }
    for gain in result["gain"]:
        row, reference, name = rows[gain["row"]], rows[gain["reference"]], gain["metric"]
        assert gain["difference"] == pytest.approx(row[name] - reference[name], abs=1e-9)
        low, high = gain["ci"]
        assert low <= gain["difference"] <= high or name == "worst_class_robust_acc"
        said = {"better": low > 0, "worse": high < 0, "not distinguishable": low <= 0 <= high}
        assert [word for word, true in said.items() if true] == [gain["verdict"]]
        (first,), (second,) = (r["seeds"][name]["values"] for r in (row, reference))
        expected = {"seeds": [1], "difference": pytest.approx(first - second), "ci": None}
        assert gain["seeds"] == {**expected, "verdict": "not distinguishable"}
    first = sentences(result)[0]
    assert first.startswith(f"On 359 test images {rows[result['subject']['label']]['name']}, the knee")
    assert "no search" in first and "95 % intervals" in first


def test_offsets_shift_what_is_tested(finished, wide_front, tmp_path):
    """A row with offsets, by hand: the plain model's logits plus its offsets give its clean flags."""
    home = Home(copied(finished[1], tmp_path))
    with without_ray():
        result = verify_search("first", home, pick="1@1", attack="pgd:1x1")
    row = result["rows"][0]
    assert (row["trial"], row["offsets"]["tau"]) == (1, 1)
    model, _ = load_trial(home.search("first") / "trials" / "1", home.root)
    x, y = open_test(DataSpec("digits"), home.root).batch(slice(None))
    with torch.no_grad():
        right = (model(x) + torch.tensor(row["offsets"]["values"])).argmax(1) == y
        plain = model(x).argmax(1) == y
    flags = pq.read_table(row["flags"])["clean"].to_numpy()
    assert (right.numpy() != flags).sum() <= 1 < (plain.numpy() != flags).sum()
    assert Path(row["flags"]).name == f"{row['label']}.parquet" and row["label"] == "1@1"


def test_flags_report_and_table(verified):
    result, home, stderr = verified
    folder = home / "searches" / "first"
    for row in result["rows"]:
        flags = pq.read_table(row["flags"]).to_pydict()
        assert flags["index"] == list(range(359))
        assert set(flags["broken_by"]) <= {"", *(s["name"] for s in row["stages"])}
        assert [b == "" for b in flags["broken_by"]] == flags["robust"]
        assert [b != "clean" for b in flags["broken_by"]] == flags["clean"]
        assert flags["label"] == open_test(DataSpec("digits"), home).labels.tolist()
    table = pq.read_table(folder / "verified.parquet").to_pydict()
    assert {"robust_acc", "worst_class_robust_acc_low", "natural_robust_acc_high", "robust_acc/0"} <= set(table)
    assert sorted(zip(table["trial"], table["tau"], table["retrained"])) == sorted(
        (r["trial"], r["offsets"]["tau"], again) for r in result["rows"] for again in (False, True)
    )
    page = (folder / "verified.html").read_text()
    assert not re.search("@@(TITLE|LINE|BODY|SENTENCES|TABLE|NOTE|DATA|SCRIPT|PLOTLY)@@", page)
    assert f'"id": "{result["rows"][0]["label"]}"' in page and "Gains on the same images" in page
    assert "apgd-t" in stderr and "done)" in stderr and "\x1b[" not in stderr
    roles = ", ".join(role for _, role, *_ in cells(result)[1])
    assert "default setting" in roles and "paper" not in roles, "none of SRAT's values is published"


def test_mlflow_has_the_test_metrics(verified, finished):
    result, home, _ = verified
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    parent = finished[0]["mlflow"]["run_id"]
    assert {"verified.html", "verified.parquet", "verified.json"} <= {f.path for f in client.list_artifacts(parent)}
    experiment = client.get_run(parent).info.experiment_id
    for row in result["rows"]:
        query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`tuner.trial` = '{row['trial']}'"
        (run,) = client.search_runs([experiment], query)
        tau = row["offsets"]["tau"]
        split = f"test-tau-{tau:g}" if tau else "test"
        assert run.data.metrics[f"{split}/robust_acc"] == pytest.approx(row["robust_acc"])
        assert run.data.metrics[f"{split}/natural_robust_acc"] == pytest.approx(row["natural_robust_acc"])
        assert run.data.metrics[f"{split}/robust_acc/3"] == pytest.approx(row["per_class"]["3"]["robust_acc"])
        assert row["role"] in run.data.tags["tuner.test_role"]
        if not tau:
            assert run.data.metrics["robust_acc"] == pytest.approx(row["val"]["robust_acc"])  # of val, untouched
        assert run.data.tags["tuner.test_attack"] == "apgd" and run.info.status == "FINISHED"


def copied(home, tmp_path):
    """A home of one's own with the same search."""
    shutil.copytree(home / "searches", tmp_path / "searches")
    (tmp_path / "datasets").symlink_to(home / "datasets")
    return tmp_path


def test_what_is_done_is_skipped_and_what_is_lost_is_done_again(verified, tmp_path, monkeypatch):
    result, home, _ = verified
    home, todo, said = Home(copied(home, tmp_path)), [], []
    monkeypatch.setattr(module, "_to_mlflow", lambda *args: None)

    def run(jobs, spec, attack, say):
        todo.extend(jobs)
        for job in jobs:
            store(job, attack, {"failed": "only a test"} if job.seed else saved[job.key])

    monkeypatch.setattr(module, "run_jobs", run)
    found = verify_search("first", home, seeds=1, most=2, say=said.append)
    assert found["rows"][0]["robust_acc"] == result["rows"][0]["robust_acc"]
    assert todo == [] and "done already" in said[0]
    folder, (first, *_) = tmp_path / "searches" / "first" / "verify" / "apgd", result["rows"]
    trial, label, key = first["trial"], first["label"], (first["trial"], first["offsets"]["tau"])
    found = json.loads((folder / f"{label}.json").read_text())
    flags = pq.read_table(folder / f"{label}.parquet").to_pydict()
    names = [s["name"] for s in found["stages"]]
    saved = {
        key: {
            "result": {
                **found,
                "labels": np.array(flags["label"]),
                "broken_by": np.array([names.index(b) if b else -1 for b in flags["broken_by"]]),
            }
        }
    }
    (folder / f"{label}.json").unlink()  # killed before it was whole
    shutil.rmtree(tmp_path / "searches" / "first" / "verify" / "seeds" / str(trial))  # a retrained model was lost
    again = verify_search("first", home, seeds=1, most=2)
    lost = [(r["label"], 1) for r in result["rows"] if r["trial"] == trial]  # all that this model was tested with
    assert sorted((job.path.name.partition("-seed")[0], job.seed or 0) for job in todo) == sorted([(label, 0), *lost])
    row = again["rows"][0]
    assert json.loads(json.dumps(row["per_class"])) == result["rows"][0]["per_class"]
    assert row["seeds"]["failed"] == {"1": "only a test"} and any("seed 1 failed" in s for s in sentences(again))


def test_what_was_tested_on_other_images_is_tested_again(tmp_path, monkeypatch):
    """Without data here, what is stored is shown."""
    home, todo, asked, here = Home(tmp_path), [], [], ["0" * 64]
    home.search("s").mkdir(parents=True)
    (home.search("s") / "spec.yaml").write_text(SearchSpec(method="wat", trials=1, name="s").to_stored())
    finish(History(home.search("s")), 0, (0, 300, 200), params={})
    measured = {
        **{"labels": np.array([0, 0, 1, 1]), "broken_by": np.array([-1, 0, -1, -1]), "alarms": [], "epoch": 1},
        **{"classes": ["a", "b"], "train_counts": [30, 3], "threat": "linf", "eps": 0.1, "search_steps": 2},
        **{"device": "cpu", "seconds": 1.0, "checkpoint": "x", "versions": {}, "offsets": NONE.to_dict()},
        "stages": [{"name": "clean", "tried": 4, "broken": 1, "seconds": 1.0}],
    }

    def run(jobs, spec, attack, say):
        todo.extend(job.label for job in jobs)
        asked.extend(jobs)
        for job in jobs:
            store(job, attack, {"result": {**measured, "data": here[0]}})

    for name, value in (("run_jobs", run), ("check_checkpoint", lambda *_: None), ("_to_mlflow", lambda *_: None)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "test_data", lambda config: here[0])
    monkeypatch.setattr("trainables.verification_run.fingerprint", lambda folder: "x")
    (home.search("s") / "images").write_text("of another training set")
    verify_search("s", home, attack="pgd:2x1")
    todo.clear()
    for data, tested in (("0" * 64, 1), ("0" * 64, 1), ("1" * 64, 2), ("1" * 64, 2), (None, 2)):
        here[0] = data
        assert verify_search("s", home, attack="pgd:1x1")["rows"][0]["clean_acc"] == 0.75
        assert len(todo) == tested, data
    table = pq.read_table(home.search("s") / "verified.parquet")
    assert table["attack"].to_pylist() == ["pgd:1x1"], "the images of the other attack are not there any more"
    assert [m["attack"] for m in _test_metrics(home.search("s"), asked[-1])] == ["pgd:1x1"], "nor in a model card"
    with pytest.raises(UsageError, match="the training images of 'digits' are not those with which search 's' began"):
        verify_search("s", home, attack="pgd:1x1", seeds=1)
    (home.search("s") / "images").unlink()
    here[0] = "1" * 64
    assert verify_search("s", home, attack="pgd:1x1", seeds=1)["rows"][0]["seeds"]["seeds"] == [1]


@pytest.mark.long
def test_official_class_by_hand_gives_the_same_flags(finished):
    """`--attack autoattack` against pyautoattack as its documentation uses it."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    result, home, _ = finished
    trial = home / "searches" / "first" / "trials" / str(result["front"][0]["trial"])
    model, _ = load_trial(trial, home)
    whole = open_test(DataSpec("digits"), home)
    split = Split(whole.base, whole.index[:24], whole.labels[:24])
    cascade = Cascade(model, split, "autoattack", eps=0.1, search_steps=4)
    assert [s.name for s in cascade.run()] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    x, y = split.batch(slice(None))
    official = AutoAttack(model, norm="Linf", eps=0.1, version="standard", device="cpu", seed=0)
    _, y_adv = official.run_standard_evaluation(x, y)
    assert torch.equal(y_adv == y, cascade.robust) and 0 < cascade.robust.sum() < 24
    ours = Cascade(model, split, "apgd", eps=0.1, search_steps=4)
    list(ours.run())
    assert (ours.robust != cascade.robust).sum() <= 1


def test_what_falls_off_the_front_is_said(finished, tmp_path):
    """Two made-up models: the better one of val is worse on test in both objectives."""
    result, home, _ = finished
    run = load_search(Home(home), "first")
    spec, history = run.spec, run.history
    trials = list(history.trials)[:2]
    plain = {"role": "front", "also": [], "offsets": NONE.to_dict()}
    jobs = make_jobs(run, [{"trial": trial, **plain} for trial in trials], "apgd", 0)
    rows = []
    for job, robust in zip(jobs, (0.5, 0.25)):
        job = Job(job.trial, job.config, tmp_path / str(job.trial))
        labels = np.repeat([0, 1], 20)
        flags = np.where(np.arange(40) % 20 < 20 * robust, -1, 1)
        store(
            job,
            "apgd",
            {
                "result": {
                    "labels": labels,
                    "broken_by": flags,
                    "alarms": [],
                    "classes": ["0", "1"],
                    "train_counts": [30, 10],
                    "threat": "linf",
                    "eps": 0.1,
                    "epoch": 3,
                    "device": "cpu",
                    "stages": [{"name": "clean"}, {"name": "pgd"}],
                    "seconds": 1,
                    "offsets": NONE.to_dict(),
                    "checkpoint": "x",
                }
            },
        )
        rows.append((job, json.loads(job.path.with_suffix(".json").read_text())))
    found = summary(run_of(spec, history, Home(home), "first"), "apgd", rows)
    assert [r["robust_acc"] for r in found["rows"]] == [0.5, 0.25] and found["rows"][0]["clean_acc"] == 1
    assert found["front"] == [str(trials[0])] and found["fell_off"] == [str(trials[1])] and found["gain"] == []
    assert any(f"trial {trials[1]} fell off" in s for s in sentences(found)) and "No sign" in sentences(found)[-1]
    row = row_of(rows[0][1], Path(found["rows"][0]["flags"]))
    assert row["images"] == 40 and row["natural_robust_acc"] == 0.5


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, code, parts",
    [
        (["verify", "frist"], 2, ["'frist'", "did you mean first"]),
        (["verify", "first", "--pick", "99"], 2, ["'99'", "not on the front", "knee"]),
        (["verify", "first", "--attack", "fgsm"], 2, ["'fgsm'", "pgd:STEPSxRESTARTS"]),
        (["verify", "first", "--seeds", "-1"], 2, ["-1", "at least 0"]),
        (["verify", "first", "--most", "0"], 2, ["--most 0", "at least 1"]),
        (["verify", "first", "--pick", "0@9"], 2, ["'0@9'", "not on the front"]),
    ],
)
def test_wrong_input(finished, args, code, parts):
    done = tuner_here(*args, "--home", finished[1], "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == code and all(p in error for p in parts) and "\n" not in error


def test_a_search_without_a_finished_trial(finished, tmp_path):
    folder = tmp_path / "searches" / "first"
    folder.mkdir(parents=True)
    shutil.copy(finished[1] / "searches" / "first" / "spec.yaml", folder)
    with pytest.raises(UsageError, match="no finished full-budget trial.*tuner resume first"):
        verify_search("first", Home(tmp_path))


def test_a_server_that_refuses_does_not_lose_results(verified, monkeypatch):
    from tests.answers import refusing_server

    result, home, _ = verified
    said = []
    with refusing_server() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//user:secret@"))
        again = verify_search("first", Home(home), seeds=1, most=2, say=said.append)
    assert again["rows"][0]["robust_acc"] == result["rows"][0]["robust_acc"]
    assert "refuses the user or password" in said[-1] and "secret" not in said[-1] and os.linesep not in said[-1]


def test_stored_results_belong_to_a_checkpoint(verified, tmp_path):
    _, home, _ = verified
    home = Home(copied(home, tmp_path))
    run = load_search(home, "first")
    knee, *_ = chosen(run, "knee", 1)[0]
    (job,) = make_jobs(run, [knee], "apgd", 0)
    assert stored(job) is not None
    moved = replace(job, offsets=Offsets("classes", job.offsets.tau, (1.0,) * 10))
    assert stored(moved) is None, "of other offsets"
    path = Path(job.config.folder) / "checkpoint.pt"
    path.write_bytes(path.read_bytes() + b"\0")
    assert stored(job) is None
