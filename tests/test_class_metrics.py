"""Metrics of class counts, by hand."""

from math import sqrt

import pytest

from trainables.class_metrics import class_metrics, frequency_groups


def test_four_classes_on_paper():
    """Robust rates .8, .5, .2 and .1, clean rates .9, .6, .5 and .4; 50, 30, 15 and 5 images to train on.

    Mean 1.6 / 4 = .4; natural (40 + 15 + 3 + .5) / 100; deviations .4, .1, -.2, -.3 with squares .16, .01, .04, .09, so
    a variance of .3 / 4; of four classes the first is `many`, the next two `medium`, the last `few`; the worst 30 % are
    one class.
    """
    found = class_metrics(
        ["cat", "dog", "elk", "fox"], [50, 30, 15, 5], [10, 20, 40, 100], [9, 12, 20, 40], [8, 10, 8, 10]
    )
    assert found == pytest.approx(
        {
            "clean_acc": 0.6,
            "robust_acc": 0.4,
            "natural_robust_acc": 0.585,
            "worst_class_clean_acc": 0.4,
            "worst_class_robust_acc": 0.1,
            "tail_robust_acc": 0.1,
            "many_robust_acc": 0.8,
            "medium_robust_acc": 0.35,
            "few_robust_acc": 0.1,
            "robust_acc_gap": 0.7,
            "nsd": sqrt(0.075) / 0.4,
            "clean_acc/cat": 0.9,
            "clean_acc/dog": 0.6,
            "clean_acc/elk": 0.5,
            "clean_acc/fox": 0.4,
            "robust_acc/cat": 0.8,
            "robust_acc/dog": 0.5,
            "robust_acc/elk": 0.2,
            "robust_acc/fox": 0.1,
        }
    )


def test_on_balanced_data_the_natural_average_is_the_class_mean_and_there_are_no_groups():
    found = class_metrics(["a", "b", "c"], [7, 7, 7], [10, 20, 30], [10, 20, 30], [5, 5, 3])
    assert found["natural_robust_acc"] == pytest.approx(found["robust_acc"]) == pytest.approx((0.5 + 0.25 + 0.1) / 3)
    assert not any(name.startswith(("many", "medium", "few")) for name in found)


def test_a_class_that_was_not_judged_is_left_out():
    found = class_metrics(["a", "b", "c"], [60, 30, 10], [10, 0, 10], [9, 0, 5], [6, 0, 1])
    assert found["natural_robust_acc"] == pytest.approx((60 * 0.6 + 10 * 0.1) / 70)
    assert "medium_robust_acc" not in found and "robust_acc/b" not in found and found["few_robust_acc"] == 0.1


def test_a_model_without_any_robustness_has_no_spread():
    found = class_metrics(["a", "b"], [2, 1], [10, 10], [5, 5], [0, 0])
    assert found["nsd"] == found["robust_acc"] == 0


@pytest.mark.parametrize(
    "counts, groups",
    [
        ([5, 3, 1], [{0}, {1}, {2}]),
        ([1, 3, 5], [{2}, {1}, {0}]),
        ([111, 85, 66, 51, 39, 30, 23, 18, 14, 11], [{0, 1, 2}, {3, 4, 5, 6}, {7, 8, 9}]),
        ([40, 40, 40, 4, 4, 4], [{0, 1}, {2, 3}, {4, 5}]),  # as many images: the class that comes first
        ([9, 1, 5, 7, 3], [{0}, {3, 2, 4}, {1}]),
        ([5, 5, 5], []),
        ([5, 1], []),
    ],
)
def test_groups_are_thirds_of_the_classes(counts, groups):
    assert list(frequency_groups(counts).values()) == groups
    assert list(frequency_groups(counts)) == ["many", "medium", "few"][: len(groups)]
