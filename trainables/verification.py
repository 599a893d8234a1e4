"""How robust a finished model is under attacks far stronger than those a search can afford, image by image.

A cascade: attacks run one after the other, cheapest first, each on the images that all earlier ones left standing. An
image counts as broken if any iterate of any attack is misclassified by the model in float32. Attacks:

    apgd         the search's own two PGDs, APGD-CE (1 restart), targeted APGD, and a short black-box Square as a probe
    autoattack   the standard AutoAttack ensemble, the authors' code (pyautoattack), on every image
    pgd:SxR      CE-PGD, S steps, R random restarts

The probe and the images that the weak attack broke answer whether gradients are masked: see ``Cascade.alarms``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from trainables.apgd import apgd, dlr_targeted
from trainables.attack import pgd, start_point
from trainables.attack_copy import Frozen
from trainables.evaluate import no_tf32
from trainables.losses import cross_entropy, logit_margin
from trainables.square import square
from trainables.threat_model import LInf, ThreatModel

STEPS, TARGETS = 100, 9  # AutoAttack's
LIKELY = 5  # the less likely targets after these get half the steps: a fifth of the cost, no result that we saw
PROBE_QUERIES, PROBE_IMAGES = 100, 32
OFFICIAL = ("apgd-ce", "apgd-t", "fab-t", "square")
OFFICIAL_BATCH = 250  # AutoAttack's default: its random starts depend on which images share a batch
SURVIVES, WRONG = -1, 0  # codes of ``broken_by``; else the number of the stage, "clean" being 0
GAP = 0.15  # of the images classified right: honest models lose fewer to margin losses after cross-entropy

Broken = Callable[[Tensor, Tensor], Tensor]  # images, labels -> (B,) known to be broken


@dataclass(frozen=True)
class Stage:
    """One attack of the cascade: how many images it was run on, and how many of them it broke."""

    name: str
    tried: int
    broken: int
    seconds: float


class Cascade:
    """Runs the attacks on a split. ``run`` yields a ``Stage`` after each; then ``broken_by`` (N,) and ``stages`` are
    whole."""

    def __init__(
        self,
        model: nn.Module,
        split,
        attack: str,
        *,
        eps: float,
        search_steps: int,
        seed: int = 0,
        batch_size: int = 512,
        threat: type[ThreatModel] = LInf,
    ):
        self.model = model.eval().requires_grad_(False)
        self.split, self.attack, self.eps, self.search_steps = split, attack, eps, search_steps
        self.seed, self.batch_size, self.threat = seed, batch_size, threat
        self.judge = Frozen(model)
        self.generator = torch.Generator(device=split.labels.device).manual_seed(seed)
        self.broken_by = torch.full((len(split),), SURVIVES, dtype=torch.int16)
        self.stages: list[Stage] = []
        self.alarms: list[str] = []

    def run(self) -> Iterator[Stage]:
        yield self._stage("clean", self._wrong)
        if self.attack == "autoattack":
            official = Official(self.model, self.split, self.eps, self.seed, self.threat.norm)
            for name in official.attacks:
                yield self._stage(name, partial(official.broken, name), whole=True)
        elif self.attack == "apgd":
            for name, loss in (("pgd-ce", cross_entropy), ("pgd-margin", logit_margin)):
                yield self._stage(name, partial(self._pgd_once, loss=loss, steps=self.search_steps))
            yield self._stage("apgd-ce", self._apgd_ce)
            yield self._stage("apgd-t", self._apgd_t)
            yield self._stage("square", self._square)
        else:
            steps, restarts = map(int, self.attack.removeprefix("pgd:").split("x"))
            yield self._stage(self.attack, partial(self._pgd, steps=steps, restarts=restarts))
        self._find_alarms()

    @property
    def clean(self) -> Tensor:
        return self.broken_by != WRONG

    @property
    def robust(self) -> Tensor:
        return self.broken_by == SURVIVES

    @no_tf32()
    def _stage(self, name: str, broken: Broken, whole: bool = False) -> Stage:
        """Run one attack on what still stands. ``whole``: the attack makes its own batches from the rows."""
        begin, code = time.perf_counter(), len(self.stages)
        rows = self.robust.nonzero().squeeze(1)
        for part in [rows] if whole else rows.split(self.batch_size):
            if len(part):
                flags = broken(part) if whole else broken(*self._batch(part))
                self.broken_by[part[flags.cpu()]] = code
        stage = Stage(name, len(rows), int((self.broken_by == code).sum()), time.perf_counter() - begin)
        self.stages.append(stage)
        return stage

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.batch(rows.to(self.split.labels.device))

    # ---- the attacks: (B, ...) images, (B,) labels -> (B,) broken ------------------------------------------------

    @torch.no_grad()
    def _wrong(self, x: Tensor, y: Tensor) -> Tensor:
        # autoattack judges with the model itself, so that its flags are those of the official class
        return (self.model if self.attack == "autoattack" else self.judge)(x).argmax(1) != y

    def _one_by_one(self, x: Tensor, y: Tensor, attacks) -> Tensor:
        """Attacks in turn, each on what the earlier ones of the batch left."""
        broken = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        for attack in attacks:
            left = (~broken).nonzero().squeeze(1)
            if not len(left):
                break
            broken[left] = attack(x[left], y[left], left)
        return broken

    def _pgd(self, x: Tensor, y: Tensor, steps: int, restarts: int) -> Tensor:
        once = partial(self._pgd_once, loss=cross_entropy, steps=steps)
        return self._one_by_one(x, y, [once] * restarts)

    def _pgd_once(self, x: Tensor, y: Tensor, _=None, *, loss, steps: int) -> Tensor:
        begin, step = start_point(x, self.eps, "uniform", self.generator, self.threat), 2.5 * self.eps / steps
        found, survived = pgd(
            self.judge, x, y, loss, eps=self.eps, step=step, steps=steps, x_start=begin, threat=self.threat
        )
        return (survived < steps) | self._wrong(found, y)

    def _apgd_once(self, x: Tensor, y: Tensor, loss, steps: int = STEPS) -> Tensor:
        begin = self.threat(x, self.eps).border(self.generator)
        _, survived = apgd(self.judge, x, y, loss, eps=self.eps, steps=steps, x_start=begin, threat=self.threat)
        return survived <= steps  # of steps + 1 iterates

    def _apgd_ce(self, x: Tensor, y: Tensor) -> Tensor:
        return self._apgd_once(x, y, cross_entropy)

    def _apgd_t(self, x: Tensor, y: Tensor) -> Tensor:
        """Towards each of the (at most 9) most likely wrong classes; with two classes the margin says it all."""
        with torch.no_grad():
            logits = self.judge(x)
        classes = logits.shape[1]
        if classes == 2:
            return self._apgd_once(x, y, logit_margin)
        targets = logits.scatter(1, y[:, None], float("-inf")).topk(min(TARGETS, classes - 1), 1).indices

        def towards(x: Tensor, y: Tensor, left: Tensor, *, rank: int) -> Tensor:
            loss = partial(dlr_targeted, target=targets[left, rank])
            return self._apgd_once(x, y, loss, STEPS if rank < LIKELY else STEPS // 2)

        return self._one_by_one(x, y, [partial(towards, rank=i) for i in range(targets.shape[1])])

    def _square(self, x: Tensor, y: Tensor) -> Tensor:
        return square(
            self.judge, x, y, eps=self.eps, queries=PROBE_QUERIES, generator=self.generator, threat=self.threat
        )

    # ---- masking ----------------------------------------------------------------------------------------------

    @no_tf32()
    def _find_alarms(self) -> None:
        by_name = {s.name: s for s in self.stages}
        clean = by_name["clean"].tried - by_name["clean"].broken
        if not clean:
            return
        box = by_name.get("square")
        if box and box.broken > max(1, 0.002 * by_name["clean"].tried):  # AutoAttack's own threshold
            self.alarms.append(
                f"gradients may be masked: black-box Square broke {box.broken} of the {box.tried} "
                "images that every white-box attack had left standing"
            )
        margin = sum(by_name[n].broken for n in ("pgd-margin", "apgd-t") if n in by_name)
        if margin > max(GAP * clean, 10):
            self.alarms.append(
                f"large gap between attacks: margin losses broke {margin} images ({margin / clean:.0%} "
                "of those classified right) that cross-entropy had left standing"
            )
        if self.attack == "apgd":
            self._weak_against_strong()

    def _weak_against_strong(self) -> None:
        """The stronger attack must find (nearly) all that the weaker one found."""
        weak = (self.broken_by == 1) | (self.broken_by == 2)  # pgd-ce, pgd-margin
        rows = weak.nonzero().squeeze(1)[:PROBE_IMAGES]
        if not len(rows):
            return
        x, y = self._batch(rows)
        found = self._one_by_one(
            x, y, [lambda xs, ys, _: self._apgd_ce(xs, ys), lambda xs, ys, _: self._apgd_t(xs, ys)]
        )
        missed = int((~found).sum())
        if missed > max(1, 0.05 * len(rows)):
            self.alarms.append(
                f"a weaker attack beats a stronger one: of {len(rows)} images that "
                f"{self.search_steps}-step PGD broke, {missed} withstood APGD"
            )


class Official:
    """AutoAttack's standard version, attack by attack, with the results of one call of ``run_standard_evaluation``.

    Images and batches are the same as in the one call, because each attack there also runs on the survivors in order.
    """

    def __init__(self, model: nn.Module, split, eps: float, seed: int, norm: str = "Linf"):
        from pyautoattack import AutoAttack

        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        self.split, device = split, split.labels.device
        self.auto = AutoAttack(model, norm=norm, eps=eps, version="standard", device=device, seed=seed)
        with torch.no_grad():
            classes = model(split.batch(slice(0, 1))[0]).shape[1]
        targets = min(TARGETS, classes - 1)
        self.auto.apgd_targeted.n_target_classes = self.auto.fab.n_target_classes = targets
        # its targeted loss needs four classes
        self.attacks = [a for a in OFFICIAL if classes > 3 or a != "apgd-t"]

    def broken(self, name: str, rows: Tensor) -> Tensor:
        self.auto.attacks_to_run = [name]
        x, y = self.split.batch(rows.to(self.split.labels.device))
        _, y_adv = self.auto.run_standard_evaluation(x, y, batch_size=OFFICIAL_BATCH)
        return y_adv != y
