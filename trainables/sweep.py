"""What one trained model is worth under post-hoc class offsets: its curve, for little more than one evaluation.

An image of class y is robust at offsets b if no attacked x' has another class j with z_j(x') + b_j >= z_y(x') + b_y.
Each x' allows a half-space of b, so the offsets at which an image is robust are a convex set, and on a line b = tau v
an interval of tau. Two things follow:

- an x' found at one tau says for every other tau whether it breaks the image there too, without another attack;
- an image that withstood the attacks at two values of tau is robust between them.

So an image is attacked only at values of tau that neither decides: mostly once, at the end of the line. The attack sees
the logits with the offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.attack import pgd, start_point
from trainables.cuda_graph import Recorder
from trainables.curve import CurvePoint
from trainables.evaluate import LOSSES, Forward, filled, images_of, no_tf32
from trainables.offsets import NONE, TAUS, Offsets, prior
from trainables.threat_model import LInf, ThreatModel

ROUNDS = 2  # of fitting the direction of `classes` and attacking the model that has it
MOVES = (1.0, 0.5, 0.25, 0.1)  # of one class's offset in the fit, up and down, in units of the median margin
ROUNDS_OF_MOVES = 20  # at most, over all classes

Found = list[tuple[Tensor, Tensor]]  # rows (B,) and logits (B, K), as `evaluate` tells its ``seen``


@dataclass(frozen=True)
class ShiftedAttacks:
    """The attacks of `evaluate` (its fields are explained there) on logits that are shifted image by image."""

    judge: Forward
    attacked: Forward
    split: Any
    eps: float
    steps: int
    seed: int = 0
    record: Recorder = Recorder(on=False)
    threat: type[ThreatModel] = LInf
    batch_size: int = 512

    @no_tf32()
    @torch.no_grad()
    def run(self, rows: Tensor, shifts: Tensor) -> Found:
        """What CE-PGD finds near the images ``rows`` (B,), whose logits are shifted by ``shifts`` (B, K), and what
        margin-PGD finds near those that withstood it. The logits returned are the model's own, unshifted."""
        generator, found = torch.Generator(device=rows.device).manual_seed(self.seed), []
        for loss in LOSSES:
            if not len(rows):  # nothing withstood the first one, and not every ball of no images can be drawn from
                break
            left = []
            for some in torch.arange(len(rows), device=rows.device).split(self.batch_size):
                logits = self._attack(loss, rows[some], shifts[some], generator)
                found.append((rows[some], logits))
                left.append(some[(logits + shifts[some]).argmax(1) == self.split.labels[rows[some]]])
            survivors = torch.cat(left)
            rows, shifts = rows[survivors], shifts[survivors]
        return found

    def _attack(self, loss, rows: Tensor, shifts: Tensor, generator: torch.Generator) -> Tensor:
        tried = filled(rows, max(1, self.batch_size // 4)) if self.record.on else rows
        shifts = torch.cat([shifts, shifts[:1].expand(len(tried) - len(rows), -1)])
        x, y = images_of(self.split, tried), self.split.labels[tried]
        find = self.record(("shifted", self.attacked, loss, len(tried)), partial(self._find, loss))
        (x_adv,) = find(x, y, start_point(x, self.eps, "uniform", generator, self.threat), shifts)
        return self.judge(x_adv[: len(rows)])

    def _find(self, loss, x: Tensor, y: Tensor, begin: Tensor, shifts: Tensor) -> tuple[Tensor]:
        step = 2.5 * self.eps / self.steps
        return pgd(
            lambda at: self.attacked(at) + shifts,
            x,
            y,
            loss,
            eps=self.eps,
            step=step,
            steps=self.steps,
            x_start=begin,
            threat=self.threat,
        )[:1]


def points_of(kind: str, attacks: ShiftedAttacks, seen: Found, train_counts: Sequence[int]) -> tuple[CurvePoint, ...]:
    """The curve of a model that has just been evaluated: the model as it is, then at each of `TAUS`.

    ``kind``: ``none`` is the model as it is alone; ``prior`` judges on all images; ``classes`` fits the offsets on
    every other image of each class (track, where they come in tracks) and judges on those between, all points alike.
    ``seen``: everything that `evaluate` judged, all images first.
    """
    labels = attacks.split.labels
    rows = torch.arange(len(labels), device=labels.device)
    if kind == "classes":
        fitting = every_other(labels, attacks.split.groups)
        direction = fit_direction(attacks, seen, rows[fitting], torch.as_tensor(train_counts))
        rows = rows[~fitting]
    elif kind == "none":
        direction = torch.zeros(len(train_counts), dtype=torch.float64, device=labels.device)
    else:
        direction = torch.tensor(prior(train_counts, 1.0).values, dtype=torch.float64, device=labels.device)
    offsets = [NONE]
    if direction.any():
        offsets += [Offsets(kind, tau, tuple((tau * direction).tolist())) for tau in TAUS]
    return points_along(attacks, seen, direction, rows, offsets)


def points_along(
    attacks: ShiftedAttacks, seen: Found, direction: Tensor, rows: Tensor, offsets: Sequence[Offsets]
) -> tuple[CurvePoint, ...]:
    """The model judged on images ``rows`` (B,) at each of the ``offsets``, which lie on the line along ``direction``
    (K,), none of them first. ``seen``: as in `points_of`."""
    labels, clean, taus = attacks.split.labels[rows], seen[0][1][rows], [point.tau for point in offsets]
    robust = sweep(attacks, seen, direction, rows, taus)

    def counted(mask: Tensor) -> tuple[int, ...]:
        return tuple(torch.bincount(labels[mask], minlength=len(direction)).tolist())

    tracks = None
    if attacks.split.groups is not None:
        tracks = tuple(attacks.split.independent(len(direction), rows).tolist())
    return tuple(
        CurvePoint(
            offsets[i],
            counted(torch.ones_like(rows, dtype=torch.bool)),
            counted((clean + tau * direction).argmax(1) == labels),
            counted(robust[:, i]),
            tracks,
        )
        for i, tau in enumerate(taus)
    )


# ---- a line of offsets -----------------------------------------------------------------------------------------------


class Line:
    """Where on the line of offsets ``tau * direction`` each image is robust, as far as attacks have shown.

    ``labels`` (N,); ``direction`` (K,). ``low`` and ``high`` (N,): nothing found so far breaks the image at a tau
    between them. ``first`` and ``last`` (N,): the smallest and the largest tau at which an attack has failed.
    """

    def __init__(self, labels: Tensor, direction: Tensor):
        self.labels, self.direction = labels, direction.double()
        self.low = torch.full(labels.shape, -torch.inf, dtype=torch.float64, device=labels.device)
        self.high = -self.low
        self.first, self.last = self.high.clone(), self.low.clone()

    def add(self, rows: Tensor, logits: Tensor) -> None:
        """Take note of what ``logits`` (B, K), found near the images ``rows`` (B,), rule out. No image comes twice."""
        y, logits = self.labels[rows][:, None], logits.double()
        margin, slope = logits.gather(1, y) - logits, self.direction[y] - self.direction
        bound = -margin / slope  # robust against class j: margin + tau * slope > 0
        low = torch.where(slope > 0, bound, -torch.inf).amax(1)
        high = torch.where(slope < 0, bound, torch.inf).amin(1)
        other = torch.ones_like(margin, dtype=torch.bool).scatter_(1, y, False)
        nowhere = ((slope == 0) & ~(margin > 0) & other).any(1)  # also where a logit is NaN
        self.low[rows] = torch.maximum(self.low[rows], low)
        self.high[rows] = torch.minimum(self.high[rows], torch.where(nowhere, -torch.inf, high))

    def unbroken(self, rows: Tensor, taus: Tensor) -> Tensor:
        """Whether nothing found so far breaks the images ``rows`` (B,) at their ``taus``, (B,) or (B, T)."""
        low, high = self.low[rows], self.high[rows]
        if taus.dim() == 2:
            low, high = low[:, None], high[:, None]
        return (low < taus) & (taus < high)

    def attacked(self, rows: Tensor, taus: Tensor) -> None:
        """The images ``rows`` (B,) have been attacked at ``taus`` (B,), and all that was found has been added."""
        good = self.unbroken(rows, taus)
        rows, taus = rows[good], taus[good]
        self.first[rows] = torch.minimum(self.first[rows], taus)
        self.last[rows] = torch.maximum(self.last[rows], taus)

    def undecided(self, rows: Tensor, taus: Tensor) -> Tensor:
        """(B, T): where the images ``rows`` (B,) are unbroken, but no attack vouches for it; ``taus`` (T,)."""
        between = (self.first[rows][:, None] <= taus) & (taus <= self.last[rows][:, None])
        return self.unbroken(rows, taus[None]) & ~between

    def next_tau(self, rows: Tensor, taus: Tensor) -> Tensor:
        """Where to attack each of the images ``rows`` (B,) next, all of which are undecided somewhere, (B,).

        The largest tau, as long as it lies above those that the image has withstood: it may decide all between.
        """
        undecided = self.undecided(rows, taus)
        lowest = torch.where(undecided, taus, torch.inf).amin(1)
        highest = torch.where(undecided, taus, -torch.inf).amax(1)
        return torch.where(highest > self.last[rows], highest, lowest)


def sweep(attacks: ShiftedAttacks, seen: Found, direction: Tensor, rows: Tensor, taus: Sequence[float]) -> Tensor:
    """(B, T) bool: at which of ``taus`` (T,) the images ``rows`` (B,) are robust. The first is 0, where they have been
    attacked already: ``seen`` holds what was found."""
    line = Line(attacks.split.labels, direction)
    grid = torch.tensor(taus, dtype=torch.float64, device=rows.device)
    for found in seen:
        line.add(*found)
    line.attacked(rows, grid[:1].expand(len(rows)))
    while (open_ := line.undecided(rows, grid).any(1)).any():
        some = rows[open_]
        tau = line.next_tau(some, grid)
        for found in attacks.run(some, (tau[:, None] * line.direction).float()):
            line.add(*found)
        line.attacked(some, tau)
    return line.unbroken(rows, grid[None].expand(len(rows), -1))


# ---- offsets of single classes ---------------------------------------------------------------------------------------


def every_other(labels: Tensor, groups: Tensor | None = None) -> Tensor:
    """(N,) bool: the first, third, fifth ... image of each class, or where there are ``groups`` (N,) all images of its
    first, third, fifth ... one."""
    rank = torch.zeros_like(labels)
    for c in labels.unique():
        rows = (labels == c).nonzero().squeeze(1)
        each = torch.arange(len(rows), device=labels.device)
        rank[rows] = each if groups is None else groups[rows].unique(return_inverse=True)[1]
    return rank % 2 == 0


def fit_direction(attacks: ShiftedAttacks, seen: Found, rows: Tensor, train_counts: Tensor) -> Tensor:
    """(K,) float64: offsets that are best for the images ``rows`` by the sum of natural average and worst class.

    Fitted to what attacks have found so far; then the model with these offsets is attacked, what is found is added, and
    the offsets are fitted again, `ROUNDS` times: cutting planes for the convex sets of this module's first lines.
    """
    labels, clean = attacks.split.labels, seen[0][1]
    chosen = torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, rows, True)
    found = [(r[chosen[r]], logits[chosen[r]]) for r, logits in seen]
    direction = clean.new_zeros(clean.shape[1], dtype=torch.float64)
    for _ in range(ROUNDS):
        direction = _ascend(found, labels, rows, train_counts.to(labels.device), direction)
        shifts = direction.float().expand(len(rows), -1)
        found += attacks.run(rows, shifts)
    return _ascend(found, labels, rows, train_counts.to(labels.device), direction)


def _ascend(found: Found, labels: Tensor, rows: Tensor, train_counts: Tensor, begin: Tensor) -> Tensor:
    """Coordinate ascent from the offsets ``begin`` (K,), one class's offset at a time."""
    every = torch.cat([r for r, _ in found])
    logits = torch.cat([z for _, z in found]).double()
    y, count = labels[every], torch.bincount(labels[rows], minlength=len(train_counts)).clamp(min=1)
    share = train_counts.double() / train_counts.sum()
    top = found[0][1].double().topk(2, 1).values
    unit = (top[:, 0] - top[:, 1]).median()

    def worth(offsets: Tensor) -> Tensor:
        broken = torch.zeros_like(labels, dtype=torch.bool)
        broken[every[(logits + offsets).argmax(1) != y]] = True
        rates = torch.bincount(labels[rows][~broken[rows]], minlength=len(count)) / count
        return (rates * share).sum() + rates.min()

    best, value = begin, worth(begin)
    for _ in range(ROUNDS_OF_MOVES):
        before = value
        for c in range(len(count)):
            for move in (sign * size * unit for size in MOVES for sign in (1, -1)):
                tried = best.clone()
                tried[c] += move
                if (gain := worth(tried)) > value:
                    best, value = tried, gain
        if value <= before:
            break
    return best - best.min()
