"""Replicates: front members run again under other seeds, so that the front is drawn on means and not on luck.

A replicate is a trial of its own: the setting of trial ``of`` under another seed, which changes everything that
training draws but not the images: the front is that of the data its user has. (Thinned anew as well, two runs of a
setting on digits exp:10 differ three times as much in their worst class: standard deviation 0.108, not 0.037, over 24
settings of SRAT.) As long as a member of the front has fewer than ``--seeds`` of them, the missing ones are run; when
means make a member fall, whoever comes onto the front in its place is run again too. At the end every member has all
its seeds, and nobody was run again who is not near the front. The paper's setting has its seeds as well: it is what
the front is compared with.
"""

from __future__ import annotations

from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


def wanted(spec: SearchSpec, history: History) -> list[tuple[int, int]]:
    """(trial, seed) of every replicate that has not been started and that the front as it stands asks for."""
    return missing(spec, history) if trials_ended(spec, history) else []


def missing(spec: SearchSpec, history: History) -> list[tuple[int, int]]:
    """`wanted`, while trials are still to come too."""
    if spec.seeds == 1:
        return []
    members = {row["trial"] for row in front_of(spec, history).rows}
    first = {numbers[0] for numbers in history.numbers.values()}  # of each method: the paper's setting
    members |= {t.trial for t in history.with_state(TrialState.FINISHED) if t.trial in first}
    started = {(r.of, r.seed) for r in history.replicates.values()}
    pairs = [(trial, spec.seed + n) for n in range(1, spec.seeds) for trial in sorted(members)]
    return [pair for pair in pairs if pair not in started]


def trials_ended(spec: SearchSpec, history: History) -> bool:
    """Whether every trial asked for has ended."""
    return len(history.with_state(TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED)) >= total_trials(spec)


def total_trials(spec: SearchSpec) -> int:
    """How many trials the search has: of a method of which nothing is searched, one."""
    return min(spec.trials, sum(spec.trials if lane.search_space().searched else 1 for lane in spec.lanes))


def running(history: History) -> bool:
    return any(r.state == TrialState.RUNNING for r in history.replicates.values())


def fell_off(spec: SearchSpec, history: History) -> list[int]:
    """Trials that were on the front by their own seed alone and are not by the means."""
    if not history.replicates:
        return []
    own = [t.row(spec.objectives) for t in history.with_state(TrialState.FINISHED) if spec.goal.feasible(t.last)]
    alone = {row["trial"] for row in Front.of(own, spec.objectives).rows}
    now = {row["trial"] for row in front_of(spec, history).rows}
    return sorted(alone - now)
