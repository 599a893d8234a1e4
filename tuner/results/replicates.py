"""Replicates: members of the front are repeated under other seeds, so that the front rests on means instead of luck.

A replicate is a trial of its own: the setting of trial ``of`` under another seed. The seed changes all random draws of
training but not the choice of training images, since the front is meant for the user's data. (If the images are drawn
again too, runs of one setting on digits exp:10 differ three times as much in their worst class: standard deviation
0.108 instead of 0.037, over 24 settings of SRAT.) While a member of the front has fewer than ``--seeds`` seeds, the
missing ones are run; where a mean makes a member fall off, the trials that take its place are repeated too. In the end
every member has all its seeds, and only trials near the front were repeated. So are the references with which the front
is compared, the default setting and plain AT, and trials of which a user wants one more seed (`tuner front --confirm`).
"""

from __future__ import annotations

from itertools import count, filterfalse, islice

from tuner.results.assessment import flat
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.promotion import added_preview, promotable
from tuner.results.references import references, unvaried
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


def wanted(spec: SearchSpec, history: History) -> list[tuple[int, int]]:
    """(trial, seed) of every replicate that the current front, or a user, needs and that has not been started; none
    before all trials have ended."""
    if not trials_ended(spec, history):
        return []
    confirmed = (t for t in history.trials.values() if t.seeds > 1)
    asked = [(t.trial, seed) for t in confirmed for seed in _new_seeds(spec, history, t, t.seeds - 1)]
    started = {(r.of, r.seed) for r in history.replicates.values()}
    return [pair for pair in dict.fromkeys([*_of_members(spec, history), *asked]) if pair not in started]


def _of_members(spec: SearchSpec, history: History) -> list[tuple[int, int]]:
    """(trial, seed) of every replicate of the current front's members and of what they are compared with."""
    if spec.seeds == 1:
        return []
    members = {row["trial"] for row in front_of(spec, history).rows}
    papers = {numbers[0] for numbers in history.numbers.values()}  # each method's first trial is its default setting
    members |= {t.trial for t in history.with_state(TrialState.FINISHED) if t.trial in papers}
    members |= {t.trial for t in history.references.values() if t.state == TrialState.FINISHED}
    seeds = {trial: _lacking(spec, history, history.record(trial)) for trial in sorted(members)}
    return [(trial, found[n]) for n in range(spec.seeds - 1) for trial, found in seeds.items() if n < len(found)]


def _lacking(spec: SearchSpec, history: History, record: TrialRecord) -> list[int]:
    """Under which further seeds a member is trained. Where its method varies nothing, its trials are one setting under
    several seeds already, and the first stands for all."""
    if not unvaried(spec, record):
        return other_seeds(spec, record, spec.seeds - 1)
    same = [n for n in history.numbers[record.method] if unvaried(spec, history.trials[n])]
    return _new_seeds(spec, history, record, spec.seeds - len(same)) if record.trial == same[0] else []


def _new_seeds(spec: SearchSpec, history: History, record: TrialRecord, number: int) -> list[int]:
    """The seeds of a trial's first replicates, so many. No training is done twice: where a method varies nothing, the
    seeds of all stems are left to its trials, of which an extension brings more, and others' replicates have theirs."""
    if not unvaried(spec, record):
        return other_seeds(spec, record, number)
    taken = {r.seed for r in history.replicates.values() if r.method == record.method and r.of != record.trial}
    return [*islice(filterfalse(taken.__contains__, count(spec.seed + spec.stems)), max(0, number))]


def other_seeds(spec: SearchSpec, record: TrialRecord, count: int) -> list[int]:
    """The first seeds, from the search's on, that are not the trial's own: those of its replicates."""
    return [seed for seed in range(spec.seed, spec.seed + count + 1) if seed != record.seed][:count]


def trials_ended(spec: SearchSpec, history: History) -> bool:
    """Whether all trials of the search and its reference have ended, replicates aside; or those that have begun and
    those that users added, where a flat front ends it."""
    if history.tally.ended < len(history.trials):  # asked for each trial that is handed out: while some run, no more
        return False
    if not all(t.state.ended for t in history.references.values()):
        return False
    if len(history.trials) == 1 and not history.references and references(spec):
        return False  # stopped between its first trial and the reference, which is always next
    if flat(spec, history):
        return added_preview(history) is None
    return history.proposed >= total_trials(spec) and promotable(spec.scheduling, spec.goal, history) is None


def total_trials(spec: SearchSpec) -> int:
    """How many trials the search proposes; a method without searched parameters has one under each seed."""
    most = (spec.trials if lane.search_space().searched else lane.default_trials for lane in spec.lanes)
    return min(spec.trials, sum(most))


def running(history: History) -> bool:
    """Whether a replicate is running, or to be tried again."""
    return not all(r.state.ended for r in history.replicates.values())


def fell_off(spec: SearchSpec, history: History) -> list[int]:
    """The numbers of trials that are on the front by their first seed but not by their mean over seeds."""
    if not history.replicates:
        return []
    rows = [
        t.row(spec.objectives, metrics, offsets)
        for t in history.with_state(TrialState.FINISHED)
        for offsets, metrics in t.points
        if spec.goal.feasible(metrics)
    ]
    by_first_seed = {row["trial"] for row in Front.of(rows, spec.objectives).rows}
    by_mean = {row["trial"] for row in front_of(spec, history).rows}
    return sorted(by_first_seed - by_mean)
