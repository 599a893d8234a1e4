"""Everything that defines a search, validated, YAML in and out; its hash names the search."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from search_spaces import method_space
from search_spaces.param import Param, params_of
from search_spaces.training import Training, training_for
from tuner.goal import METRICS, Goal, parse_constraint, parse_smoothing
from tuner.home import UsageError, check_name
from tuner.rungs import check_scheduler
from tuner.space import Space, build_space

SAMPLERS = ("auto", "random", "qmc", "tpe", "nsga2", "nsga3", "gp")
SCHEDULERS = ("pareto-asha", "asha", "median", "none")
# What changes how a search runs but not what it finds stays out of the hash.
_NOT_HASHED = ("name", "experiment", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "time_budget",
               "trunk_storage", "study_storage")


@dataclass(frozen=True)
class SearchSpec:
    """A search. Field names are the command line's flags; a spec file has the same fields."""

    method: str = "srat"
    dataset: str = "digits"
    imbalance: str = "exp:10"
    model: str = "cnn"
    trials: int = 16
    max_epochs: int = 12
    seed: int = 0
    objectives: tuple[str, ...] = ("robust_acc", "worst_class_robust_acc")
    sampler: str = "auto"
    scheduler: str | None = None  # None: pareto-asha where there are two rungs for it
    asha_metric: str | None = None
    reduction: int = 3
    grace: int | None = None
    on_rung: str = "stop"
    constraint: tuple[str, ...] = ()
    smooth_worst: str | None = None
    warm_start: str | None = None
    study_storage: str | None = None
    fix: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    trunk: str = "auto"
    trunk_storage: str | None = None
    name: str | None = None
    experiment: str | None = None
    max_concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    time_budget: float | None = None

    def __post_init__(self):
        for name in ("objectives", "constraint"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_choices()
        self._check_numbers()
        object.__setattr__(self, "set", self._checked_set())
        self.search_space()  # raises what is wrong with fix and space
        _ = self.goal  # raises what is wrong with constraints and smoothing
        self._check_trunk()
        check_scheduler(self)

    def _check_choices(self) -> None:
        try:
            method_space(self.method)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if str(self.sampler).replace("-", "") == "cmaes":
            raise UsageError(f"sampler {self.sampler!r} handles one objective only and this tool searches fronts; "
                             f"choose one of: {', '.join(sorted(SAMPLERS))}")
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("on-rung", self.on_rung, ("stop", "pause"))
        for name, value, allowed in (("scheduler", self.scheduler, SCHEDULERS), ("asha-metric", self.asha_metric, METRICS)):
            if value is not None:
                _one_of(name, value, allowed)
        for name in self.objectives:
            _one_of("objective", name, METRICS)
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise UsageError(f"objectives {list(self.objectives)} must be one or more different ones of: "
                             + ", ".join(METRICS))
        if self.study_storage and not self.study_storage.startswith(("sqlite:", "postgresql", "mysql")):
            raise UsageError(f"--study-storage {self.study_storage!r} is not allowed; it takes sqlite:///FILE, "
                             "postgresql://... or mysql://...")
        if self.name is not None:
            check_name(self.name)

    def _check_numbers(self) -> None:
        for name in ("trials", "max_epochs", "max_concurrent", "grace"):
            _number(name, getattr(self, name), int, above=0)
        _number("reduction", self.reduction, int, above=1)
        _number("seed", self.seed, int, above=-1)
        _number("cpus_per_trial", self.cpus_per_trial, float, above=0)
        _number("gpus_per_trial", self.gpus_per_trial, float, above=-1e-12)
        _number("time_budget", self.time_budget, float, above=0)

    def _check_trunk(self) -> None:
        kind, _, epochs = str(self.trunk).partition(":")
        if self.trunk in ("auto", "none"):
            return
        if kind != "at" or not epochs.isdecimal() or not 0 < int(epochs) < self.max_epochs:
            raise UsageError(f"--trunk {self.trunk!r} is not allowed; --trunk takes auto, none or at:N with N from 1 to "
                             f"{self.max_epochs - 1} epochs (less than --max-epochs {self.max_epochs})")
        space = self.search_space()
        if "start" in space.params and space.fixed.get("start") != 0:
            raise UsageError(f"--trunk {self.trunk!r} is for methods that act from the first epoch; {self.method} has a "
                             "start of its own, which --fix start=VALUE sets (0 allows at:N)")

    def _checked_set(self) -> dict[str, Any]:
        known = params_of(Training)
        return {key: _coerced(known, key, value, "--set") for key, value in self.set.items()}

    def training(self) -> Training:
        """The common knobs of every trial: dataset defaults, then `set`, then fixed ones."""
        fixed = {k: v for k, v in self.search_space().fixed.items() if k in params_of(Training)}
        return training_for(self.dataset, **{**self.set, **fixed})

    def search_space(self) -> Space:
        """What is searched and what is fixed."""
        return build_space(self.method, fix=self.fix, space=self.space)

    @property
    def goal(self) -> Goal:
        """The objectives as sampler and scheduler see them, and the constraints."""
        return Goal(self.objectives, tuple(parse_constraint(text) for text in self.constraint),
                    parse_smoothing(self.smooth_worst))

    @property
    def scheduler_objectives(self) -> tuple[str, ...]:
        """What the scheduler compares by: all objectives, or one."""
        return self.objectives if self.scheduler in (None, "pareto-asha") else (self.asha_metric or self.objectives[0],)

    def identity(self) -> dict[str, Any]:
        """What the search's hash is taken of: every field that can change a result."""
        hashed = {k: v for k, v in self.to_dict().items() if k not in _NOT_HASHED}
        if self.trunk in ("auto", "none"):  # the same results, bit by bit on the CPU
            del hashed["trunk"]
        return hashed

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def search_name(self) -> str:
        dataset = self.dataset.rstrip("/").replace("\\", "/").split("/")[-1].split(":")[-1]
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in dataset) or "data"
        return self.name or f"{self.method}-{safe}-{self.hash()}"

    @property
    def experiment_name(self) -> str:
        return self.experiment or f"{self.dataset}-{self.imbalance}-{self.model}".replace("/", "_")

    def to_dict(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        return {**plain, "objectives": list(self.objectives), "constraint": list(self.constraint)}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SearchSpec:
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise UsageError(f"unknown spec field {key!r}; choose one of: {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_yaml(cls, text: str) -> SearchSpec:
        return cls.from_dict(load_mapping(text, "spec"))


def load_mapping(text: str, what: str) -> dict[str, Any]:
    """A YAML mapping, or one sentence."""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"the {what} file is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"the {what} file must hold 'key: value' lines, but holds {values!r}")
    return values


def _one_of(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"unknown {what} {value!r}; choose one of: {', '.join(sorted(allowed))}")


def _number(name: str, value: Any, kind: type, above: float) -> None:
    if value is None and name in ("max_concurrent", "time_budget", "grace"):
        return
    flag = "--" + name.replace("_", "-")
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and (kind is float or value == int(value))
    if not good or not value > above:
        least = "a positive number" if kind is float and above == 0 else f"a whole number of at least {above + 1}"
        if above < 0 and kind is float:
            least = "zero or a positive number"
        raise UsageError(f"{flag} {value!r} is not allowed; {flag} takes {least}")


def _coerced(known: dict[str, Param], key: str, value: Any, flag: str) -> Any:
    from search_spaces.param import coerce

    if key not in known:
        raise UsageError(f"unknown key {key!r} in {flag}; choose one of: {', '.join(sorted(known))}")
    try:
        return coerce(known[key], value)
    except ValueError as error:
        raise UsageError(f"{flag} {error}") from None
