"""Fronts by hand (the oracle file covers dominance and hypervolume)."""

import math
import random

import pytest

from tuner.results.pareto import Front, hypervolume, nondominated

OBJECTIVES = ("robust_acc", "worst_class_robust_acc")


def row(trial, a, b):
    return {"trial": trial, OBJECTIVES[0]: a, OBJECTIVES[1]: b}


ROWS = [row(0, 0.8, 0.1), row(1, 0.78, 0.3), row(2, 0.5, 0.35), row(3, 0.7, 0.3), row(4, float("nan"), 0.9)]


def test_front_leaves_out_the_dominated_and_the_unfinished():
    assert [r["trial"] for r in Front.of(ROWS, OBJECTIVES).rows] == [0, 1, 2]


def test_hypervolume_by_hand():
    # three boxes: 0.8 x 0.1, then 0.78 x (0.3 - 0.1), then 0.5 x (0.35 - 0.3)
    assert Front.of(ROWS, OBJECTIVES).hypervolume == pytest.approx(0.8 * 0.1 + 0.78 * 0.2 + 0.5 * 0.05)
    assert hypervolume([[1, 1, 1], [2, 0.5, 0.5]], [0, 0, 0], [True] * 3) == pytest.approx(1 + 0.25)


def test_picks():
    front = Front.of(ROWS, OBJECTIVES)
    assert front.pick("average")["trial"] == 0 and front.pick("worst")["trial"] == 2
    assert front.pick("knee")["trial"] == 1  # nearly the best average and nearly the best worst class
    assert front.pick("2")["trial"] == 2
    with pytest.raises(ValueError, match="'3' is not on the front.*0, 1, 2"):
        front.pick("3")
    with pytest.raises(ValueError, match="empty"):
        Front.of([], OBJECTIVES).pick("knee")


def test_duplicates_are_all_kept_and_count_once():
    points = [[0.5, 0.5], [0.5, 0.5], [0.4, 0.4]]
    assert nondominated(points, [True, True]) == [0, 1]
    assert hypervolume(points, [0, 0], [True, True]) == 0.25


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_a_front_is_what_nothing_dominates_whatever_the_number_of_objectives(objectives):
    """Compared pair by pair, with ties, copies, infinities and objectives that are minimised."""
    numbers = random.Random(objectives)
    for _ in range(300):
        up = [numbers.random() < 0.6 for _ in range(objectives)]
        points = [
            [numbers.choice([None, math.nan, math.inf, 0.0, -0.0, 0.25, 0.5, 1.0, numbers.random()]) for _ in up]
            for _ in range(numbers.randint(0, 15))
        ]
        valid = {i: p for i, p in enumerate(points) if not any(v is None or math.isnan(v) for v in p)}
        signed = {i: [v if best else -v for v, best in zip(p, up)] for i, p in valid.items()}

        def beaten(i):
            return any(
                all(a >= b for a, b in zip(q, signed[i])) and any(a > b for a, b in zip(q, signed[i]))
                for q in signed.values()
            )

        assert nondominated(points, up) == [i for i in signed if not beaten(i)]
