"""The field's equations that have no oracle file, against hand calculations."""

import math
from dataclasses import replace

import pytest
import torch

from trainables import losses
from trainables.class_weights import class_weights, effective_number
from trainables.methods import codat, dafa, ewat, faal, fairtat, gairat, reat, robal, robustlt, sovr, spectral, wmmr
from tuner.testing.batches import BASE, COUNTS, EPOCHS, D, close, log, make, make_batch, make_stats, t, trained


def test_fat_stops_later_as_training_goes_on():
    method = make("fat")
    taus = [method.attacks(BASE, epoch)[0].stop_after for epoch in (0, 8, 9, 14, 15, 19)]
    assert taus == [0, 0, 1, 1, 2, 2]
    assert make("fat", schedule="fixed", tau=5).attacks(BASE, 0)[0].stop_after == 5


def test_gairat_with_an_odd_number_of_steps():
    """h = floor(7 / 2) = 3: kappa 3 sits at the middle, kappa 0 at lam + 5; one step: middle at 1/2."""
    kappa = torch.tensor([0, 3, 6])
    sigmoid = [1 / (1 + math.exp(-a)) for a in (5, 0, -5)]
    close(gairat.geometry_weights(kappa, 7, 0.0, "sigmoid"), [3 * s / sum(sigmoid) for s in sigmoid])
    close(gairat.geometry_weights(torch.tensor([0, 1]), 1, 0.0, "sigmoid"), [2 * sigmoid[0], 2 * sigmoid[2]])
    close(gairat.geometry_weights(kappa, 10, math.inf, "tanh"), [1.0, 1.0, 1.0])


def test_wat_hedges_on_validation_losses_and_can_forget():
    method, first, second = make("wat", eta=0.3, beta=2.0, memory=0.9), make_stats(0), make_stats(1)
    cost = [(s.val_ce + 2 * s.val_kl) / 20 for s in (first, second)]  # balanced validation: class means
    cost = [torch.cat([c, c.mean()[None]]) for c in cost]
    method.end_epoch(first)
    method.end_epoch(second)
    close(method.total_cost, 0.9 * cost[0] + cost[1])
    close(method.expert_weights, 4 * torch.softmax(0.3 * (0.9 * cost[0] + cost[1]), 0))


def test_wat_sees_the_mean_of_a_class_however_many_images_it_has():
    """With an uneven validation the authors' N / C would hide a hard, rare class behind an easy, frequent one."""
    method, stats = make("wat", beta=2.0), make_stats(0, val=(200, 100, 50, 20))
    method.end_epoch(stats)
    means = stats.val_ce / stats.val_count + 2 * stats.val_kl / stats.val_count
    close(method.total_cost[:4], means)
    close(method.total_cost[4], (stats.val_ce + 2 * stats.val_kl).sum() / 370)


def test_frl_remargin_weighs_the_clean_error_and_widens_radii():
    """frlrm.py of the authors: dual variables of the clean error and of the radii, none of boundary weights."""
    method = make("frl", mode="remargin", rate=0.1, margin_rate=0.2)
    assert method.params.bound_clean == method.params.bound_boundary == 0.07 and make("frl").params.bound_clean == 0.1
    method.update(t(0.1, 0.3, 0.5, 0.5), t(0.2, 0.1, 0.1, 0.4), t(0.3).squeeze(), t(0.2).squeeze())
    close(method.lam_clean, [0.0, 0.0, 0.013, 0.013])
    close(method.lam_boundary, [0.0] * 4)
    close(method.lam_remargin, [-0.014, -0.034, -0.034, 0.026])


def test_faal_per_class_leaves_little_to_missing_classes():
    """All margins alike and negative: times class sizes a missing class gains most, as it is it gains least."""
    y = [0] * 5 + [1] * 3
    logits = torch.nn.functional.one_hot(torch.tensor(y), 4).double()
    published, ours = (
        m.class_weights(make_batch(m, y, logits=logits)) for m in (make("faal"), make("faal", per_class=True))
    )
    assert published[2] > 0.25 > published[0]
    assert ours[2] < 0.25 < ours[0]


def test_faal_of_the_mart_form_attacks_the_divergence():
    """Its authors' code calls the same attack for TRADES and MART (ft_prn.py, utils.attack_trade)."""
    z, clean, y = log(0.7, 0.2, 0.1)[None], log(0.5, 0.3, 0.2)[None], torch.tensor([0])
    kl = 0.5 * math.log(5 / 7) + 0.3 * math.log(3 / 2) + 0.2 * math.log(2)
    for form, loss, start in (("mart", kl, "gaussian"), ("trades", kl, "gaussian"), ("at", -math.log(0.7), "uniform")):
        method = make("faal", form=form)
        assert [a.start for a in method.attacks(BASE, 0)] == [start] and method.inner_needs_clean == (form != "at")
        close(method.inner_loss(z, y, clean if method.inner_needs_clean else None), [loss])
    assert not make("mart").inner_needs_clean  # MART itself attacks the cross-entropy


def test_cfa_average_takes_an_epoch_exactly_at_the_threshold():
    method, stats = make("cfa", threshold=0.25, decay=0.9), make_stats(0)

    def worst(right):
        now = replace(stats, val_ce_robust=t(20, 20, 20, right), val_robust=t(0, 0, 0, 0))
        method.end_epoch(now)
        return method.average_decay(now)

    # of 20: below and nothing to judge yet, at, below, above
    method.end_epoch(stats)  # the stem's last epoch, far above: the trial has not trained it
    assert worst(4) is None and "threshold=0.25" in method.notes()[0]
    assert [worst(5), worst(4), worst(6)] == [0.0, 1.0, 0.9] and not method.notes()


def test_wmmr_weights_and_their_gradient():
    z, y = torch.stack([log(0.7, 0.2, 0.1), log(0.3, 0.6, 0.1)]), torch.tensor([0, 0])
    close(wmmr.exponential_weights(z, y, 2.0), [math.exp(-1.0), math.exp(0.6)])
    free, detached = make("wmmr"), make("wmmr", detach=True)
    here = make_batch(free)
    assert torch.isclose(free(here), detached(here))
    a, b = (torch.autograd.grad(m(here), here.logits_adv)[0] for m in (free, detached))
    assert not torch.allclose(a, b)
    plain = make("wmmr", weight_attack=False)
    close(plain.inner_loss(z, y, None), losses.cross_entropy(z, y))
    close(free.inner_loss(z, y, None), wmmr.exponential_weights(z, y, 0.5) * losses.cross_entropy(z, y))


def test_frl_reads_clean_and_boundary_errors():
    """Clean error 1 - acc, boundary error clean - robust acc; bounds subtracted, negative gaps clamped."""
    method = make("frl", mode="both", rate=0.1, margin_rate=0.2, start=0.0, bound_boundary=0.0)
    stats = make_stats(0)
    method.end_epoch(stats)
    clean, robust = stats.val_clean / 20, stats.val_robust / 20
    boundary = clean - robust
    close(method.lam_clean, (0.1 * ((1 - clean) - (1 - clean).mean() - 0.07)).clamp(min=0))
    close(method.lam_boundary, (0.2 * (boundary - boundary.mean())).clamp(min=0))
    close(method.lam_remargin, 0.2 * (boundary - boundary.mean()))
    assert method.lam_clean.max() > 0 and method.lam_boundary.max() > 0


def test_ewat_weights():
    z = torch.stack([log(0.5, 0.5), log(0.9, 0.1)])
    h = [math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    close(ewat.entropy_weights(z), [2 * v / sum(h) for v in h])
    close(ewat.entropy_weights(z, strength=0.25), [0.75 + 0.25 * 2 * v / sum(h) for v in h])
    close(ewat.entropy_weights(2 * z, temperature=2.0), ewat.entropy_weights(z))


def test_sovr_switches_the_samples_with_small_margins():
    z, y = t([3, 0, 0], [0, 1, 0], [0, 0, 2], [5, 0, 4.5]), torch.tensor([0, 1, 0, 0])
    assert sovr.smallest_margins(z, y, 0.5).tolist() == [False, False, True, True]
    assert sovr.smallest_margins(z, y, 0.25).tolist() == [False, False, True, False]
    soft = lambda v: math.log1p(math.exp(v))  # noqa: E731
    close(
        losses.one_vs_rest(z, y),
        [soft(-3) + 2 * soft(0), soft(-1) + 2 * soft(0), soft(0) + soft(0) + soft(2), soft(-5) + soft(0) + soft(4.5)],
    )


def test_codat_value_is_mean_plus_deviation():
    risks, rho = t(1, 2, 4, -math.inf), 0.02
    q = codat.chi_square_weights(risks, rho, clip=True)
    mean, var = 7 / 3, ((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 3
    close(q[:3] @ risks[:3], mean + math.sqrt(2 * rho * var))
    close(q.sum(), 1.0)
    assert q[3] == 0
    method = make("codat", rho=0.02)
    here = make_batch(method, [0, 0, 0, 2, 2, 3])
    ce = here.cross_entropy(here.logits_adv)
    risks = torch.stack([ce[:3].mean(), ce[3:5].mean(), ce[5]])
    close(method(here), risks.mean() + (2 * 0.02 * risks.var(correction=0)).sqrt())
    free, clipped = (codat.chi_square_weights(risks, 0.9, clip=c) for c in (False, True))
    assert free.min() < 0 == clipped.min()
    close(clipped.sum(), 1.0)


def test_faal_reaches_its_divergence_and_beats_other_weights():
    gains = t(-0.5, 0.3, -0.9, 0.1, 0.0)
    for radius in (1e-4, 0.05, 0.5, 1.0):
        p = faal.worst_case_weights(gains, radius)
        divergence = lambda q: (0.2 * (0.2 / q).log()).sum()  # noqa: E731
        close(p.sum(), 1.0)
        close(divergence(p), radius, rtol=1e-9, atol=1e-13)
        for seed in range(50):
            q = p * torch.exp(0.1 * torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=D))
            q = q / q.sum()
            assert divergence(q) > radius or q @ gains <= p @ gains + 1e-12
    for level in (gains, t(0.06, 0, 0, -0.22, 0.71, 0.35, 0.28, 0.24, 0, 0.52)):
        assert faal.worst_case_weights(level, 0.0).tolist() == [1 / len(level)] * len(level)
    close(faal.worst_case_weights(torch.zeros(5, dtype=D), 0.5), [0.2] * 5)


def test_dafa_takes_from_both_classes_of_a_tie_and_moves_weight_to_the_harder_otherwise():
    close(dafa.similarity_weights(t([0.6, 0.4], [0.4, 0.6]), 1.0), [0.76, 0.76])
    close(dafa.similarity_weights(t([0.5, 0.5], [0.1, 0.9]), 1.0), [1.45, 0.55])


def test_dafa_clips_what_a_large_lambda_makes_negative_and_says_so():
    method = trained(make("dafa", lam=3.0, floor=0.4))
    assert method.class_weights.min() >= 0.4 and method.clipped > 0
    assert "floor=0.4" in method.notes()[0]
    assert trained(make("dafa", lam=0.2)).notes() == []
    frozen = method.class_weights.clone()
    method.end_epoch(make_stats(EPOCHS - 1, seed=9))
    assert torch.equal(frozen, method.class_weights)


def test_robal_margins_and_prior():
    counts = torch.tensor([100, 10, 10])
    close(robal.count_margins(counts, 0.1, 0.3, 10.0), [0.1 + 0.03 * math.log(10), 0.1, 0.1])
    method = make("robal", margin_tau=0.3)
    here = make_batch(method)
    shifted = here.logits_adv + (1.2 * (t(*COUNTS) / sum(COUNTS)).log())
    margins = robal.count_margins(t(*COUNTS), 0.1, 0.3, 10.0)
    shifted = shifted.scatter_add(1, here.y[:, None], -10 * margins[here.y][:, None])
    cosines = here.logits / 10, here.logits_adv / 10  # the authors' head has scale 1 in training, their CE has s
    want = losses.cross_entropy(shifted, here.y).mean() + 6 * losses.kl(*cosines).mean()
    close(method(here), want)
    close(method.inner_loss(here.logits_adv, here.y, None), losses.cross_entropy(cosines[1], here.y))
    assert method.head == "cosine"


def test_reat_tail_term_by_loops():
    counts = torch.tensor([50, 20, 9, 4])
    tail = reat.tail_classes(counts)
    assert tail.tolist() == [False, False, False, True]
    assert reat.tail_classes(torch.full((10,), 7)).tolist() == [False] * 7 + [True] * 3
    y, w = torch.tensor([3, 0, 3, 2]), (counts.sum() / counts.double()).sqrt()
    f = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=D)
    p, total = torch.softmax(f, 1), 0.0
    for b in (0, 2):
        for j in range(4):
            sign = -1 if y[b] == y[j] else 1
            total += sign * (w[y[b]] + w[y[j]]) * (p[b] * (p[b] / p[j]).log()).sum() / 5 / 4
    close(reat.tail_term(f, y, tail, w), total / 2)
    close(reat.tail_term(f, torch.tensor([0, 1, 0, 1]), tail, w), 0.0)


def test_reat_attack_weights_follow_predictions():
    counts = torch.tensor([10, 10])
    weights = reat.prediction_weights(torch.tensor([20, 1]), counts)
    method, stats = make("reat"), make_stats(0)
    method.end_epoch(stats)
    close(method.attack_weights, reat.prediction_weights(stats.train_predicted, torch.tensor(COUNTS)))
    e = [10 * (1 - 0.9**20) + 1e-5, 1 + 1e-5]
    close(weights, [2 / e[0] / (1 / e[0] + 1 / e[1]), 2 / e[1] / (1 / e[0] + 1 / e[1])])


def test_weights_of_mean_one():
    close(losses.to_mean_one(t(1, 3)), [0.5, 1.5])
    close(losses.to_mean_one(t(1e-20, 3e-20)), [0.5, 1.5])
    close(losses.to_mean_one(t(1e-44, 3e-44)), [0.5, 1.5])  # GAIRAT's sigmoid at Lambda = -100
    close(losses.to_mean_one(t(-1, -3)), [0.5, 1.5])  # FRL's class weights where limit > 1
    close(losses.to_mean_one(t(0, 0)), [1.0, 1.0])


def test_shared_class_weights():
    counts = torch.tensor([90, 10])
    close(class_weights("inverse", counts), [5 / 9, 5.0])  # 1/n, mean 1 over the 100 images
    effective, shared = effective_number(counts, 1e-4), class_weights("effective", counts)
    close(shared[1] / shared[0], effective[1] / effective[0])
    close((counts * shared).sum(), 100.0)
    assert class_weights("none", counts) is None
    with pytest.raises(ValueError, match="class_weights=inverse needs training images of every class"):
        class_weights("inverse", torch.tensor([3, 0]))


def test_a_nearest_class_is_wrong_or_within_a_tenth_of_the_label():
    """A negative logit of the label grows by the same product: -2 is -1.8 and ahead of -1.9."""
    z = t([2.0, 1.9], [2.0, 1.7], [1.0, 3.0], [-2.0, -1.9])
    assert losses.nearest_class(z, torch.tensor([0, 0, 0, 0])).tolist() == [1, 0, 1, 0]


def test_spectral_weights_follow_the_leading_pair():
    """One confusion alone, of class 1 taken for 0: u v^T is 1 there and 0 elsewhere. None at all: plain."""
    one = torch.zeros(3, 3, dtype=D)
    one[0, 1] = 0.4
    want = torch.full((3, 3), 0.01, dtype=D)
    want[0, 1] = 2.01
    close(spectral.spectral_weights(one, 2.0), want)
    close(spectral.spectral_weights(one + torch.eye(3, dtype=D), 2.0), want)
    close(spectral.spectral_weights(torch.eye(3, dtype=D), 2.0), torch.ones(3, 3, dtype=D))


def test_spectral_sees_rates_not_counts():
    """2 of 10 are more than 12 of 100: the leading pair is class 1 taken for 0, not 0 for 1."""
    method, stats = make("spectral", start=0.0), make_stats(0)
    counts = torch.zeros(4, 4, dtype=D)
    counts[0, 1], counts[1, 0] = 12, 2
    method.end_epoch(replace(stats, train_count=t(100, 10, 10, 10), train_confusion=counts))
    close(method.weights[0, 1], 2.01)
    close(method.weights[1, 0], 0.01)


def test_robustlt_keeps_the_mean_radius_and_leaves_balanced_data_alone():
    """e^0, e^-1, e^-4 of the largest class: sqrt of the logarithms 0, 1, 2."""
    counts = torch.tensor([1.0, math.exp(-1), math.exp(-4)], dtype=D) * 1000
    radius = robustlt.rarity_radius(counts, 0.3)
    close(radius - 0.7, (radius[1] - 0.7) * t(0, 1, 2))
    close((counts * radius).sum() / counts.sum(), 1.0)
    close(robustlt.rarity_radius(torch.tensor([7, 7]), 0.3), [1.0, 1.0])
    assert [robustlt.ramp_up(epoch, 8.0) for epoch in (0, 2, 8, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert robustlt.ramp_up(0, 0.0) == 1.0


def test_taet_trains_on_clean_images_first():
    method = make("taet", clean=0.25)
    (first,), (later,) = (method.attacks(BASE, epoch) for epoch in (4, 5))
    assert (first.steps, first.start) == (0, "none") and later == BASE
    z = torch.stack([log(0.5, 0.3, 0.1, 0.1), log(0.2, 0.3, 0.4, 0.1)])
    close(method(make_batch(method, [0, 0], epoch=4, logits=z)), (math.log(2) + math.log(5)) / 2)
    equal = make("taet", clean=0.25, alpha=0.1, beta=0.5, gamma=0.2)
    risk = (math.log(2) + math.log(5)) / 2  # of class 0, those absent have 0
    want = 0.1 * risk / 4 + 0.5 * risk**2 * 3 / 16 + 0.2
    close(equal(make_batch(equal, [0, 0], epoch=5, logits=z)), want)


def test_fairtat_attacks_towards_classes_by_their_share_of_false_predictions():
    method, stats = make("fairtat", sharpness=2.0, lambda_r=0.5), make_stats(0)
    close(method.probs, [0.25] * 4)
    close(method.eps_scale(torch.arange(4)), [1.0] * 4)
    predicted, right = t(50, 30, 20, 7), t(40, 20, 10, 7)
    method.end_epoch(replace(stats, train_count=t(50, 40, 20, 10), train_predicted=predicted, train_robust=right))
    weights = [math.exp(2 / 3)] * 3 + [1.0]  # 10 of 30 false predictions each, and none
    close(method.probs, [w / sum(weights) for w in weights])
    close(method.eps_scale(torch.arange(4)), [1.3, 1.0, 1.0, 1.2])
    z = log(0.7, 0.2, 0.1)[None]
    close(method.inner_loss(z, torch.tensor([1]), None), [math.log(0.2)])
    uniform = make("fairtat", targets="uniform", class_eps=False)
    uniform.end_epoch(stats)
    close(uniform.probs, [0.25] * 4)
    close(uniform.eps_scale(torch.arange(4)), [1.0] * 4)


def test_a_target_is_another_class_drawn_by_its_probability():
    """Of 30,000 draws beside label 0, classes 1, 2, 3 get 2/3, 1/6, 1/6 of them."""
    generator = torch.Generator().manual_seed(0)
    drawn = fairtat.other_class(t(0.4, 0.4, 0.1, 0.1), torch.zeros(30_000, dtype=torch.int64), generator)
    shares = torch.bincount(drawn, minlength=4) / 30_000
    assert shares[0] == 0
    close(shares[1:], [2 / 3, 1 / 6, 1 / 6], atol=0.01, rtol=0)
