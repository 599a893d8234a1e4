"""The one training loop: an epoch of adversarial training and its evaluation, resumable bit by bit at every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from trainables.apgd import apgd_targeted
from trainables.attack import pgd, start_point
from trainables.attack_copy import Frozen, fast_dtype
from trainables.augment import augment
from trainables.averages import WeightAverage, perturbed_weights, warmed_up
from trainables.batches import Batches
from trainables.class_weights import class_weights
from trainables.config import TrialConfig
from trainables.cuda_graph import Recorder
from trainables.curve import Curve
from trainables.data import Split, open_splits
from trainables.data_parallel import Alone, processes_for
from trainables.evaluate import Evaluation, evaluate
from trainables.head_repair import SLOWER, equal_norms, linear_head, tune_head
from trainables.initial import load_initial
from trainables.losses import ATTACK_LOSSES, nearest_class
from trainables.method import Adversary, Attack, Batch, EpochStats, Method, Task
from trainables.methods import build_method
from trainables.models.build import build_model
from trainables.offsets import kind_for
from trainables.schedule import learning_rate
from trainables.sgd import SGD
from trainables.sweep import Found, ShiftedAttacks, points_of
from trainables.threat_model import LInf, ThreatModel, find_threat_model


def find(
    attack: Attack,
    attacked: Frozen,
    method: Method,
    x: Tensor,
    y: Tensor,
    begin: Tensor,
    eps: Tensor,
    step: Tensor,
    *,
    threat: type[ThreatModel] = LInf,
) -> tuple[Tensor, Tensor]:
    """One attack of a training step from ``begin`` (B, ...), with ``eps`` and ``step`` (B,).

    Returns x' (B, ...) and how many iterates were classified right, (B,) int64.
    """
    if attack.loss == "dlr-targeted":
        return apgd_targeted(
            attacked, x, y, eps=eps, steps=attack.steps, targets=attack.targets, x_start=begin, threat=threat
        )
    with torch.no_grad():
        clean = attacked(x) if attack.loss == "inner" and method.inner_needs_clean else None
    losses = {**ATTACK_LOSSES, "inner": lambda logits, labels: method.inner_loss(logits, labels, clean)}
    return pgd(
        attacked,
        x,
        y,
        losses[attack.loss],
        eps=eps,
        step=step,
        steps=attack.steps,
        x_start=begin,
        stop_after=attack.stop_after,
        threat=threat,
    )


class Diverged(RuntimeError):
    """The training loss, or a logit of the trained model, is not finite; the message says in which epoch."""


class Trainer:
    """One trial. ``run_epoch`` trains and judges one epoch; ``state_dict`` holds everything the next one depends on.

    Random numbers are drawn from generators seeded by (seed, epoch), so a run continued from a checkpoint ends with
    exactly the weights of one that was never interrupted (same device, same threads).
    """

    def __init__(
        self,
        config: TrialConfig,
        device: str | torch.device | None = None,
        *,
        head: str | None = None,
        processes: Alone | None = None,
    ):
        """``processes``: who trains the trial, where it is not this process that leads."""
        self.config, self.training = config, config.full_training()
        self.processes = processes or processes_for(config.processes)
        self.threat = find_threat_model(config.threat)  # of training attack and evaluation; its radius is ``eps``
        self.device = torch.device(device or self.processes.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.splits = open_splits(config.data_spec, config.home, device=self.device)
        self.classes = len(self.splits.classes)
        counts = torch.as_tensor(self.splits.class_counts)
        self.task = Task(counts, config.max_epochs, self.training.eps, self.training.attack_steps, config.threat)
        torch.manual_seed(config.seed)
        self.method = build_method(config.method, config.params, self.task).to(self.device)
        if self.training.ema and self.method.averages_epochs:
            raise ValueError(
                f"{config.method} with average={self.method.params.average} keeps a weight average of its "
                "own, so ema must be 0"
            )
        self.model_head = head or self.method.head
        self.model = build_model(
            config.model,
            self.classes,
            self.splits.shape,
            head=self.model_head,
            mean=self.splits.mean,
            std=self.splits.std,
        ).to(self.device)
        if config.init:
            load_initial(self.model, config.storage or config.home, config.init)
        self.model.to(memory_format=torch.channels_last)
        if self.training.head_repair != "none":
            linear_head(self.model)
        self.images = self.splits.trained_on
        self.batches = Batches(
            self.splits.train.labels,
            self.classes,
            self.training.batch_size,
            self.training.passes,
            None if self.splits.extra is None else self.splits.extra.labels,
            config.extra_ratio,
        )
        self._check_processes()
        self.optimizer = SGD(
            self.model.parameters(),
            lr=self.training.lr,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            fused=self.device.type == "cuda",
            nesterov=self.training.nesterov == "on",
        )
        self.autocast = fast_dtype(self.training.precision, self.device, self.splits.shape)
        # compiled code fuses by itself, and cannot look into cuDNN's kernels
        self.fused = self.device.type == "cuda" and self.autocast is not None and self.training.compile == "off"
        self.attacked = Frozen(
            self.model, dtype=self.autocast, batch_stats=self.training.attack_bn == "train", fused=self.fused
        )
        if self.training.compile == "on":  # weights are inputs and shapes fixed: trials of a search share compiled code
            self.attacked.module.backbone.compile(dynamic=False)
        # holds no reference to the trainer, whose memory can then be freed
        self.record = self.processes.recorder(
            Recorder(self.device.type == "cuda" and self.training.cuda_graph == "on"),
            batch_stats=self.training.attack_bn == "train",
        )
        self._judges: dict[int, tuple[Frozen, Frozen]] = {}
        self._seen: Found = []  # in the last evaluation
        self.class_weights = class_weights(self.training.class_weights, counts)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device)
        self.average = WeightAverage(self.model) if self.training.ema else None
        self.epoch = 0
        self.best: dict | None = None  # epoch, metrics and weights of `final_model`, once there is an own epoch
        self.stats: EpochStats | None = None  # of the last epoch; a trial that forks here starts from it
        judged = self.splits.val.independent(self.classes).tolist()
        self.offsets = kind_for(config.offsets, self.splits.class_counts, judged)
        self.curve: Curve | None = None  # once all epochs are trained: the final model over its offsets

    def _check_processes(self) -> None:
        """``ValueError`` in one sentence where several processes cannot train this trial."""
        size, batch = self.processes.size, self.batches.batch_size
        if batch < size:
            raise ValueError(f"{size} processes cannot share batches of {batch} images; ask for fewer")
        if size > 1 and self.training.compile == "on":
            raise ValueError(f"compile=on is for trials of one process, and this one has {size}")

    # ---- one epoch -------------------------------------------------------------------------------------------

    def run_epoch(self) -> dict[str, float]:
        """Train epoch ``self.epoch`` (0-based) and judge it on the watched part of `val`.

        Returns `Evaluation.metrics` with ``epoch`` (1-based), ``train_loss`` and ``weight_ess`` (means over the steps),
        ``train_s`` and ``eval_s`` (seconds). ``Diverged`` where the loss is not finite, or the model after the last
        epoch. After that ``curve`` is the model's over the offsets, on all of `val`; ``eval_s`` includes its cost. That
        epoch's metrics are of the model whose head has been repaired, where ``head_repair`` asks for it.

        ``ProcessDied`` where one of several processes that train it is gone.
        """
        with self.processes.together(self):
            return self._run_epoch()

    def _run_epoch(self) -> dict[str, float]:
        begin = time.perf_counter()
        totals = self._train()
        loss = totals["loss"].item()  # the epoch's one synchronisation with the device
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {self.epoch + 1}")
        trained = time.perf_counter()
        result = self._judge(self.average.model if self.training.ema else self.model)
        self.stats = stats = self._stats(totals, result)
        self.method.end_epoch(stats)
        result = self._average(stats, result)
        self.epoch += 1
        if self.epoch == self.config.last_epoch:
            result = self._repair_head() or result
            self._check_final()
            self.curve = self._sweep()
        steps = len(self.batches)
        metrics = {
            "epoch": self.epoch,
            **result.metrics(self.splits.classes, self.splits.class_counts),
            "train_loss": loss / steps,
            "weight_ess": totals["ess"].item() / steps,
            "train_s": trained - begin,
            "eval_s": time.perf_counter() - trained,
        }
        self._keep_best(metrics)
        return metrics

    def _check_final(self) -> None:
        """``Diverged`` where the logits of the trained model, which has just been judged, are no numbers: no later loss
        would tell what the last step, or the repair of a head whose features are huge, has made of its weights."""
        if not self._seen[0][1].isfinite().all():
            raise Diverged(f"the model's logits are not finite after epoch {self.epoch}")

    def _keep_best(self, metrics: dict[str, float]) -> None:
        """Copy the weights where the sum of the objectives is the largest so far; of equal ones the first stays."""
        names = self.config.objectives
        if not names or self.epoch <= self.config.own_from():
            return
        if self.best is None or sum(metrics[n] for n in names) > sum(self.best["metrics"][n] for n in names):
            weights = {name: value.detach().clone() for name, value in self.final_model.state_dict().items()}
            self.best = {"epoch": self.epoch, "metrics": metrics, "model": weights, "average": bool(self.average)}

    def _train(self) -> dict[str, Tensor]:
        number = self.config.seed * 1_000_003 + self.epoch
        generator = torch.Generator(device=self.device).manual_seed(number)
        # torch's own generator is that of a model that draws by itself (dropout), where each process draws for its rows
        torch.manual_seed(-1 - number * self.processes.size - self.processes.rank)
        k = self.classes
        shapes = {"loss": (), "ess": (), "count": k, "robust": k, "predicted": k, "probs": (k, k), "confusion": (k, k)}
        totals = {name: torch.zeros(shape, dtype=torch.float64, device=self.device) for name, shape in shapes.items()}
        self.model.train()
        self.method.train()
        for i, rows in enumerate(self.batches.epoch(self.method, generator)):
            rows = self.processes.agreed(rows)
            self.optimizer.lr = self.learning_rate(self.epoch + i / len(self.batches))
            batch, loss = self._step(rows, generator)
            if self.training.ema:
                self.average.update(self.model, warmed_up(self.training.ema, self.epoch * len(self.batches) + i))
            self._count(totals, batch, loss)
        return {name: self.processes.agreed(value) for name, value in totals.items()}

    def _step(self, rows: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        x, y = self.images.batch(rows)
        x = self._augment(x, generator)
        if self.method.needs_partners:
            partners = self.images.batch(self.batches.partners(rows, generator))[0]
            x = self.method.mix(x, y, self._augment(partners, generator), generator)
        self.record("refresh", self.attacked.refresh)()
        base = Attack(self.training.attack_steps, self.training.step_size, self.training.attack_start)
        found = [self._attack(a, x, y, generator) for a in self.method.attacks(base, self.epoch)]

        def batch_and_loss() -> tuple[Batch, Tensor]:
            batch = self._batch(x, y, found)
            return batch, self.method(batch)

        moves = []
        if self.training.awp:
            moves = perturbed_weights(self.model, lambda: batch_and_loss()[1], self.training.awp, self.processes.added)
        batch, loss = batch_and_loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.processes.add_gradients(self.model.parameters())
        if moves:
            with torch.no_grad():
                torch._foreach_sub_([w for w, _ in moves], [m for _, m in moves])
        if self.training.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_grad)
        self.optimizer.step()
        self.method.end_step(batch)
        return batch, loss.detach()

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return augment(x, self.training.augment, generator, self.training.padding)

    def _attack(self, attack: Attack, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        eps = (self.training.eps * self.method.eps_scale(y)).to(x.dtype)
        step = attack.step * (eps if self.method.steps_with_radius else torch.full_like(eps, self.training.eps))
        begin = start_point(x, eps, attack.start, generator, self.threat)
        labels = self.method.attack_labels(y, generator)
        work = partial(find, attack, self.attacked, self.method, threat=self.threat)
        return self.record(attack, work)(x, labels, begin, eps, step)

    def _batch(self, x: Tensor, y: Tensor, found: list[tuple[Tensor, Tensor]]) -> Batch:
        if self.training.clean_bn == "twice":
            with torch.no_grad():
                self._forward(x)
        adversaries = []
        for x_adv, survived in found:
            logits, features = self._forward(x_adv)
            adversaries.append(Adversary(x_adv, logits, features, survived))
        return Batch(
            x,
            y,
            adversaries,
            self.epoch,
            self.config.max_epochs,
            lambda: self._forward(x),
            forward=self._forward,
            class_weights=self.class_weights,
            label_smoothing=self.training.label_smoothing,
        )

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.processes.forward(self._forward_here, x)

    def _forward_here(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            features = self.model.features(x.contiguous(memory_format=torch.channels_last))
            logits = self.model.head(features)
        return logits.float(), features.float()

    def _count(self, totals: dict[str, Tensor], batch: Batch, loss: Tensor) -> None:
        y, logits = batch.y, batch.logits_adv.detach()
        predicted, one = logits.argmax(1), torch.ones_like(y, dtype=torch.float64)
        totals["loss"] += loss
        w = batch.weights
        totals["ess"] += 1.0 if w is None else w.sum().square() / (w.square().sum() * len(w)).clamp(min=1e-300)
        totals["count"].index_add_(0, y, one)
        totals["robust"].index_add_(0, y, (predicted == y).double())
        totals["predicted"].index_add_(0, predicted, one)
        totals["probs"].index_add_(0, y, logits.softmax(1).double())
        totals["confusion"].view(-1).index_add_(0, y * self.classes + nearest_class(logits, y), one)

    def learning_rate(self, progress: float) -> float:
        """After ``progress`` epochs (0 .. max_epochs): the schedule's; of a preview, from its value at the fork along a
        straight line to 0."""
        t, config = self.training, self.config
        if config.cool_down is None:
            return learning_rate(t.schedule, progress, config.max_epochs, t.lr, t.milestones)
        peak = learning_rate(t.schedule, config.fork, config.max_epochs, t.lr, t.milestones)
        return peak * (1 - (progress - config.fork) / config.cool_down)

    # ---- the head, once the training has ended ---------------------------------------------------------------

    def _repair_head(self) -> Evaluation | None:
        """Repair the final model's head and judge it again; None: nothing was asked for."""
        t = self.training
        if t.head_repair == "none":
            return None
        if t.head_repair == "norm":
            equal_norms(self.final_model)
        else:
            batches = self._attacked_features(self.final_model)
            tune_head(self.final_model, batches, lr=SLOWER * t.lr, momentum=t.momentum, weight_decay=t.weight_decay)
            for weights in self.final_model.head.parameters():
                self.processes.agreed(weights.data)
        return self._judge(self.final_model)

    def _attacked_features(self, model) -> Iterator[Batch]:
        """An epoch's batches with features of CE-PGD images, of ``model`` as it is when a batch is asked for, in
        evaluation mode. Random numbers are those of an epoch after the last."""
        t, threat = self.training, self.threat
        generator = torch.Generator(device=self.device).manual_seed(
            self.config.seed * 1_000_003 + self.config.last_epoch
        )
        attack = Attack(t.attack_steps, t.step_size, t.attack_start, loss="ce")
        model.eval()
        for rows in self.batches.epoch(Method(None, self.task), generator):
            x, y = self.images.batch(rows)
            x = self._augment(x, generator)
            eps = torch.full((len(y),), t.eps, device=self.device)
            begin, attacked = start_point(x, eps, attack.start, generator, threat), self.judges(model)[1]
            work = self.processes.shared(partial(find, attack, attacked, self.method, threat=threat))
            x_adv, survived = work(x, y, begin, eps, t.step_size * eps)
            with torch.no_grad():
                features = model.features(x_adv.contiguous(memory_format=torch.channels_last))
                adversary = Adversary(x_adv, model.head(features), features, survived)
            yield Batch(
                x,
                y,
                [adversary],
                self.epoch,
                self.config.max_epochs,
                partial(self._forward, x),
                class_weights=self.class_weights,
                label_smoothing=t.label_smoothing,
            )

    # ---- evaluation ------------------------------------------------------------------------------------------

    def judges(self, model) -> tuple[Frozen, Frozen]:
        """Two copies of ``model`` with its present weights: one judges, one is attacked (the same one where nothing is
        faster). They are kept from call to call, with the attacks recorded on them."""
        if id(model) not in self._judges:
            judge = Frozen(model)
            attacked = Frozen(model, dtype=self.autocast, fused=self.fused) if self.autocast else judge
            self._judges[id(model)] = judge, attacked
        for copy in set(self._judges[id(model)]):
            copy.refresh()
        return self._judges[id(model)]

    def _judge(self, model, split: Split | None = None) -> Evaluation:
        """Judge ``model`` on the images that judge every epoch, or on ``split``."""
        judge, attacked = self.judges(model)
        self._seen = []
        return evaluate(
            self.processes.shared(judge),
            split or self.splits.watch,
            self.classes,
            eps=self.training.eps,
            steps=self.training.eval_attack,
            attacked=attacked,
            seed=self.config.seed,
            with_kl=self.method.needs_val_losses,
            record=self.record,
            threat=self.threat,
            seen=lambda rows, logits: self._seen.append((rows, logits)),
        )

    def _sweep(self) -> Curve:
        """The curve of the final model, which has just been judged as every epoch is: now on all of `val`."""
        if self.splits.watch is not self.splits.val:
            self._judge(self.final_model, self.splits.val)
        judge, attacked = self.judges(self.final_model)
        attacks = ShiftedAttacks(
            self.processes.shared(judge),
            attacked,
            self.splits.val,
            self.training.eps,
            self.training.eval_attack,
            seed=self.config.seed,
            record=self.record,
            threat=self.threat,
        )
        points = points_of(self.offsets, attacks, self._seen, self.splits.class_counts)
        return Curve(tuple(self.splits.classes), tuple(self.splits.class_counts), points)

    def _stats(self, totals: dict[str, Tensor], result: Evaluation) -> EpochStats:
        t = {name: value.cpu() for name, value in totals.items()}
        return EpochStats(
            self.epoch,
            t["count"],
            t["robust"],
            t["probs"],
            t["predicted"],
            t["confusion"],
            result.count,
            result.clean,
            result.ce_robust,
            result.robust,
            result.ce,
            result.kl,
        )

    def _average(self, stats: EpochStats, result: Evaluation | None) -> Evaluation | None:
        """Where the method keeps an epoch-wise weight average, that is the model which is judged and saved."""
        decay = self.method.average_decay(stats)
        if decay is None:
            return result
        if self.average is None:
            self.average = WeightAverage(self.model)
        if decay < 1:
            self.average.update(self.model, decay)
        return self._judge(self.average.model)

    # ---- state -----------------------------------------------------------------------------------------------

    @property
    def final_model(self):
        """The model that evaluations speak of: the weight average where there is one."""
        return self.average.model if self.average else self.model

    def state_dict(self) -> dict:
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "curve": self.curve and self.curve.to_dict(),
            "best": self.best,
        }

    def fork(self, state: dict) -> None:
        """Begin where the stem is: with its weights and optimizer, and a method that knows the statistics of its last
        epoch alone. ``state``: the stem's `state_dict`, and ``stats``, the fields of its `EpochStats`."""
        self.method.end_epoch(EpochStats(**state["stats"]))
        average = (state["average"] or state["model"]) if self.training.ema else None
        self.load_state_dict({**state, "method": self.method.state_dict(), "average": average, "best": None})

    def load_state_dict(self, state: dict) -> None:
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.best = state.get("best")  # checkpoints of earlier versions have none
        if state["average"] is not None:
            self.average = self.average or WeightAverage(self.model)
            self.average.model.load_state_dict(state["average"])
        self.curve = Curve.of(state["curve"]) if state.get("curve") else None
