"""One trial trained by several processes of a machine, data-parallel; or, as nearly always, by one.

Each process runs the same `Trainer` on the same batches with the same random numbers. What costs - forward and backward
passes, attacks - it does for its share of a batch's rows; what comes out is gathered, so that methods see the whole
batch everywhere, and the loss is computed by every process alike. A gathered row has been computed by one process, so
all have the same bits and decide the same. Three things make the gradient that of one process: a share's backward pass
gets its rows of the loss's gradient, batch norm takes the statistics of the whole batch, and what the processes find
for the weights is added up. It is one process's up to rounding: sums are taken in parts.

The first process leads: it alone reads and writes checkpoints, and gives the others its state before every epoch.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainables.cuda_graph import Recorder, Work
from trainables.losses import full_precision
from trainables.processes import TIMEOUT_S, Helpers, ProcessDied
from trainables.reading import one_line

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
HELPER = "trainables.data_parallel_helper"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
PRIVATE = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}  # nobody else is to reach them


class Alone:
    """What a `Trainer` asks of the processes that train with it; this is the only one, and changes nothing."""

    rank, size = 0, 1
    device: torch.device | None = None  # None: the trainer chooses

    def together(self, trainer: Any) -> AbstractContextManager[None]:
        """In this block the others do for ``trainer``, in step, what this process does."""
        return nullcontext()

    def recorder(self, record: Recorder, *, batch_stats: bool) -> Recorder:
        """``record``, whose work (B, ...), ... -> (B, ...), ... is shared. ``batch_stats``: that work takes statistics
        of the batch."""
        return record

    def shared(self, function: Callable) -> Callable:
        """``function`` of tensors (B, ...) to one or several (B, ...), row by row and without a gradient, with the
        rows shared."""
        return function

    def forward(self, forward: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
        """``forward(x)``: logits (B, K) and features (B, D) of the images ``x`` (B, ...), with a gradient, shared."""
        return forward(x)

    def added(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The sum over the processes."""
        return gradients

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The same of the parameters' gradients, in place."""

    def agreed(self, tensor: Tensor) -> Tensor:
        """The first process's, in place: where rounding of a GPU could tell them apart."""
        return tensor


class Group(Alone):
    """Several processes, seen by the one with the number ``rank``."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        self.backend = "nccl" if count >= size else "gloo"
        self.device = torch.device("cuda", rank % count) if count else torch.device("cpu")

    def join(self, file: Path) -> None:
        """Meet the others; ``file``: the same for all, new, in a folder of our own."""
        import torch.distributed as dist

        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        before = {name: os.environ.get(name) for name in PRIVATE}
        os.environ.update(PRIVATE)
        try:
            dist.init_process_group(
                self.backend,
                init_method=f"file://{file}",
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=TIMEOUT_S),
            )
            self.agreed(torch.zeros(1, device=self.device))
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def recorder(self, record: Recorder, *, batch_stats: bool) -> Recorder:
        return _SharingRecorder(record, self, batch_stats)

    def shared(self, function: Callable) -> Callable:
        def shared_out(*tensors: Tensor) -> Any:
            n = len(tensors[0])
            mine = self.rows(n)
            none = mine.start == mine.stop  # fewer rows than processes: the first one, for nothing
            found = function(*(t[:1] if none else t[mine] for t in tensors))
            whole = [self.whole(t[:0] if none else t, n) for t in ((found,) if isinstance(found, Tensor) else found)]
            return whole[0] if isinstance(found, Tensor) else tuple(whole)

        return shared_out

    def forward(self, forward: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
        with _WholeBatchNorm(self):
            logits, features = forward(x[self.rows(len(x))])
        both = _Gathered.apply(torch.cat([logits, features], 1), self, len(x))
        return both.split([logits.shape[1], features.shape[1]], 1)

    def added(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        there = [g for g in gradients if g is not None]
        flat = self.total(torch.cat([g.reshape(-1) for g in there]))
        parts = iter(flat.split([g.numel() for g in there]))
        return [None if g is None else next(parts).reshape(g.shape) for g in gradients]

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        parameters = list(parameters)
        for p, total in zip(parameters, self.added([p.grad for p in parameters])):
            if total is not None:
                p.grad.copy_(total)

    def agreed(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        self._heard(lambda: dist.broadcast(tensor, 0))
        return tensor

    def rows(self, n: int) -> slice:
        """The share of this process of ``n`` rows."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def whole(self, mine: Tensor, n: int) -> Tensor:
        """(n, ...) from every process's share of the rows, to the bit: what is added is 0."""
        whole = mine.new_zeros((n, *mine.shape[1:]))
        whole[self.rows(n)] = mine
        return self.total(whole)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        import torch.distributed as dist

        self._heard(lambda: dist.all_reduce(tensor))
        return tensor

    def _heard(self, talk: Callable[[], Any]) -> None:
        try:
            talk()
        except RuntimeError as error:
            raise ProcessDied(f"a process that trains this trial is not heard any more ({one_line(error)})") from error


class Leader(Group):
    """The first process; it starts the others when they are first needed, and anew after one was lost."""

    def __init__(self, size: int):
        super().__init__(0, size)
        self.helpers: Helpers | None = None

    @contextmanager
    def together(self, trainer: Any) -> Iterator[None]:
        try:
            self._start()
            work = _packed(job_of(trainer))
            for number in range(self.size - 1):
                self.helpers.send(number, work)
            self.helpers.answered()
            yield
        except BaseException as error:  # the others are no longer where we are
            died = isinstance(error, ProcessDied) and self.helpers and self.helpers.death(1.0)
            self.close()
            if died:
                raise ProcessDied(died) from error
            raise

    def _start(self) -> None:
        if self.helpers:
            return
        self.helpers = Helpers(HELPER, self.size - 1, PRIVATE)
        with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
            file = Path(folder) / "meeting"
            for number in range(self.size - 1):
                self.helpers.send(number, _packed({"rank": number + 1, "size": self.size, "file": str(file)}))
            self.helpers.answered()
            self.join(file)

    def close(self) -> None:
        """End the other processes."""
        import torch.distributed as dist

        if self.helpers:
            self.helpers.close()
            self.helpers = None
        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def _leader(size: int) -> Leader:
    return Leader(size)


def processes_for(size: int) -> Alone:
    """Those that train a trial by ``size`` processes, seen by the first; the same for all trials of this process."""
    return _leader(size) if size > 1 else Alone()


def job_of(trainer: Any) -> dict[str, Any]:
    """What another process needs to train and judge ``trainer``'s next epoch. Its best epoch is the leader's affair."""
    return {
        "config": replace(trainer.config, objectives=(), folder=None).to_dict(),
        "head": trainer.model_head,
        "val_losses": trainer.method.needs_val_losses,
        "threads": torch.get_num_threads(),
        "state": {**trainer.state_dict(), "best": None, "curve": None},
    }


def _packed(what: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getbuffer()


class _SharingRecorder(Recorder):
    """Records what this process does of the work; what it hears from the others is no part of that."""

    def __init__(self, record: Recorder, group: Group, batch_stats: bool):
        self.record, self.group, self.batch_stats = record, group, batch_stats
        self.on = record.on

    def __call__(self, key: Any, function: Work) -> Work:
        # what takes statistics hears from the others between its kernels, so that it cannot be recorded
        work = function if self.batch_stats else self.record(key, function)

        def run(*tensors: Tensor) -> tuple[Tensor, ...] | None:
            if not tensors:  # nothing to share
                return work()
            with _WholeBatchNorm(self.group) if self.batch_stats else nullcontext():
                return self.group.shared(work)(*tensors)

        return run


# ---- the gradient ----------------------------------------------------------------------------------------------------


class _Gathered(torch.autograd.Function):
    """(n, ...) from the shares. All processes go on alike with the whole, so a share's gradient is its rows."""

    @staticmethod
    def forward(ctx, mine: Tensor, group: Group, n: int) -> Tensor:
        ctx.rows = group.rows(n)
        return group.whole(mine, n)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[ctx.rows], None, None


class _Total(torch.autograd.Function):
    """The sum over the processes, with which each goes on differently: their gradients add up too."""

    @staticmethod
    def forward(ctx, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.total(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Total.apply(grad, ctx.group), None


class _WholeBatchNorm(TorchFunctionMode):
    """In this block every batch norm in training mode, of whatever model, takes the statistics of the whole batch."""

    def __init__(self, group: Group):
        super().__init__()
        self.group = group

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.batch_norm and (kwargs or {}).get("training"):
            return batch_norm(self.group, *args, **{k: v for k, v in kwargs.items() if k != "training"})
        return func(*args, **(kwargs or {}))


def batch_norm(
    group: Group,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` in training mode of this process's rows ``x`` (n, C, ...), with mean and variance over the rows of
    all processes."""
    wide = full_precision(x)
    with torch.no_grad():
        mean, var, count = statistics(group, wide, *torch.batch_norm_update_stats(wide, None, None, 0.0))
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((var * (count / (count - 1))).to(running_var), momentum)
    weight = mean.new_ones(mean.shape) if weight is None else weight
    bias = mean.new_zeros(mean.shape) if bias is None else bias
    return _BatchNorm.apply(wide, weight, bias, mean, var, count, eps, group).to(x.dtype)


def statistics(group: Group, x: Tensor, own_mean: Tensor, own_var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C,) mean and biased variance over all rows from those of our rows ``x`` (n, C, ...), and over how many values
    (Chan et al. 1979)."""
    channels = x.shape[1]
    own = torch.cat([own_mean, own_var, own_mean.new_full((1,), x.numel() // channels)])
    everyone = _Total.apply(F.pad(own[None], (0, 0, group.rank, group.size - 1 - group.rank)), group)
    means, variances, counts = everyone.split([channels, channels, 1], 1)
    counts = counts.detach()
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), counts.sum()


class _BatchNorm(torch.autograd.Function):
    """torch's own kernels with the statistics of the whole batch, since a gradient taken through each operation costs a
    training pass as much as all its convolutions. A gradient of the gradient is taken through each operation."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, count, eps, group):
        ctx.save_for_backward(x, weight, bias, mean, var, count)
        ctx.eps, ctx.group = eps, group
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, mean, var, count = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = torch.autograd.grad(
                step_by_step(ctx.group, x, weight, bias, ctx.eps), (x, weight, bias), grad, create_graph=True
            )
            return *found, None, None, None, None, None
        invstd = torch.rsqrt(var + ctx.eps)
        _, at_weight, at_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, mean, invstd, False, ctx.eps, [False, True, True]
        )
        along, level = (ctx.group.total(torch.stack([at_weight, at_bias])) / count).unbind()
        of_grad, of_x = weight * invstd, -weight * invstd.square() * along
        shape = (1, -1) + (1,) * (x.dim() - 2)
        constant = -of_grad * level - of_x * mean
        at_x = torch.addcmul(constant.reshape(shape), grad, of_grad.reshape(shape)).addcmul_(x, of_x.reshape(shape))
        return at_x, at_weight, at_bias, None, None, None, None, None


def step_by_step(group: Group, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What `batch_norm` returns, in operations that can be differentiated as often as is asked for."""
    var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    mean, var, _ = statistics(group, x, mean, var)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return (x - mean.reshape(shape)) * (torch.rsqrt(var + eps) * weight).reshape(shape) + bias.reshape(shape)
