"""The samplers of `tuner.spec.samplers` at work: seeds, the quasi-random start, and what a search says of its sampler.

Every proposal gets a sampler of its own, seeded by (search seed, trial number): a search that was interrupted proposes
what the uninterrupted one would have.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from tuner.optimizer.quiet import quiet_optuna
from tuner.spec.samplers import SAMPLERS, Sampler
from tuner.spec.space import Space


def start_trials(trials: int) -> int:
    """How many of so many trials come before a model is trusted, the default setting included."""
    return min(12, max(4, trials // 4))


def proposal_seed(seed: int, number: int) -> int:
    """The seed of proposal ``number`` of a search."""
    return (seed * 1_000_003 + number) % 2**32


@quiet_optuna()
def make_sampler(row: Sampler, *, seed: int, number: int, trials: int) -> BaseSampler:
    """The Optuna sampler for proposal ``number`` of a search of so many trials.

    ``ValueError`` for a row that has none of its own.
    """
    if row.build is None:
        raise ValueError(f"sampler {row.name!r} has no sampler of Optuna's")
    return row.build(proposal_seed(seed, number), trials)


@quiet_optuna()
def quasi_random(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Point ``number`` of a scrambled Sobol sequence over the searched parameters, conditional ones too."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(space.searched), scramble=True, rng=np.random.default_rng(seed))
    return space.at((sobol.fast_forward(number) if number else sobol).random(1)[0])


def describe_sampler(name: str, space: Space, objectives: int, trials: int, first: str) -> str:
    """One line for the user: what the search will propose with. ``first``: what trial 0 is called."""
    if not space.searched:
        return f"sampler: nothing is searched, {first} runs once"
    row = SAMPLERS[name]
    if not row.models:
        return f"sampler {name}, after {first}"
    at = partial(row.model, conditional=space.conditional, objectives=objectives)
    early, last = at(values=0), at(values=math.inf)
    if early is not last:
        why = f"flat space, objectives: {objectives}; {last.label} after {early.max_values} values"
    else:
        why = "conditional space" if space.conditional else f"{objectives} objectives"
    quasi_random_ones = start_trials(trials) - 1
    return f"sampler {name}: {first}, {quasi_random_ones} quasi-random ones, then {early.label} ({why})"
