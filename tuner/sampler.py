"""Optuna samplers by name. Each proposal gets a sampler seeded by (search seed, trial number): a search that was
interrupted proposes what the uninterrupted one would have."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler


def make_sampler(name: str, *, seed: int, number: int, trials: int) -> BaseSampler:
    """``name`` out of ``spec.SAMPLERS``; ``number`` the trial to propose; ``trials`` how many there will be."""
    own = (seed * 1_000_003 + number) % 2**32
    start = min(10, max(4, trials // 4))  # random points before the model is trusted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "random":
                return optuna.samplers.RandomSampler(seed=own)
            case "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False,
                                                  warn_asynchronous_seeding=False)
            case "tpe":
                return optuna.samplers.TPESampler(seed=own, n_startup_trials=start)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=own, population_size=max(4, min(50, trials // 4)))
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=own, population_size=max(4, min(50, trials // 4)))
            case "gp":
                return optuna.samplers.GPSampler(seed=own, n_startup_trials=start, deterministic_objective=False,
                                                 warn_independent_sampling=False)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    raise ValueError(f"unknown sampler {name!r}")
