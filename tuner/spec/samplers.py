"""The samplers of ``--sampler``, one row each. Importing this file loads no sampler.

How to add a sampler
--------------------
Add one row to ``SAMPLERS`` with a ``build`` function that imports Optuna (or a package of samplers for it) when it is
called. The command line, validation, warm starts, resuming, the line that a search prints and the proposals follow from
the row's flags. ``build`` must be deterministic: the same seed and the same observations give the same proposal, since
a resumed search repeats the proposals of an uninterrupted one. When a model is trusted is decided by
``tuner.optimizer.proposer``, so switch off the sampler's own start-up trials. A sampler that does not learn is shown an
empty study, a new one for every proposal: one that counts the trials of its study, like Optuna's ``QMCSampler``, would
draw at random there and needs ``own_study``.

tests/test_proposals.py runs its contract (``test_every_sampler...``) on every row of the table; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

# Most ended trials that a model is shown, and most pending ones. TPE reads at most 25 good ones; the cost of a Gaussian
# process grows with the cube.
MAX_OBSERVATIONS = 250


@dataclass(frozen=True)
class Sampler:
    """One sampler and what the search has to know of it.

    ``build(seed, trials)``: an Optuna sampler for one proposal of a search of so many trials; None for ``qmc``, which
    proposes the quasi-random points that the others start with. ``label``: what the line that a search prints calls
    its model.
    """

    name: str
    help: str
    build: Callable[[int, int], BaseSampler] | None = None
    label: str = ""
    learns: bool = False  # proposals depend on the values of earlier trials
    own_study: bool = False  # reads the recorded study instead of observations
    reads_pruned: bool = True  # makes use of trials that ended without a value (Optuna's state PRUNED)

    @property
    def warm_starts(self) -> bool:
        """Whether it can learn from the trials of an earlier search."""
        return self.learns and not self.own_study


def _random(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _tpe(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=1)


def _gaussian_process(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=1, deterministic_objective=False, warn_independent_sampling=False)


def _nsga2(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=_population(trials))


def _nsga3(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import NSGAIIISampler

    return NSGAIIISampler(seed=seed, population_size=_population(trials))


def _population(trials: int) -> int:
    """A quarter of the trials, 4 to 50, so that there are about four generations."""
    return max(4, min(50, trials // 4))


SAMPLERS: dict[str, Sampler] = {
    row.name: row
    for row in (
        Sampler("auto", "The default: TPE.", _tpe, label="TPE", learns=True),
        Sampler("random", "Independent draws from the space.", _random),
        Sampler("qmc", "A scrambled Sobol sequence, which covers the space evenly."),
        Sampler("tpe", "Tree-structured Parzen estimator.", _tpe, label="TPE", learns=True),
        Sampler("nsga2", "The genetic algorithm NSGA-II.", _nsga2, learns=True, own_study=True),
        Sampler("nsga3", "The genetic algorithm NSGA-III.", _nsga3, learns=True, own_study=True),
        Sampler(
            "gp",
            "Gaussian process with expected hypervolume improvement.",
            _gaussian_process,
            label="a Gaussian process",
            learns=True,
            reads_pruned=False,
        ),
    )
}
