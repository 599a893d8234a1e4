"""Auto-PGD (APGD): steps with momentum and a step size that adapts. Its targeted form with few targets and few steps
and a scale-free margin loss is what LRAT calls SAA; with 100 steps it is the heart of AutoAttack (``verification``).

After Croce and Hein, ICML 2020 (alg. 1); the conventions are those of ``trainables.attack``. Nothing synchronises with
the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trainables.losses import logit_margin
from trainables.threat_model import LInf, ThreatModel

# Croce and Hein's alpha, and the share of successful steps up to which (their paper: below which) the step is halved.
MOMENTUM, SHARE = 0.75, 0.75
SMALL = 1024  # values of an image up to which the targets run as one batch on a CPU


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(B,) -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), larger = closer to ``target`` (B,); below 4 classes
    the divisor is z_(1) - z_(K)."""
    ordered = logits.sort(1, descending=True).values
    low = (ordered[:, 2] + ordered[:, 3]) / 2 if logits.shape[1] > 3 else ordered[:, -1]
    pick = lambda index: logits.gather(1, index[:, None]).squeeze(1)  # noqa: E731
    return -(pick(y) - pick(target)) / (ordered[:, 0] - low + 1e-12)


def checkpoints(steps: int) -> set[int]:
    """The steps after which the step size is reconsidered: 0.22 of all, then ever closer, no closer than 0.06,
    rounded up (section 3.1 of the paper; the authors' code rounds differently unless ``steps`` is 100)."""
    at, gap, found = 22, 22, set()  # hundredths, so that rounding up is exact
    while at < 100:
        found.add(math.ceil(at * steps / 100))
        gap = max(gap - 3, 6)
        at += gap
    return found


def apgd_targeted(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    targets: int = 3,
    x_start: Tensor | None = None,
    threat: type[ThreatModel] = LInf,
) -> tuple[Tensor, Tensor]:
    """The most harmful of ``targets`` targeted attacks of ``steps`` steps, towards the largest wrong logits at ``x``.

    ``x`` (B, ...) in [0, 1]; ``eps`` a number or (B,). Costs targets * (steps + 2) + 1 passes of B
    images; small images, and all on a GPU, go through in batches of targets * B.
    Returns ``x'``, for every sample the one of largest margin (largest wrong logit minus true one), and
    ``survived`` (B,) int64, the fewest iterates 0 .. steps classified right on the way to any target.
    """
    eps = torch.as_tensor(eps, device=x.device, dtype=x.dtype).flatten()
    with torch.no_grad():
        logits = forward(x)
        others = logits.scatter(1, y[:, None], float("-inf"))
        wrong = others.topk(min(targets, logits.shape[1] - 1), 1).indices
    start, found, survived = x if x_start is None else x_start, [], []
    count = wrong.shape[1]
    # few large calls where calls are what costs; photos on a CPU would only fall out of its cache
    together = count if x.is_cuda or x[0].numel() <= SMALL else 1
    for some in wrong.T.split(together):
        n = len(some)
        copies = [torch.cat([t] * n) for t in (x, y, start)]  # unlike repeat, keeps channels_last
        radii = torch.cat([eps] * n) if len(eps) > 1 else eps
        towards = partial(dlr_targeted, target=some.flatten())
        run = apgd(forward, *copies[:2], towards, eps=radii, steps=steps, x_start=copies[2], threat=threat)
        found.append(run[0])
        survived.append(run[1])
    found, survived = torch.cat(found), torch.cat(survived).reshape(count, -1)
    with torch.no_grad():
        margin = logit_margin(forward(found), y.repeat(count)).reshape(count, -1)
    best = margin.argmax(0) * len(x) + torch.arange(len(x), device=x.device)  # ties: the likelier target
    return found[best], survived.amin(0)


def apgd(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    eps: float | Tensor,
    steps: int,
    x_start: Tensor | None = None,
    threat: type[ThreatModel] = LInf,
) -> tuple[Tensor, Tensor]:
    """One run that maximises ``loss_of(logits, y)`` (B,) in the balls of radius ``eps`` (a number or (B,)).

    Returns the iterate of largest loss, like ``x`` (B, ...), and how many of the iterates 0 .. steps were classified
    right, (B,) int64. The first iterate is ``x_start`` (default ``x``), projected; the first step is 2 eps.
    """
    ball, due, shape = threat(x, eps), checkpoints(steps), (-1,) + (1,) * (x.dim() - 1)
    now = previous = best = ball.project(x if x_start is None else x_start).detach()
    best_grad = torch.zeros_like(x)
    best_loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    step = (2 * ball.radius).expand((len(x),) + shape[1:]).clone()
    survived = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    rises, since, last_loss = torch.zeros(len(x), device=x.device), -1, -best_loss  # the start is no step
    loss_then, halved = best_loss, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for i in range(steps):
        loss, grad, right = _loss_and_grad(forward, now, y, loss_of)
        survived, rises, since = survived + right, rises + (loss > last_loss), since + 1
        better = loss > best_loss
        best = torch.where(better.reshape(shape), now, best)
        best_grad = torch.where(better.reshape(shape), grad, best_grad)
        best_loss, last_loss = torch.maximum(loss, best_loss), loss
        if i in due:
            # halve where steps rarely helped, or nothing improved although the step was not just halved
            halved = (rises <= SHARE * since) | (~halved & (best_loss <= loss_then))
            at = halved.reshape(shape)
            step, now = torch.where(at, step / 2, step), torch.where(at, best, now)
            grad = torch.where(at, best_grad, grad)
            rises, since, loss_then = torch.zeros_like(rises), 0, best_loss
        moved = ball.step(now, grad, step)
        if i:
            moved = ball.project(now + MOMENTUM * (moved - now) + (1 - MOMENTUM) * (now - previous))
        previous, now = now, moved
    with torch.no_grad():
        logits = forward(now)
        better = loss_of(logits, y) > best_loss
    return torch.where(better.reshape(shape), now, best), survived + (logits.argmax(1) == y)


def _loss_and_grad(forward, x: Tensor, y: Tensor, loss_of) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) loss, its gradient like ``x``, (B,) whether still classified right."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = forward(x)
        loss = loss_of(logits, y)
        (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad, logits.detach().argmax(1) == y
