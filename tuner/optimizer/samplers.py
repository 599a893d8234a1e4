"""Optuna samplers by name, and the rule of `--sampler auto`. Each proposal gets a sampler seeded by (search seed, trial
number): a search that was interrupted proposes what the uninterrupted one would have."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from tuner.spec.space import Space

GP_OBJECTIVES = 3  # beyond, expected hypervolume improvement is too slow
OWN_HISTORY = ("nsga2", "nsga3")  # keep their state in the recorded study, which has full budgets alone


def start_trials(trials: int) -> int:
    """How many trials come before a model is trusted, the paper's setting included."""
    return min(12, max(4, trials // 4))


def own_seed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**32


def model_kind(name: str, space: Space, objectives: int, values: int, most: int) -> str:
    """What ``auto`` takes: the Gaussian process in flat spaces while it has at most ``most`` values, else TPE."""
    if name != "auto":
        return name
    flat = not space.conditional and objectives <= GP_OBJECTIVES
    return "gp" if flat and values <= most else "tpe"


def describe_sampler(name: str, space: Space, objectives: int, trials: int, most: int) -> str:
    """One line for the user: what the search will propose with."""
    if not space.searched:
        return "sampler: nothing is searched, the paper's setting runs once"
    if name != "auto":
        return f"sampler {name}, after the paper's setting"
    start = start_trials(trials) - 1
    if model_kind(name, space, objectives, 0, most) == "gp":
        what = f"a Gaussian process (flat space, objectives: {objectives}; TPE after {most} values)"
    else:
        what = f"TPE ({'conditional space' if space.conditional else f'{objectives} objectives'})"
    return f"sampler auto: the paper's setting, {start} quasi-random ones, then {what}"


def quasi_random(space: Space, seed: int, number: int) -> dict:
    """Point ``number`` of a scrambled Sobol sequence over the searched parameters, conditional ones too."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(space.searched), scramble=True, rng=np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the count need not be a power of two
        return space.at((sobol.fast_forward(number) if number else sobol).random(1)[0])


def make_sampler(name: str, *, seed: int, number: int, trials: int) -> BaseSampler:
    """``name`` out of ``spec.SAMPLERS``; ``number`` the trial to propose; ``trials`` how many there will be.

    When to start with a model is decided outside, so the models' own start-up is off.
    """
    own = own_seed(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "random":
                return optuna.samplers.RandomSampler(seed=own)
            case "tpe":
                return optuna.samplers.TPESampler(seed=own, n_startup_trials=1)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=own, population_size=max(4, min(50, trials // 4)))
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=own, population_size=max(4, min(50, trials // 4)))
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=own, n_startup_trials=1, deterministic_objective=False, warn_independent_sampling=False
                )
    raise ValueError(f"unknown sampler {name!r}")
