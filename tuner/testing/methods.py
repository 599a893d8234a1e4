"""What every method keeps, whatever its equation: the numbers of an equation are for tests of your own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from search_spaces import METHODS
from search_spaces.param import coerce, params_of
from trainables.losses import ATTACK_LOSSES
from trainables.method import start_epoch
from tuner.testing.batches import BASE, EPOCHS, loss_and_grads, make, make_batch, make_stats, random_params, trained


@dataclass(frozen=True)
class Case:
    """A method with some parameters, and what it is then."""

    name: str
    params: dict = field(default_factory=dict)
    plain: str | None = "at"  # the base it equals before `start`; None: it has none
    scale: float = 1.0  # ... times this
    state: bool = False  # keeps something between steps or epochs
    off: dict = field(default_factory=dict)  # parameters with which nothing acts before `start`
    reweights: bool = True  # False: with these parameters it is its plain base throughout

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.params.values())])


class MethodContract:
    """``method``: its name; ``cases``: the parameters to try, instead of the defaults alone."""

    method = ""
    cases: Sequence[Case] = ()

    def pytest_generate_tests(self, metafunc):
        cases = self.cases or [Case(self.method)]
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", cases, ids=str)
        if "deferred" in metafunc.fixturenames:
            deferred = [c for c in cases if c.reweights and start_epoch(make(c.name, **c.params).params, EPOCHS)]
            metafunc.parametrize("deferred", deferred, ids=str)
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", dict.fromkeys(case.name for case in cases))

    def test_every_line_of_a_space_is_sound(self, name):
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

    def test_whatever_a_search_draws_trains(self, name):
        rng = random.Random(7)
        for i in range(20):
            values = random_params(name, rng, all_of_them=i % 2 == 0)
            method = trained(make(name, **values), epochs=EPOCHS - 1)
            loss, grad, _ = loss_and_grads(method, make_batch(method))
            assert loss.isfinite() and grad.isfinite().all() and grad.abs().sum() > 0, values
            factor = method.eps_scale(torch.arange(4))
            assert factor.isfinite().all() and (factor > 0).all(), values

    def test_loss_is_a_finite_scalar_with_gradient(self, case):
        method = make(case.name, **case.params)
        loss, grad, _ = loss_and_grads(method, make_batch(method))
        assert loss.shape == () and loss.isfinite()
        assert grad.abs().sum() > 0 and grad.isfinite().all()

    def test_order_of_the_batch_does_not_matter(self, case):
        method = trained(make(case.name, **case.params))
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        loss, grad, _ = loss_and_grads(method, make_batch(method))
        again, grad_again, _ = loss_and_grads(method, make_batch(method, order=order))
        torch.testing.assert_close(loss, again)
        torch.testing.assert_close(grad[order], grad_again)

    @pytest.mark.parametrize(
        "y", [[0, 1, 2, 3], [0, 0, 1, 1, 0], [2, 2], [3]], ids=["one-of-each", "absent", "one-class", "single"]
    )
    def test_small_and_lopsided_batches(self, case, y):
        method = trained(make(case.name, **case.params))
        loss, grad, _ = loss_and_grads(method, make_batch(method, y))
        assert loss.isfinite() and grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_logits(self, case, dtype):
        """|z| = 50 as a confident network gives them, right and wrong, ties included."""
        method, y = trained(make(case.name, **case.params)), torch.tensor([0, 0, 1, 1, 2, 3])
        z = torch.full((6, 4), -50.0).scatter(1, torch.tensor([0, 1, 1, 2, 0, 3])[:, None], 50.0)
        z[5] = 50.0
        z = z.to(dtype).requires_grad_()
        batch = make_batch(method, y.tolist(), dtype=torch.float32, logits=z)
        loss = method(batch)
        (grad,) = torch.autograd.grad(loss, z)
        assert loss.isfinite() and grad.isfinite().all()

    def test_radius_is_finite_and_positive(self, case):
        factor = trained(make(case.name, **case.params)).eps_scale(torch.tensor([0, 1, 2, 3, 3]))
        assert factor.shape == (5,) and factor.isfinite().all() and (factor > 0).all()

    def test_state_survives_a_checkpoint(self, case):
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

    def test_before_start_it_is_its_plain_base(self, case):
        method = make(case.name, **case.params)
        first = start_epoch(method.params, EPOCHS)
        if not first:
            pytest.skip("reweights from the first epoch on")
        if case.plain is None:
            pytest.skip("has no plain base")
        beta = {"beta": method.params.beta} if case.plain != "at" else {}
        method.params = replace(method.params, **case.off)
        trained(method, epochs=first - 1)
        plain = make(case.plain, **beta)
        for epoch in (0, first - 1):
            got = loss_and_grads(method, make_batch(method, epoch=epoch))
            want = loss_and_grads(plain, make_batch(plain, epoch=epoch))
            for a, b in zip(got, want):
                torch.testing.assert_close(a, case.scale * b)
            assert torch.equal(method.eps_scale(torch.arange(4)).double(), torch.ones(4).double())

    def test_after_start_it_is_not(self, deferred):
        method = trained(make(deferred.name, **deferred.params))
        late, fresh = make_batch(method), make(deferred.name, **deferred.params)
        pairs = zip(loss_and_grads(method, late), loss_and_grads(fresh, replace(late, epoch=0)))
        radius = method.eps_scale(torch.arange(4)).double()
        same_radius = torch.allclose(radius, torch.ones_like(radius))
        assert not (same_radius and all(torch.allclose(a, b) for a, b in pairs))

    def test_shared_options_reach_every_method(self, case):
        """Class weights and label smoothing change every loss; equal class weights do not."""
        method = trained(make(case.name, **case.params))
        plain = method(make_batch(method))
        ones = method(make_batch(method, class_weights=torch.ones(4, dtype=torch.float64)))
        torch.testing.assert_close(plain, ones)
        uneven = torch.tensor([0.1, 0.3, 1.1, 2.5], dtype=torch.float64)
        weighted = method(make_batch(method, class_weights=uneven))
        smoothed = method(make_batch(method, label_smoothing=0.2))
        assert not torch.isclose(plain, weighted) and not torch.isclose(plain, smoothed)

    def test_attacks_fit_the_interface(self, case):
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
