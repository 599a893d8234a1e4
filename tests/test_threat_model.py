"""The ball: what every threat model promises, L-infinity by hand, and another norm as one class, through everything."""

from dataclasses import asdict
from functools import partial

import pytest
import torch
from torch import nn

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
from trainables.verification import Cascade
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


# ---- another norm is one class --------------------------------------------------------------------------------------


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
