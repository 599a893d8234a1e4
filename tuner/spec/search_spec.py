"""Everything that defines a search, validated, YAML in and out; its hash names the search."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import yaml

from search_spaces import METHODS, epochs_of, head_of, linf_only, method_space, recipe_of
from search_spaces.number import number
from search_spaces.param import Param, coerce, params_of
from search_spaces.training import Training
from trainables.datasets import training_for
from trainables.threats import LINF, Threat, parse_threat
from trainables.urls import public
from tuner.errors import UsageError
from tuner.home import LONGEST_NAME, owner_name
from tuner.spec.budget import Budget
from tuner.spec.epoch_plan import EpochPlan
from tuner.spec.fields import FORMER, SearchFields
from tuner.spec.known import recipes as known_recipes
from tuner.spec.objectives import Goal, parse_constraints, parse_smoothing
from tuner.spec.option import ALWAYS, options_of
from tuner.spec.plug_ins import check_remembered, missing, used_plug_ins
from tuner.spec.schedulers import Scheduler, choose_scheduler, earlier_scheduler
from tuner.spec.space import Space, build_space, joined
from tuner.spec.yaml_text import read_yaml

EXPORT = "export:"  # in ``init``: a folder of `tuner export`
FORMER_TRAINING = {"milestones": "0.75,0.9"}  # of `FORMER`, where it differs from today's defaults
# In the spec files of earlier versions, where they said how trials were stopped early and what they shared. A search of
# then goes on with all that is left of it in full.
FORMER_FIELDS = ("trunk_storage", "trunk", "asha_metric", "reduction", "grace", "on_rung")
FORMER_SCHEDULERS = ("pareto-asha", "asha", "median")


@dataclass(frozen=True)
class SearchSpec(SearchFields):
    """A search. The fields, which are the command line's options and a spec file's keys, are ``SearchFields``.

    ``method``: one, or several that share the budget; then ``lanes`` are the searches of one method each that it is
    made of, and what a method needs (its space and forks) is asked of its lane.
    """

    # No option: what is installed decides it.
    plug_ins: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        check_remembered(self.plug_ins)
        super().__post_init__()
        here = used_plug_ins(self.methods, self.dataset, self.model, self.threat_model.name)
        object.__setattr__(self, "plug_ins", {what: self.plug_ins.get(what, mark) for what, mark in here.items()})
        object.__setattr__(self, "set", self._checked_set())
        object.__setattr__(self, "threat", str(self.threat_model))  # 8/255 and 0.0313... are the same search
        _ = self.goal  # raises what is wrong with constraints and smoothing
        self._check_radius()
        if self.extra_data == "none" and self.extra_ratio != options_of(SearchFields)["extra_ratio"].default:
            raise UsageError(f"--extra-ratio {self.extra_ratio:g} is the share of --extra-data, which is missing")
        if len(self.methods) > 1:
            self._check_lanes()
            return
        self._check_recipe()
        self.search_space()  # raises what is wrong with fix and space
        self._check_average()
        self._check_norm()
        self._check_head_repair()
        self.scheduling.check()
        self._check_processes()
        if self.budget and self.budget.endswith("gpu-h") and not self.gpus_per_trial:
            raise UsageError(f"--budget {self.budget!r} counts GPUs, but --gpus-per-trial is 0")

    def _check_processes(self) -> None:
        """What is to be trained by several processes can be."""
        asked, gpus, count = self.processes_per_trial, self.gpus_per_trial, self.processes
        if asked > 1 and gpus not in (0, asked):
            raise UsageError(
                f"--processes-per-trial {asked} is not allowed with --gpus-per-trial "
                f"{gpus if isinstance(gpus, str) else f'{gpus:g}'}: each GPU of a trial has one process"
            )
        space, training = self.search_space(), self.training()
        if count > 1 and ("compile" in space.searched or training.compile == "on"):
            raise UsageError(f"compile=on is for trials of one process, and these have {count}")
        fewest: float = training.batch_size  # which trial 0 has where it is searched, too
        if "batch_size" in space.searched:
            fewest = min(fewest, space.bounds("batch_size")[0])
        if count > fewest:
            raise UsageError(f"{count} processes of a trial cannot share batches of {fewest} images")

    def _check_radius(self) -> None:
        """``threat`` and ``eps`` must not name two radii."""
        radius = self.threat_model.radius
        for flag, given in (("--set", self.set), ("--fix", self.fix), ("--space", self.space)):
            if radius is not None and "eps" in given and _number_of(given["eps"]) != radius:
                raise UsageError(
                    f"--threat {self.threat!r} and {flag} eps={given['eps']!r} give two radii; leave one out"
                )

    def _check_norm(self) -> None:
        """No parameter of the method has a value that is made for another norm."""
        space, threat = self.search_space(), self.threat_model
        for name, values in linf_only(self.methods[0]).items() if threat.name != LINF else ():
            if possible := space.choices_of(name) & set(values):
                raise UsageError(
                    f"--threat {self.threat!r} is not allowed with {self.method} and {name}={possible.pop()}, which is "
                    f"made for the box of {LINF}"
                )

    def _check_recipe(self) -> None:
        if self.recipe == "paper" and self._fine_tuning and not self.starts_from:
            raise UsageError(
                f"--recipe 'paper' of {self.method} trains a robust model on for {epochs_of(self.methods[0])} epochs; "
                "--init FILE says which"
            )
        if self.recipe == "paper" and not recipe_of(self.methods[0]):
            having = [name for name in METHODS if recipe_of(name)]
            raise UsageError(
                f"--recipe 'paper' is not possible with {self.method}, whose authors' training settings are not known "
                f"here; methods with a recipe: {', '.join(having)}"
            )

    def _check_lanes(self) -> None:
        for flag, given in (("--fix", self.fix), ("--space", self.space)):
            for key in given:
                if not self._having(key):
                    raise UsageError(f"unknown key {key!r} in {flag}: none of {', '.join(self.methods)} has it")
        if self.trials < len(self.methods):
            raise UsageError(f"--trials {self.trials} is not allowed; {len(self.methods)} methods need one each")
        _ = self.lanes  # raises what is wrong with one of them

    def _having(self, key: str) -> list[str]:
        """The methods for which ``key`` means something."""
        return [m for m in self.methods if self._means(m, key)]

    def _means(self, method: str, key: str) -> bool:
        """Whether a method has a parameter: one that no search varies, and that exists only beside others, where those
        are given too."""
        param = params_of(method_space(method).Params).get(key)
        if param is None:
            return key in params_of(Training)
        return param.searched or set(param.when) <= {*self.fix, *self.space}

    @property
    def threat_model(self) -> Threat:
        """``threat``, read."""
        return parse_threat(self.threat)

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.method,) if isinstance(self.method, str) else self.method

    @property
    def processes(self) -> int:
        """How many train one trial: one for each of its GPUs, or as many as are asked for on CPUs."""
        gpus = 1 if isinstance(self.gpus_per_trial, str) else int(self.gpus_per_trial)  # auto: several trials share one
        return max(gpus, self.processes_per_trial)

    @property
    def starts_from(self) -> str | None:
        """What weights the trials begin with, as the user says it; None: random ones."""
        return None if self.init == "none" else self.init

    @property
    def owned_by(self) -> str:
        """Whose search it is, as quotas and lists of jobs name it."""
        return self.owner or owner_name()

    @property
    def method_names(self) -> str:
        """For people: ``srat``, or ``srat + done``."""
        return " + ".join(self.methods)

    @cached_property
    def lanes(self) -> tuple[SearchSpec, ...]:
        """The searches of one method each, with the part of ``fix`` and ``space`` that is theirs; ``trials`` is what
        comes to it where they take turns."""
        if len(self.methods) == 1:
            return (self,)
        return tuple(
            self.changed(method=m, trials=share, **self._own(m)) for m, share in zip(self.methods, self._shares)
        )

    @property
    def _shares(self) -> list[int]:
        """How many of the trials come to each method where they take turns."""
        return [len(range(place, self.trials, len(self.methods))) for place in range(len(self.methods))]

    def changed(self, **fields: Any) -> SearchSpec:
        """The same search, by its name and with its scheduler, with other values of some fields."""
        return dataclasses.replace(self, name=self.search_name, scheduler=self.scheduling.name, **fields)

    def _own(self, method: str) -> dict[str, Any]:
        """The part of ``fix`` and ``space`` that is a method's."""
        given = {"fix": self.fix, "space": self.space}
        return {name: {k: v for k, v in of.items() if method in self._having(k)} for name, of in given.items()}

    @cached_property
    def _spaces(self) -> dict[str, Space]:
        """Method -> its space, a recipe aside; a lane's needs the scheduler, which follows from these."""
        return {method: build_space(method, **self._own(method)) for method in self.methods}

    def of(self, method: str) -> SearchSpec:
        """The lane of one of its methods; of a reference, which is trained as the first method is, the first."""
        return self.lanes[self.methods.index(method) if method in self.methods else 0]

    @property
    def notes(self) -> list[str]:
        """What a user may not expect: options without effect, parameters that only some of the methods have."""
        idle = self.goal.without_effect()
        given = [("--fix", key) for key in self.fix] + [("--space", key) for key in self.space]
        alone = [
            f"{flag} {key} is for {', '.join(has)} alone: {', '.join(m for m in self.methods if m not in has)} "
            "knows no such parameter"
            for flag, key in given
            if len(has := self._having(key)) < len(self.methods)
        ]
        priors = [prior_note(method) for method in self.methods] if self.offsets != "none" else []
        own = [
            f"--space {name} varies the attack that judges each trial, too: a weaker one looks like a better trial"
            for name in self.own_attacks
        ]
        return idle + alone + own + [note for note in (*priors, self._repair_note()) if note]

    def _repair_note(self) -> str | None:
        repairs = (
            lane.search_space().choices_of("head_repair") or {lane.training().head_repair} for lane in self.lanes
        )
        if not any("sam" in kinds for kinds in repairs):
            return None
        return "head_repair=sam trains each head one epoch more, which neither cost nor a budget of epochs counts"

    def _check_average(self) -> None:
        space = self.search_space()
        possible = space.choices_of("average")
        if "average" in space.searched:  # of which trial 0 has the default, whatever is left of the choices
            possible = possible | {space.params["average"].default}
        own, ema = sorted(possible - {"none"}), space.fixed.get("ema", self.training().ema)
        if own and ("ema" in space.searched or ema):
            raise UsageError(
                f"ema={'searched' if 'ema' in space.searched else ema} is not allowed with {self.method}, "
                f"which keeps a weight average of its own (average={own[0]}); --fix average=none allows it"
            )

    def _check_head_repair(self) -> None:
        space, head = self.search_space(), head_of(self.methods[0])
        searched = "head_repair" in space.searched
        repair = "searched" if searched else space.fixed.get("head_repair", self.training().head_repair)
        if head != "linear" and repair != "none":
            raise UsageError(
                f"head_repair={repair} is not allowed with {self.method}: its {head} head has no lengths of class "
                "weight vectors that could differ"
            )

    def _checked_set(self) -> dict[str, Any]:
        known = params_of(Training)
        for key, value in self.set.items():
            for method in self.methods:
                if key not in known and key in params_of(method_space(method).Params):
                    raise UsageError(f"{key!r} in --set is a hyperparameter of {method}; write --fix {key}={value}")
        return {key: _coerced(known, key, value, "--set") for key, value in self.set.items()}

    def training(self) -> Training:
        """The training hyperparameters of every trial of a lane, each source over those before it: common defaults,
        the dataset's, the recipe's, the threat model's radius, `set`, fixed ones. Of several methods: those of the
        first."""
        own = params_of(method_space(self.methods[0]).Params)  # a name that both have (schedule) is the method's
        fixed = {
            k: v for k, v in self.lanes[0].search_space().fixed.items() if k in params_of(Training) and k not in own
        }
        return training_for(self.dataset, **{**self._shared_settings(), **fixed})

    def _shared_settings(self) -> dict[str, Any]:
        """What recipe, threat model and `set` say of training, the later over the earlier."""
        radius = self.threat_model.radius
        return {**self._recipe(), **({} if radius is None else {"eps": radius}), **self.set}

    @property
    def _fine_tuning(self) -> dict[str, Any]:
        """Of one method: its own parameters' values under the paper's recipe where its authors begin with a trained
        model; else nothing."""
        return getattr(method_space(self.methods[0]), "FINE_TUNING", {}) if self.recipe == "paper" else {}

    def _recipe(self) -> dict[str, Any]:
        """The training hyperparameters that the recipe sets."""
        if self.recipe == "paper":
            fixed = {**self.lanes[0].space, **self.lanes[0].fix}
            return recipe_of(self.methods[0], str(fixed.get("form")).lower())
        return FORMER_TRAINING if self.recipe == FORMER else {}

    def trained_as(self, method: str) -> str:
        """The first of the search's methods with the same training settings as a method: these share stems."""
        return self._trained_as[self.of(method).methods[0]]

    @cached_property
    def _trained_as(self) -> dict[str, str]:
        settings = {lane.methods[0]: lane.training() for lane in self.lanes}
        return {name: next(n for n, other in settings.items() if other == own) for name, own in settings.items()}

    def shared_training(self) -> dict[str, Any]:
        """The training hyperparameters that the trials of all methods share: none that is searched."""
        first, *others = (dataclasses.asdict(lane.training()) for lane in self.lanes)
        own = {lane.methods[0]: params_of(method_space(lane.methods[0]).Params) for lane in self.lanes}
        varied = {n for lane in self.lanes for n in lane.search_space().searched if n not in own[lane.methods[0]]}
        shared = {name: value for name, value in first.items() if name not in varied}
        return {name: value for name, value in shared.items() if all(other[name] == value for other in others)}

    def search_space(self) -> Space:
        """What is searched and what is fixed; of one method."""
        return self._search_space

    @cached_property
    def _search_space(self) -> Space:
        (method,) = self.methods
        given = {name: value for name, value in self._fine_tuning.items() if name not in self.space}
        space = build_space(method, fix={**given, **self.fix}, space=self.space)
        own, common = params_of(method_space(method).Params), params_of(Training)
        if self.recipe == FORMER:  # whose trial 0 had the common defaults where training settings were searched
            begins = {**{name: param.default for name, param in common.items()}, **self._recipe()}
        else:
            begins = dataclasses.asdict(training_for(self.dataset, **self._shared_settings()))
        shared = [name for name in space.params if name in common and name not in own]
        changed = {name: dataclasses.replace(space.params[name], default=begins[name]) for name in shared}
        return dataclasses.replace(space, params={**space.params, **changed})

    @property
    def own_attacks(self) -> tuple[str, ...]:
        """What the search varies of the attack by which a trial is judged: where it does, no two are judged alike."""
        return tuple(name for name in ("eps", "eval_attack") if name in self.shown_space().searched)

    def shown_space(self) -> Space:
        """``search_space``, or those of all methods as one: for pictures and tables."""
        return (
            self.search_space()
            if len(self.methods) == 1
            else joined({method: self.of(method).search_space() for method in self.methods})
        )

    @property
    def goal(self) -> Goal:
        """The objectives as sampler and scheduler see them, and the constraints."""
        return Goal(self.objectives, parse_constraints(self.constraint), parse_smoothing(self.smooth_worst))

    @cached_property
    def epoch_plan(self) -> EpochPlan:
        """When trials leave the stem; of one method."""
        return EpochPlan(self.search_space(), self.max_epochs, self.burn_in)

    @property
    def forks(self) -> tuple[int, int]:
        """The earliest and the latest epoch at which a trial leaves its stem; 0, 0 where none has one."""
        plans = [lane.epoch_plan for lane in self.lanes]
        previews = [plan.preview[0] for plan in plans] if self.scheduling.previewing else []
        full = [plan.forks for plan in plans if plan.forks[1]]
        early, late = [low for low, _ in full] + previews, [high for _, high in full] + previews
        return min(early, default=0), max(late, default=0)

    @property
    def proposals(self) -> int:
        """How many trials are no default setting, of which a method that varies nothing has one under each seed."""
        varied = [bool(space.searched) for space in self._spaces.values()]
        defaults = sum(1 if own else min(self.stems, share) for own, share in zip(varied, self._shares))
        return self.trials - defaults if any(varied) else 0

    @property
    def default_trials(self) -> int:
        """How many trials of a lane have the default setting: with nothing to vary, one under each seed."""
        return 1 if self.search_space().searched else min(self.trials, self.stems)

    @property
    def most_trials(self) -> int:
        """How many trials a lane proposes at most."""
        return self.trials if self.search_space().searched else self.default_trials

    def seed_of(self, number: int) -> int:
        """The seed of a lane's trial with this number."""
        return self.seed + number % self.stems

    @property
    def seconds(self) -> float | None:
        """How long the search may take; None: there is no limit."""
        limits = [self.time_budget, (budget := Budget.of(self.budget)) and budget.seconds]
        return min((limit for limit in limits if limit), default=None)

    @cached_property
    def scheduling(self) -> Scheduler:
        """The scheduler that applies, with its options."""
        # a method that varies nothing has no proposals
        spaces = [space for space in self._spaces.values() if space.searched] or [*self._spaces.values()]
        plans = [EpochPlan(space, self.max_epochs, self.burn_in) for space in spaces]
        lengths = plans[0].preview[1], fmean(plan.own for plan in plans)
        return choose_scheduler(self.scheduler, lengths=lengths, **self._previewed)

    @property
    def _previewed(self) -> dict[str, Any]:
        return {"max_epochs": self.max_epochs, "previews": self.proposals, "burn_in": self.burn_in}

    def identity(self) -> dict[str, Any]:
        """What the search's hash is taken of: every field that can change a result.

        Left out is a field that means what the code did before there was such a field: earlier searches keep their
        names.
        """
        options = options_of(SearchSpec)
        fields = self.to_dict().items()
        return {n: v for n, v in fields if n == "plug_ins" or options[n].hashed and v != options[n].before}

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def search_name(self) -> str:
        dataset = self.dataset.rstrip("/").replace("\\", "/").split("/")[-1].split(":")[-1]
        safe = "".join(c if c.isascii() and c.isalnum() or c in "._-" else "-" for c in dataset) or "data"
        methods = "-".join([*self.methods[:3], *(["more"] if len(self.methods) > 3 else [])])
        return self.name or f"{f'{methods}-{safe}'[: LONGEST_NAME - 9]}-{self.hash()}"

    @property
    def experiment_name(self) -> str:
        return self.experiment or f"{self.dataset}-{self.imbalance}-{self.model}".replace("/", "_")

    def to_dict(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        if not self.plug_ins:  # as in the specs of earlier searches, whose names are kept
            del plain["plug_ins"]
        lists = {"objectives": list(self.objectives), "constraint": list(self.constraint)}
        return {**plain, **lists, "method": self.method if isinstance(self.method, str) else list(self.method)}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def to_stored(self) -> str:
        """As the search's own ``spec.yaml``: by its name and with its scheduler, of which a later version may choose
        others."""
        return self.changed().to_yaml()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SearchSpec:
        """From what a user gives."""
        if values.get("recipe") == FORMER:
            raise UsageError(f"unknown recipe {FORMER!r}; choose one of: {', '.join(known_recipes())}")
        return cls._from_dict(values)

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> SearchSpec:
        known = {*options_of(cls), "plug_ins"}
        for key in values:
            if key in FORMER_FIELDS:
                raise UsageError(f"spec field {key!r} is of an earlier version and means nothing now; leave it out")
            if key not in known:
                raise UsageError(f"unknown spec field {key!r}; choose one of: {', '.join(sorted(known))}")
        given = {key: value for key, value in values.items() if value is not None}
        check_remembered(given.get("plug_ins", {}))
        if sentence := missing(given.get("plug_ins", {})):  # before its name is refused as unknown
            raise UsageError(sentence)
        return cls(**given)

    @classmethod
    def from_yaml(cls, text: str) -> SearchSpec:
        """From a user's file: what it does not say is the default."""
        return cls.from_dict(load_mapping(text, "spec"))

    @classmethod
    def from_stored(cls, text: str, **changed: Any) -> SearchSpec:
        """From a search's own ``spec.yaml``, which holds every field that there was when the search was made: a field
        that it lacks has the value ``before``. ``changed``: fields that are said otherwise now."""
        then = {name: asked.before for name, asked in options_of(cls).items() if asked.before is not ALWAYS}
        stored = {key: value for key, value in load_mapping(text, "spec").items() if key not in FORMER_FIELDS}
        if stored.get("scheduler") in (None, *FORMER_SCHEDULERS) and "burn_in" not in stored:
            stored["scheduler"] = then["scheduler"]
        for name in ("dataset", "storage", "study_storage"):  # earlier versions took passwords in URLs
            if isinstance(stored.get(name), str):
                stored[name] = public(stored[name])
        spec = cls._from_dict({**then, **stored, **changed})
        if spec.scheduler is None:
            scheduler = earlier_scheduler(**spec._previewed)
            spec = dataclasses.replace(spec, name=spec.search_name, scheduler=scheduler)
        return spec


def prior_note(method: str) -> str | None:
    """What post-hoc offsets mean for a method whose loss holds the classes' frequencies already; None for others."""
    how = getattr(method_space(method), "PRIOR_IN_LOSS", None)
    return how and f"{method} trains with {how}; post-hoc offsets come on top of that"


def load_mapping(text: str, what: str) -> dict[str, Any]:
    """A YAML mapping, or one sentence."""
    try:
        values = read_yaml(text) or {}
    except ValueError as error:
        raise UsageError(f"the {what} file is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"the {what} file must hold 'key: value' lines, but holds {str(values)[:80]!r}")
    return values


def _number_of(value: Any) -> float | None:
    """None where it is no number: a range."""
    try:
        return number(value)
    except ValueError:
        return None


def _coerced(known: dict[str, Param], key: str, value: Any, flag: str) -> Any:
    if key not in known:
        raise UsageError(f"unknown key {key!r} in {flag}; choose one of: {', '.join(sorted(known))}")
    try:
        return coerce(known[key], value)
    except ValueError as error:
        raise UsageError(f"{flag} {error}") from None
