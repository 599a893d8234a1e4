"""The corners of the fairfront family: which setting gives which published method, equal in loss, gradient,
radius, state."""

import pytest
import torch

from tuner.testing.batches import EPOCHS, loss_and_grads, make, make_batch, make_stats, trained

TRADES, MART = {"form": "trades", "beta": 4.0}, {"form": "mart", "beta": 4.0}
# fairfront's parameters, the published method, its parameters; `start` is the same on both sides
CORNERS = [
    ({}, "at", {}),
    (TRADES, "trades", {"beta": 4.0}),
    (MART, "mart", {"beta": 4.0}),
    ({"instance": "geometry", "lam": -0.5}, "gairat", {"lam": -0.5}),
    ({"instance": "geometry", "func": "sigmoid"}, "gairat", {"func": "sigmoid"}),
    ({"instance": "geometry", "func": "discrete"}, "gairat", {"func": "discrete"}),
    ({"instance": "sigmoid", "slope": 8.0, "bias": -0.3}, "mail", {"slope": 8.0, "bias": -0.3}),
    ({**TRADES, "instance": "sigmoid", "slope": 2.0, "bias": 0.0, "instance_on": "regulariser"}, "mail", TRADES),
    ({**MART, "instance": "sigmoid", "instance_on": "main"}, "mail", MART),
    ({"instance": "exponential", "alpha": 0.7}, "wmmr", {"alpha": 0.7, "detach": True}),
    ({"instance": "exponential", "detach": False}, "wmmr", {}),
    (
        {**TRADES, "instance": "exponential", "alpha": 1.5, "detach": False, "instance_on": "regulariser"},
        "wmmr",
        {**TRADES, "alpha": 1.5},
    ),
    (
        {**TRADES, "instance": "exponential", "alpha": 2.0, "instance_on": "regulariser"},
        "wmmr",
        {**TRADES, "alpha": 2.0, "detach": True},
    ),
    ({"instance": "entropy", "strength": 0.8}, "ewat", {"strength": 0.8}),
    (
        {"class_weight": "prior", "power": 0.7, "separation": True, "sep_weight": 0.9, "temperature": 0.2},
        "srat",
        {"strength": 0.7, "sep_weight": 0.9, "temperature": 0.2},
    ),
    ({**TRADES, "class_weight": "hedge", "eta": 0.2}, "wat", {"beta": 4.0, "eta": 0.2}),
    ({"class_weight": "ball", "ball": 0.2}, "faal", {"radius": 0.2}),
    ({**TRADES, "class_weight": "ball", "ball": 0.2}, "faal", {**TRADES, "radius": 0.2}),
    ({**MART, "class_weight": "ball", "ball": 0.2}, "faal", {**MART, "radius": 0.2}),
    (
        {"class_weight": "similarity", "similarity": 1.5, "class_radius": "similarity", "radius_similarity": 1.5},
        "dafa",
        {"form": "at", "lam": 1.5},
    ),
    ({**TRADES, "class_weight": "similarity", "class_on": "main", "class_radius": "similarity"}, "dafa", TRADES),
    ({**TRADES, "class_weight": "dual", "rate": 0.1}, "frl", {"beta": 4.0, "rate": 0.1}),
    (
        {**TRADES, "class_weight": "dual", "class_on": "main", "class_radius": "dual", "margin_rate": 0.1},
        "frl",
        {"beta": 4.0, "mode": "remargin", "margin_rate": 0.1},
    ),
    ({**TRADES, "class_weight": "dual", "class_radius": "dual"}, "frl", {"beta": 4.0, "mode": "both"}),
    ({"class_radius": "accuracy", "radius_base": 0.4}, "cfa", {"form": "at", "lambda_1": 0.4, "average": "none"}),
    ({"class_radius": "accuracy", "average": "fawa", "threshold": 0.1}, "cfa", {"form": "at", "threshold": 0.1}),
    (
        {**TRADES, "class_radius": "accuracy", "class_beta": True, "beta_base": 0.6, "average": "fawa"},
        "cfa",
        {"beta": 4.0, "lambda_2": 0.6},
    ),
    ({"logit_prior": 1.0}, "bsl", {}),
]


def name(corner) -> str:
    return "-".join([corner[1], *map(str, corner[2].values())])


@pytest.mark.parametrize("ours, method, theirs", CORNERS, ids=map(name, CORNERS))
def test_corner(ours, method, theirs):
    published = make(method, **theirs)
    start = getattr(published.params, "start", 0.0)
    family = make("fairfront", start=start, **ours)

    def equal(epoch, seed):
        pairs = zip(
            loss_and_grads(family, make_batch(family, seed=seed, epoch=epoch)),
            loss_and_grads(published, make_batch(published, seed=seed, epoch=epoch)),
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

    equal(epoch=0, seed=0)
    trained(family), trained(published)  # the state of both has seen the same epochs
    equal(epoch=EPOCHS - 1, seed=1)
    equal(epoch=EPOCHS - 1, seed=2)
    radii = [m.eps_scale(torch.arange(4)).double() for m in (family, published)]
    torch.testing.assert_close(*radii)
    z, clean, y = torch.randn(4, 4), torch.randn(4, 4), torch.arange(4)
    assert family.steps_with_radius == published.steps_with_radius
    stats = make_stats(EPOCHS - 1)
    assert [m.average_decay(stats) for m in (family, published)] in ([None] * 2, [0.88] * 2, [0.0] * 2, [1.0] * 2)
    if method != "wmmr":  # whose attack maximises the weighted loss: not in the family
        assert torch.equal(family.inner_loss(z, y, clean), published.inner_loss(z, y, clean))


def test_the_corners_are_not_all_the_same():
    family = [trained(make("fairfront", start=0.5, **ours)) for ours, _, _ in CORNERS]
    losses = [round(method(make_batch(method)).item(), 10) for method in family]
    radii_only = 2  # the two of CFA on AT change nothing but the radius and the average: equal to at
    assert len(set(losses)) >= len(losses) - radii_only


def test_a_radius_never_turns_negative():
    method = make("fairfront", class_radius="accuracy", radius_base=0.2, radius_slope=-1.0)
    factor = trained(method, EPOCHS).eps_scale(torch.arange(4))
    assert (factor > 0).all() and factor[0] < factor[3]
