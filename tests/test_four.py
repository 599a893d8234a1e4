"""The four methods the project exists for, against hand calculations; and LRAT's targeted attack."""

import math

import pytest
import torch

from trainables import losses
from trainables.apgd import apgd_targeted, checkpoints, dlr_targeted
from trainables.attack import pgd
from trainables.class_weights import data_mean, effective_number
from trainables.methods import done, mixup, srat
from trainables.methods.lrat import pair_weights
from tuner.testing.batches import BASE, COUNTS, D, close, log, make, make_batch, t


def test_srat_weights_average_one_over_the_training_data():
    """step:100 with ten classes: weights of sum K average 0.044 over the data (seeds 1.4); SRAT's average
    1."""
    counts = torch.tensor([5000] * 5 + [50] * 5)
    weights = effective_number(counts, 1e-4)
    close(weights.sum(), 10.0)
    close(weights[5] / weights[0], 78.9, rtol=1e-3, atol=0)
    close(data_mean(weights, counts), 0.044, rtol=1e-2, atol=0)
    method = make("srat")
    close((method.class_weights / method.data_mean * t(*COUNTS)).sum(), float(sum(COUNTS)))


def test_srat_switches_on_at_its_start_and_divides_by_the_batch_only_when_asked():
    y = [0, 0, 3]
    data, batchwise = make("srat", sep_weight=0.01), make("srat", sep_weight=0.01, reduction="batch")
    here = make_batch(data, y)
    w, ce = data.class_weights[here.y], here.cross_entropy(here.logits_adv)
    sep = 0.01 * srat.separation_loss(here.features_adv, here.y, 0.1)
    close(data(here), (w * ce).mean() / data.data_mean + sep)
    close(batchwise(here), (w * ce).sum() / w.sum() + sep)
    close(here.weights, w / w.mean())
    assert make("srat", start=0.8).started(16) and not make("srat", start=0.8).started(15)


def test_srat_strength_is_an_exponent():
    base = effective_number(torch.tensor(COUNTS), 1e-4)
    squared = make("srat", strength=2.0).class_weights
    close(squared[3] / squared[0], (base[3] / base[0]) ** 2)
    close(squared.sum(), 4.0)
    close(make("srat", strength=0.0).class_weights, torch.ones(4))


def test_lonely_anchors_pull_nothing_but_push():
    """Anchors without a positive add 0; three of three classes: the loss is 0, two and one: the third is in
    denominators."""
    features = torch.nn.functional.normalize(t([1, 0], [0.6, 0.8], [0, 1.0]), dim=1)
    close(srat.supcon(features, torch.tensor([0, 1, 2]), 0.5), 0.0)
    want = (math.log(math.exp(1.2) + 1) - 1.2 + math.log(math.exp(1.2) + math.exp(1.6)) - 1.2) / 3
    close(srat.supcon(features, torch.tensor([0, 0, 1]), 0.5), want)


def test_focal_weights_are_not_counted_twice():
    """seeds 1.5, pitfall 2: weight 50, cross-entropy 0.1 gives 50 (1 - e^-0.1) 0.1 = 0.476, not 4.97."""
    close(50 * losses.focal(t(0.1), 1.0), [50 * 0.1 * (1 - math.exp(-0.1))])
    close(losses.focal(t(0.1, 3.0), 2.5), [0.1 * (1 - math.exp(-0.1)) ** 2.5, 3 * (1 - math.exp(-3)) ** 2.5])


def test_lrat_weights_at_the_numbers_of_the_paper():
    margins = t(-1, 0, 0.5, 0.99, 1)
    close(pair_weights(1 - margins, 2.0, 0.5), [2.8284271, 2.0, 1.4142136, 0.2, 0.0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "attacks, residual, expected",
    [
        ("saa+cw", "c", ["dlr-targeted", "margin"]),
        ("pgd", "c", ["ce", "dlr-targeted"]),
        ("pgd+cw", "b", ["ce", "margin"]),
    ],
)
def test_lrat_attacks(attacks, residual, expected):
    method = make("lrat", attacks=attacks, residual=residual)
    assert [a.loss for a in method.attacks(BASE, 0)] == expected
    here = make_batch(method)
    x_star = here.adversaries[expected.index("dlr-targeted")].logits if residual == "c" else here.logits
    assert method.residual_logits(here) is x_star


def test_lrat_weights_skip_the_extra_attack_and_carry_no_gradient():
    """x* of residual c is one more attack: it has no pair weight; and all weights are constants."""
    method = make("lrat", attacks="pgd", residual="c", normalise=False)
    here = make_batch(method)
    weights, residual = method.weights(here)
    assert weights.shape == (1, 12) and not weights.requires_grad and not residual.requires_grad
    close(weights[0], 2 * (1 + losses.prob_margin(here.logits_adv, here.y)) ** 0.5)
    ce = [here.cross_entropy(a.logits) for a in here.adversaries]
    close(method(here), (weights[0] * ce[0] + residual * ce[1]).mean())


def test_lsat_is_lrat_with_equal_weights():
    method = make("lsat", attacks="pgd+cw")
    here = make_batch(method)
    close(method(here), torch.stack([here.cross_entropy(a.logits) for a in here.adversaries]).mean())


def test_done_gradient_is_that_of_the_soft_maximum():
    method = make("done", r=1.0)
    here = make_batch(method)
    objective = done.soft_maximum(here.cross_entropy(here.logits_adv), 1.0)
    (want,) = torch.autograd.grad(objective, here.logits_adv)
    (got,) = torch.autograd.grad(method(here), here.logits_adv)
    close(got, want)


def test_done_running_normaliser():
    """u <- (1 - eta) u + eta mean exp(l / r), begun at the first batch; weights exp(l / r) / (B u)."""
    first, second, r, eta = t(1, 2, 3), t(2, 4, 4), 2.0, 0.25
    log_u = done.running_log_mean(t(-math.inf)[0], first, r, eta)
    u = sum(math.exp(v / r) for v in (1, 2, 3)) / 3
    close(log_u, r * math.log(u))
    u = 0.75 * u + 0.25 * sum(math.exp(v / r) for v in (2, 4, 4)) / 3
    close(done.running_log_mean(log_u, second, r, eta), r * math.log(u))
    method = make("done", r=r, normaliser="running", eta=eta)
    method.r_log_u.copy_(log_u)
    close(method.weights(second, torch.zeros(3, dtype=torch.int64), r), [math.exp(v / r) / (3 * u) for v in (2, 4, 4)])
    assert method.r_log_u == log_u  # kept until the optimiser has stepped, so AWP may run the loss twice
    method.end_step(None)
    close(method.r_log_u, r * math.log(u))


def test_done_on_class_level_weights_class_means():
    values, y = t(1, 3, 5), torch.tensor([0, 0, 2])
    weights = make("done", r=2.0, level="class").weights(values, y, 2.0)
    q = math.exp(1) / (math.exp(1) + math.exp(2.5))  # classes 0 (mean 2) and 2 (mean 5)
    close(weights, [q / 2, q / 2, 1 - q])


def test_done_temperature_falls_log_linearly():
    method = make("done", r=1.0, schedule="decay", r_start=100.0, start=0.0)
    close([method.r_at(0), method.r_at(19)], [100.0, 1.0])
    close(method.r_at(10), 100 ** (1 - 10 / 19))


def test_implicit_gradient_of_a_linear_loss():
    """l = theta d: the barrier's optimum moves by 1 / H per unit of theta, so dl/dtheta gains theta / H."""
    theta, eps, c = torch.tensor(0.7, dtype=D, requires_grad=True), t(0.1).reshape(1, 1), 0.02
    x, d = t(0.5).reshape(1, 1), 0.04
    x_adv = (x + d).requires_grad_(True)
    term = done.implicit_term(x, x_adv, (theta * (x_adv - x)).sum(1), eps, c)
    close(term, [0.0])
    hessian = c / (0.1 - d) ** 2 + c / (0.1 + d) ** 2
    close(torch.autograd.grad(term.sum(), theta)[0], 0.7 / hessian)

    # and that is how the optimum of l + c log(ub - d) + c log(d - lb) really moves
    def optimum(theta):
        low, high = -0.1, 0.1
        for _ in range(200):
            d = (low + high) / 2
            low, high = (d, high) if theta - c / (0.1 - d) + c / (0.1 + d) > 0 else (low, d)
        return low

    slope, d = (optimum(0.7001) - optimum(0.6999)) / 0.0002, optimum(0.7)
    close(slope, 1 / (c / (0.1 - d) ** 2 + c / (0.1 + d) ** 2), rtol=1e-5, atol=0)


def test_domain_mixup_shrinks_variance_within_the_class():
    """E[a^2 + (1 - a)^2] = (q + 1) / (2 q + 1) for a ~ Beta(q, q): 0.857 at q = 0.2, 2/3 at q = 1."""
    for q in (0.2, 1.0, 8.0):
        a = mixup.beta_shares(200_000, q, torch.Generator().manual_seed(0))
        close(a.mean(), 0.5, rtol=0, atol=5e-3)
        close((a**2 + (1 - a) ** 2).mean(), (q + 1) / (2 * q + 1), rtol=0, atol=5e-3)
    x, partner, generator = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2), torch.Generator().manual_seed(0)
    mixed = make("mixup", kind="fixed", share=0.75).mix(x, None, partner, generator)
    torch.testing.assert_close(mixed, 0.75 * x + 0.25 * partner)
    random = make("mixup").mix(x, None, partner, generator)
    assert random.dtype == x.dtype
    assert (random >= torch.minimum(x, partner)).all() and (random <= torch.maximum(x, partner)).all()


# ---- the targeted attack of LRAT ----


def _net(classes: int):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 12, generator=g, dtype=D), torch.randn(classes, 20, generator=g, dtype=D)
    return lambda x: (x.flatten(1) @ a.T).relu() @ b.T


def test_dlr_by_hand():
    z = t([4, 1, 3, 0, -1])
    close(dlr_targeted(z, torch.tensor([0]), torch.tensor([2])), [-(4 - 3) / (4 - (1 + 0) / 2)], rtol=1e-10, atol=0)
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]  # Croce and Hein, alg. 1


@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_apgd_stays_in_the_box_and_is_at_least_as_strong_as_margin_pgd(classes):
    forward, g = _net(classes), torch.Generator().manual_seed(1)
    x = torch.rand(200, 3, 2, 2, generator=g, dtype=D)
    x[:, 0] = x[:, 0].round()  # exact 0 and 1 pixels
    y = forward(x).argmax(1)
    eps = torch.rand(200, generator=g, dtype=D) * 0.1
    found, survived = apgd_targeted(forward, x, y, eps=eps, steps=20, x_start=x)
    assert ((found - x).abs().flatten(1).amax(1) <= eps + 1e-12).all()
    assert found.min() >= 0 and found.max() <= 1
    plain, _ = pgd(forward, x, y, losses.logit_margin, eps=eps, step=eps / 4, steps=20)
    robust = [(forward(z).argmax(1) == y).double().mean() for z in (found, plain)]
    assert robust[0] <= robust[1] + 0.01 and 0.05 < robust[0] < 0.98
    assert survived.dtype == torch.int64 and (survived[forward(found).argmax(1) == y] >= 0).all()
    assert (forward(apgd_targeted(forward, x, y, eps=0.0)[0]) == forward(x)).all()


# ---- SRAT and DONE on TRADES' loss -----------------------------------------------------------------------------------

# Of two images: CE(x) = log 2 and log 4, KL(p(x) || p(x')) = 0.5 log 2 + 0.25 log 0.5 = 0.25 log 2 and 0.
CLEAN = log([0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25])
ADVERSARIAL = log([0.25, 0.5, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25])


def on_trades(name, **values):
    method = make(name, form="trades", beta=8.0, **values)
    batch = make_batch(method, [0, 3], logits=ADVERSARIAL)
    batch.forward_clean = lambda: (CLEAN, torch.zeros(2, 7, dtype=D))
    assert method.inner_needs_clean and method.attacks(BASE, 0)[0].start == "gaussian"
    return method, batch


def test_srat_weights_both_terms_of_trades():
    method, batch = on_trades("srat", sep_weight=0.01)  # one image a class: nothing to separate
    first, last = (method.class_weights / method.data_mean)[[0, 3]].tolist()
    assert last > first
    close(method(batch), (first * (1 + 8 * 0.25) * math.log(2) + last * math.log(4)) / 2)


def test_done_weights_what_is_trained():
    """At r = 1 losses of log 8 and log 4 have weights of 8 and 4, scaled to mean 1: 4/3 and 2/3."""
    method, batch = on_trades("done", r=1.0)
    close(method(batch), (4 / 3 * math.log(8) + 2 / 3 * math.log(4)) / 2)
