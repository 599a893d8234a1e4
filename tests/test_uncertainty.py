"""What a search may say of its front: contracts, cases computed by hand. How true it is: benchmarks/uncertainty.py."""

import numpy as np
import pytest

from search_spaces import METHODS
from trainables.class_metrics import class_metrics
from tuner.results.class_rates import Rows, nested_correlation, posterior, rates_of, stabilised
from tuner.results.pareto import hypervolume
from tuner.results.uncertainty import Judged, _gain, _Goal, _hypervolumes, _on_front, judge, metric_of_rates
from tuner.spec.space import build_space
from tuner.verification.intervals import wilson

NAMES = ("natural_robust_acc", "worst_class_robust_acc")
TRAIN = (100, 30, 10)
COUNT = (40, 60, 120)


def curve(trial, robust, setting=(0.5,), positions=(0.0,), count=COUNT):
    """Points at ``positions``; ``robust``: images right, a tuple for each of them."""
    return [Judged(trial, p, count, count, r, setting) for p, r in zip(positions, robust)]


def trials(n, seed=0, count=COUNT, rates=(0.8, 0.6, 0.4)):
    rng = np.random.default_rng(seed)
    right = rng.binomial(count, rates, (n, len(count)))
    return [p for i, r in enumerate(right) for p in curve(i, [tuple(r)], (float(rng.random()),), count=count)]


@pytest.mark.parametrize("train", [(500, 200, 90, 30, 30, 8), (50,) * 6])
def test_metrics_are_those_of_class_metrics(train):
    classes, rng = list("abcdef"), np.random.default_rng(0)
    count = np.array([20, 30, 40, 50, 60, 70])
    clean, robust = rng.integers(0, 20, (2, 6))
    for name, value in class_metrics(classes, train, count, clean, robust).items():
        drawn = metric_of_rates(name, (clean / count)[None, None], (robust / count)[None, None], train, classes)
        assert drawn.shape == (1, 1) and drawn[0, 0] == pytest.approx(value), name
    assert metric_of_rates("nsd", np.zeros((2, 6)), np.zeros((2, 6)), train).tolist() == [0, 0]
    with pytest.raises(ValueError, match="'train_loss' is no metric"):
        metric_of_rates("train_loss", clean, robust, train)


def test_the_transform_has_the_variance_it_is_said_to_have():
    right = np.random.default_rng(0).binomial(100, 0.3, 50_000)
    assert stabilised(right, 100).var() * 402 == pytest.approx(1, rel=0.03)
    assert rates_of(stabilised(right, 100), 100) == pytest.approx(right / 100)


def test_correlation_of_nested_sets():
    """Of 10,000 images a model gets those right whose difficulty is below a threshold that an offset moves."""
    difficulty = np.random.default_rng(0).random(200_000)
    right = [difficulty < p for p in (0.3, 0.5, 0.9)]
    assert nested_correlation(np.array([0.3, 0.5, 0.9])) == pytest.approx(np.corrcoef(right), abs=0.01)


def test_a_front_in_every_draw():
    values = np.array([[[1, 0], [0, 1], [0, 0], [1, 0]], [[2, 2], [1, 2], [2, 1], [3, 0]]], float)
    expected = [[True, True, False, True], [True, False, False, True]]  # copies do not dominate each other
    assert _on_front(values).tolist() == expected
    rng = np.random.default_rng(1)
    random = rng.integers(0, 4, (50, 9, 2)).astype(float)
    third = np.concatenate([random, np.zeros((50, 9, 1))], 2)  # goes the way of any number of objectives
    assert (_on_front(random) == _on_front(third)).all()


def test_of_one_trial_the_interval_is_near_wilsons():
    """There is no neighbour to learn from: about as wide (draws are widened), and about the measured rate."""
    (row,) = judge(curve(0, [(300,)], count=(500,)), [10], ("robust_acc",)).rows
    low, high = wilson(300, 500)
    assert row["shrunk"]["robust_acc"] == pytest.approx(0.6, abs=0.01)
    assert 0.95 < np.ptp(row["ci"]["robust_acc"]) / (high - low) < 1.6
    assert row["p_front"] == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_trials(n):
    told = judge(trials(n), TRAIN, NAMES, {"no search": curve("no search", [(30, 30, 50)], None)})
    assert len(told.rows) == n
    for row in told.rows:
        for name in (*NAMES, "robust_acc", "clean_acc"):
            low, high = row["ci"][name]
            assert 0 <= low <= row["shrunk"][name] <= high <= 1
    assert sum(row["p_front"] for row in told.rows) >= 1  # in each draw one of them is on the front


def test_the_same_arguments_give_the_same_answer_and_inputs_stay():
    points = trials(5)
    reference = {"no search": curve("no search", [(30, 30, 50)], None)}
    assert judge(points, TRAIN, NAMES, reference) == judge(list(points), TRAIN, NAMES, reference)
    assert judge(points, TRAIN, NAMES, seed=1) != judge(points, TRAIN, NAMES)


def test_a_lucky_trial_is_drawn_towards_the_others_and_more_images_draw_less():
    def shrunk(images):
        right = [(0.4 * images,)] * 7 + [(0.6 * images,)]
        points = [p for i, r in enumerate(right) for p in curve(i, [r], (i / 7,), count=(images,))]
        return [r["shrunk"]["robust_acc"] for r in judge(points, [10], ("robust_acc",)).rows]

    few, many = shrunk(30), shrunk(3000)
    assert 0.4 < few[-1] < 0.55 < many[-1] < 0.601
    assert few[-1] == max(few)


def test_more_images_narrow_the_interval():
    width = [
        np.ptp(judge(curve(0, [(n // 2, n // 2)], count=(n, n)), [5, 5], NAMES).rows[0]["ci"][NAMES[1]])
        for n in (30, 300, 3000)
    ]
    assert width[0] > 2 * width[1] > 4 * width[2]


def test_no_image_right_and_all_right():
    points = [p for i in range(4) for p in curve(i, [(40, 0, 120)], (i / 4,))]
    for row in judge(points, TRAIN, NAMES).rows:
        assert row["shrunk"]["worst_class_robust_acc"] < 0.03 and row["ci"]["worst_class_robust_acc"][1] < 0.1
        assert row["shrunk"]["natural_robust_acc"] == pytest.approx(110 / 140, abs=0.03)
    for right in ((40, 0, 120), (20, 20, 20), (0, 0, 0)):
        count = (20, 20, 20) if right == (20, 20, 20) else (60, 60, 120)
        points = [p for i in range(4) for p in curve(i, [right], (i / 4,), count=count)]
        low, high = judge(points, TRAIN, NAMES).front["hypervolume"]["ci"]
        assert 0 <= low <= high <= 1, "an area between 0 and 1 has no interval beyond"


def test_the_better_trial_is_on_the_front():
    told = judge([*curve(0, [(36, 50, 100)], (0.1,)), *curve(1, [(10, 10, 10)], (0.9,))], TRAIN, NAMES)
    assert told.rows[0]["p_front"] > 0.99 and told.rows[1]["p_front"] < 0.01
    assert told.front["rows"] == [0]
    value = told.rows[0]["shrunk"]
    assert told.front["hypervolume"]["claimed"] == pytest.approx(value[NAMES[0]] * value[NAMES[1]])
    natural = (100 * 36 / 40 + 30 * 50 / 60 + 10 * 100 / 120) / 140
    assert told.front["hypervolume"]["measured"] == pytest.approx(natural * 100 / 120)


def test_the_best_of_many_equal_trials_claims_less_than_measured():
    """40 trials that are right at the same rates, each on its own images: the worst case, beyond what models do."""
    volume = judge(trials(40, count=(30, 30, 30), rates=(0.6, 0.5, 0.5)), TRAIN, NAMES).front["hypervolume"]
    true = (100 * 0.6 + 30 * 0.5 + 10 * 0.5) / 140 * 0.5
    assert volume["measured"] > 1.2 * true
    assert volume["claimed"] - true < 0.7 * (volume["measured"] - true)
    assert volume["ci"][0] < true < volume["ci"][1]


def test_gain_by_hand():
    """A reference at (0.5, 0.2) and (0.3, 0.3), trials at (0.6, 0.4) and (0.4, 0.5), no noise: 0.28 less 0.13."""
    shrunk = np.array([[0.6, 0.4], [0.4, 0.5], [0.5, 0.2], [0.3, 0.3]])
    goal = _Goal(shrunk, np.repeat(shrunk[None], 3, 0))
    gain = _gain(goal, range(2), goal.front(range(2)), [2, 3])
    assert gain["hypervolume"]["value"] == pytest.approx(0.28 - 0.13)
    assert gain["last"]["rows"] == (2, 0) and gain["last"]["value"] == pytest.approx(0.2)
    assert gain["last"]["others"][0]["value"] == pytest.approx(0.1)
    assert gain["last"]["verdict"] == gain["hypervolume"]["verdict"] == "gain"
    assert _gain(goal, [3], [3], [0, 1])["hypervolume"]["verdict"] == "loss"
    assert _gain(goal, [3], [3], [0, 1])["last"] is None  # none has as high a first objective
    band = goal.band([0, 1])
    assert band["x"][0] == pytest.approx(0.4) and band["x"][-1] == pytest.approx(0.6)
    assert band["lower"] == band["upper"] == [0.5] + [0.4] * 40


def test_a_gain_is_found_where_it_is_large_and_not_where_there_is_none():
    reference = {"no search": curve("no search", [(28, 30, 36)], None)}
    large = judge([p for i in range(8) for p in curve(i, [(32, 42, 84)], (i / 8,))], TRAIN, NAMES, reference)
    none = judge([p for i in range(8) for p in curve(i, [(28, 30, 36)], (i / 8,))], TRAIN, NAMES, reference)
    assert large.front["gain"]["no search"]["last"]["verdict"] == "gain"
    assert none.front["gain"]["no search"]["hypervolume"]["verdict"] == "not distinguishable"


def test_a_gain_is_not_shrunk_away():
    """A reference is one model beside many trials: drawn towards them, it would have no gain over it left."""
    few = (20, 20, 20)
    reference = {"no search": curve("no search", [(15, 15, 8)], None, count=few)}
    told = judge(
        [p for i in range(16) for p in curve(i, [(15, 15, 12)], (i / 16,), count=few)], TRAIN, NAMES, reference
    )
    assert told.front["gain"]["no search"]["last"]["value"] == pytest.approx(12 / 20 - 8 / 20, abs=0.015)


def test_a_reference_may_be_a_trial_of_the_search():
    points = trials(4)
    gain = judge(points, TRAIN, NAMES, {"paper": points[:1]}).front["gain"]["paper"]
    assert gain["last"]["rows"][0] == 0
    alone = judge(points[:1], TRAIN, NAMES, {"paper": points[:1]}).front["gain"]["paper"]
    assert alone["last"]["ci"] == alone["hypervolume"]["ci"] == (0, 0)
    assert alone["last"]["verdict"] == alone["hypervolume"]["verdict"] == "not distinguishable"


def test_a_class_without_images_is_left_out():
    points = curve(0, [(20, 0, 60)], count=(40, 0, 120))
    (row,) = judge(points, TRAIN, NAMES).rows
    assert row["shrunk"]["worst_class_robust_acc"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="no class has images"):
        judge(curve(0, [(0, 0, 0)], count=(0, 0, 0)), TRAIN, NAMES)
    with pytest.raises(ValueError, match="nothing was judged"):
        judge([], TRAIN, NAMES)


def test_equal_rows_and_unknown_settings_do_not_break_the_posterior():
    right = np.tile([[20.0, 0.0, 10.0]], (6, 1))
    count = np.full((6, 3), 20.0)
    setting = np.array([[0.5], [0.5], [np.nan], [np.nan], [0.5], [0.1]])
    rows = Rows(right, count, np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 0, 1, 0, 1.0]), setting, np.zeros(6))
    centre, drawn = posterior(rows, 50, 0)
    assert np.isfinite(drawn).all() and drawn.shape == (50, 6, 3)
    assert centre[:, 2] == pytest.approx(0.5, abs=0.1)


def test_trials_whose_settings_nobody_knows_are_not_taken_for_one_setting():
    """As far as those with known settings that are far apart: a good one is not drawn to a bad one more than these."""

    def apart(*settings):
        points = [p for i, s in enumerate(settings) for p in curve(i, [(5, 5, 10) if i else (36, 50, 100)], s)]
        return judge(points, TRAIN, NAMES).rows[0]["shrunk"]["worst_class_robust_acc"]

    assert apart(None, None, None) == pytest.approx(apart((0.0,), (50.0,), (100.0,)), abs=0.05)
    assert apart(None, None, None) > apart((0.0,), (0.0,), (0.0,)) + 0.01


@pytest.mark.parametrize("method", METHODS)
def test_coordinates_are_the_inverse_of_at(method):
    space, rng = build_space(method, fix={}, space={}), np.random.default_rng(0)
    for _ in range(20):
        point = rng.random(len(space.searched))
        values = space.at(point)
        assert space.at(space.coordinates(values)) == pytest.approx(values)
        there = [i for i, name in enumerate(space.searched) if isinstance(values.get(name), float)]
        assert np.array(space.coordinates(values))[there] == pytest.approx(point[there])


def test_hypervolumes_of_all_draws_are_those_of_each():
    """To the bit, also with ties, with points outside of the quadrant and where nothing is inside."""
    values = np.random.default_rng(0).normal(0.3, 0.3, (90, 7, 2))
    values[::3], values[::10] = values[::3].round(1), -1
    assert _hypervolumes(values).tolist() == [hypervolume(v.tolist(), [0, 0], [True, True]) for v in values]
    cube = np.array([[[0.5, 0.5, 0.5], [0.5, 1, 0.25]]])
    assert _hypervolumes(cube).tolist() == [0.5**3 + 0.5 * 0.5 * 0.25]
