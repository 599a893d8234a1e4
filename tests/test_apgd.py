"""Auto-PGD against the authors' own code (pyautoattack), iterate by iterate; and how its targets are chosen."""

from functools import partial

import pytest
import torch
from torch import nn

from trainables.apgd import SMALL, apgd, apgd_targeted, checkpoints, dlr_targeted
from trainables.data import Split
from trainables.losses import cross_entropy, logit_margin
from trainables.threat_model import L2, LInf
from trainables.verification import Cascade
from tuner.testing.batches import D, close, t

EPS = 0.1


def small_net(classes=6):
    """Two layers of ReLU, float64: curved enough that steps are halved at different times for different images."""
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=g, dtype=D) / 2 for shape in ((20, 12), (20, 20), (classes, 20)))
    return lambda x: ((x.flatten(1) @ a.T).relu() @ b.T).relu() @ c.T


@pytest.fixture(scope="module")
def case():
    """Model, 200 images with exact 0 and 1 pixels, labels, starting points."""
    forward, g = small_net(), torch.Generator().manual_seed(1)
    x = torch.rand(200, 3, 2, 2, generator=g, dtype=D)
    x[:, 0] = x[:, 0].round()
    start = (x + EPS * (torch.rand(x.shape, generator=g, dtype=D) * 2 - 1)).clamp(0, 1)
    return forward, x, forward(x).argmax(1), start


def official(name, case, eps, norm, target=None):
    """(iterate of largest loss, whether every iterate was classified right), as the authors find them in 100 steps."""
    from pyautoattack import autopgd_base

    forward, x, y, start = case
    attack = getattr(autopgd_base, name)(forward, norm=norm, n_iter=100, eps=eps, device="cpu")
    attack.init_hyperparam(x)
    attack.y_target = target
    torch.set_default_dtype(D)  # else it compares losses in float32, which decides in L2, where they creep
    try:
        best, right, _, _ = attack.attack_single_run(x, y, x_init=start)
    finally:
        torch.set_default_dtype(torch.float32)
    return best, right


@pytest.mark.parametrize("threat, eps", [(LInf, EPS), (L2, 4 * EPS)])
@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_every_image_ends_where_the_authors_code_ends(case, loss, threat, eps):
    """A hundred steps with momentum, halvings and returns to the best point. 100, because there the checkpoints of
    paper and code agree. The start lies in both balls: ours would project it."""
    forward, x, y, start = case
    if loss == "ce":
        (best, right), ours = official("APGDAttack", case, eps, threat.norm), cross_entropy
    else:
        target = forward(x).scatter(1, y[:, None], -torch.inf).argmax(1)
        best, right = official("APGDAttack_targeted", case, eps, threat.norm, target)
        ours = partial(dlr_targeted, target=target)
    found, survived = apgd(forward, x, y, ours, eps=eps, steps=100, x_start=start, threat=threat)
    same = (found - best).abs().flatten(1).amax(1) < 1e-6
    # in L2 a step that gains nothing but rounding may be halved or not
    assert same.all() if threat is LInf else same.sum() >= 190
    assert torch.equal(survived == 101, right) and 0.1 < right.double().mean() < 0.9


def test_checkpoints_by_hand():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99, times the steps, rounded up."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(1000)) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert sorted(checkpoints(20)) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert sorted(checkpoints(10)) == [3, 5, 6, 7, 8, 9, 10] and checkpoints(1) == {1}


# Losses of iterates 0 .. 9 (20 steps: the step size is reconsidered at 5 and 9), what happens at 9, iterates 10, 11.
# The gradient points up until iterate 9, then down, so every iterate from 1 on lies on the border 0.75 of the ball; the
# first step is 0.5. Not halved: down by 0.75 * 0.5. Halved: back to the best point, up there, then down by 0.75 * 0.25.
HALVINGS = [
    ([0, 1, 2, 3, 10, 1, 2, 3, 4, 5], "no gain since 5, though every step rose", [0.75, 0.5625]),
    ([0, 1, 2, 3, 10, 1, 2, 3, 4, 11], "every step rose, and a gain", [0.375, None]),
    ([0, 1, 2, 3, 10, 1, 2, 11, 3, 4], "a gain, but only 3 of 4 steps rose", [0.75, 0.5625]),
    ([0, 10, 1, 2, 3, 2, 3, 4, 5, 6], "no gain, but halved at 5, where 3 of 5 rose", [0.5625, None]),
]


@pytest.mark.parametrize("losses, why, last", HALVINGS, ids=[why for _, why, _ in HALVINGS])
def test_when_the_step_is_halved_by_hand(losses, why, last):
    seen = []

    def loss_of(z, y):
        i = len(seen)
        seen.append(z.detach().item())
        value, slope = (losses[i], 1.0) if i < 9 else (losses[9] if i == 9 else 0.0, -1.0)
        return (value + slope * (z - z.detach())).squeeze(1)

    x = t(0.5, 0.5).reshape(1, 1, 1, 2)
    found, _ = apgd(lambda x: x.flatten(1)[:, :1], x, torch.tensor([0]), loss_of, eps=0.25, steps=20)
    assert found.flatten().tolist() == [0.75, 0.5]  # no gradient, no step
    assert seen[:10] == [0.5] + [0.75] * 9
    assert seen[10] == last[0] and last[1] in (None, seen[11])


def test_survived_counts_every_iterate():
    """One pixel from 0.5 up by 0.2: wrong above 0.6. Start, then the border of the ball for good."""

    def forward(x):
        return torch.cat([0.6 - x.flatten(1), x.flatten(1) - 0.6], 1)

    x, y = torch.full((3, 1, 1, 1), 0.5, dtype=D), torch.tensor([0, 0, 1])
    x[1] = 0.3  # reaches 0.5: right at the start and at all four steps; label 1: 0.5, then down, always wrong
    found, survived = apgd(forward, x, y, logit_margin, eps=0.2, steps=4)
    close(found.flatten(), [0.7, 0.5, 0.3])
    assert survived.tolist() == [1, 5, 0]
    _, survived = apgd(forward, x, y, logit_margin, eps=0.2, steps=1)
    assert survived.tolist() == [1, 2, 0]  # the last iterate counts, though no gradient is needed there


@pytest.mark.parametrize("together", [True, False], ids=["one-batch", "one-by-one"])
def test_the_targeted_attack_is_the_best_of_one_run_per_target(case, together):
    """Small images go through in one batch, large ones target by target; both are three separate runs."""
    small, x, y, start = case
    forward, x, y, start = small, x[:50], y[:50], start[:50]
    if not together:  # the same images, behind pixels that the model does not see
        x, start = (torch.cat([v.flatten(1), torch.zeros(len(v), SMALL, dtype=D)], 1) for v in (x, start))
        forward = lambda z: small(z[:, :12])  # noqa: E731
    ranks = forward(x).scatter(1, y[:, None], -torch.inf).sort(1, descending=True).indices
    eps = torch.linspace(0.02, 0.2, len(x), dtype=D)
    runs = [
        apgd(forward, x, y, partial(dlr_targeted, target=ranks[:, i]), eps=eps, steps=10, x_start=start)
        for i in range(3)
    ]
    margins = torch.stack([logit_margin(forward(found), y) for found, _ in runs])
    found, survived = apgd_targeted(forward, x, y, eps=eps, steps=10, targets=3, x_start=start)
    close(logit_margin(forward(found), y), margins.amax(0))
    assert torch.equal(survived, torch.stack([s for _, s in runs]).amin(0))
    assert margins.argmax(0).unique().tolist() == [0, 1, 2], "each target is the best for some image"


class Scores(nn.Module):
    """The first K pixels are the logits."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x.flatten(1)[:, : self.classes]


def test_verification_aims_at_each_images_own_classes_in_order(monkeypatch):
    """12 classes: nine targets from the likeliest down, 100 steps for five, then 50; broken images leave the rest."""
    images = torch.rand(40, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1)  # no ties
    split = Split(images.reshape(40, 1, 4, 4).to(torch.uint8), torch.arange(40), torch.arange(40) % 12)
    cascade, calls = Cascade(Scores(12), split, "apgd", eps=0.1, search_steps=4), []
    x, y = split.batch(slice(None))

    def once(images, labels, loss, steps=100):
        rows = (images[:, None] == x[None]).flatten(2).all(2).int().argmax(1)
        calls.append((rows, loss.keywords["target"], steps))
        return rows % 10 == len(calls)  # each target breaks some image

    monkeypatch.setattr(cascade, "_apgd_once", once)
    broken = cascade._apgd_t(x, y)
    order = x.flatten(1)[:, :12].scatter(1, y[:, None], -1).sort(dim=1, descending=True, stable=True).indices
    assert [steps for *_, steps in calls] == [100] * 5 + [50] * 4
    for rank, (rows, target, _) in enumerate(calls):
        assert torch.equal(target, order[rows, rank])
        assert torch.equal(rows, torch.tensor([i for i in range(40) if i % 10 not in range(1, rank + 1)]))
    assert torch.equal(broken, torch.arange(40) % 10 != 0)


def test_the_random_start_fills_the_ball(monkeypatch):
    """AutoAttack's: noise scaled so that its largest value is eps; the same image twice starts differently."""
    split = Split(torch.full((6, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(6), torch.zeros(6, dtype=torch.int64))
    cascade, seen = Cascade(Scores(4), split, "apgd", eps=EPS, search_steps=4), []

    def keep(forward, x, y, loss, *, eps, steps, x_start, threat):
        seen.append((eps, steps, x_start - x))
        assert threat is LInf
        return x, torch.tensor([steps + 1, steps] * 3)

    monkeypatch.setattr("trainables.verification.apgd", keep)
    broken = cascade._apgd_ce(*split.batch(slice(None)))
    assert broken.tolist() == [False, True] * 3  # steps + 1 iterates, all of them right
    ((eps, steps, moved),) = seen
    assert (eps, steps) == (EPS, 100) and moved.min() < -EPS / 2 and moved.max() > EPS / 2
    close(moved.abs().flatten(1).amax(1).double(), [EPS] * 6, rtol=1e-5, atol=0)
    assert not torch.equal(moved[0], moved[1])


def test_dlr_divides_by_the_gap_of_the_leading_logits():
    """Scale-free: (z_y - z_t) over z_(1) - (z_(3) + z_(4)) / 2; with three classes over z_(1) - z_(3)."""
    z = t([5, 4, 3, 0, -7])
    for y, target, want in ((0, 1, -1 / 3.5), (4, 0, 12 / 3.5), (2, 3, -3 / 3.5)):
        close(dlr_targeted(z, torch.tensor([y]), torch.tensor([target])), [want])
        close(dlr_targeted(100 * z, torch.tensor([y]), torch.tensor([target])), [want])
    close(dlr_targeted(t([5, 4, 3, 0]), torch.tensor([0]), torch.tensor([1])), [-1 / 3.5])
    close(dlr_targeted(t([5, 4, 1]), torch.tensor([0]), torch.tensor([2])), [-1.0])
