"""Post-hoc offsets: their values, what a sweep finds against exact robustness, and what it costs."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from trainables import data
from trainables.curve import Curve, CurvePoint
from trainables.evaluate import evaluate
from trainables.offsets import NONE, TAUS, Offsets, kind_for, prior
from trainables.sweep import Line, ShiftedAttacks, every_other, fit_direction, points_of, sweep
from trainables.threat_model import L2, LInf

EPS = 0.03


class Linear:
    """Logits W x + c for images (B, 1, 1, D) far from 0 and 1, so that robustness has a closed form."""

    def __init__(self, classes: int, features: int = 6, seed: int = 0):
        rng = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, features, generator=rng)
        self.bias = -0.5 * self.weight.sum(1)  # no class is preferred
        self.calls = 0

    def __call__(self, x):
        self.calls += len(x)
        return x.flatten(1) @ self.weight.T + self.bias

    def robust(self, x, y, offsets, eps=EPS, dual=1):
        """Exactly: for every other class j, the smallest margin over the ball is positive (Hoelder). ``dual``: 1 for
        L-inf, 2 for L2."""
        z = x.flatten(1) @ self.weight.T + self.bias + offsets
        away = (self.weight[y][:, None] - self.weight[None]).norm(dual, dim=2)
        margin = z.gather(1, y[:, None]) - z - eps * away
        return (margin > 0).scatter(1, y[:, None], True).all(1)


class Split:
    """Images (N, 1, 1, D) and their labels."""

    def __init__(self, x, labels, groups=None):
        self.x, self.labels, self.groups = x, labels, groups

    def __len__(self):
        return len(self.labels)

    def batch(self, rows):
        return self.x[rows], self.labels[rows]


def images(model, number: int = 400, seed: int = 1):
    """A split whose labels are mostly what the model says."""
    rng = torch.Generator().manual_seed(seed)
    x = (0.3 + 0.4 * torch.rand(number, 1, 1, model.weight.shape[1], generator=rng)).float()
    y = model(x).argmax(1)
    wrong = torch.rand(number, generator=rng) < 0.1
    y[wrong] = torch.randint(len(model.bias), (int(wrong.sum()),), generator=rng)
    return Split(x, y)


def judged(model, split, steps=10, eps=EPS, threat=LInf):
    """What a trainer has after an evaluation: attacks and everything seen."""
    seen, how = [], {"eps": eps, "steps": steps, "threat": threat}
    result = evaluate(model, split, len(model.bias), **how, seen=lambda rows, logits: seen.append((rows, logits)))
    return ShiftedAttacks(model, model, split, **how), seen, result


# ---- offsets ---------------------------------------------------------------------------------------------------------


def test_prior_is_logit_adjustment():
    """-tau log(n_c / n_max), by hand: counts 100, 50, 10 at tau 0.5."""
    offsets = prior([100, 50, 10], 0.5)
    assert offsets.values == pytest.approx((0.0, 0.5 * math.log(2), 0.5 * math.log(10)))
    assert (offsets.kind, offsets.tau) == ("prior", 0.5)


def test_auto_is_prior_only_where_training_images_are_imbalanced():
    assert kind_for("auto", [100, 100, 10], [9, 9, 9]) == "prior" == kind_for("auto", [100, 10], [1, 1])
    assert kind_for("auto", [117, 111, 114], [9, 9, 9]) == "classes"
    assert kind_for("none", [100, 10], [9, 9]) == "none"
    assert kind_for("auto", [10, 10], [2, 1]) == "none", "of one image nothing is left to judge"
    with pytest.raises(ValueError, match="'classes' is not allowed here: a class has fewer than two images, or tracks"):
        kind_for("classes", [10, 10], [2, 1])


def test_offsets_and_curves_survive_being_stored():
    point = CurvePoint(prior([4, 2], 1.0), (4, 4), (3, 2), (2, 1))
    curve = Curve(("a", "b"), (4, 2), (CurvePoint(NONE, (4, 4), (4, 2), (2, 1)), point))
    assert Curve.of(curve.to_dict()) == curve
    assert Offsets.of(None) == NONE
    assert curve.metrics(point)["natural_robust_acc"] == pytest.approx((4 * 2 / 4 + 2 * 1 / 4) / 6)
    assert curve.metrics(point)["worst_class_robust_acc"] == 0.25
    of_tracks = replace(curve, points=tuple(replace(p, tracks=(2, 1)) for p in curve.points))
    assert Curve.of(of_tracks.to_dict()) == of_tracks and of_tracks.points[1].independent == (2, 1)
    assert point.independent == (4, 4) and "tracks" not in point.to_dict()
    for wrong in ([2], [5, 1], [2, 0], [2, -1]):
        with pytest.raises(ValueError, match="tracks than images"):
            Curve.of({**curve.to_dict(), "points": [{**point.to_dict(), "tracks": wrong}]})


# ---- the line --------------------------------------------------------------------------------------------------------


def test_an_example_says_at_which_tau_it_breaks_the_image():
    """Logits (2, 1), direction (0, 1): class 1 has 1 + tau. Class 0 is broken from tau 1 on, class 1 until."""
    line = Line(torch.tensor([0, 1]), torch.tensor([0.0, 1.0]))
    line.add(torch.tensor([0, 1]), torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
    assert (line.low.tolist(), line.high.tolist()) == ([-math.inf, 1.0], [1.0, math.inf])
    taus = torch.tensor([[0.5, 1.5]]).double()
    assert line.unbroken(torch.tensor([0, 1]), taus.expand(2, -1)).tolist() == [[True, False], [False, True]]


def test_an_example_against_a_class_of_equal_offset_breaks_everywhere():
    line = Line(torch.tensor([0]), torch.tensor([0.0, 0.0, 1.0]))
    line.add(torch.tensor([0]), torch.tensor([[1.0, 2.0, 0.0]]))
    assert not line.unbroken(torch.tensor([0]), torch.tensor([-9.0, 0.0, 9.0]).double()[None]).any()


@pytest.mark.parametrize("direction", [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
def test_what_is_not_a_number_is_never_robust(direction):
    line = Line(torch.tensor([0, 1]), torch.tensor(direction))
    line.add(torch.arange(2), torch.full((2, 3), torch.nan))
    assert not line.unbroken(torch.arange(2), torch.tensor([0.0, 0.5])).any()


def test_between_two_failed_attacks_nothing_is_left_to_decide():
    line, rows, taus = Line(torch.tensor([0]), torch.tensor([0.0, 1.0])), torch.tensor([0]), torch.tensor([0.0, 1, 2])
    taus = taus.double()
    line.attacked(rows, taus[:1])
    assert line.undecided(rows, taus).tolist() == [[False, True, True]]
    assert line.next_tau(rows, taus).tolist() == [2.0]
    line.attacked(rows, taus[2:])
    assert not line.undecided(rows, taus).any()


# ---- a sweep against exact robustness --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_finds_exactly_what_is_robust(seed):
    """Two classes, where margin-PGD is exact on a linear model."""
    model = Linear(2, seed=seed)
    split = images(model, seed=seed + 10)
    direction = torch.tensor([0.0, 1.3]).double()
    attacks, seen, _ = judged(model, split)
    taus = (0.0, *TAUS)
    rows = torch.arange(len(split))
    found = sweep(attacks, seen, direction, rows, taus)
    exact = torch.stack([model.robust(split.x, split.labels, (tau * direction).float()) for tau in taus], 1)
    assert torch.equal(found, exact)
    assert exact.any(0).all() and not exact.all(0).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_in_l2_finds_what_is_robust(seed):
    """Two classes. Steps of one length go round the ball and end a little before the optimum: within 2 % of eps."""
    model, eps = Linear(2, seed=seed), 0.08
    split = images(model, seed=seed + 10)
    direction = torch.tensor([0.0, 1.3]).double()
    attacks, seen, _ = judged(model, split, eps=eps, threat=L2)
    taus = (0.0, *TAUS)
    found = sweep(attacks, seen, direction, torch.arange(len(split)), taus)

    def exact(eps):
        shifts = [(tau * direction).float() for tau in taus]
        return torch.stack([model.robust(split.x, split.labels, shift, eps, dual=2) for shift in shifts], 1)

    assert (found >= exact(eps)).all() and (found <= exact(0.98 * eps)).all()
    assert exact(eps).any(0).all() and not exact(eps).all(0).any()


@pytest.mark.parametrize("threat", [LInf, L2])
def test_where_no_image_withstands_the_first_attack_there_is_no_second(threat):
    """A ball of no images has no random start in L2: a trial with such offsets failed."""
    model = Linear(3)
    split = images(model)
    rows = torch.arange(7)
    shifts = -100.0 * torch.nn.functional.one_hot(split.labels[rows], 3)
    (found,) = judged(model, split, threat=threat)[0].run(rows, shifts)
    assert torch.equal(found[0], rows) and found[1].shape == shifts.shape


def test_a_sweep_agrees_with_an_evaluation_at_every_tau():
    """Five classes. PGD may miss an example that another tau shows, so a sweep counts at most as many as robust."""
    model, counts = Linear(5), [100, 60, 30, 20, 10]
    split = images(model, 600)
    attacks, seen, _ = judged(model, split)
    for point in points_of("prior", attacks, seen, counts):
        shift = torch.tensor(point.offsets.values or [0.0] * 5)
        alone = evaluate(lambda x, b=shift: model(x) + b, split, 5, eps=EPS, steps=10)
        assert list(point.count) == alone.count.tolist() and list(point.clean) == alone.clean.tolist()
        exact = torch.bincount(split.labels[model.robust(split.x, split.labels, shift)], minlength=5)
        robust = torch.tensor(point.robust)
        assert (robust >= exact).all() and robust.sum() <= alone.robust.sum() and robust.sum() - exact.sum() <= 6


def test_a_sweep_costs_less_than_two_evaluations():
    model = Linear(5)
    split = images(model, 600)
    model.calls = 0
    attacks, seen, _ = judged(model, split)
    one, model.calls = model.calls, 0
    points = points_of("prior", attacks, seen, [100, 60, 30, 20, 10])
    assert len(points) == 7 and 0 < model.calls < 2 * one


# ---- offsets of single classes ---------------------------------------------------------------------------------------


def test_every_other_image_of_each_class():
    assert every_other(torch.tensor([0, 1, 0, 0, 1])).tolist() == [True, True, False, True, False]


def test_every_other_track_of_each_class():
    """Class 0 has tracks 3, 5 and 9, class 1 has 4 and 8: all frames of 3, 9 and 4 are in one half."""
    labels, tracks = torch.tensor([0, 0, 1, 0, 0, 0, 1, 1]), torch.tensor([5, 3, 4, 5, 9, 3, 8, 4])
    assert every_other(labels, tracks).tolist() == [False, True, True, False, True, True, False, True]


def test_offsets_are_fitted_on_some_tracks_and_judged_on_others():
    model = Linear(3)
    split = images(model, 300)
    split.groups = torch.arange(300) // 4 * 3 + split.labels  # up to four images a track, each of one class
    split.independent = partial(data.Split.independent, split)
    attacks, seen, _ = judged(model, split)
    point = points_of("classes", attacks, seen, [10, 10, 10])[-1]
    left = ~every_other(split.labels, split.groups)
    assert list(point.count) == torch.bincount(split.labels[left], minlength=3).tolist()
    own = [len(split.groups[left & (split.labels == c)].unique()) for c in range(3)]
    assert list(point.tracks) == own and all(a < n for a, n in zip(own, point.count))
    assert not set(split.groups[left].tolist()) & set(split.groups[~left].tolist())


def test_classes_are_fitted_on_one_half_and_judged_on_the_other():
    """A class whose logit is too low by 0.5 is raised, and its robust accuracy on images not used for it grows."""
    model = Linear(3)
    split = images(model, 900)
    model.bias[2] -= 0.5
    attacks, seen, whole = judged(model, split)
    half = every_other(split.labels)
    direction = fit_direction(attacks, seen, half.nonzero().squeeze(1), torch.tensor([10, 10, 10]))
    assert direction[2] == direction.max() > 0 == direction.min()
    points = points_of("classes", attacks, seen, [10, 10, 10])
    assert list(points[0].count) == torch.bincount(split.labels[~half], minlength=3).tolist()
    assert all(point.offsets.kind == "classes" for point in points[1:])
    as_it_is, fitted = points[0], next(p for p in points if p.offsets.tau == 1)
    rate = [min(r / n for r, n in zip(p.robust, p.count)) for p in (as_it_is, fitted)]
    assert rate[1] > rate[0] + 0.1


def test_where_no_offsets_help_the_curve_is_the_model_as_it_is():
    """All classes robust everywhere: nothing to fit."""
    model, labels = Linear(3), torch.arange(90) % 3
    model.weight, model.bias = 100 * torch.eye(3), torch.zeros(3)
    split = Split(torch.eye(3)[labels][:, None, None], labels)
    attacks, seen, _ = judged(model, split)
    assert [p.offsets for p in points_of("classes", attacks, seen, [10, 10, 10])] == [NONE]
