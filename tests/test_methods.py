"""The contract every method keeps, over one table of cases. Numbers of the equations: test_oracles.py,
test_equations.py."""

import random
from dataclasses import dataclass, field, replace

import pytest
import torch

from search_spaces import METHODS
from search_spaces.param import coerce, params_of
from search_spaces.resolve import resolve
from tests.method_batches import (
    BASE,
    COUNTS,
    EPOCHS,
    TASK,
    loss_and_grads,
    make,
    make_batch,
    make_stats,
    random_params,
    trained,
)
from trainables.losses import ATTACK_LOSSES
from trainables.method import start_epoch
from tuner.spec.space import build_space


@dataclass(frozen=True)
class Case:
    name: str
    params: dict = field(default_factory=dict)
    plain: str = "at"  # the base it equals before `start`
    scale: float = 1.0  # ... times this
    state: bool = False  # keeps something between steps or epochs

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.params.values())])


CASES = [
    Case("at"),
    Case("bsl"),
    Case("cfa", {"form": "trades"}, plain="trades", scale=1 / 7, state=True),
    Case("cfa", {"form": "at", "average": "ema"}, state=True),
    Case("cfol", state=True),
    Case("cfol", {"mode": "reweight", "base": "empirical"}, state=True),
    Case("codat"),
    Case("dafa", {"form": "trades"}, plain="trades", state=True),
    Case("dafa", {"form": "at"}, state=True),
    Case("done"),
    Case("done", {"level": "class", "start": 0.5}),
    Case("done", {"normaliser": "running", "schedule": "decay", "start": 0.5}, state=True),
    Case("done", {"barrier": True}),
    Case("ewat"),
    Case("faal", {"form": "at"}),
    Case("faal", {"form": "trades"}, plain="trades"),
    Case("faal", {"form": "mart"}, plain="mart"),
    Case("fairfront"),
    Case(
        "fairfront",
        {"form": "trades", "instance": "sigmoid", "class_weight": "similarity", "class_radius": "accuracy"},
        plain="trades",
        state=True,
    ),
    Case("fairfront", {"form": "mart", "class_weight": "hedge", "class_radius": "dual"}, plain="mart", state=True),
    Case("fat"),
    Case("fat", {"form": "trades", "schedule": "fixed"}),
    Case("frl", {"mode": "reweight"}, plain="trades", state=True),
    Case("frl", {"mode": "remargin"}, plain="trades", state=True),
    Case("frl", {"mode": "both"}, plain="trades", state=True),
    Case("gairat"),
    Case("gairat", {"func": "discrete"}),
    Case("gairat", {"func": "sigmoid", "schedule": "linear"}),
    Case("lrat"),
    Case("lrat", {"attacks": "pgd", "residual": "c"}),
    Case("lrat", {"attacks": "saa+cw+pgd", "residual": "b", "normalise": False}),
    Case("lrat", {"attacks": "pgd+cw", "residual": "a"}),
    Case("lsat"),
    Case("mail", {"form": "at"}),
    Case("mail", {"form": "trades"}, plain="trades"),
    Case("mail", {"form": "mart", "normalise": True}, plain="mart"),
    Case("mart"),
    Case("mixup"),
    Case("mixup", {"kind": "fixed"}),
    Case("reat", state=True),
    Case("robal"),
    Case("sovr"),
    Case("sovr", {"form": "trades"}),
    Case("srat"),
    Case("srat", {"loss": "focal"}),
    Case("srat", {"loss": "ldam", "reduction": "batch"}),
    Case("trades"),
    Case("wat", state=True),
    Case("wmmr"),
    Case("wmmr", {"form": "trades", "detach": True, "weight_attack": False}),
]


def test_every_method_has_a_case():
    assert {case.name for case in CASES} == set(METHODS)


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.mark.parametrize("name", METHODS)
def test_every_line_of_a_space_is_sound(name):
    """Defaults lie in their range, and a condition names an earlier line and values it can take."""
    space, seen = METHODS[name], {}
    assert space.PAPER and space.SUMMARY
    for key, param in params_of(space.Params).items():
        assert coerce(param, param.default) == param.default
        assert param.doc
        for other, allowed in param.when.items():
            assert set(allowed) <= set(seen[other].range.choices)
        for other, defaults in param.by.items():
            assert set(defaults) <= set(seen[other].range.choices)
            assert all(coerce(param, value) == value for value in defaults.values())
        seen[key] = param


@pytest.mark.parametrize(
    "name, fix, paper",
    [
        ("mail", {"form": "trades"}, {"slope": 2.0, "bias": 0.0, "beta": 5.0}),
        ("mail", {"form": "at"}, {"slope": 10.0}),
        ("wmmr", {"form": "trades"}, {"alpha": 2.0}),
        ("frl", {"mode": "both"}, {"bound_clean": 0.07}),
    ],
)
def test_a_fixed_form_has_its_own_published_defaults(name, fix, paper):
    """The first trial of a search and a method built by hand: what the paper sets for that form."""
    first = build_space(name, fix=fix, space={}).default()
    assert {k: first[k] for k in paper} == paper
    assert resolve(name, fix) == first


@pytest.mark.parametrize("name", METHODS)
def test_whatever_a_search_draws_trains(name):
    rng = random.Random(7)
    for i in range(40):
        values = random_params(name, rng, all_of_them=i % 2 == 0)
        method = trained(make(name, **values), epochs=EPOCHS - 1)
        loss, grad, _ = loss_and_grads(method, make_batch(method))
        assert loss.isfinite() and grad.isfinite().all() and grad.abs().sum() > 0, values
        factor = method.eps_scale(torch.arange(4))
        assert factor.isfinite().all() and (factor > 0).all(), values


def test_loss_is_a_finite_scalar_with_gradient(case):
    method = make(case.name, **case.params)
    loss, grad, _ = loss_and_grads(method, make_batch(method))
    assert loss.shape == () and loss.isfinite()
    assert grad.abs().sum() > 0 and grad.isfinite().all()


def test_order_of_the_batch_does_not_matter(case):
    method = trained(make(case.name, **case.params))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    loss, grad, _ = loss_and_grads(method, make_batch(method))
    again, grad_again, _ = loss_and_grads(method, make_batch(method, order=order))
    torch.testing.assert_close(loss, again)
    torch.testing.assert_close(grad[order], grad_again)


@pytest.mark.parametrize(
    "y", [[0, 1, 2, 3], [0, 0, 1, 1, 0], [2, 2], [3]], ids=["one-of-each", "absent", "one-class", "single"]
)
def test_small_and_lopsided_batches(case, y):
    method = trained(make(case.name, **case.params))
    loss, grad, _ = loss_and_grads(method, make_batch(method, y))
    assert loss.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(case, dtype):
    """|z| = 50 as a confident network gives them, right and wrong, ties included."""
    method, y = trained(make(case.name, **case.params)), torch.tensor([0, 0, 1, 1, 2, 3])
    z = torch.full((6, 4), -50.0).scatter(1, torch.tensor([0, 1, 1, 2, 0, 3])[:, None], 50.0)
    z[5] = 50.0
    z = z.to(dtype).requires_grad_()
    batch = make_batch(method, y.tolist(), dtype=torch.float32, logits=z)
    loss = method(batch)
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.isfinite() and grad.isfinite().all()


def test_radius_is_finite_and_positive(case):
    factor = trained(make(case.name, **case.params)).eps_scale(torch.tensor([0, 1, 2, 3, 3]))
    assert factor.shape == (5,) and factor.isfinite().all() and (factor > 0).all()


def test_state_survives_a_checkpoint(case):
    method, fresh = trained(make(case.name, **case.params)), make(case.name, **case.params)
    before = make(case.name, **case.params).state_dict()
    kept = {key: value.clone() for key, value in method.state_dict().items()}
    changed = any(not torch.equal(kept[key], before[key]) for key in kept if not kept[key].isnan().any())
    assert changed == case.state
    fresh.load_state_dict(kept)
    for ours, theirs in zip(loss_and_grads(method, make_batch(method)), loss_and_grads(fresh, make_batch(fresh))):
        assert torch.equal(ours, theirs)
    assert torch.equal(method.eps_scale(torch.arange(4)), fresh.eps_scale(torch.arange(4)))
    last = make_stats(EPOCHS - 1)
    method.end_epoch(last), fresh.end_epoch(last)
    assert method.average_decay(last) == fresh.average_decay(last)
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), fresh.state_dict().values()))


def test_before_start_it_is_its_plain_base(case):
    method = make(case.name, **case.params)
    first = start_epoch(method.params, EPOCHS)
    if not first:
        pytest.skip("reweights from the first epoch on")
    beta = {"beta": method.params.beta} if case.plain != "at" else {}
    if case.name == "srat":  # its separation loss is on throughout
        if method.params.loss != "ce":
            pytest.skip("its plain base is not cross-entropy")
        method.params = replace(method.params, sep_weight=0.0)
    trained(method, epochs=first - 1)
    plain = make(case.plain, **beta)
    for epoch in (0, first - 1):
        got = loss_and_grads(method, make_batch(method, epoch=epoch))
        want = loss_and_grads(plain, make_batch(plain, epoch=epoch))
        for a, b in zip(got, want):
            torch.testing.assert_close(a, case.scale * b)
        assert torch.equal(method.eps_scale(torch.arange(4)).double(), torch.ones(4).double())


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if start_epoch(make(c.name, **c.params).params, EPOCHS) and c.name not in ("fairfront",)],
    ids=str,
)
def test_after_start_it_is_not(case):
    method = trained(make(case.name, **case.params))
    late, fresh = make_batch(method), make(case.name, **case.params)
    pairs = zip(loss_and_grads(method, late), loss_and_grads(fresh, replace(late, epoch=0)))
    radius = method.eps_scale(torch.arange(4)).double()
    same_radius = torch.allclose(radius, torch.ones_like(radius))
    assert not (same_radius and all(torch.allclose(a, b) for a, b in pairs))


def test_shared_options_reach_every_method(case):
    """Class weights and label smoothing change every loss; equal class weights do not."""
    method = trained(make(case.name, **case.params))
    plain = method(make_batch(method))
    ones = method(make_batch(method, class_weights=torch.ones(4, dtype=torch.float64)))
    torch.testing.assert_close(plain, ones)
    uneven = torch.tensor([0.1, 0.3, 1.1, 2.5], dtype=torch.float64)
    weighted = method(make_batch(method, class_weights=uneven))
    smoothed = method(make_batch(method, label_smoothing=0.2))
    assert not torch.isclose(plain, weighted) and not torch.isclose(plain, smoothed)


def test_attacks_fit_the_interface(case):
    method = make(case.name, **case.params)
    for epoch in (0, EPOCHS - 1):
        attacks = method.attacks(BASE, epoch)
        assert attacks and all(a.loss in ("inner", *ATTACK_LOSSES, "dlr-targeted") for a in attacks)
    z = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    clean = torch.randn(5, 4, dtype=torch.float64)
    given = clean if method.inner_needs_clean else None
    inner = method.inner_loss(z, torch.tensor([0, 1, 2, 3, 0]), given)
    (grad,) = torch.autograd.grad(inner.sum(), z)
    assert inner.shape == (5,) and grad.abs().sum() > 0
    assert all(a.start == "gaussian" for a in attacks) == method.inner_needs_clean
    weights = method.sampling_weights()
    assert weights is None or torch.isclose(weights.sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("name", ["srat", "robal", "reat"])
def test_a_class_without_training_images_is_refused(name):
    task = replace(TASK, class_counts=torch.tensor([5, 0, 3, 0]))
    words = f"{name} needs training images of every class, but there are none of class 1, 3"
    with pytest.raises(ValueError, match=words):
        make(name, task)


@pytest.mark.parametrize(
    "name, values, words",
    [
        ("srat", {"gamma": 2.0}, "gamma does not apply to method srat unless loss is focal (it is ce)"),
        ("srat", {"loss": "focal", "max_margin": 0.3}, "max_margin does not apply"),
        (
            "mail",
            {"form": "at", "beta": 3.0},
            "beta does not apply to method mail unless form is trades or mart (it is at)",
        ),
        ("mail", {"slop": 3.0}, "unknown parameter 'slop' of method mail; its parameters: form, slope"),
        ("at", {"beta": 1}, "unknown parameter 'beta' of method at; its parameters: it has none"),
        ("mail", {"slope": 500.0}, "slope=500.0 is not allowed; slope takes [1, 20] log"),
        ("mail", {"form": "tradse"}, "form='tradse' is not allowed"),
        ("nonesuch", {}, "unknown method 'nonesuch'; choose one of: at, bsl"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(name, values, words):
    with pytest.raises(ValueError) as refused:
        make(name, **values)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_resolve_completes_and_drops():
    values = resolve("srat", {"loss": "focal", "gamma": "2"})
    assert values["gamma"] == 2.0 and values["start"] == 0.8
    assert "max_margin" not in values and "scale" not in values
    assert list(values)[0] == "loss" and len(COUNTS) == 4
