"""The samplers of `tuner.spec.samplers` at work: seeds and the first points.

Every proposal gets a sampler of its own, seeded by (search seed, trial number): a search that was interrupted proposes
what the uninterrupted one would have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from tuner.optimizer.quiet import quiet_optuna
from tuner.spec.samplers import Sampler
from tuner.spec.space import Space

START = 6  # trials before a model is trusted, the default setting included
NEAR = 0.15  # standard deviation around the default setting, as a share of the range; ours


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


def first_points(space: Space, seed: int, number: int) -> dict[str, Any]:
    """What is tried before there is a model: quasi-random points and, every other time, one near the default setting,
    which is a hedge: right where the published setting is good, half the points elsewhere where it is not."""
    if number % 2:
        return quasi_random(space, seed, number)
    draw = np.random.default_rng([seed, number])
    center = np.nan_to_num(np.array(space.coordinates(space.default())), nan=0.5)
    return space.at(np.clip(draw.normal(center, NEAR), 0.0, 1.0))
