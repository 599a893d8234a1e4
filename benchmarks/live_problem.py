"""What is searched in `benchmarks.live`, one row a problem, and what a stage costs there."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.live_stages import Line, LineTrainer, Memo, Stage, kind_of
from benchmarks.synthetic import signs, thinned
from trainables.config import TrialConfig
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.history import History
from tuner.results.references import PLAIN
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import NO_SEARCH, TrialRecord
from tuner.spec.search_spec import SearchSpec

COSTS = Path(__file__).parent / "results" / "live_costs.json"
IMAGES = 10_000  # to which a folder's training images are thinned before the imbalance


@dataclass(frozen=True)
class Problem:
    """A method's default space on some data. ``space``, ``set`` and others: as of `tuner search`. ``needs_data``:
    which data are to be given by ``--data``, a folder with train.parquet and test.parquet; a key of `PARTS`."""

    method: str
    imbalance: str = "exp:10"
    fix: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    model: str = "cnn"
    epochs: int = 12
    image_size: int = 0
    needs_data: str = ""
    space: dict[str, Any] = field(default_factory=dict)


FORM = {"form": ["at", "trades"], "beta": [1.0, 10.0]}  # the plain loss underneath is searched, too
SIGNS = {"eps": 4 / 255, "batch_size": 32, "passes": 6, "augment": "crop", "lr": 0.05}
PARTS: dict[str, Callable[[Path, Path], str]] = {
    "cifar10": partial(thinned, total=IMAGES),
    "gtsrb": signs,
}  # what is taken of the data that were given
PROBLEMS: dict[str, Problem] = {
    "srat": Problem("srat"),
    "done": Problem("done"),
    "srat-form": Problem("srat", space=FORM),
    "done-form": Problem("done", space=FORM),
    "mixup": Problem("mixup"),
    "frl": Problem("frl"),
    "wat": Problem("wat"),
    "mail": Problem("mail", fix={"form": "trades"}),
    "fairfront": Problem("fairfront"),
    "srat-balanced": Problem("srat", imbalance="none"),
    "done-balanced": Problem("done", imbalance="none"),
    "mail-balanced": Problem("mail", imbalance="none", fix={"form": "trades"}),
    "fairfront-balanced": Problem("fairfront", imbalance="none"),
    "srat-cifar10": Problem("srat", model="preact-resnet18", epochs=30, needs_data="cifar10"),
    # as digits: 486 training images, batches of 32, 6 passes an epoch
    "srat-signs": Problem("srat", image_size=12, set=SIGNS, needs_data="gtsrb"),
}


@dataclass(frozen=True)
class Job:
    """One run of an arm, but for the arm. ``trials``: of the default job. ``offsets``: over which every judged model is
    swept (auto or none). ``home``: where data lie; ``dataset``: None is digits."""

    problem: Problem
    seed: int
    workers: int = 4
    trials: int = 16
    offsets: str = "auto"
    home: str = "tuner-home"
    dataset: str | None = None

    def spec(self, **changes) -> SearchSpec:
        """The search that a user would ask for."""
        problem = self.problem
        asked = {
            "method": problem.method,
            "imbalance": problem.imbalance,
            "space": problem.space,
            "fix": problem.fix,
            "set": problem.set,
            "model": problem.model,
            "image_size": problem.image_size,
            "max_epochs": problem.epochs,
            "trials": self.trials,
            "seed": self.seed,
            "offsets": self.offsets,
        }
        data = {"dataset": self.dataset} if self.dataset else {}
        return SearchSpec(**{**asked, **data, **changes})

    def config(self, record: TrialRecord, spec: SearchSpec, history: History | None = None) -> TrialConfig:
        """What a trial receives of a search with this ``spec``, which has come as far as its ``history``."""
        run = SearchRun(spec, Home(self.home), "live", History(None) if history is None else history)
        return replace(trial_config(run, record), folder=None, objectives=(), offsets="none", trial=0)

    def alone(self, record: TrialRecord) -> Line:
        """A trial that shares nothing: its method trains all its epochs."""
        return Line(self.config(record, self.spec(burn_in="own")))

    def stem(self, spec: SearchSpec, val_losses: bool = False, form: str = PLAIN) -> Line:
        """Plain AT to its end: what trials fork from, and the reference; or the base of another form."""
        config = self.config(TrialRecord(NO_SEARCH, {}, PLAIN, seed=self.seed, role="no_search"), spec)
        return Line(replace(config, method=form, fork=0, stem={}), val_losses=val_losses)


def dataset_of(problem: Problem, data: Path | None, memo: Path) -> str | None:
    """The data of a problem; ``SystemExit`` where its folder is not given."""
    if not problem.needs_data:
        return None
    if data is None:
        raise SystemExit(f"this problem needs --data FOLDER with {problem.needs_data}'s train.parquet and test.parquet")
    folder = memo.absolute() / "data" / problem.needs_data
    # written once: a data set's name follows its files' times
    return f"parquet:{folder}" if (folder / "test.parquet").exists() else PARTS[problem.needs_data](data, folder)


# ---- what a stage costs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """In training epochs: judging an epoch on the watched part of `val`, judging a model on all of it (0 where that is
    the same), and sweeping it over its offsets."""

    watch: float
    val: float
    sweep: float

    def of(self, stage: Stage) -> float:
        """What a stage costs."""
        epochs = stage.until - stage.since
        judged = 0.0 if stage.judge is None else self.val + (self.sweep if stage.judge != "none" else 0.0)
        return epochs * (1 + self.watch * stage.watched) + judged


class _Timed(LineTrainer):
    """Takes the time of what it does, in CPU seconds where it runs on the CPU."""

    def timed(self, work):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            begin = time.perf_counter()
            done = work()
            torch.cuda.synchronize()
            return time.perf_counter() - begin, done
        begin = time.process_time()
        done = work()
        return time.process_time() - begin, done


def measure_costs(job: Job) -> dict[str, Any]:
    """The costs of a problem: medians over a training of its default setting, at whose end the sweep is measured."""
    record = TrialRecord(0, job.spec().search_space().default(), job.problem.method, seed=job.seed)
    line = job.alone(record)
    trainer = _Timed(line, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    inner, seconds = trainer._train, {"train": [], "watch": []}

    def train():
        spent, done = trainer.timed(inner)
        seconds["train"].append(spent)
        return done

    trainer._train = train
    for _ in range(line.last):
        whole, _ = trainer.timed(trainer.run_epoch)
        seconds["watch"].append(whole - seconds["train"][-1])
    splits = trainer.splits
    alone, _ = trainer.timed(lambda: trainer.curve_on_val("none"))
    swept, curve = trainer.timed(lambda: trainer.curve_on_val(kind_of("auto", splits)))
    epoch = statistics.median(seconds["train"])
    name = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "CPU, one thread"
    return {
        "watch": round(statistics.median(seconds["watch"]) / epoch, 4),
        "val": round(alone / epoch, 4) if splits.watch is not splits.val else 0.0,
        "sweep": round(max(0.0, swept - alone) / epoch, 4),
        "epoch_s": round(epoch, 3),
        "points": len(curve.points),
        "device": name,
        "torch": torch.__version__,
    }


def costs_key(name: str, job: Job) -> str:
    """Under which name the costs of a problem are stored: settings of training change them."""
    changed = ",".join(f"{k}={v}" for k, v in sorted(job.problem.set.items()))
    return f"{name}:{job.problem.epochs}" + (f":{changed}" if changed else "")


def stored_costs() -> dict[str, Any]:
    return json.loads(COSTS.read_text()) if COSTS.exists() else {}


def costs_of(name: str, job: Job) -> Costs:
    """The stored costs; ``SystemExit`` where they were not measured."""
    found = stored_costs().get(costs_key(name, job))
    if found is None:
        raise SystemExit(f"the costs of {costs_key(name, job)} were not measured: run it with --costs first")
    return Costs(**{f.name: found[f.name] for f in dataclasses.fields(Costs)})


def memo_of(folder: Path) -> Memo:
    """The memo in a folder, for one thread: results depend on their number."""
    torch.set_num_threads(1)
    return Memo(folder)
