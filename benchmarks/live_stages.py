"""Stages of real training, each done once: the memo of `benchmarks.live`.

A line is one training; a stage is a part of it, and what its end is judged on. Everything that decides a line's bits is
in its key, whose hash names its folder:

    lines/HASH/key.json                what the hash is taken of
    lines/HASH/epochs.json             metrics of every epoch so far, on the watched part of `val`
    lines/HASH/state-0007.pt           the state after the latest epoch; kept-0007.pt: one that is not removed
    lines/HASH/val-0012-prior.json     the curve at an epoch, over one kind of offsets; test-0012-prior.json likewise

Files are complete or absent, and a lock that dies with its process guards a line: any process may be killed at any
moment, and loses no more than the epoch that it was training. Several processes may share the folder.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.held_out import STEPS, over_offsets
from search_spaces import METHODS
from search_spaces.resolve import resolve
from trainables.attack_copy import Frozen
from trainables.config import TrialConfig
from trainables.curve import Curve
from trainables.data import Splits, open_splits, open_test
from trainables.evaluate import evaluate
from trainables.loop import Diverged, Trainer
from trainables.method import EpochStats, Task
from trainables.methods import build_method
from trainables.offsets import kind_for
from trainables.stem import PACKAGE, data_key, key_hash, sources
from trainables.sweep import Found, ShiftedAttacks, points_of
from tuner.files import write_atomically

FORMAT = 1  # raise it when the files' content changes: old lines are then not found
JUDGING = ("config.py", "curve.py", "offsets.py", "sweep.py")  # beside `stem.sources`, which are of training alone
OPEN = 24  # trainers that stay in memory: lines that are trained in turns go on without being loaded
UNTIMED = ("train_s", "eval_s")  # in no stored metrics: they would differ from run to run


@dataclass(frozen=True)
class Line:
    """One training. ``config``: what is trained; its ``fork`` and ``cool_down`` mean what they do to a search's trial.

    ``stem``: the line whose first ``config.fork`` epochs this one begins with; None where it trains alone. A search's
    is plain AT, here it may be any. ``val_losses``: its statistics have the losses on `val` that some methods read
    where they fork. ``ValueError`` for a fork without a line to fork from, or the other way round.
    """

    config: TrialConfig
    stem: Line | None = None
    val_losses: bool = False

    def __post_init__(self):
        if bool(self.config.fork) != (self.stem is not None):
            raise ValueError(f"a fork at {self.config.fork} {'needs a line' if self.config.fork else 'leaves no line'}")

    @property
    def first(self) -> int:
        """Epochs at its beginning that are another line's."""
        return self.config.fork

    @property
    def last(self) -> int:
        """The epoch with which it ends."""
        return self.config.last_epoch


@dataclass(frozen=True)
class Stage:
    """The epochs after ``since`` up to ``until`` of a line; none where they are equal.

    ``watched``: every epoch is judged on the watched part of `val`. ``judge``: the end is judged on all of `val` over
    these offsets (auto, none, prior, classes); None: it is not. ``keep``: its end will be forked from. ``trial``: a
    number of the arm's own.
    """

    line: Line
    since: int
    until: int
    watched: bool = True
    judge: str | None = None
    keep: bool = False
    trial: int = 0


@dataclass(frozen=True)
class Result:
    """``metrics``: of the stage's epochs; those not ``watched`` have them too, but an arm must not look. ``curve``: on
    `val`, where it was judged. ``failed``: why the line cannot go on (it diverged)."""

    metrics: tuple[dict[str, Any], ...]
    curve: Curve | None = None
    failed: str | None = None


# ---- what decides the bits -------------------------------------------------------------------------------------------


@lru_cache
def code_version(method: str) -> str:
    """A hash of the source that a line of this method depends on; comments and docstrings do not count."""
    files = {*sources(method), *(PACKAGE / name for name in JUDGING)}
    plug_in = METHODS.plug_in(method)
    digest = hashlib.sha256(plug_in.mark.encode() if plug_in else b"")
    for file in [*sorted(files), Path(__file__), Path(__file__).with_name("held_out.py")]:
        digest.update(file.name.encode())
        digest.update(meaning(file.read_text()).encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return ast.dump(tree)


def line_key(line: Line, device: torch.device) -> dict[str, Any]:
    """Everything that the line's weights and metrics depend on."""
    config = line.config
    key = {
        "format": FORMAT,
        "method": config.method,
        "params": resolve(config.method, config.params),
        "training": dataclasses.asdict(config.full_training()),
        **data_key(config),
        "seed": config.seed,
        "model": config.model,
        "max_epochs": config.max_epochs,
        "fork": line.stem and [key_hash(line_key(line.stem, device)), config.fork],
        "cool_down": config.cool_down,
        "val_losses": line.val_losses,
        "torch": torch.__version__,
        "device": device.type,
        "code": code_version(config.method),
    }
    if device.type == "cpu":  # both change the order of sums, hence the last bits
        return key | {"threads": torch.get_num_threads(), "cpu": device_kind(device)}
    return key | {"gpu": device_kind(device)}


def device_kind(device: torch.device) -> str:
    """What decides the last bits: the CPU's widest vectors, or the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def stem_kind(config: TrialConfig) -> tuple[bool, str]:
    """What its stem is: whether its method reads losses on `val`, and the form of its plain base."""
    any_task = Task(torch.tensor([2, 1]), config.max_epochs, config.full_training().eps)
    method = build_method(config.method, config.params, any_task)
    return method.needs_val_losses, method.form


# ---- training --------------------------------------------------------------------------------------------------------


class LineTrainer(Trainer):
    """A trainer of a line. Its curve is made where a stage asks for it, not by itself after the last epoch."""

    def __init__(self, line: Line, device: torch.device):
        super().__init__(line.config, device)
        self.line = line
        if line.stem and self.method.needs_val_losses and not line.stem.val_losses:
            raise ValueError(f"{line.config.method} reads losses on val, and the line it forks from has none")
        if line.val_losses:
            self.method.needs_val_losses = True

    def _sweep(self) -> None:
        return None

    def curve_on_val(self, kind: str) -> Curve:
        """The final model over its offsets, as `Trainer.curve` has it after the last epoch."""
        seen: Found = []
        judge, attacked = self.judges(self.final_model)
        how: dict[str, Any] = {"seed": self.config.seed, "record": self.record, "threat": self.threat}
        val, eps, steps = self.splits.val, self.training.eps, self.training.eval_attack
        evaluate(
            judge,
            val,
            self.classes,
            eps=eps,
            steps=steps,
            attacked=attacked,
            with_kl=self.method.needs_val_losses,
            seen=lambda rows, logits: seen.append((rows, logits)),
            **how,
        )
        points = points_of(
            kind, ShiftedAttacks(judge, attacked, val, eps, steps, **how), seen, self.splits.class_counts
        )
        return Curve(tuple(self.splits.classes), tuple(self.splits.class_counts), points)

    def curve_on_test(self, on_val: Curve) -> Curve:
        """The same at the same offsets, with more attack steps, on images that no search saw."""
        split = open_test(self.config.data_spec, self.config.home, self.device)
        steps = STEPS * self.training.eval_attack
        points = over_offsets(Frozen(self.final_model), split, on_val, self.training.eps, steps)
        return dataclasses.replace(on_val, points=points)


def new_trainer(line: Line, device: torch.device) -> Trainer:
    return LineTrainer(line, device)


# ---- the memo --------------------------------------------------------------------------------------------------------


@dataclass
class _Known:
    """``epochs.json``: metrics by epoch, from the line's first own one; ``failed``: why there are no more."""

    epochs: list[dict[str, Any]]
    failed: str | None = None


class Memo:
    """Runs stages, or remembers them. ``trained`` counts the epochs that were really trained."""

    def __init__(
        self,
        folder: Path,
        device: str | torch.device | None = None,
        make: Callable[[Line, torch.device], Any] = new_trainer,
    ):
        self.folder = Path(folder)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.trained = 0
        self._make, self._open = make, OrderedDict[str, Any]()
        self._names: dict[int, tuple[Line, str]] = {}

    @property
    def home(self) -> Path:
        """Where data lie."""
        return self.folder / "home"

    def run(self, stage: Stage) -> Result:
        """The stage's result: trained now, as far as it has not been before."""
        line = stage.line
        with self._locked(line) as place:
            known = self._train(line, stage.until, place)
            metrics = tuple(known.epochs[stage.since - line.first : stage.until - line.first])
            if len(metrics) < stage.until - stage.since:
                return Result(metrics, failed=known.failed)
            if stage.keep:
                self._keep(line, stage.until, place)
            curve = self._curve(line, stage.until, stage.judge, "val", place) if stage.judge else None
        return Result(metrics, curve)

    def held_out(self, line: Line, epoch: int, kind: str) -> Curve:
        """The model at an epoch on `test`, over the offsets that were chosen on `val`."""
        with self._locked(line) as place:
            return self._curve(line, epoch, kind, "test", place)

    # ---- one line ----------------------------------------------------------------------------------------------------

    def _place(self, line: Line) -> Path:
        if id(line) not in self._names:  # with the line: its id then stays its own
            self._names[id(line)] = line, key_hash(line_key(line, self.device))
        return self.folder / "lines" / self._names[id(line)][1]

    @contextlib.contextmanager
    def _locked(self, line: Line) -> Iterator[Path]:
        place = self._place(line)
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "key.json").exists():
                write_atomically(place / "key.json", json.dumps(line_key(line, self.device), indent=1))
            yield place

    def _train(self, line: Line, until: int, place: Path) -> _Known:
        known = _known(place)
        if known.failed is None and line.first + len(known.epochs) < until:
            self._trainer(line, until, place)
            known = _known(place)
        return known

    def _trainer(self, line: Line, epoch: int, place: Path) -> Any:
        """A trainer of the line after ``epoch`` epochs, from the latest state that is not past it; None where the line
        fails before."""
        try:
            trainer = self._latest(line, epoch, place)
            self._open[place.name] = trainer
            self._open.move_to_end(place.name)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            while trainer.epoch < epoch:
                metrics = trainer.run_epoch()
                self.trained += 1
                self._save(trainer, [metrics], place)
        except Diverged as error:
            self._open.pop(place.name, None)  # its weights are those of half an epoch
            _write(place, dataclasses.replace(_known(place), failed=str(error)))
            return None
        return trainer

    def _latest(self, line: Line, epoch: int, place: Path) -> Any:
        opened = self._open.get(place.name)
        at = opened.epoch if opened is not None and opened.epoch <= epoch else -1
        for stored in sorted((e for e in _states(place) if at < e <= epoch), reverse=True):
            trainer = self._make(line, self.device)
            trainer.load_state_dict(_load(_states(place)[stored]))
            return trainer
        return opened if at >= 0 else self._new(line)

    def _new(self, line: Line) -> Any:
        """A trainer where the line begins."""
        trainer = self._make(line, self.device)
        if line.stem:
            trainer.fork(self._state(line.stem, line.first))
        return trainer

    def _state(self, line: Line, epoch: int) -> dict[str, Any]:
        """The state of a line that another one forks from."""
        with self._locked(line) as place:
            known = self._train(line, epoch, place)
            if line.first + len(known.epochs) < epoch:
                raise Diverged(f"{known.failed}, and another line was to fork at {epoch}")
            return _load(self._keep(line, epoch, place))

    def _save(self, trainer: Any, metrics: list[dict[str, Any]], place: Path) -> None:
        """The trainer's new ``metrics``, unless they are known, then its state, in place of the one before.

        In this order: metrics without a state are trained again where somebody goes on, a state without metrics would
        leave a gap.
        """
        known, first = _known(place), trainer.line.first
        start = trainer.epoch - first - len(metrics)
        if trainer.epoch - first > len(known.epochs):
            new = [{k: v for k, v in m.items() if k not in UNTIMED} for m in metrics]
            _write(place, _Known([*known.epochs[:start], *new]))
        state = trainer.state_dict()
        if trainer.stats is not None:
            state["stats"] = {f.name: getattr(trainer.stats, f.name) for f in dataclasses.fields(EpochStats)}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        latest = place / f"state-{trainer.epoch:04d}.pt"
        write_atomically(latest, buffer.getvalue())
        for path in place.glob("state-*.pt"):
            if path.name < latest.name:
                path.unlink(missing_ok=True)

    def _keep(self, line: Line, epoch: int, place: Path) -> Path:
        kept, rolling = place / f"kept-{epoch:04d}.pt", place / f"state-{epoch:04d}.pt"
        if not kept.exists():
            if not rolling.exists():
                self._open.pop(place.name, None)  # it may stand there without a file
                self._trainer(line, epoch, place)
            rolling.rename(kept)
        return kept

    def _curve(self, line: Line, epoch: int, kind: str, split: str, place: Path) -> Curve:
        if kind == "auto":
            kind = kind_of(kind, open_splits(line.config.data_spec, Path(line.config.home)))
        path = place / f"{split}-{epoch:04d}-{kind}.json"
        if path.exists():
            return Curve.of(json.loads(path.read_text()))
        on_val = self._curve(line, epoch, kind, "val", place) if split == "test" else None
        self._keep(line, epoch, place)
        trainer = self._trainer(line, epoch, place)
        curve = trainer.curve_on_test(on_val) if on_val else trainer.curve_on_val(kind)
        write_atomically(path, json.dumps(curve.to_dict()))
        return curve


def kind_of(asked: str, splits: Splits) -> str:
    """The kind of offsets that is asked for on these images (auto depends on them)."""
    judged = splits.val.independent(len(splits.classes)).tolist()
    return kind_for(asked, splits.class_counts, judged)


def _known(place: Path) -> _Known:
    path = place / "epochs.json"
    return _Known(**json.loads(path.read_text())) if path.exists() else _Known([])


def _write(place: Path, known: _Known) -> None:
    write_atomically(place / "epochs.json", json.dumps(dataclasses.asdict(known)))


def _states(place: Path) -> dict[int, Path]:
    return {int(path.stem.rpartition("-")[2]): path for path in [*place.glob("state-*.pt"), *place.glob("kept-*.pt")]}


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)
