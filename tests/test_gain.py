"""What a front gains over its references: paired differences, which rows are tested, in whose name it is said."""

import numpy as np
import pytest

from tests.histories import run_of
from tests.test_references import finish, no_search
from trainables.offsets import NONE
from tuner.home import Home
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.spec.search_spec import SearchSpec
from tuner.verification import verify
from tuner.verification.gain import METRICS, _newcombe, _shrunk, over_seeds, paired, verdict
from tuner.verification.report import page
from tuner.verification.rows import chosen, spread
from tuner.verification.summary import summary
from tuner.verification.text import cells, sentences

TRAIN = [100, 50, 10]


def pairs(n, p_both, p_first, p_second, classes=3, seed=0):
    """(labels, first, second): ``n`` images of each class with given probabilities of the outcomes."""
    u = np.random.default_rng(seed).random(classes * n)
    first = u < p_both + p_first
    second = (u < p_both) | ((u >= p_both + p_first) & (u < p_both + p_first + p_second))
    return np.repeat(np.arange(classes), n), first, second


def test_differences_by_hand():
    """Two images of class 0, four of class 1, two of class 2."""
    labels = np.array([0, 0, 1, 1, 1, 1, 2, 2])
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0], dtype=bool)  # 1, 3/4, 1/2
    second = np.array([1, 0, 1, 0, 0, 0, 1, 1], dtype=bool)  # 1/2, 1/4, 1
    found = {name: difference for name, (difference, _) in paired(labels, first, second, TRAIN).items()}
    assert found["robust_acc"] == pytest.approx((0.5 + 0.5 - 0.5) / 3)
    assert found["natural_robust_acc"] == pytest.approx((100 * 0.5 + 50 * 0.5 - 10 * 0.5) / 160)
    assert found["worst_class_robust_acc"] == pytest.approx(0.5 - 0.25)
    assert set(found) == set(METRICS)


def test_average_intervals_are_those_of_paired_proportions():
    """Against the textbook variance of a paired difference, (p10 + p01 - (p10 - p01)^2) / n for each class."""
    n, p10, p01 = 400, 0.15, 0.05
    labels, first, second = pairs(n, 0.5, p10, p01)
    found = paired(labels, first, second, TRAIN)
    each = (p10 + p01 - (p10 - p01) ** 2) / n
    weights = np.array(TRAIN) / sum(TRAIN)
    for name, share in (("robust_acc", np.full(3, 1 / 3)), ("natural_robust_acc", weights)):
        difference, (low, high) = found[name]
        half = 1.96 * np.sqrt((share**2).sum() * each)
        assert (high - low) / 2 == pytest.approx(half, rel=0.12) and low < difference < high


def test_pairing_counts():
    """The same rates with the images of one model shuffled within classes: what they share is gone."""
    labels, first, second = pairs(300, 0.5, 0.1, 0.02)
    rng = np.random.default_rng(1)
    shuffled = np.concatenate([rng.permutation(second[labels == c]) for c in range(3)])
    alike, apart = (paired(labels, first, s, TRAIN) for s in (second, shuffled))
    for name in METRICS:
        assert alike[name][0] == pytest.approx(apart[name][0])
        width, wide = (f[name][1][1] - f[name][1][0] for f in (alike, apart))
        assert width < 0.75 * wide


def test_the_same_model_is_not_distinguishable():
    labels, first, _ = pairs(36, 0.6, 0.1, 0.0)
    for difference, (low, high) in paired(labels, first, first, TRAIN).values():
        assert difference == 0 and low <= 0 <= high and verdict((low, high)) == "not distinguishable"


def test_few_images_do_not_make_sure():
    """One image a class, right under one model alone: nothing varies in the sample, and nothing is known."""
    labels = np.arange(3)
    found = paired(labels, np.ones(3, bool), np.zeros(3, bool), TRAIN)
    assert found["worst_class_robust_acc"][1][0] < 0 and verdict(found["worst_class_robust_acc"][1]) != "better"


def test_score_interval_of_newcombe():
    """Newcombe 1998 (Statistics in Medicine 17:873), table II: 56/70 - 48/80, method 10."""
    cells = np.array([[0, 14, 0, 56], [0, 0, 32, 48]])  # neither, second, first, both: lowest are class 0 and class 1
    rates = np.array([[56 / 70, 1.0], [1.0, 48 / 80]])
    assert _newcombe(cells, rates) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_spread_that_chance_explains_is_taken_out():
    """0.4 and 0.6 of 25: chance gives a variance of 0.24 / 25 of the 0.02 that is there. Equal ones stay equal."""
    kept = (1 - 0.0096 / 0.02) ** 0.5
    assert _shrunk(np.array([0.4, 0.6]), np.array([25, 25])) == pytest.approx([0.5 - 0.1 * kept, 0.5 + 0.1 * kept])
    assert _shrunk(np.array([0.48, 0.52]), np.array([25, 25])) == pytest.approx([0.5, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize(
    "p, q, least",
    [
        (np.linspace(0.2, 0.8, 10), np.linspace(0.2, 0.8, 10), 0.92),
        (np.full(10, 0.5), np.full(10, 0.5), 0.92),
        (np.linspace(0.3, 0.7, 10), np.linspace(0.2, 0.8, 10), 0.92),
        (np.full(10, 0.5), np.linspace(0.3, 0.8, 10), 0.8),
    ],
)
def test_worst_class_intervals_cover(p, q, least):
    rng, labels, hits = np.random.default_rng(0), np.repeat(np.arange(10), 36), 0
    for seed in range(60):
        u = rng.random(360)
        v = np.where(rng.random(360) < 0.8, u, rng.random(360))
        _, (low, high) = paired(labels, u < p[labels], v < q[labels], [10] * 10, seed=seed)["worst_class_robust_acc"]
        hits += low <= p.min() - q.min() <= high
    assert hits / 60 >= least


def test_over_seeds_by_hand():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, t of 2 degrees 4.302653."""
    found = over_seeds({1: 0.5, 2: 0.6, 3: 0.7, 9: 0.0}, {1: 0.4, 2: 0.4, 3: 0.4, 8: 0.0})
    half = 4.302653 * 0.1 / 3**0.5
    assert found["seeds"] == [1, 2, 3] and found["difference"] == pytest.approx(0.2)
    assert found["ci"] == pytest.approx((0.2 - half, 0.2 + half)) and found["verdict"] == "not distinguishable"
    assert over_seeds({1: 0.5}, {1: 0.4})["ci"] is None and over_seeds({1: 0.5}, {2: 0.4}) is None


def test_rows_are_spread_along_the_front():
    """A quarter circle of 41 points: the knee is the middle, the ends are the ends, the others lie between them."""
    angles = np.linspace(0, np.pi / 2, 41)
    rows = [{"trial": i, "offsets": {"tau": 0}, "a": np.sin(t), "b": np.cos(t)} for i, t in enumerate(angles)]
    front = Front.of(rows, ("a", "b"))
    assert [row_label(r) for r in spread(front, 5)] == ["40", "30", "20", "10", "0"]
    assert [row_label(r) for r in spread(front, 1)] == ["20"]
    assert len(spread(front, 100)) == 41


# ---- over which reference --------------------------------------------------------------------------------------------


def verified_alike(monkeypatch, tmp_path, spec, history, rates=(0.5, 0.25), eps=lambda job: 0.1, **said):
    """The summary of a verification of all points in which every model has these robust accuracies. ``said``: what
    else the results say."""
    monkeypatch.setattr(verify, "check_checkpoint", lambda config, record: None)
    run = run_of(spec, history, Home(tmp_path), "s")
    rows, left = chosen(run, "all", 1)
    done = []
    for job in verify.make_jobs(run, rows, "pgd:2x1", 0):
        measured = {
            "labels": np.repeat(range(len(rates)), 20),
            "broken_by": np.concatenate([np.where(np.arange(20) < 20 * rate, -1, 1) for rate in rates]),
            **{"classes": ["a", "b", "c"], "train_counts": [30, 3, 3], "alarms": [], "offsets": job.offsets.to_dict()},
            **{"threat": "linf", "eps": eps(job), "epoch": 1, "device": "cpu", "seconds": 1, "checkpoint": "x"},
            "stages": [{"name": "clean"}, {"name": "pgd"}],
            **said,
        }
        verify.store(job, "pgd:2x1", {"result": measured})
        done.append((job, {**measured, "trial": job.trial, "seed": 0}))
    return summary(run, "pgd:2x1", done, left)


def test_a_reference_is_the_one_with_which_the_search_compares(monkeypatch, tmp_path):
    """No search is better in both without offsets, where it violates the constraint, and under a stricter one with all
    of them; the default setting's first seed is best without offsets, its mean over two with them."""
    spec = SearchSpec(method="wat", trials=3, seeds=2, constraint=("robust_acc_gap<=0.5",))
    history, default = History(None), spec.search_space().default()
    finish(history, 0, (0, 300, 200), (1.0, 290, 190), params=default)
    finish(history, 1, (0, 320, 240), params={**default, "beta": 1.5})
    no_search(history, (0, 320, 100), (1.0, 250, 60))
    finish(history, 2, (0, 200, 100), (1.0, 290, 190), params=default, of=0, seed=1)
    found = verified_alike(monkeypatch, tmp_path / "1", spec, history)
    assert {row["label"] for row in found["rows"] if row.get("mean_of") == [0, 1]} == {"0", "0@1"}
    (said,) = (line for line in sentences(found) if line.startswith("Figures on val are of the models tested"))
    assert said.endswith("the search itself shows means over several of trial 0, trial 0@1.")
    assert {(g["row"], g["over"], g["reference"]) for g in found["gain"]} == {
        ("1", "no_search", "no_search@1"),
        ("1", "paper", "0@1"),
    }
    strict = SearchSpec(method="wat", trials=3, constraint=("robust_acc_gap<=0.4",))
    found = verified_alike(monkeypatch, tmp_path / "2", strict, history)
    assert {g["over"] for g in found["gain"]} == {"paper"}
    assert "Nothing is compared with no search: it violates the constraints on val with all its offsets." in (
        sentences(found)
    )


def test_the_page_calls_a_default_setting_the_papers_only_where_it_is(monkeypatch, tmp_path):
    for method, said in (("srat", "0 (default setting)"), ("wat", "0 (paper's setting)")):
        spec, history = SearchSpec(method=method, trials=1), History(None)
        finish(history, 0, (0, 300, 200), params=spec.search_space().default(), method=method)
        found = verified_alike(monkeypatch, tmp_path / method, spec, history)
        assert f'"tag": "{said}"' in page(found, spec)


def test_plain_at_as_a_method_is_no_default_setting_to_compare_with(monkeypatch, tmp_path):
    """It is no search, and better than the other method's default setting, of which nothing was said."""
    spec, history = SearchSpec(method=["wat", "at"], trials=4), History(None)
    finish(history, 0, (0, 250, 100), params=spec.of("wat").search_space().default())
    finish(history, 1, (0, 300, 200), params=spec.of("at").search_space().default(), method="at")
    finish(history, 2, (0, 320, 240), params={"beta": 1.5})
    found = verified_alike(monkeypatch, tmp_path, spec, history)
    assert {(g["row"], g["over"], g["reference"]) for g in found["gain"]} == {
        ("2", "no_search", "1"),
        ("2", "paper", "0"),
    }
    assert {(r["label"], r["role"], *r["also"]) for r in found["rows"]} == {
        ("2", "front"),
        ("0", "paper"),
        ("1", "no_search"),
    }, "the page drew plain AT as a default setting"


def test_an_interval_that_1_cuts_is_as_wide_as_it_is(monkeypatch, tmp_path):
    """1.000 ± 0.046 stood for 0.908 .. 1: half of what was left of it."""
    spec, history = SearchSpec(method="wat", trials=1), History(None)
    finish(history, 0, (0, 300, 200), params=spec.search_space().default())
    found = verified_alike(monkeypatch, tmp_path, spec, history)
    row = found["rows"][0]
    row |= {"robust_acc": 1.0, "ci": row["ci"] | {"robust_acc": (0.908, 1.0)}}
    header, (shown, *_) = cells(found)
    assert shown[header.index("on test")] == "1.000 ± 0.092"


def test_models_that_were_attacked_with_other_radii_are_not_compared(monkeypatch, tmp_path):
    spec, history = SearchSpec(method="wat", trials=2), History(None)
    finish(history, 0, (0, 300, 200), params={})
    finish(history, 1, (0, 320, 180), params={"beta": 1.5})
    no_search(history, (0, 320, 100))
    own = {0: 0.1, 1: 0.02, -1: 0.1}
    found = verified_alike(monkeypatch, tmp_path, spec, history, eps=lambda job: own[job.trial])
    assert {(g["row"], g["over"]) for g in found["gain"]} == {("0", "no_search")}
    assert any("each model is attacked with its own" in s for s in sentences(found))
    assert "eps searched of a pixel range" in page(
        found, SearchSpec(method="wat", trials=2, space={"eps": [0.02, 0.1]})
    )


def test_what_was_not_looked_for_is_not_said_to_be_absent(monkeypatch, tmp_path):
    spec, history = SearchSpec(method="wat", trials=1), History(None)
    finish(history, 0, (0, 300, 200), params={})
    found = verified_alike(monkeypatch, tmp_path, spec, history)
    assert sentences(found)[-1] == "Masked gradients were not looked for: apgd and autoattack do."
    assert sentences({**found, "attack": "apgd"})[-1] == "No sign of masked gradients."


def test_one_seed_is_said_to_have_no_interval(monkeypatch, tmp_path):
    spec, history = SearchSpec(method="wat", trials=1), History(None)
    finish(history, 0, (0, 300, 200), params={})
    no_search(history, (0, 320, 100))
    found = verified_alike(monkeypatch, tmp_path, spec, history)
    for values, how in (({1: 0.5}, "one seed, which has no interval"), ({1: 0.5, 2: 0.7}, "95 % t intervals")):
        entries = [{**entry, "seeds": over_seeds(values, {1: 0.4, 2: 0.5})} for entry in found["gain"]]
        (said,) = (s for s in sentences({**found, "gain": entries}) if s.startswith("Trained anew with other seeds it"))
        assert how in said, said


def test_other_seeds_are_none_by_which_the_front_was_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "check_checkpoint", lambda config, record: None)
    spec, history = SearchSpec(method="wat", trials=1, seeds=3), History(None)
    finish(history, 0, (0, 300, 200), params={})
    row = {"trial": 0, "role": "front", "also": [], "offsets": NONE.to_dict()}

    def seeds(**changed):
        jobs = verify.make_jobs(run_of(spec.changed(**changed), history, Home(tmp_path)), [row], "apgd", 2)
        return [job.seed for job in jobs]

    assert seeds() == [None, 3, 4], "the front's replicates have 1 and 2"
    assert seeds(seeds=1) == [None, 1, 2] and seeds(seeds=1, stems=4, seed=7) == [None, 11, 12]
    finish(history, 1, (0, 300, 200), params={}, of=0, seed=5)
    assert seeds(seeds=1) == [None, 6, 7], "a user asked for one more of a trial"
