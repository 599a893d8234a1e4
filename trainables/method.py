"""The one interface of every method: what a training step hands over, and the hooks a method may fill in.

Shapes: B batch, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import losses
from trainables.class_weights import require_every_class
from trainables.threats import LINF


@dataclass(frozen=True)
class Task:
    """What a method may know before training: its data, the length of the run and the attack."""

    class_counts: Tensor  # (K,) training images per class, int64
    max_epochs: int
    eps: float  # radius of the `ThreatModel`, in its norm; pixels are in [0, 1]
    attack_steps: int = 10
    threat: str = LINF  # the norm's name

    @property
    def classes(self) -> int:
        return len(self.class_counts)


@dataclass(frozen=True)
class Attack:
    """One attack of a training step. ``step`` is a fraction of the (per-sample) radius.

    ``loss`` is "inner" (the method's ``inner_loss``), "ce", "margin" (Carlini and Wagner 2017) or "dlr-targeted", which
    is `apgd_targeted` towards ``targets`` classes. ``stop_after``: a sample is frozen once it has been misclassified
    for more than that many steps (FAT's tau); None: never.
    """

    steps: int
    step: float
    start: str = "uniform"
    loss: str = "inner"
    stop_after: int | None = None
    targets: int = 3


@dataclass
class Adversary:
    """One attack's result: ``x`` (B, ...), training-mode ``logits`` (B, K), ``features`` (B, D), and
    ``survived`` (B,), the number of iterates (start included, final one excluded) that were still classified
    right."""

    x: Tensor
    logits: Tensor
    features: Tensor
    survived: Tensor


@dataclass
class Batch:
    """What one training step hands to a method. Clean logits cost a forward pass and are computed only if read."""

    x: Tensor  # (B, C, H, W) in [0, 1], after augmentation and mixing
    y: Tensor  # (B,)
    adversaries: Sequence[Adversary]  # one per attack of the method, usually one
    epoch: int  # 0-based
    max_epochs: int
    forward_clean: Callable[[], tuple[Tensor, Tensor]]  # -> logits (B, K), features (B, D)
    # the train-mode model on other images, needed only by DONE's barrier
    forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    class_weights: Tensor | None = None  # (K,) the shared option `class_weights`; applied by `weighted`
    label_smoothing: float = 0.0  # the shared option; applied by `cross_entropy`
    weights: Tensor | None = None  # (B,) what `weighted` last weighted with; reported as `weight_ess`
    _clean: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """(B,) cross-entropy against this batch's labels, with the shared label smoothing."""
        return F.cross_entropy(logits, self.y, reduction="none", label_smoothing=self.label_smoothing)

    def mean(self, losses: Tensor, weights: Tensor | None = None, *, detach: bool = True) -> Tensor:
        """(1/B) sum_i weights_i * losses_i, the one reduction of per-sample losses (B,), see `weighted`. Not divided by
        the sum of the weights."""
        return self.weighted(losses, weights, detach=detach).mean()

    def weighted(self, losses: Tensor, weights: Tensor | None = None, *, detach: bool = True) -> Tensor:
        """(B,) weights_i * losses_i.

        The shared class weights multiply ``weights`` (B,). Weights carry no gradient unless ``detach=False`` (WMMR as
        published).
        """
        if self.class_weights is not None:
            shared = self.class_weights[self.y]
            weights = shared if weights is None else shared * weights
        if weights is None:
            return losses
        self.weights = weights.detach()
        return (self.weights if detach else weights).to(losses.dtype) * losses

    @property
    def progress(self) -> float:
        """Epochs done as a fraction of all, in [0, 1)."""
        return self.epoch / self.max_epochs

    @property
    def x_adv(self) -> Tensor:
        return self.adversaries[0].x

    @property
    def logits_adv(self) -> Tensor:
        return self.adversaries[0].logits

    @property
    def features_adv(self) -> Tensor:
        return self.adversaries[0].features

    @property
    def survived(self) -> Tensor:
        return self.adversaries[0].survived

    def _forward_clean(self) -> tuple[Tensor, Tensor]:
        if self._clean is None:
            self._clean = self.forward_clean()
        return self._clean

    @property
    def logits(self) -> Tensor:
        return self._forward_clean()[0]

    @property
    def features(self) -> Tensor:
        return self._forward_clean()[1]


@dataclass(frozen=True)
class EpochStats:
    """Counts and sums of one finished epoch, per class, float64 on the CPU. "robust" on `train` is against
    the training attack, on `val` against the evaluation's."""

    epoch: int
    train_count: Tensor  # (K,)
    train_robust: Tensor  # (K,) adversarial images still classified right
    train_probs: Tensor  # (K, K) row i: softmax mass summed over adversarial images of class i
    train_predicted: Tensor  # (K,) adversarial images predicted as that class
    train_confusion: Tensor  # (K, K) row i: adversarial images of class i by their `losses.nearest_class`
    val_count: Tensor  # (K,)
    val_clean: Tensor  # (K,) clean images classified right
    val_ce_robust: Tensor  # (K,) images that CE-PGD does not fool
    val_robust: Tensor  # (K,) of these, images that margin-PGD does not fool either
    val_ce: Tensor  # (K,) sum of the clean cross-entropy
    val_kl: Tensor  # (K,) sum of KL(p(x) || p(x')) on the CE-PGD example

    def train_robust_acc(self) -> Tensor:
        return self.train_robust / self.train_count.clamp(min=1)

    def val_clean_acc(self) -> Tensor:
        return self.val_clean / self.val_count.clamp(min=1)

    def val_robust_acc(self) -> Tensor:
        return self.val_robust / self.val_count.clamp(min=1)


class Method(nn.Module):
    """A reweighting method. ``params`` is its space's ``Params``; state that must survive a checkpoint lives
    in buffers.

    Only ``forward`` is required; the other hooks have the plain choice as their default.
    """

    name = ""  # the method's, as in `search_spaces.METHODS`
    head = "linear"  # the classifier the equation needs: "linear", or "cosine": logits are 10 * cosine
    needs_partners = False  # True: ``mix`` is called with a same-class partner for every image
    needs_val_losses = False  # True: ``EpochStats.val_ce`` and ``val_kl`` are read
    steps_with_radius = True  # the attack's step is a fraction of each sample's own radius; False: of eps
    needs_every_class = False  # True: the equation divides by, or takes the logarithm of, class counts
    form = "at"  # the plain loss underneath: "at", "trades" or "mart"; a parameter ``form`` overrides it

    def __init__(self, params: Any, task: Task):
        super().__init__()
        self.params = params
        self.task = task
        self.form = getattr(params, "form", self.form)
        if self.needs_every_class:
            require_every_class(task.class_counts, self.name)

    def forward(self, batch: Batch) -> Tensor:
        """The scalar training loss."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The two per-sample losses (B,) of the plain base; the second is the regulariser, None for plain AT.

        at: cross-entropy on x'. trades: cross-entropy on x, KL(p(x) || p(x')). mart: boosted cross-entropy on
        x', KL(p(x) || p(x')) (1 - p_y(x)).
        """
        if self.form == "at":
            return batch.cross_entropy(batch.logits_adv), None
        if self.form == "trades":
            return batch.cross_entropy(batch.logits), losses.kl(batch.logits, batch.logits_adv)
        boosted = batch.cross_entropy(batch.logits_adv) + losses.mart_margin_term(batch.logits_adv, batch.y)
        return boosted, losses.mart_regulariser(batch.logits, batch.logits_adv, batch.y)

    def reduce(self, batch: Batch, main_weights: Tensor | None = None, reg_weights: Tensor | None = None) -> Tensor:
        """mean(main_weights * main) + beta * mean(reg_weights * regulariser): the plain base, or its weighted form."""
        main, regulariser = self.terms(batch)
        loss = batch.mean(main, main_weights)
        if regulariser is None:
            return loss
        return loss + self.params.beta * batch.mean(regulariser, reg_weights)

    @property
    def attack_form(self) -> str:
        """The form whose attack is made."""
        return self.form

    def inner_loss(self, logits_adv: Tensor, y: Tensor, logits_clean: Tensor | None) -> Tensor:
        """(B,) what the attack maximises: cross-entropy, for the attack of the trades form KL(p(x) || p(x')).

        ``logits_clean`` is given, without gradient, only if ``inner_needs_clean``. On a GPU this is recorded once and
        replayed: besides its arguments it may read parameters, and buffers that are updated in place.
        """
        if self.attack_form == "trades":
            return losses.kl(logits_clean, logits_adv)
        return F.cross_entropy(logits_adv, y, reduction="none")

    @property
    def inner_needs_clean(self) -> bool:
        return self.attack_form == "trades"

    def attacks(self, base: Attack, epoch: int) -> Sequence[Attack]:
        """The attacks of a step; ``base`` is the one the user configured. A KL attack starts at x + 0.001
        N(0, 1): it has no gradient at x itself, and this is the published start."""
        return (replace(base, start="gaussian") if self.attack_form == "trades" else base,)

    def attack_labels(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) what ``inner_loss`` gets as labels in a step's attacks: ``y``, or classes to attack towards."""
        return y

    def eps_scale(self, y: Tensor) -> Tensor:
        """(B,) factor on the radius of each sample's attack."""
        return torch.ones(len(y), device=y.device)

    def mix(self, x: Tensor, y: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
        """Images to attack and train on in place of ``x``; ``partners`` (B, ...) share the labels. Needs
        ``needs_partners``."""
        return x

    def sampling_weights(self) -> Tensor | None:
        """(K,) probability with which the next batch draws each class; None: every image once per epoch."""
        return None

    def end_step(self, batch: Batch) -> None:
        """After the optimiser step."""

    def end_epoch(self, stats: EpochStats) -> None:
        """After the epoch's evaluation; of a trial that forks also once before, with the stem's last epoch."""

    def average_decay(self, stats: EpochStats) -> float | None:
        """Asked once per epoch after ``end_epoch``. Decay d of the epoch-wise weight average (avg <- d avg +
        (1-d) model); 1 leaves it, 0 copies; None: no average (yet), so the model itself is judged."""
        return None

    @property
    def averages_epochs(self) -> bool:
        """Whether ``average_decay`` ever gives a number."""
        return False

    def notes(self) -> list[str]:
        """What the user should be told after training, e.g. that weights had to be clipped."""
        return []

    def started(self, epoch: int) -> bool:
        """Whether reweighting applies in this epoch: from ``params.start`` (a fraction of the epochs) on."""
        return epoch >= start_epoch(self.params, self.task.max_epochs)


def start_epoch(params: Any, max_epochs: int) -> int:
    """First 0-based epoch at which a method reweights, the last one at the latest; 0 for methods without a deferred
    start."""
    return min(round(getattr(params, "start", 0.0) * max_epochs), max_epochs - 1)
