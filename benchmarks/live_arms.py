"""Who is compared in `benchmarks.live`, one class an arm.

How to add an arm
-----------------
Write a subclass of `Arm` and name it in `ARMS`. The simulation asks ``next`` whenever a worker is free and something
has changed, and tells each stage's result when its simulated time has come. A stage may be any part of any line, so an
arm needs no more than that to

- share a stem: a line of plain AT whose stages have ``keep``, and trials that are ``Line(config, stem)`` with a
  ``fork`` in their ``config``, as `OnStem` has them;
- preview: a ``config`` with ``cool_down`` too, one stage with ``judge``; then another line, in full;
- go on later: a stage that begins where the line's last one ended.

What two arms ask alike is trained once; each is charged for it all the same. An arm sees `val` alone. Its ``front``
names models and offsets, which are then scored on `test`.
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import optuna

from benchmarks.live_problem import Job
from benchmarks.live_stages import Line, Result, Stage, stem_kind
from trainables.curve import Curve
from tuner.optimizer.ask_tell import AskTell
from tuner.results.assessment import assess
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import nondominated, volume
from tuner.results.references import PLAIN, references
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import NATURAL, WORST

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

OBJECTIVES = (NATURAL, WORST)
RANDOM_TRIALS = 4  # times as many as the others have: the goals speak of 64 random trainings


@dataclass(frozen=True)
class Model:
    """A line after ``epoch`` epochs, and its curve on `val`."""

    line: Line
    epoch: int
    curve: Curve


@dataclass(frozen=True)
class Row:
    """A row of a front: a model, and which point of its curve."""

    model: Model
    point: int

    @property
    def values(self) -> list[float]:
        """The objectives on `val`."""
        curve = self.model.curve
        metrics = curve.metrics(curve.points[self.point])
        return [metrics[name] for name in OBJECTIVES]


def front_rows(models: Iterable[Model]) -> list[Row]:
    """The points of the models' curves that no other of them dominates."""
    rows = [Row(model, i) for model in models for i in range(len(model.curve.points))]
    return [rows[i] for i in nondominated([row.values for row in rows], [True] * len(OBJECTIVES))]


class Arm(ABC):
    """A search. It may look at nothing but the ``job`` and what it is told."""

    name: ClassVar[str]
    help: ClassVar[str]
    offsets: ClassVar[tuple[str, ...]] = ("auto", "none")  # with which of a job's it is run

    def __init__(self, job: Job):
        self.job = job

    @classmethod
    def available(cls) -> bool:
        """Whether what it needs is there; others are left out unless they are asked for by name."""
        return True

    @abstractmethod
    def next(self, free: int) -> Stage | None:
        """What one of the ``free`` workers does next; None: nothing, until something has been told."""

    @abstractmethod
    def told(self, stage: Stage, result: Result) -> None:
        """A stage has ended."""

    @abstractmethod
    def front(self) -> list[Row]:
        """What a user would be shown now, chosen on `val`."""

    def claim(self) -> float:
        """The hypervolume that it claims at its end: that of its front on `val`."""
        return volume([row.values for row in self.front()])


# ---- in full ---------------------------------------------------------------------------------------------------------


class FullTrials(Arm):
    """Trainings from beginning to end, judged there and nowhere else."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.models: list[Model] = []
        self._proposals = self.proposals()

    @abstractmethod
    def proposals(self) -> Iterator[TrialRecord]:
        """What is trained, in order."""

    def next(self, free: int) -> Stage | None:
        record = next(self._proposals, None)
        if record is None:
            return None
        line = self.job.alone(record)
        return Stage(line, 0, line.last, watched=False, judge=self.job.offsets, trial=record.trial)

    def told(self, stage: Stage, result: Result) -> None:
        if result.curve is not None:
            self.models.append(Model(stage.line, stage.until, result.curve))

    def front(self) -> list[Row]:
        return front_rows(self.models)


def at_random(job: Job, trials: int) -> Iterator[TrialRecord]:
    """The default setting, then random ones."""
    space = job.spec().search_space()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=job.seed))
    for number in range(trials):
        params = space.sample(study.ask()) if number else space.default()
        yield TrialRecord(number, params, job.problem.method, seed=job.seed)


class Plain(FullTrials):
    name = "plain"
    help = "no search: plain AT; then again under the next seeds, for about what the others spend"

    def proposals(self) -> Iterator[TrialRecord]:
        for number in range(self.job.trials // 2):
            yield TrialRecord(number, {}, PLAIN, seed=self.job.seed + number)


class NoSearch(Plain):
    name = "no search"
    help = "no search: plain AT, once"

    def proposals(self) -> Iterator[TrialRecord]:
        return islice(super().proposals(), 1)


class Random(FullTrials):
    name = "random"
    help = f"the default setting, then random ones, each trained alone; {RANDOM_TRIALS} times the trials"

    def proposals(self) -> Iterator[TrialRecord]:
        return at_random(self.job, RANDOM_TRIALS * self.job.trials)


# ---- from a stem -----------------------------------------------------------------------------------------------------


@dataclass
class Stem:
    """Plain AT, as far as an arm's trials have trained it. ``busy``: one of them trains its next epoch."""

    line: Line
    epochs: list[dict[str, Any]] = field(default_factory=list)  # their metrics
    busy: bool = False


@dataclass
class Run:
    """A training on its way: ``at`` how many epochs of its line it is, of which the first ``fork`` are the stem's."""

    line: Line
    fork: int
    stem: Stem
    at: int = 0


class OnStem(Arm):
    """Trials of a search that fork from plain AT, whose epochs are trained and charged once. Plain AT as the search's
    reference is the stem itself, trained to its end.

    As in a search, a trial that the stem is not ready for keeps its worker: it trains the stem's next epoch, or waits
    while another trial does.
    """

    changes: ClassVar[dict[str, Any]] = {}  # options of the search
    watched = True  # whether every epoch is judged

    def __init__(self, job: Job):
        super().__init__(job)
        self.spec, self.history = job.spec(**self.changes), History(None)
        self.runs: dict[int, Run] = {}
        self.going: list[int] = []  # trials between two stages: they go on as soon as they can
        # as in a search, methods of another base have one of their own, and so has every seed
        self._stems: dict[tuple[bool, str, int], Stem] = {}

    @abstractmethod
    def begin(self) -> int | None:
        """Start another trial (``enter``), or promote one, and return its number; None: there is none now."""

    @abstractmethod
    def until(self, number: int) -> int:
        """Where the next stage of a trial's own ends."""

    @abstractmethod
    def own(self, stage: Stage, result: Result) -> None:
        """A stage of a trial's own has ended well; into ``going`` with it if it goes on."""

    def failed(self, number: int, reason: str) -> None:
        """A trial cannot go on."""

    def on_stem(self, number: int, epoch: int) -> None:
        """A trial has trained this epoch of the stem."""

    def forked(self, number: int, epochs: list[dict[str, Any]]) -> None:
        """A trial has left the stem, whose metrics these are."""

    def enter(self, record: TrialRecord) -> None:
        """A trial's training begins, that of its preview or the one in full. The history knows of it."""
        config = self.job.config(record, self.spec, self.history)
        kind = (*stem_kind(config), record.seed)
        if kind not in self._stems:
            self._stems[kind] = Stem(replace(self.job, seed=record.seed).stem(self.spec, *kind[:2]))
        stem = self._stems[kind]
        reference = record.role is not None
        line = stem.line if reference else Line(config, stem.line if config.fork else None)
        self.runs[record.trial] = Run(line, config.fork, stem)

    def next(self, free: int) -> Stage | None:
        while True:
            for number in self.going:
                stage = self._stage(number)
                if stage is not None:
                    self.going.remove(number)
                    return stage
            if len(self.going) >= free:  # each of them keeps a worker
                return None
            number = self.begin()
            if number is None:
                return None
            self.going.append(number)

    def _stage(self, number: int) -> Stage | None:
        """What the trial does next; None: it waits for the stem."""
        run = self.runs[number]
        if run.at < run.fork:
            if len(run.stem.epochs) < run.fork:
                return self._of_stem(number, run.stem)
            run.at = run.fork
            self.forked(number, run.stem.epochs[: run.fork])
        until = self.until(number)
        judge = self.job.offsets if until == run.line.last else None
        return Stage(run.line, run.at, until, watched=self.watched, judge=judge, trial=number)

    def _of_stem(self, number: int, stem: Stem, judge: str | None = None) -> Stage | None:
        if stem.busy:
            return None
        stem.busy, since = True, len(stem.epochs)
        first, last = self.spec.forks
        keep = first <= since + 1 <= last
        return Stage(stem.line, since, since + 1, watched=self.watched, keep=keep, judge=judge, trial=number)

    def told(self, stage: Stage, result: Result) -> None:
        number, run = stage.trial, self.runs[stage.trial]
        of_stem = stage.until <= run.fork
        if of_stem:
            run.stem.busy = False
        if result.failed:
            self.failed(number, result.failed)
        elif of_stem:
            run.stem.epochs += result.metrics
            self.on_stem(number, stage.until)
            self.going.append(number)
        else:
            run.at = stage.until
            self.own(stage, result)


class RandomStem(OnStem):
    name = "random+stem"
    help = "as many of these settings as the others have, each from its own start on: the epochs before are the stem's"
    changes = {"scheduler": "none"}
    watched = False

    def __init__(self, job: Job):
        super().__init__(job)
        self.models: list[Model] = []
        self._proposals = at_random(job, job.trials)

    def begin(self) -> int | None:
        record = next(self._proposals, None)
        if record is None:
            return None
        self.history.append("start", record.trial, params=record.params, method=record.method, seed=record.seed)
        self.enter(record)
        return record.trial

    def until(self, number: int) -> int:
        return self.runs[number].line.last

    def own(self, stage: Stage, result: Result) -> None:
        if result.curve is not None:
            self.models.append(Model(stage.line, stage.until, result.curve))

    def front(self) -> list[Row]:
        return front_rows(self.models)


# ---- epoch by epoch --------------------------------------------------------------------------------------------------


class Stock(Arm):
    """Ray Tune as documented, its real classes: multi-objective OptunaSearch, ASHAScheduler on the first objective. A
    stopped trial is told with the values it had and may stand on the front, as in OptunaSearch's own study."""

    name = "stock"
    help = "stock Ray Tune: OptunaSearch and ASHAScheduler; with its front over offsets, or as it comes (none)"

    def __init__(self, job: Job):
        super().__init__(job)
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        space, default = job.spec().search_space(), job.spec().search_space().default()
        self.search = OptunaSearch(
            space.sample,
            metric=list(OBJECTIVES),
            mode=["max", "max"],
            points_to_evaluate=[{name: default[name] for name in space.searched if name in default}],
            sampler=optuna.samplers.TPESampler(seed=job.seed),
        )
        self.asha = ASHAScheduler(time_attr="epoch", metric=OBJECTIVES[0], mode="max", max_t=job.problem.epochs)
        self.trials: list[tuple[SimpleNamespace, Line]] = []
        self.models: list[Model] = []
        self._going: deque[Stage] = deque()

    def next(self, free: int) -> Stage | None:
        if self._going:
            return self._going.popleft()
        number = len(self.trials)
        if number == self.job.trials:
            return None
        params = self.search.suggest(str(number))
        line = self.job.alone(TrialRecord(number, params, self.job.problem.method, seed=self.job.seed))
        trial = SimpleNamespace(trial_id=str(number), status="RUNNING")
        self.asha.on_trial_add(None, trial)
        self.trials.append((trial, line))
        return Stage(line, 0, 1, judge=self._judge(line, 1), trial=number)

    def _judge(self, line: Line, epoch: int) -> str | None:
        return self.job.offsets if epoch == line.last else None

    def told(self, stage: Stage, result: Result) -> None:
        trial, line = self.trials[stage.trial]
        if result.curve is not None:
            self.models.append(Model(line, stage.until, result.curve))
        if stage.since == stage.until:  # it had ended, and was judged now
            return
        if result.failed:
            self.asha.on_trial_error(None, trial)
            self.search.on_trial_complete(trial.trial_id, error=True)
            return
        said = {"epoch": stage.until, "training_iteration": stage.until, **result.metrics[-1]}
        if stage.until < line.last and self.asha.on_trial_result(None, trial, said) == self.asha.CONTINUE:
            self._go_on(line, stage.until, stage.until + 1, self._judge(line, stage.until + 1), stage.trial)
            return
        self.asha.on_trial_complete(None, trial, said)
        self.search.on_trial_complete(trial.trial_id, result=said)
        if stage.until < line.last:
            self._go_on(line, stage.until, stage.until, self.job.offsets, stage.trial)

    def _go_on(self, line: Line, since: int, until: int, judge: str | None, trial: int) -> None:
        self._going.append(Stage(line, since, until, judge=judge, trial=trial))

    def front(self) -> list[Row]:
        return front_rows(self.models)


class Primo(Arm):
    """PriMO of NePS, the real library, in the environment of the Python that ``NEPS_PYTHON`` names: MOASHA over epochs,
    then a Gaussian process, with a prior at the default setting. It trains as many epochs as the trials in full have,
    is told a model's values at the end of its epochs, and shows every model that it has trained."""

    name = "primo"
    help = "PriMO of NePS; needs NEPS_PYTHON, a Python that has it: see benchmarks/primo_program.py"

    def __init__(self, job: Job):
        super().__init__(job)
        program = Path(__file__).with_name("primo_program.py")
        self._pipe = subprocess.Popen(
            [os.environ["NEPS_PYTHON"], str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.space = job.spec().search_space()
        problem = {"space": self._described(), "epochs": job.problem.epochs, "seed": job.seed}
        self._say(problem)
        self.left = job.trials * job.problem.epochs
        self.lines: dict[str, tuple[Line, int]] = {}  # by PriMO's number: and the epochs it has been given
        self.names: list[str] = []
        self.models: dict[int, Model] = {}

    @classmethod
    def available(cls) -> bool:
        return "NEPS_PYTHON" in os.environ

    def _described(self) -> dict[str, Any]:
        """The searched parameters with their defaults, without conditions, which it does not know."""
        found: dict[str, Any] = {}
        active = self.space.default()
        for name in self.space.searched:
            span, default = self.space.params[name].range, active.get(name, self.space.params[name].default)
            if hasattr(span, "choices"):
                found[name] = {"choices": len(span.choices), "prior": span.choices.index(default)}
                continue
            within = min(max(default, span.low), span.high)
            whole = isinstance(span, optuna.distributions.IntDistribution)
            found[name] = {"low": span.low, "high": span.high, "log": span.log, "whole": whole, "prior": within}
        return found

    def _say(self, what: dict[str, Any]) -> None:
        self._pipe.stdin.write(json.dumps(what) + "\n")
        self._pipe.stdin.flush()

    def _asked(self, what: dict[str, Any]) -> dict[str, Any]:
        self._say(what)
        line = self._pipe.stdout.readline()
        if not line:
            raise RuntimeError(f"PriMO ended with {self._pipe.wait()}")
        return json.loads(line)

    def next(self, free: int) -> Stage | None:
        if self.left <= 0:
            if free == self.job.workers:
                self._pipe.communicate()
            return None
        said = self._asked({"ask": True})
        line, since = self.lines[said["of"]] if said["of"] else (self._line(said["config"]), 0)
        self.lines[said["id"]] = line, said["epochs"]
        self.names.append(said["id"])
        self.left -= said["epochs"] - since
        judge = self.job.offsets
        return Stage(line, since, said["epochs"], watched=False, judge=judge, trial=len(self.names) - 1)

    def _line(self, config: dict[str, Any]) -> Line:
        def value(param: Any) -> Any:
            given = config[param.name]
            return param.range.choices[int(given)] if hasattr(param.range, "choices") else given

        record = TrialRecord(0, self.space.resolve(value), self.job.problem.method, seed=self.job.seed)
        return self.job.alone(record)

    def told(self, stage: Stage, result: Result) -> None:
        values = None
        if result.curve is not None:
            self.models[id(stage.line)] = model = Model(stage.line, stage.until, result.curve)
            values = Row(model, 0).values
        self._asked({"tell": self.names[stage.trial], "values": values})

    def front(self) -> list[Row]:
        return front_rows(self.models.values())


class Ours(OnStem):
    """`tuner search` as it is: `AskTell` driven as `tuner.execution` drives it, without Ray. Only trials that trained
    in full make its front."""

    name = "ours"
    help = "tuner search with previews"
    changes = {"scheduler": "preview"}

    def __init__(self, job: Job):
        super().__init__(job)
        self.optimizer = AskTell(self.spec, self.history, references=references(self.spec))

    def begin(self) -> int | None:
        """A trial begins, or a preview is promoted: as `tuner.execution.ray_callback` records it."""
        record = self.optimizer.next()
        if record is None:
            return None
        number = record.trial
        if number in self.history:
            self.history.append("promote", number)
        else:
            about = {key: value for key in ("of", "role") if (value := getattr(record, key)) is not None}
            about |= {} if record.full else {"preview": True}
            self.history.append("start", number, params=record.params, method=record.method, seed=record.seed, **about)
        self.enter(self.history.record(number))
        return number

    def until(self, number: int) -> int:
        run = self.runs[number]
        return run.at + 1 if self.history.record(number).full else run.line.last

    def on_stem(self, number: int, epoch: int) -> None:
        self.history.append("stem", number, stem_epoch=epoch)

    def forked(self, number: int, epochs: list[dict[str, Any]]) -> None:
        if self.history.record(number).full:
            self.history.append("fork", number, epochs=[{**metrics, "stem": True} for metrics in epochs])

    def failed(self, number: int, reason: str) -> None:
        self._end(number, TrialState.FAILED, reason)

    def own(self, stage: Stage, result: Result) -> None:
        number, metrics = stage.trial, result.metrics[-1]
        curve = None if result.curve is None else result.curve.to_dict()
        if not self.history.record(number).full:
            epochs = stage.until - stage.since
            self.history.append("preview", number, epochs=epochs, metrics=metrics, curve=curve)
            self.optimizer.tell(number)
            return
        last = stage.until == stage.line.last
        dead = not last and self.optimizer.dead(number, metrics)  # decided before the epoch is recorded, as in Ray
        self.history.append("epoch", number, metrics=metrics)
        if curve:
            self.history.append("curve", number, curve=curve)
        if last:
            self._end(number, TrialState.FINISHED)
        elif dead:
            self._end(number, TrialState.STOPPED, f"at chance after epoch {stage.until}")
        else:
            self.going.append(number)

    def _end(self, number: int, state: TrialState, reason: str = "") -> None:
        self.history.append("end", number, state=state, reason=reason)
        self.optimizer.tell(number)

    def front(self) -> list[Row]:
        rows = []
        for row in front_of(self.spec, self.history).rows:
            line, curve = self.runs[row["trial"]].line, self.history.record(row["trial"]).curve
            assert curve is not None
            taus = [point.offsets.tau for point in curve.points]
            rows.append(Row(Model(line, line.last, curve), taus.index(row["offsets"]["tau"])))
        return rows

    def claim(self) -> float:
        found = assess(self.spec, self.history)
        return found.hypervolume["claimed"] if found else 0.0


class OursInFull(Ours):
    name = "ours in full"
    help = "the same without previews: every proposal trains in full"
    changes = {"scheduler": "none"}


class OursAtRandom(Ours):
    name = "ours at random"
    help = "the same, its proposals drawn at random: what previews alone are worth"
    changes = {**Ours.changes, "sampler": "random"}


class OursByGP(Ours):
    name = "ours by a Gaussian process"
    help = "the same with --sampler gp, in place of TPE"
    changes = {**Ours.changes, "sampler": "gp"}


class OursAndPlain(Ours):
    name = "ours + no search"
    help = "the same with the curve of its no search, which is trained anyway and shown beside the front"

    def front(self) -> list[Row]:
        records = (*self.history.trials.values(), *self.history.references.values())
        full = [(self.runs[r.trial].line, r.curve) for r in records if r.full and r.curve is not None]
        return front_rows(Model(line, line.last, curve) for line, curve in full)

    claim = Arm.claim


class OnFourStems(OursAndPlain):
    name = "ours on four stems"
    help = "the same, its trials under four seeds in turn, each with a stem of its own"
    changes = {**Ours.changes, "stems": 4}


class WithPlain(Ours):
    """Plain AT is a method of the search: under each seed it is one of the trials, trained on from the stem."""

    name = "ours with plain AT on four stems"
    help = "tuner search --method METHOD --method at --stems 4: a quarter of the trials is plain AT under four seeds"

    def __init__(self, job: Job):
        self.changes = {**self.changes, "stems": 4, "method": (job.problem.method, PLAIN)}
        super().__init__(job)


class WithPlainInFull(WithPlain):
    name = "ours in full with plain AT on four stems"
    help = "the same without previews"
    changes = {"scheduler": "none"}


ARMS: dict[str, type[Arm]] = {
    arm.name: arm
    for arm in (
        *(Plain, NoSearch, Random, RandomStem, Stock, Primo),
        *(Ours, OursAndPlain, OnFourStems, WithPlain, WithPlainInFull, OursInFull, OursAtRandom, OursByGP),
    )
}
