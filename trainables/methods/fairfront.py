"""Fairfront, ours: mean_i v_i [CE-type_i + beta Reg_i] with v_i an instance weight times a class weight,
radius eps * e_y.

Its corners are the published methods; tests/test_fairfront.py lists which setting gives which: loss, gradient,
radius, state. The attack is the plain base's, but FAAL's with its weights (``class_weight="ball"``), whose mart form
attacks as the trades form does; WMMR's corner is WMMR without its weighted attack. Class-level state lives in the
published methods themselves, held as parts, so that there is one place where each is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces import method_space
from search_spaces.param import params_of
from trainables.class_weights import data_mean, require_every_class
from trainables.losses import to_mean_one
from trainables.method import Batch, EpochStats, Method
from trainables.methods.bsl import Bsl, balanced_logits
from trainables.methods.cfa import Cfa, calibrated
from trainables.methods.dafa import Dafa
from trainables.methods.ewat import entropy_weights
from trainables.methods.faal import Faal
from trainables.methods.frl import Frl
from trainables.methods.gairat import geometry_weights
from trainables.methods.mail import margin_weights
from trainables.methods.srat import deferred_weights, separation_loss
from trainables.methods.wat import Wat
from trainables.methods.wmmr import exponential_weights

SMALLEST_RADIUS = 0.05  # a negative radius_slope must not turn the ball inside out
EFFECTIVE = 1e-4  # 1 - beta of the effective number


def part(method: type[Method], task, **values) -> Method:
    """A published method with some parameters set, to be used for its state."""
    space = method_space(method.name).Params
    return method(space(**{n: values.get(n, p.default_beside(values)) for n, p in params_of(space).items()}), task)


def on_terms(weights: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """(B,) factors of the main term and of the regulariser."""
    ones = torch.ones_like(weights)
    return (ones if where == "regulariser" else weights), (ones if where == "main" else weights)


class Fairfront(Method):
    name = "fairfront"

    def __init__(self, params, task):
        super().__init__(params, task)
        p, self.parts = params, nn.ModuleDict()
        shared = {"start": p.start, "beta": p.beta}
        if p.class_weight == "similarity":
            self.parts["dafa"] = part(Dafa, task, lam=p.similarity, **shared)
        if p.class_radius == "similarity":
            self.parts["dafa_radius"] = part(Dafa, task, lam=p.radius_similarity, **shared)
        if "dual" in (p.class_weight, p.class_radius):
            only = "reweight" if p.class_weight == "dual" else "remargin"
            mode = "both" if p.class_weight == p.class_radius else only
            self.parts["frl"] = part(Frl, task, mode=mode, rate=p.rate, margin_rate=p.margin_rate, **shared)
        if p.class_weight == "hedge":
            self.parts["wat"] = part(Wat, task, eta=p.eta, beta=p.beta)
        if p.class_weight == "ball":
            self.parts["faal"] = part(Faal, task, radius=p.ball, form=p.form, **shared)
        if p.class_beta or p.class_radius == "accuracy" or p.average == "fawa":
            self.parts["cfa"] = part(
                Cfa, task, lambda_2=p.beta_base, average=p.average, decay=p.decay, threshold=p.threshold, **shared
            )
        self.steps_with_radius = p.class_radius != "accuracy"
        self.parts["bsl"] = part(Bsl, task, strength=p.logit_prior)
        self.needs_val_losses = p.class_weight == "hedge"
        counts = task.class_counts.double()
        weights = torch.ones_like(counts)
        if p.class_weight == "prior":
            require_every_class(task.class_counts, "fairfront with class_weight=prior")
            weights = deferred_weights(counts, EFFECTIVE, p.power)
        self.register_buffer("prior_weights", weights / data_mean(weights, counts))

    @property
    def attack_form(self) -> str:
        return self.parts["faal"].attack_form if "faal" in self.parts else self.form

    def end_epoch(self, stats: EpochStats) -> None:
        for method in self.parts.values():
            method.end_epoch(stats)

    @property
    def averages_epochs(self) -> bool:
        return self.params.average == "fawa"

    def average_decay(self, stats: EpochStats) -> float | None:
        return self.parts["cfa"].average_decay(stats) if self.averages_epochs else None

    def notes(self) -> list[str]:
        return [note for method in self.parts.values() for note in method.notes()]

    def eps_scale(self, y: Tensor) -> Tensor:
        p = self.params
        if p.class_radius == "accuracy":
            factor = calibrated(p.radius_base, p.radius_slope * self.parts["cfa"].robust_acc)
            return factor.clamp(min=SMALLEST_RADIUS)[y]
        if p.class_radius == "none":
            return super().eps_scale(y)
        return self.parts["dafa_radius" if p.class_radius == "similarity" else "frl"].eps_scale(y)

    def terms(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        if self.form != "at" or not self.params.logit_prior or not self.started(batch.epoch):
            return super().terms(batch)
        shifted = balanced_logits(batch.logits_adv, self.parts["bsl"].prior, self.params.logit_prior)
        return batch.cross_entropy(shifted), None

    def instance_weights(self, batch: Batch) -> Tensor:
        """(B,) without gradient, but for WMMR's as published (``detach=False``)."""
        p, z = self.params, batch.logits_adv
        if p.detach or p.instance != "exponential":
            z = z.detach()
        match p.instance:
            case "geometry":
                return geometry_weights(batch.survived, self.task.attack_steps, p.lam, p.func)
            case "sigmoid":
                return margin_weights(z, batch.y, p.slope, p.bias)
            case "exponential":
                return exponential_weights(z, batch.y, p.alpha)
            case "entropy":
                return entropy_weights(z, p.strength)
        return torch.ones(len(batch.y), device=z.device)

    def class_weights(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) for the main term and (B,) for the regulariser, without gradient."""
        p, y = self.params, batch.y
        match p.class_weight:
            case "dual":
                clean, boundary = self.parts["frl"].class_weights().values()
                main, regulariser = to_mean_one(clean[y]), to_mean_one(boundary[y])
                return on_terms(main, p.class_on)[0], on_terms(regulariser, p.class_on)[1]
            case "hedge":
                experts = self.parts["wat"].expert_weights
                weights = experts[y] + experts[-1]
            case "ball":
                q = self.parts["faal"].class_weights(batch)
                weights = len(q) * q[y]
            case "similarity":
                weights = self.parts["dafa"].class_weights[y]
            case _:
                weights = self.prior_weights[y]
        return on_terms(weights, p.class_on)

    def forward(self, batch: Batch):
        p = self.params
        ones = torch.ones(len(batch.y), device=batch.y.device)
        weights = self.weights(batch) if self.started(batch.epoch) else (ones, ones)
        loss = self._weighted(batch, *weights)
        if p.separation:
            loss = loss + p.sep_weight * separation_loss(batch.features_adv, batch.y, p.temperature)
        return loss

    def weights(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) for the main term and (B,) for the regulariser: instance weight times class weight."""
        where = self.params.instance_on if self.form != "at" else "both"
        instance = on_terms(self.instance_weights(batch), where)
        main, regulariser = (a * b for a, b in zip(instance, self.class_weights(batch)))
        return main, regulariser

    def _weighted(self, batch: Batch, main_weights: Tensor, reg_weights: Tensor) -> Tensor:
        main, regulariser = self.terms(batch)
        free = {"detach": self.params.detach}
        if regulariser is None:
            return batch.mean(main, main_weights, **free)
        if self.params.class_beta:  # before the start too: CFA's burn-in is TRADES / (1 + beta)
            share = self.parts["cfa"].class_beta()[batch.y]
            return batch.mean(main, (1 - share) * main_weights, **free) + batch.mean(
                regulariser, share * reg_weights, **free
            )
        return batch.mean(main, main_weights, **free) + self.params.beta * batch.mean(regulariser, reg_weights, **free)
