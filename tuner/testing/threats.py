"""What every threat model keeps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from trainables.attack import pgd
from trainables.losses import cross_entropy
from trainables.threat_model import ThreatModel, find_threat_model, per_image
from trainables.threats import THREATS, Threat, check_radius, check_row, parse_threat
from tuner.testing.batches import D, close

SHAPE = (2, 3, 3)  # of an image


class ThreatContract:
    """``threat``: its name. Radii are shares of the largest distance that two images have."""

    threat = ""

    def made(self, x: Tensor, share: float | Tensor) -> ThreatModel:
        return find_threat_model(self.threat)(x, share * THREATS[self.threat].farthest(x[0].numel()))

    @property
    def shares(self) -> Tensor:
        return torch.tensor([0.01, 0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.1], dtype=D)

    def test_the_row_is_sound(self):
        row = THREATS[self.threat]
        check_row(row)
        assert issubclass(find_threat_model(self.threat), ThreatModel) and row.shown
        radius = 0.01 * row.farthest(64)
        assert parse_threat(f"{self.threat}:{radius!r}") == Threat(self.threat, radius)
        with pytest.raises(ValueError, match="no two images of 1x8x8 values"):
            check_radius(Threat(self.threat, 1.01 * row.farthest(64)), (1, 8, 8))

    def test_projection_is_inside_and_leaves_what_is(self):
        x = images()
        ball, far = self.made(x, self.shares), x + noise(x, 1)
        found = ball.project(far)
        assert found.min() >= 0 and found.max() <= 1
        close(ball.project(found), found, rtol=0, atol=1e-9)
        assert torch.equal(ball.project(x), x) and (found != x).flatten(1).any(1).all()

    def test_the_border_is_where_the_ball_ends(self):
        x = grey()
        ball = self.made(x, self.shares)
        out = ball.border(torch.Generator().manual_seed(0)) - x
        for reach in (0.5, 1.0):
            close(ball.project(x + reach * out), x + reach * out, rtol=0, atol=1e-9)
        beyond = x + 1.1 * out
        assert ((ball.project(beyond) - beyond).abs().flatten(1).amax(1) > 1e-6).all()

    def test_a_start_is_inside_random_and_repeats(self):
        x = images()
        ball = self.made(x, self.shares)
        starts = [ball.start(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
        assert torch.equal(starts[0], starts[1]) and (starts[0] != starts[2]).flatten(1).any(1).all()
        close(ball.project(starts[0]), starts[0], rtol=0, atol=1e-9)

    def test_a_step_gains_most_along_the_gradient(self):
        """No other point of the ball of its size has a larger product with the gradient; no gradient, no step."""
        x, g = grey(), torch.Generator().manual_seed(2)
        grad, ball = noise(x, 3), self.made(x, 0.2)
        size = self.made(x, self.shares / 2)
        moved = ball.step(x, grad, size.radius) - x
        gain = (moved * grad).flatten(1).sum(1)
        for _ in range(50):
            assert (gain > ((size.border(g) - x) * grad).flatten(1).sum(1) - 1e-9).all()
        close(size.project(x + moved), x + moved, rtol=0, atol=1e-9)
        assert torch.equal(ball.step(x, torch.zeros_like(x), per_image(0.1, x)), x)
        far = ball.step(x, grad, per_image(9.0, x))
        close(ball.project(far), far, rtol=0, atol=1e-9)

    def test_an_image_is_moved_alone(self):
        """Batches are cut into parts, and several processes share one."""
        x, some = images(), torch.tensor([1, 6])
        far, grad = x + noise(x, 1), noise(x, 3)
        whole, part = self.made(x, self.shares), self.made(x[some], self.shares[some])
        close(whole.project(far)[some], part.project(far[some]))
        size = per_image(0.05, x)
        close(whole.step(x, grad, size)[some], part.step(x[some], grad[some], size))

    def test_an_attack_finds_what_a_start_does_not(self):
        x, y = grey(), torch.arange(len(grey())) % 2
        ball = self.made(x, self.shares)
        weights = noise(x, 4)[:2].flatten(1).T
        loss = partial(_loss, weights, y)
        found, _ = pgd(
            lambda x: x.flatten(1) @ weights,
            x,
            y,
            cross_entropy,
            eps=ball.radius.flatten(),
            step=ball.radius.flatten() / 4,
            steps=10,
            threat=type(ball),
        )
        assert (loss(found) > loss(ball.start(torch.Generator().manual_seed(0)))).all()


def _loss(weights: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return cross_entropy(x.flatten(1) @ weights, y)


def images() -> Tensor:
    """Eight images, exact 0 and 1 pixels among them."""
    x = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=D)
    x[:, 0] = x[:, 0].round()
    return x


def grey() -> Tensor:
    return torch.full((8, *SHAPE), 0.5, dtype=D)


def noise(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
