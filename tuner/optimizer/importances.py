"""How much each searched parameter matters, by two measures that answer different questions and often disagree.

PED-ANOVA (Watanabe et al., IJCAI 2023) asks what tells the best trials from the others: how far the parameter's values
among the best differ from those among all. fANOVA (Hutter et al., ICML 2014) asks what explains the spread over all
trials, by the variance of a random forest that a parameter alone accounts for. Both are Optuna's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tuner.home import Home
from tuner.optimizer.observations import Value, Worth, searched
from tuner.optimizer.quiet import quiet_optuna
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

LEAST = 12  # trials: with fewer, what is found is mostly luck
ROUGH = 50  # below, the figures are called rough
MOST = 500  # the latest trials: a forest of 10,000 takes minutes
BEST, BEST_TRIALS = 0.1, 5  # whom PED-ANOVA compares with all: this share of the trials, but at least so many


@dataclass(frozen=True)
class Importances:
    """Of one method's parameters. ``trials``: how many they rest on; ``previews``: whether those are previews, else
    full trainings; ``best``: the share of them that PED-ANOVA takes for the best.

    ``ped_anova``, ``fanova``: parameter -> share of the whole, the largest first; None where nothing can be said.
    fANOVA lacks parameters that not all trials have.
    """

    method: str
    trials: int
    previews: bool
    best: float = 0.0
    ped_anova: dict[str, float] | None = None
    fanova: dict[str, float] | None = None
    varies: bool = True  # whether the search varies any parameter of the method

    @property
    def kind(self) -> str:
        return "previews" if self.previews else "full trainings"

    @property
    def words(self) -> str:
        """What may be said of them, in a few sentences."""
        if not self.varies:  # however many trials there are
            return f"Nothing to say: the search varies nothing of {self.method}."
        if self.ped_anova is None or self.fanova is None:
            few = self.trials < LEAST
            return (
                f"Too few to say: {self.trials} {self.kind}; from {LEAST} on two measures are shown."
                if few
                else f"Nothing to say: all {self.trials} {self.kind} are worth the same, or nothing varies."
            )
        first, second = next(iter(self.ped_anova)), next(iter(self.fanova))
        meaning = (
            f"PED-ANOVA: what tells the best {self.best:.0%} from the rest; fANOVA: what explains the spread of all."
        )
        verdict = (
            f"Both name {first} first."
            if first == second
            else f"They disagree: the best differ most in {first}, the spread of all comes most from {second}."
        )
        lacking = [name for name in self.ped_anova if name not in self.fanova]
        missing = [f"fANOVA leaves out what not all trials have: {', '.join(lacking)}."] if lacking else []
        rough = [f"With {self.trials} {self.kind} both are rough."] if self.trials < ROUGH else []
        return " ".join([meaning, verdict, *missing, *rough])


def importances(name: str, home: Home | None = None) -> list[Importances]:
    """Of the search ``name``, as `importances_of`; errors as in `load_search`."""
    run = load_search(home or Home(), name)
    return importances_of(run.spec, run.history)


def importances_of(spec: SearchSpec, history: History) -> list[Importances]:
    """Those of each method of the search: of what a trial is worth to its sampler (`Worth`), as one number, the
    hypervolume of its curve or of its objectives. Takes a second or two."""
    return [_of(lane, history.lane(lane.methods[0]) if len(spec.lanes) > 1 else history) for lane in spec.lanes]


def _of(spec: SearchSpec, history: History) -> Importances:
    worth, space = Worth.of(spec), spec.search_space()
    inside = (
        t
        for t in reversed(history.trials.values())
        if (space.expresses(t.params) if t.added else space.contains(t.params))
    )
    values = list(islice((value for t in inside if (value := worth(t))), MOST))[::-1]
    found = Importances(spec.methods[0], len(values), worth.previews, varies=bool(space.searched))
    if len(values) < LEAST or len({value.product for value in values}) < 2 or not _varied(space, values):
        return found
    best = max(BEST, BEST_TRIALS / len(values))
    study = _study(space, values)
    ped_anova, fanova = PedAnovaImportanceEvaluator(target_quantile=best), FanovaImportanceEvaluator(seed=0)
    return replace(found, best=best, ped_anova=_shares(study, ped_anova), fanova=_shares(study, fanova))


def _varied(space: Space, values: list[Value]) -> set[str]:
    """The searched parameters that all trials have, and that differ among them."""
    common = [name for name in space.searched if all(name in value.params for value in values)]
    return {name for name in common if len({value.params[name] for value in values}) > 1}


@quiet_optuna()
def _study(space: Space, values: list[Value]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [create_trial(state=OptunaState.COMPLETE, value=v.product, **searched(space, v.params)) for v in values]
    )
    return study


@quiet_optuna()
def _shares(study: optuna.Study, evaluator: BaseImportanceEvaluator) -> dict[str, float] | None:
    try:
        found = get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # fANOVA: no tree of the forest has any variance
        return None
    return {name: share for name, share in found.items() if math.isfinite(share)} if any(found.values()) else None
