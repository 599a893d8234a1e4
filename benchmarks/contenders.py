"""Who is compared in `search_quality`: random, Optuna, stock Ray Tune, Syne Tune's MOASHA, and ours in parts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import optuna

from benchmarks.replay import OBJECTIVES, Contender, Job, Problem
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.successive_halving import Rungs
from tuner.results.history import History
from tuner.results.pareto import Front, nondominated
from tuner.results.provisional import provisional
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import Decision
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class WithOptuna(Contender):
    """Optuna's own sampler at full budget; a user is shown the non-dominated complete trials."""

    def __init__(self, problem: Problem, sampler):
        self.problem = problem
        self.study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
        self.told: list[tuple[int, int, tuple[float, float]]] = []
        self.asked: dict[int, optuna.Trial] = {}
        self.last: dict[int, tuple[int, tuple[float, float]]] = {}

    def propose(self, number: int) -> dict:
        if number == 0:  # every contender starts with the default setting
            self.study.enqueue_trial(self.problem.space.default())
        self.asked[number] = self.study.ask()
        return self.problem.space.sample(self.asked[number])

    def report(self, job: Job, epoch: int, point) -> bool:
        self.last[job.number] = (epoch, point)
        return True

    def end(self, job: Job, complete: bool) -> None:
        epoch, point = self.last[job.number]
        self.study.tell(self.asked[job.number], list(point))
        self.told.append((job.config, epoch, point))

    def shown(self) -> list[tuple[int, int]]:
        return [self.told[i][:2] for i in nondominated([t[2] for t in self.told], [True, True])]


class StockRay(WithOptuna):
    """Ray Tune as documented: multi-objective OptunaSearch, ASHAScheduler on one objective; a stopped trial is told
    COMPLETE with the values it had (what OptunaSearch does), and so it may be on the front that is shown."""

    def __init__(self, problem: Problem, seed: int):
        super().__init__(problem, optuna.samplers.TPESampler(seed=seed))
        from ray.tune.schedulers import ASHAScheduler

        self.asha = ASHAScheduler(time_attr="epoch", metric=OBJECTIVES[0], mode="max", max_t=problem.epochs)
        self.trials: dict[int, SimpleNamespace] = {}

    def report(self, job: Job, epoch: int, point) -> bool:
        super().report(job, epoch, point)
        trial = self.trials.setdefault(job.number, SimpleNamespace(trial_id=str(job.number), status="RUNNING"))
        if epoch == 1:
            self.asha.on_trial_add(None, trial)
        return self.asha.on_trial_result(None, trial, {"epoch": epoch, OBJECTIVES[0]: point[0]}) == self.asha.CONTINUE


class SyneTune(WithOptuna):
    """Syne Tune's MOASHA, the real library: random proposals, non-dominated sorting with epsilon-net at its rungs; a
    stopped trial counts with the values it had, as its results list it."""

    def __init__(self, problem: Problem, seed: int, grace: int = 1):
        super().__init__(problem, optuna.samplers.RandomSampler(seed=seed))
        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self.trial_of = lambda n: Trial(trial_id=n, config={}, creation_time=None)
        self.moasha = MOASHA(
            config_space={},
            metrics=list(OBJECTIVES),
            do_minimize=False,
            time_attr="epoch",
            max_t=problem.epochs,
            grace_period=grace,
            reduction_factor=3,
        )

    def begin(self, job: Job, params: dict) -> None:
        self.moasha.on_trial_add(self.trial_of(job.number))

    def report(self, job: Job, epoch: int, point) -> bool:
        super().report(job, epoch, point)
        result = {"epoch": epoch, **dict(zip(OBJECTIVES, point))}
        return self.moasha.on_trial_result(self.trial_of(job.number), result) != "STOP"


@dataclass(frozen=True)
class TableSpec(SearchSpec):
    """Our spec over a table's space instead of a method's."""

    table_space: Space | None = None

    def search_space(self) -> Space:
        return self.table_space


class Ours(Contender):
    """The production Proposer and Rungs, driven without Ray."""

    def __init__(self, problem: Problem, seed: int, *, sampler: str = "auto", scheduler: str | None = None):
        self.problem = problem
        self.spec = TableSpec(
            method="at",
            table_space=problem.space,
            trials=len(problem.params),
            seed=seed,
            max_epochs=problem.epochs,
            sampler=sampler,
            scheduler=scheduler,
            objectives=OBJECTIVES,
        )
        self.history = History(None)
        self.rungs = Rungs(self.spec.early_stopping)
        self.proposer = Proposer(self.spec, self.history, self.rungs)
        self.configs: dict[int, int] = {}

    def propose(self, number: int) -> dict:
        return self.proposer.next().params

    def begin(self, job: Job, params: dict) -> None:
        self.configs[job.number] = job.config
        self.history.append("start", job.number, params=params, method="table")

    def report(self, job: Job, epoch: int, point) -> bool:
        self.history.append("epoch", job.number, metrics={"epoch": epoch, **dict(zip(OBJECTIVES, point))})
        self.history.record(job.number).trunk_epochs = min(epoch, job.trunk)
        start = self.problem.start(job.config)
        return self.rungs.feed(job.number, epoch, point, start) == Decision.CONTINUE

    def end(self, job: Job, complete: bool) -> None:
        state = TrialState.FINISHED if complete else TrialState.STOPPED
        self.history.append("end", job.number, state=state)
        self.proposer.tell(job.number, state, self.history.trials[job.number].last)

    def shown(self) -> list[tuple[int, int]]:
        early = provisional(self.history, OBJECTIVES)
        front = early[1] if early else Front.of(self.history.rows(OBJECTIVES), OBJECTIVES)
        return [(self.configs[row["trial"]], row["epoch"]) for row in front.rows]


def contenders() -> dict:
    """Name -> (maker, uses the trunk where trials share one)."""
    samplers = optuna.samplers
    return {
        "random, full budget": (lambda p, s: WithOptuna(p, samplers.RandomSampler(seed=s)), False),
        "Optuna TPE, full budget": (lambda p, s: WithOptuna(p, samplers.TPESampler(seed=s)), False),
        "Optuna NSGA-II, full budget": (
            lambda p, s: WithOptuna(p, samplers.NSGAIISampler(seed=s, population_size=20)),
            False,
        ),
        "Ray Tune stock (OptunaSearch + ASHA)": (StockRay, False),
        "Syne Tune MOASHA": (SyneTune, False),
        # it stops whoever ties, and before their start all do; 12 was the best of 1, 3, 9 and 12
        "Syne Tune MOASHA, grace_period=12": (partial(SyneTune, grace=12), False),
        "ours": (Ours, True),
        "ours, --no-trunk": (Ours, False),
        "ours, --scheduler none": (partial(Ours, scheduler="none"), True),
        "ours, --sampler tpe": (partial(Ours, sampler="tpe"), True),
        "ours, --sampler random": (partial(Ours, sampler="random"), True),
    }
