"""Which images train and which judge: counts by hand, and the rule of earlier searches as it was."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainables.config import TrialConfig
from trainables.data import DataError, DataSpec, check
from trainables.data.split import choose
from trainables.data.store import mapped, prepare


def source(counts, track=None):
    """Rows sorted by class, in tracks of so many rows; images are of no matter."""
    labels = np.repeat(np.arange(len(counts)), counts)
    tracks = None if track is None else np.concatenate([1000 * c + np.arange(n) // track for c, n in enumerate(counts)])
    meta = {"classes": [chr(97 + c) for c in range(len(counts))], "grouped_by": track and "track"}
    return SimpleNamespace(labels=labels, groups=tracks, meta=meta)


def split(counts, imbalance, track=None, **fields):
    """Rows of train and val, and their number in each class."""
    of = source(counts, track)
    train, val = choose(of, DataSpec("digits", imbalance, **fields))
    assert len(set(train)) == len(train) and len(set(val)) == len(val) and not set(train) & set(val)
    if track:
        assert not set(of.groups[train]) & set(of.groups[val])
    return train, val, *(np.bincount(of.labels[rows], minlength=len(counts)).tolist() for rows in (train, val))


def test_digits_use_what_the_thinning_leaves_over(tmp_path):
    """The smallest of the ten classes has 139 images: round(0.2 * 139) = 28 are kept from training, so n_max is 111 and
    a class has trunc(111 * 0.1 ** (c / 9)) images to train on. All others judge; there are fewer than 300."""
    images = np.array([142, 146, 142, 146, 145, 146, 145, 143, 139, 144])
    train = [111, 85, 66, 51, 39, 30, 23, 18, 14, 11]
    counts = check(DataSpec(), tmp_path).counts
    assert counts["train"] == train
    assert counts["val"] == (images - train).tolist() == [31, 61, 76, 95, 106, 116, 122, 125, 125, 133]
    few = check(DataSpec(val_per_class=100), tmp_path).counts
    assert few == {**counts, "val": [31, 61, 76, 95, 100, 100, 100, 100, 100, 100]}


def test_large_balanced_data_lose_six_percent():
    _, _, train, val = split([5000] * 10, "none")
    assert train == [4700] * 10 and val == [300] * 10
    _, _, train, val = split([5000] * 10, "exp:100")
    # trunc(4700 * 100 ** (-c / 9)); the products are far from whole numbers but for the first and the last
    assert train == [4700, 2817, 1689, 1012, 607, 363, 218, 130, 78, 47] and val == [300] * 10


def published(counts, ratio, kind="exp"):
    """LDAM-DRW's imbalance_cifar.py written down again: the rows that it keeps with rand_number=0."""
    of, k = source(counts), len(counts)
    if kind == "exp":
        wanted = [int(max(counts) * ((1 / ratio) ** (c / (k - 1.0)))) for c in range(k)]
    else:
        wanted = [max(counts)] * (k // 2) + [int(max(counts) / ratio)] * (k // 2)
    np.random.seed(0)
    kept = []
    for c, n in enumerate(wanted):
        rows = np.where(of.labels == c)[0]
        np.random.shuffle(rows)
        kept.append(rows[:n])
    return np.concatenate(kept), wanted


def whole(counts, imbalance, **fields):
    of = source(counts)
    train, val = choose(of, DataSpec("cifar10", imbalance, **fields))
    return train, val, *(np.bincount(of.labels[rows], minlength=len(counts)).tolist() for rows in (train, val))


@pytest.mark.parametrize("ratio, images", [(10, 20_431), (50, 13_996), (100, 12_406)])
def test_cifar10_lt_is_the_published_one_to_the_image(ratio, images):
    """Sizes as the field reports them for CIFAR-10-LT (Cao et al. 2019 and successors)."""
    rows, wanted = published([5000] * 10, ratio)
    train, val, counts, judged = whole([5000] * 10, f"exp:{ratio}:all")
    assert sum(counts) == images and counts == wanted and counts[0] == 5000 and counts[9] == 5000 // ratio
    assert np.array_equal(train, rows)
    assert judged == [300] * 10 and len(set(val)) == 3000
    assert set(source([5000] * 10).labels[np.intersect1d(train, val)]) == {0}  # the head alone is judged by what trains


def test_cifar100_lt_and_steps():
    train, val, counts, judged = whole([500] * 100, "exp:100:all")
    rows, wanted = published([500] * 100, 100)
    assert counts == wanted and sum(counts) == 10_847 and np.array_equal(train, rows) and counts[99] == 5
    assert min(judged) >= 30 and max(judged) == 300
    train, val, counts, judged = whole([5000] * 10, "step:100:all")
    assert counts == [5000] * 5 + [50] * 5 and np.array_equal(train, published([5000] * 10, 100, "step")[0])
    assert set(source([5000] * 10).labels[np.intersect1d(train, val)]) == {0, 1, 2, 3, 4}


def test_what_judges_the_head_is_said(tmp_path):
    found = check(DataSpec("digits", "exp:10:all"), tmp_path)
    assert found.counts["train"][8] < found.counts["train"][0] == 139  # the smallest class's, as n_max
    assert (found.counts["val"][0], found.judged_by_train) == (142, ("0",))  # three that do not train, too
    assert "too few images of 0 are left over for val, which has some that train too" in found.words
    plain = check(DataSpec(), tmp_path)
    assert plain.judged_by_train == () and "too high" not in plain.words


def test_whole_heads_that_cannot_be():
    with pytest.raises(DataError, match="'exp:10:all' is not possible with data in tracks; leave ':all' out"):
        choose(source([60] * 3, track=3), DataSpec("digits", "exp:10:all"))
    with pytest.raises(DataError, match="is not possible with --val-per-class 0"):
        choose(source([60] * 3), DataSpec("digits", "exp:10:all", val_per_class=0))
    for wrong in ("none:all", "all", "exp:all", "exp:10:all:all", "exp:10:"):
        with pytest.raises(DataError, match="is not allowed; it takes none, exp:K or step:K"):
            choose(source([60] * 3), DataSpec("digits", wrong))


def test_unthinned_data_give_a_share_of_each_class():
    _, _, train, val = split([2000, 100, 3], "none")
    assert val == [300, 20, 1] and train == [1700, 80, 2]
    _, _, train, val = split([2000, 100, 3], "none", val_fraction=0.5, val_per_class=1200)
    assert val == [1000, 50, 2] and train == [1000, 50, 1]


def test_unequal_data_are_thinned_from_the_smallest_class():
    """100 - round(0.2 * 100) = 80 images train in the head class, 80 / 4 in the last one, sqrt of that between."""
    _, _, train, val = split([1000, 100, 200], "exp:4")
    assert train == [80, 40, 20] and val == [300, 60, 180]


def test_the_reserve_comes_first_and_in_the_same_order():
    """More images of a class judge as the limit grows, and none of them trains that judged before."""
    before = set()
    for most in (10, 20, 40, 80):
        _, val, train_counts, _ = split([100, 100], "exp:4", val_per_class=most, seed=5)
        assert before < set(val)
        before = set(val)
        assert train_counts == {10: [90, 22], 20: [80, 20], 40: [80, 20], 80: [80, 20]}[most]


def test_whole_tracks_judge():
    """Class a: 75 tracks of 30 frames, of which 15 are a fifth: but 10 already have 300 images. Class b: one of 7."""
    _, _, train, val = split([2250, 210], "none", track=30)
    assert val == [300, 30] and train == [1950, 180]
    # Thinned: 7 tracks of the smallest class, one of which is kept, so n_max = 180. Class a goes on to 300 images, and
    # b while 90 images are left for training: 210 - 90 = 120, four tracks.
    _, _, train, val = split([2250, 210], "step:2", track=30)
    assert val == [300, 120] and train == [180, 90]
    # b trains on trunc(180 / 1.5) = 120 and has 90 more; a fourth track would leave 90
    assert split([2250, 210], "step:1.5", track=30)[2:] == ([180, 120], [300, 90])
    # a track that is larger than the limit is taken all the same: a class must have an image
    assert split([90, 90], "none", track=30, val_per_class=10)[2:] == ([60, 60], [30, 30])


def test_tracks_with_images_of_several_classes_stay_together():
    """What the first class does not take stays for training, but no class is judged on a track that trains."""
    of = source([12, 12])
    of.groups = np.tile(np.repeat(np.arange(4), 3), 2)
    train, val = choose(of, DataSpec("digits", "exp:2"))
    assert not set(of.groups[train]) & set(of.groups[val]) and len(val) and len(train)


def test_the_seed_draws_val_and_what_the_thinning_keeps():
    (a, val_a, *_), (b, val_b, *_), (again, *_) = (
        split([500, 500], "exp:2", seed=seed, val_per_class=50) for seed in (0, 1, 0)
    )
    assert a.tolist() == again.tolist() and set(a) != set(b) and set(val_a) != set(val_b)
    rest = [np.setdiff1d(np.arange(500, 1000), v) for v in (val_a, val_b)]
    kept = [np.flatnonzero(np.isin(r, t)).tolist() for r, t in zip(rest, (a, b))]
    assert len(kept[0]) == len(kept[1]) == 225 and kept[0] != kept[1]  # other positions among those left


# Rows of train and val as the code before `val_per_class` chose them.
BEFORE = [
    (
        ([12, 9, 10], "none", None, 3, 0.2),
        [0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 24, 25, 27, 29, 30],
        [1, 3, 16, 20, 26, 28],
    ),
    (([12, 9, 10], "exp:3", None, 3, 0.2), [7, 6, 2, 4, 11, 8, 9, 19, 13, 15, 17, 24, 27], [1, 3, 16, 20, 26, 28]),
    (
        ([12, 9, 11], "none", 3, 1, 0.4),
        [0, 1, 2, 3, 4, 5, 12, 13, 14, 18, 19, 20, 24, 25, 26, 27, 28, 29],
        [6, 7, 8, 9, 10, 11, 15, 16, 17, 21, 22, 23, 30, 31],
    ),
    (
        ([14, 9, 11], "step:2", 3, 5, 0.4),
        [5, 11, 2, 13, 4, 10, 19, 18, 21, 30, 28, 33],
        [6, 7, 8, 14, 15, 16, 23, 24, 25],
    ),
]


@pytest.mark.parametrize("given, train, val", BEFORE, ids=lambda value: str(value)[:24])
def test_earlier_searches_keep_their_images(given, train, val):
    counts, imbalance, track, seed, share = given
    found = split(counts, imbalance, track, seed=seed, val_fraction=share, val_per_class=0)
    assert found[0].tolist() == train and found[1].tolist() == val


def test_earlier_searches_on_digits_keep_their_images(tmp_path):
    digits = mapped(prepare("digits", tmp_path) / "train.arrow")
    train, val = choose(digits, DataSpec(val_per_class=0))
    assert train[:5].tolist() == [373, 122, 1100, 82, 268] and val[:5].tolist() == [7, 13, 17, 19, 31]
    assert len(train) == 448 and np.bincount(digits.labels[val]).tolist() == [28] * 10
    assert (train.sum(), val.sum()) == (316788, 197480)  # of the row numbers


def test_a_checkpoint_of_before_means_the_rule_of_before():
    new = TrialConfig("at").to_dict()
    assert TrialConfig.of(new) == TrialConfig("at") and TrialConfig("at").data_spec == DataSpec()
    old = {name: value for name, value in new.items() if name not in ("val_per_class", "val_fraction")}
    assert TrialConfig.of(old).data_spec == DataSpec(val_per_class=0)
    assert TrialConfig.of({**old, "val_per_class": 7}).val_per_class == 7


@pytest.mark.parametrize(
    "counts, fields, sentence",
    [
        ([10, 1], {"imbalance": "none"}, "class 'b' has 1 image.*val_fraction 0.2 would take 1 of them"),
        ([10, 10], {"imbalance": "none", "val_fraction": 0.97}, "class 'a' has 10 image.*would take 10 of them"),
        ([100, 10], {"imbalance": "exp:9"}, "class 'b' would be left with 0 images .*K must be less than 8"),
    ],
)
def test_no_class_may_be_left_without_images(counts, fields, sentence):
    with pytest.raises(DataError, match=sentence) as refusal:
        split(counts, **fields)
    assert "\n" not in str(refusal.value)


def test_tracks_that_would_all_judge():
    with pytest.raises(DataError, match=r"class 'b' has 1 track\(s\)"):
        split([60, 30], "none", track=30)
