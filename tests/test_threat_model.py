"""The ball: what every threat model promises, L-infinity and L2 by hand, and both through everything."""

import re
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from torch import nn

from search_spaces import METHODS
from trainables.apgd import apgd, apgd_targeted
from trainables.attack import pgd, start_point
from trainables.config import TrialConfig
from trainables.data import Split
from trainables.datasets import training_for
from trainables.evaluate import evaluate
from trainables.loop import Trainer
from trainables.losses import cross_entropy, logit_margin
from trainables.square import square
from trainables.threat_model import L2, LInf, per_image
from trainables.threats import Threat, check_radius, parse_threat, pattern
from trainables.verification import Cascade
from tuner.testing import ThreatContract
from tuner.testing.batches import D, close, t


def distance(threat, x_adv, x):
    """(B,) in the norm of the threat model."""
    moved = (x_adv - x).flatten(1)
    return moved.abs().amax(1) if threat is LInf else moved.norm(dim=1)


BOTH = pytest.mark.parametrize("threat", [LInf, L2])
RADII = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1], dtype=D)


def images(seed=0):
    """Eight images, exact 0 and 1 pixels among them."""
    x = torch.rand(8, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=D)
    x[:, 0] = x[:, 0].round()
    return x


# ---- every threat model ---------------------------------------------------------------------------------------------


class TestLInf(ThreatContract):
    threat = "linf"


class TestL2(ThreatContract):
    threat = "l2"


@BOTH
def test_projection_is_inside_and_leaves_what_is(threat):
    x = images()
    ball, far = threat(x, RADII), x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    found = ball.project(far)
    assert (distance(threat, found, x) <= RADII + 1e-12).all() and found.min() >= 0 and found.max() <= 1
    close(ball.project(found), found, rtol=0, atol=1e-12)
    assert torch.equal(ball.project(x), x)


@BOTH
def test_a_step_gains_most_along_the_gradient(threat):
    """No other point of the ball of that size has a larger product with the gradient; no gradient, no step."""
    g = torch.Generator().manual_seed(2)
    x = torch.full((8, 2, 3, 3), 0.5, dtype=D)
    grad = torch.randn(x.shape, generator=g, dtype=D)
    ball = threat(x, 0.3)
    moved = ball.step(x, grad, per_image(RADII / 2, x)) - x
    close(distance(threat, x + moved, x), (RADII / 2).clamp(max=0.3))
    gain = (moved * grad).flatten(1).sum(1)
    for _ in range(50):
        other = threat(x, RADII / 2).border(g) - x
        assert (gain > (other * grad).flatten(1).sum(1)).all()
    assert torch.equal(ball.step(x, torch.zeros_like(x), per_image(0.1, x)), x)
    assert (distance(threat, ball.step(x, grad, per_image(9.0, x)), x) <= 0.3 + 1e-12).all()


@BOTH
def test_random_starts(threat):
    x = torch.full((8, 2, 3, 3), 0.5, dtype=D)
    draw = lambda how, seed=0: getattr(threat(x, RADII), how)(torch.Generator().manual_seed(seed))  # noqa: E731
    border, start = draw("border"), draw("start")
    close(distance(threat, border, x), RADII)
    assert (distance(threat, start, x) < RADII).all() and (distance(threat, start, x) > 0.3 * RADII).all()
    assert torch.equal(start, draw("start")) and not torch.equal(start, draw("start", 1))
    assert not torch.equal(start[4] - x[4], start[5] - x[5])
    dark = threat(torch.zeros_like(x), RADII).start(torch.Generator().manual_seed(0))
    assert dark.min() == 0 and dark.max() > 0


# ---- L-infinity by hand ---------------------------------------------------------------------------------------------


def test_l_infinity_by_hand():
    x = t(0.0, 0.5, 0.95, 0.5).reshape(1, 1, 2, 2)
    ball = LInf(x, 0.1)
    close(ball.project(x + 1).flatten(), [0.1, 0.6, 1.0, 0.6])
    close(ball.project(x - 1).flatten(), [0.0, 0.4, 0.85, 0.4])
    grad = t(3.0, -1e-9, 2.0, 0.0).reshape(1, 1, 2, 2)
    close(ball.step(x, grad, per_image(0.08, x)).flatten(), [0.08, 0.42, 1.0, 0.5])
    assert ball.radius.shape == (1, 1, 1, 1) and LInf(images(), RADII).radius.shape == (8, 1, 1, 1)


def test_l2_by_hand():
    """Moved by (3, 4) / 10, length 0.5: a radius of 0.25 halves it; a pixel at 0 cannot go on."""
    x, moved = (t(*values).reshape(1, 1, 1, 2) for values in ((0.5, 0.5), (0.3, 0.4)))
    ball = L2(x, 0.25)
    close(ball.project(x + moved).flatten(), [0.65, 0.7])
    close(ball.project(x - moved / 4).flatten(), [0.425, 0.4])  # inside already
    close(ball.step(x, 1e-30 * moved, per_image(0.1, x)).flatten(), [0.56, 0.58])  # however small the gradient is
    close(
        ball.step(x.float(), (1e-30 * moved).float(), per_image(0.1, x.float())).flatten(),
        [0.56, 0.58],
        rtol=1e-6,
        atol=0,
    )
    close(L2(t(0.0, 0.5).reshape(1, 1, 1, 2), 0.25).project(t(-0.3, 0.9).reshape(1, 1, 1, 2)).flatten(), [0.0, 0.7])
    assert L2(images(), RADII).radius.shape == (8, 1, 1, 1)


def test_the_l2_attack_is_optimal_on_a_linear_model():
    """Two classes, logits +- w x / 2: the worst image is x - eps w / |w|, and the margin falls by eps |w|."""
    w, x = t(3, -4, 0, 12), torch.full((5, 1, 2, 2), 0.5, dtype=D)  # |w| = 13
    forward = lambda z: torch.stack([z.flatten(1) @ w, -(z.flatten(1) @ w)], 1) / 2  # noqa: E731
    y, eps = torch.zeros(5, dtype=torch.int64), t(0.1, 0.2, 0.05, 0.1, 0.1)
    start = start_point(x, eps, "uniform", torch.Generator().manual_seed(0), L2)
    attacks = {
        "pgd": partial(pgd, loss=logit_margin, step=eps, steps=40),  # each halves the angle to the optimum
        "apgd": partial(apgd, loss_of=cross_entropy, steps=20),
    }
    for attack in attacks.values():
        found, _ = attack(forward, x, y, eps=eps, x_start=start, threat=L2)
        close((found - x).flatten(1), -eps[:, None] * w / 13, rtol=0, atol=1e-6)
        close(logit_margin(forward(found), y) - logit_margin(forward(x), y), 13 * eps, rtol=1e-6, atol=0)


def test_a_random_start_is_uniform_in_the_l2_ball():
    """In d dimensions a share 2^-d of the points lies within half the radius; in 3, an eighth; no direction leads."""
    x = torch.full((4000, 1, 1, 3), 0.5, dtype=D)
    moved = (L2(x, 0.4).start(torch.Generator().manual_seed(0)) - x).flatten(1)
    share = (moved.norm(dim=1) < 0.2).double().mean()
    assert abs(share - 1 / 8) < 4 * (1 / 8 * 7 / 8 / 4000) ** 0.5
    assert (moved.mean(0).abs() < 4 * (0.4**2 / 5 / 4000) ** 0.5).all()  # E x_i^2 = r^2 / (d + 2)


# ---- both norms, through everything ---------------------------------------------------------------------------------


def net(x):
    """Curved, three classes, eighteen pixels."""
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=g, dtype=D) for shape in ((16, 18), (3, 16)))
    return ((x.flatten(1) - 0.5).to(D) @ a.T).tanh() @ b.T


@BOTH
@pytest.mark.parametrize("name", ["pgd", "apgd", "apgd_targeted"])
def test_attacks_use_their_ball_and_nothing_else(threat, name):
    x = images()
    y = net(x).argmax(1)
    begin = start_point(x, RADII, "uniform", torch.Generator().manual_seed(0), threat)
    attack = {
        "pgd": partial(pgd, loss=cross_entropy, step=RADII / 4),
        "apgd": partial(apgd, loss_of=cross_entropy),
        "apgd_targeted": partial(apgd_targeted, targets=2),
    }[name]
    found, _ = attack(net, x, y, eps=RADII, steps=20, x_start=begin, threat=threat)
    far = distance(threat, found, x)
    assert (far <= RADII + 1e-9).all() and (far > 0.8 * RADII).all() and found.min() >= 0 and found.max() <= 1
    assert (logit_margin(net(found), y) > logit_margin(net(x), y)).all()
    if threat is L2:  # an L-infinity attack would have left the ball
        assert ((found - x).flatten(1).abs().amax(1) < far).all()


@BOTH
def test_the_black_box_probe_stays_in_its_ball(threat):
    """A model that looks at one pixel is fooled where the ball reaches it, and what it is asked lies in the ball."""
    x, asked = images(), []
    x[:, 0, 0, 0] = 0.5

    def forward(z):
        asked.append(z)
        score = z[:, 0, 0, 0] - 0.58
        return torch.stack([-score, score], 1)

    y, eps = torch.zeros(8, dtype=torch.int64), 0.1
    broken = square(forward, x, y, eps=eps, queries=60, generator=torch.Generator().manual_seed(0), threat=threat)
    assert broken.all() if threat is LInf else not broken.all()
    for z in asked:  # whichever images were left
        nearest = torch.stack([distance(threat, z, one[None].expand_as(z)) for one in x], 1).amin(1)
        assert (nearest <= eps + 1e-9).all()


@BOTH
@pytest.mark.parametrize("where", ["evaluate", "verification", "loop"])
def test_attacks_start_in_their_ball(threat, where, tmp_path, monkeypatch):
    """The first iterate is used as it is given, so it has to lie in the right ball."""
    begun = []

    def spy(forward, x, y, loss, **options):
        begun.append(distance(threat, options["x_start"], x) / options["eps"])
        return pgd(forward, x, y, loss, **options)

    monkeypatch.setattr(f"trainables.{where}.pgd", spy)
    x = (images(5) * 255).round().to(torch.uint8)
    split = Split(x, torch.arange(8), net(x / 255).argmax(1))
    if where == "evaluate":
        evaluate(Scores(), split, 3, eps=0.1, steps=2, threat=threat)
    elif where == "verification":
        list(Cascade(Scores(), split, "pgd:2x1", eps=0.1, search_steps=2, threat=threat).run())
    else:
        training = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1))
        Trainer(TrialConfig("at", {}, training, threat=threat.name, home=str(tmp_path), max_epochs=1)).run_epoch()
    assert begun and all(0.3 < far.max() and (far <= 1 + 1e-5).all() for far in begun)


class Scores(nn.Module):
    def forward(self, x):
        return net(x).float()


@BOTH
def test_evaluation_and_verification_are_of_the_ball(threat):
    """In the smaller ball (L2 of the same radius) more images stand; a search over many random points agrees."""
    x = (images(5) * 255).round().to(torch.uint8)
    split = Split(x, torch.arange(8), net(x / 255).argmax(1))
    eps = 0.12
    result = evaluate(Scores(), split, 3, eps=eps, steps=20, threat=threat)
    cascade = Cascade(Scores(), split, "pgd:40x2", eps=eps, search_steps=4, threat=threat)
    list(cascade.run())
    stands = cascade.robust
    assert int(result.robust.sum()) == int(stands.sum()) == {LInf: 1, L2: 6}[threat]
    pixels, y = split.batch(slice(None))
    for seed in range(200):
        tried = threat(pixels, eps).border(torch.Generator().manual_seed(seed)).clamp(0, 1)
        assert (Scores()(tried).argmax(1) == y)[stands].all()


@pytest.mark.slow
def test_a_trial_trains_and_is_judged_in_it(tmp_path):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=2, attack_steps=2, eval_attack=2, attack_start="uniform"))
    gaps = {}
    for threat in (LInf, L2):
        config = TrialConfig("at", {}, training, threat=threat.name, home=str(tmp_path), max_epochs=3)
        trainer, seen = Trainer(config), []
        inner = trainer._batch
        trainer._batch = lambda x, y, found: seen.append((x, found[0][0])) or inner(x, y, found)
        metrics = [trainer.run_epoch() for _ in range(3)][-1]
        gaps[threat] = metrics["clean_acc"] - metrics["robust_acc"]
        for x, x_adv in seen:
            far = distance(threat, x_adv, x)
            assert (far <= training["eps"] + 1e-6).all() and far.max() > 0.9 * training["eps"]
    assert gaps[L2] < 0.15 < gaps[LInf], "0.1 in L2 is far less than 0.1 for every pixel"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_attacks_inside_its_l2_balls(tmp_path, method):
    """The radius may be a class's own: the method's factor times eps."""
    torch.set_num_threads(1)
    training = asdict(
        training_for("digits", passes=1, attack_steps=3, step_size=0.5, eval_attack=1, eps=0.5, batch_size=256)
    )
    trainer = Trainer(TrialConfig(method, {}, training, threat="l2", home=str(tmp_path), max_epochs=2))
    seen, find = [], trainer._attack

    def attack(how, x, y, generator):
        found = find(how, x, y, generator)
        seen.append(distance(L2, found[0], x) / (0.5 * trainer.method.eps_scale(y)))
        return found

    trainer._attack = attack
    metrics = [trainer.run_epoch() for _ in range(2)][-1]
    share = torch.cat(seen).nan_to_num()  # 0 of 0: RobustLT's radius in the first epoch
    assert share.max() < 1 + 1e-5 and share.max() > 0.9 and 0 <= metrics["robust_acc"] <= 1


def test_what_is_made_for_a_box_is_refused(tmp_path):
    config = TrialConfig("done", {"barrier": True}, home=str(tmp_path), max_epochs=1)
    Trainer(config)
    with pytest.raises(ValueError, match="done with barrier=True is made for the box of linf, not for l2"):
        Trainer(replace(config, threat="l2"))


# ---- by name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, name, radius, again",
    [
        ("linf", "linf", None, "linf"),
        ("linf:1/4", "linf", 0.25, "linf:0.25"),
        ("l2:0.5", "l2", 0.5, "l2:0.5"),
        ("l2:128/256", "l2", 0.5, "l2:0.5"),
        ("l2:3", "l2", 3.0, "l2:3.0"),
    ],
)
def test_a_threat_model_as_it_is_written(text, name, radius, again):
    found = parse_threat(text)
    assert found == Threat(name, radius) == parse_threat(again) and str(found) == again and re.match(pattern(), text)


@pytest.mark.parametrize(
    "text",
    ["l3:1", "l2", "l2:", "linf:", "", "l2:x", "l2:1/0", "l2:1e999", "l2:-1", "l2:0", "linf:8", "linf:1e-9", "L2:1"],
)
def test_a_threat_model_that_is_none(text):
    with pytest.raises(ValueError) as refusal:
        parse_threat(text)
    said = str(refusal.value)
    assert said.startswith(f"--threat {text!r} is not allowed; ") and "\n" not in said


def test_no_ball_is_larger_than_the_images():
    """The corners of 1x8x8 values are 8 apart in L2."""
    check_radius(Threat("l2", 8.0), (1, 8, 8))
    check_radius(Threat("linf", 1.0), (1, 8, 8))
    with pytest.raises(
        ValueError, match="'l2:8.1' is not allowed; no two images of 1x8x8 values .* farther apart than 8$"
    ):
        check_radius(Threat("l2", 8.1), (1, 8, 8))
