"""What a proposal model is told: values at one fidelity, which trials run, what is not feasible; and nothing else."""

import random
import subprocess
import sys

import numpy as np
import optuna
import pytest

from search_spaces.param import params_of
from search_spaces.srat import Params as Srat
from tuner.errors import UsageError
from tuner.home import Home
from tuner.optimizer.observations import ELITE, Observations, Worth, propose
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.samplers import NEAR, first_points, make_sampler, quasi_random
from tuner.optimizer.study import RecordedStudy
from tuner.optimizer.warm_start import check_warm, warm_trials
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import parse_constraint
from tuner.spec.samplers import MAX_OBSERVATIONS, SAMPLERS
from tuner.spec.schedulers import SCHEDULERS
from tuner.spec.search_spec import SearchSpec


def metrics(epoch, params, worst=None):
    mean = epoch / 100 + 0.001 * params.get("beta", 1.0)
    return {
        "epoch": epoch,
        "natural_robust_acc": mean,
        "robust_acc": mean,
        "worst_class_robust_acc": mean / 2 if worst is None else worst,
        "clean_acc": 0.8,
    }


def peaked(epoch, params):
    """A front in the middle of the range: average is best at beta 3, the worst class at beta 6."""
    beta = params.get("beta", 1.0)
    return {
        "epoch": epoch,
        "clean_acc": 0.8,
        "natural_robust_acc": 0.5 + epoch / 100 - 0.01 * (beta - 3) ** 2,
        "robust_acc": 0.5 + epoch / 100 - 0.01 * (beta - 3) ** 2,
        "worst_class_robust_acc": 0.4 + epoch / 100 - 0.01 * (beta - 6) ** 2,
    }


def trial(history, number, params, epochs, state, worst=None):
    """A full training."""
    history.append("start", number, params=params, method="trades")
    for epoch in range(1, epochs + 1):
        history.append("epoch", number, metrics=metrics(epoch, params, worst))
    if state != TrialState.RUNNING:
        history.append("end", number, state=state)


def preview(history, number, params, mean=None, worst=0.1, curve=None):
    """A preview that ended so; without ``mean`` it still runs."""
    history.append("start", number, params=params, method="trades", preview=True)
    if mean is not None:
        found = {"epoch": 10, "natural_robust_acc": mean, "robust_acc": mean, "worst_class_robust_acc": worst}
        history.append("preview", number, epochs=2, metrics={**found, "clean_acc": 0.8}, curve=curve)


def spec_of(**changes):
    return SearchSpec(
        **{"method": "trades", "trials": 40, "max_epochs": 12, "scheduler": "none", "sampler": "tpe", **changes}
    )


def observed(spec, history):
    known = Observations(Worth.of(spec))
    known.update(history.trials)
    return known


def shown(spec, history, seed=0, **options):
    return observed(spec, history).frozen(spec.search_space(), seed, **options)


# ---- what a trial is worth -------------------------------------------------------------------------------------------

# Two classes of 100 images each, as many to train: natural averages 0.5, 0.5 and 0.55, worst classes 0.2, 0.4 and 0.1,
# clean accuracies 0.9, 0.8 and 0.7.
SWEPT = {
    "classes": ["a", "b"],
    "train_counts": [50, 50],
    "points": [
        {
            "offsets": {"kind": "classes", "tau": tau, "values": [0.0, tau]},
            "count": [100, 100],
            "clean": clean,
            "robust": robust,
        }
        for tau, clean, robust in ((0.0, [95, 85], [80, 20]), (0.5, [90, 70], [60, 40]), (1.0, [100, 40], [100, 10]))
    ],
}


def test_a_trial_is_worth_the_hypervolume_of_its_curve():
    """0.5 x 0.4, and (0.55 - 0.5) x 0.1 more. Without offsets it is worth its objectives."""
    history = History(None)
    trial(history, 0, {"beta": 2.0}, 11, TrialState.RUNNING)
    history.append("epoch", 0, metrics=metrics(12, {}))
    history.append("curve", 0, curve=SWEPT)
    history.append("end", 0, state=TrialState.FINISHED)
    assert Worth.of(spec_of())(history.trials[0]).point == (pytest.approx(0.205),)
    alone = Worth.of(spec_of(offsets="none"))
    assert alone(history.trials[0]).point == (0.5, 0.2) and (Worth.of(spec_of()).values, alone.values) == (1, 2)
    # only what satisfies the constraints encloses something; they are broken by as much as the best point breaks them
    for bound, point, broken in ((0.85, 0.5 * 0.2, -0.05), (0.95, 0.0, 0.05)):
        worth = Worth.of(spec_of(constraint=(f"clean_acc>={bound}",)))(history.trials[0])
        assert worth.point == (pytest.approx(point),)
        assert worth.violations == {f"clean_acc>={bound}": pytest.approx(broken)}


def test_previews_and_full_trainings_are_never_mixed():
    """Where there are previews they alone count: not the default setting, and not what a promoted trial came to."""
    spec, history = spec_of(scheduler="preview"), History(None)
    trial(history, 0, {"beta": 6.0}, 12, TrialState.FINISHED)
    preview(history, 1, {"beta": 2.0}, 0.5, 0.2)
    preview(history, 2, {"beta": 3.0}, 0.6, curve=SWEPT)
    preview(history, 3, {"beta": 4.0})
    for number in (1, 2):
        history.append("promote", number)
    for epoch in range(1, 13):
        history.append("epoch", 1, metrics=metrics(epoch, {}, worst=0.9))
    history.append("end", 1, state=TrialState.FINISHED)
    known = observed(spec, history)
    assert {n: v.point for n, v in known.values.items()} == {1: (pytest.approx(0.1),), 2: (pytest.approx(0.205),)}
    assert [t.params["beta"] for t in shown(spec, history)] == [2.0, 3.0, 4.0]
    assert [t.state.name for t in shown(spec, history)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    full = observed(spec_of(), history)
    assert {n: v.point for n, v in full.values.items()} == {
        0: (pytest.approx(0.126 * 0.063),),
        1: (pytest.approx(0.121 * 0.9),),
    }


def test_only_a_training_that_has_finished_has_a_value():
    spec, history = spec_of(offsets="none"), History(None)
    states = [TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING, TrialState.FINISHED]
    for number, state in enumerate(states):
        trial(history, number, {"beta": 2.0 + number}, 12 if state == TrialState.FINISHED else 3, state)
    seen = shown(spec, history)
    assert [t.state.name for t in seen] == ["COMPLETE", "PRUNED", "PRUNED", "RUNNING", "COMPLETE"]
    assert [t.values for t in seen] == [[0.122, 0.061], None, None, None, [0.126, 0.063]]
    assert [t.params["beta"] for t in seen] == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_gaussian_process_is_shown_what_diverged_as_the_worst():
    """It reads no PRUNED trials, nor what is said of them."""
    spec, history = spec_of(constraint=("clean_acc>=0.85",), offsets="none"), History(None)
    trial(history, 0, {"beta": 2.0}, 12, TrialState.FINISHED, worst=0.02)
    trial(history, 1, {"beta": 3.0}, 12, TrialState.FINISHED)
    trial(history, 2, {"beta": 4.0}, 3, TrialState.STOPPED)
    trial(history, 3, {"beta": 5.0}, 0, TrialState.FAILED)
    trial(history, 4, {"beta": 6.0}, 1, TrialState.RUNNING)
    known, space = observed(spec, history), spec.search_space()
    seen = known.frozen(space, 0, reads_pruned=False)
    assert [t.state.name for t in seen] == ["COMPLETE"] * 4 + ["RUNNING"]
    assert seen[2].values == seen[3].values == [0.122, 0.02], "the worst of each value"
    assert seen[3].constraints == {"clean_acc>=0.85": pytest.approx(0.05)}
    assert [t.state.name for t in known.frozen(space, 0)] == ["COMPLETE"] * 2 + ["PRUNED"] * 2 + ["RUNNING"]
    for epoch in range(2, 13):  # a worse one comes in
        history.append("epoch", 4, metrics=metrics(epoch, {"beta": 6.0}, worst=0.0))
    history.append("end", 4, state=TrialState.FINISHED)
    known.update(history.trials)
    assert known.frozen(space, 0, reads_pruned=False)[3].values[1] == 0.0


def test_where_nothing_has_a_value_yet_what_diverged_is_no_worst():
    spec, history = spec_of(), History(None)
    trial(history, 0, {"beta": 2.0}, 1, TrialState.FAILED)
    assert [t.state.name for t in shown(spec, history, reads_pruned=False)] == ["PRUNED"]


@pytest.mark.slow
def test_a_gaussian_process_leaves_a_region_where_trials_diverge():
    """The values rise towards it; a model that does not know which trials diverged comes back to it."""
    failed = 0
    for seed in range(3):
        spec, history = spec_of(trials=40, sampler="gp", seed=seed), History(None)
        proposer = Proposer(spec, history)
        while (proposal := proposer.next()).trial < 20:
            bad = proposal.params["beta"] > 6.5
            failed += bad and proposal.trial >= 10
            state = (1, TrialState.FAILED) if bad else (12, TrialState.FINISHED)
            trial(history, proposal.trial, proposal.params, *state)
    assert failed <= 4, f"{failed} of 30"


def test_a_thousand_pending_trials_are_shown_in_part():
    spec, history = spec_of(trials=2000), History(None)
    trial(history, 0, {"beta": 2.0}, 12, TrialState.FINISHED)
    for number in range(1, 1001):
        trial(history, number, {"beta": 1.0 + number / 1000}, 0, TrialState.RUNNING)
    known, space = observed(spec, history), spec.search_space()
    seen = [known.frozen(space, seed) for seed in (0, 0, 1)]
    assert [len(s) for s in seen] == [1 + MAX_OBSERVATIONS] * 3 and all(a is b for a, b in zip(seen[0], seen[1]))
    assert [t.state.name for t in seen[2]] == ["COMPLETE"] + ["RUNNING"] * MAX_OBSERVATIONS
    assert {t.params["beta"] for t in seen[0]} != {t.params["beta"] for t in seen[2]}
    for epoch in range(1, 13):  # a pending one gets its value
        history.append("epoch", 1, metrics=metrics(epoch, {"beta": 1.001}))
    history.append("end", 1, state=TrialState.FINISHED)
    known.update(history.trials)
    assert [t.state.name for t in known.frozen(space, 0)[:2]] == ["COMPLETE"] * 2


def test_observations_follow_the_history():
    spec, history = spec_of(scheduler="preview"), History(None)
    preview(history, 1, {"beta": 2.0})
    preview(history, 2, {"beta": 3.0})
    known = observed(spec, history)
    assert (
        not known.values
        and set(known.open) == {1, 2}
        and known.proposed == {frozenset({("beta", 2.0)}), frozenset({("beta", 3.0)})}
    )
    found = {"epoch": 10, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.2}
    history.append("preview", 1, epochs=2, metrics=found)
    history.append("end", 2, state=TrialState.FAILED)
    trial(history, 3, {"beta": 4.0}, 0, TrialState.RUNNING)
    known.update(history.trials)
    assert set(known.values) == {1} and set(known.bad) == {2} and set(known.open) == {3}
    value = known.values[1]
    history.append("promote", 1)
    history.append("end", 1, state=TrialState.FAILED)
    known.update(history.trials)
    assert known.values == {1: value} and set(known.bad) == {2}, "it has not diverged where it was judged"


def test_nan_has_no_value_and_is_no_error(tmp_path):
    spec = spec_of(trials=3, sampler="random", offsets="none")
    history = History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    for _ in range(2):
        proposal = proposer.next()
        history.append("start", proposal.trial, params=proposal.params, method="trades")
    nan = {"natural_robust_acc": float("nan"), "robust_acc": float("nan"), "worst_class_robust_acc": 0.1}
    history.append("epoch", 0, metrics={"epoch": 12, **nan})
    history.append("end", 0, state=TrialState.FINISHED)
    history.append("end", 1, state=TrialState.FAILED)
    proposer.tell(0)
    proposer.tell(1)
    assert [t.state.name for t in proposer.recorded.study.trials] == ["PRUNED", "FAIL"]
    assert proposer.recorded.study.trials[0].user_attrs["objectives"] == [None, 0.1]
    assert not observed(spec, history).values


# ---- constraints and smoothing ------------------------------------------------------------------------------------


def test_constraints_are_on_every_trial_that_ended():
    spec, history = spec_of(constraint=("clean_acc>=0.85", "robust_acc<=0.1")), History(None)
    states = (TrialState.FINISHED, TrialState.STOPPED, TrialState.FINISHED, TrialState.RUNNING)
    for number, state in enumerate(states):
        trial(history, number, {"beta": 2.0}, 12 if state == TrialState.FINISHED else 2, state)
    seen = shown(spec, history)
    assert [t.state.name for t in seen] == ["COMPLETE", "PRUNED", "COMPLETE", "RUNNING"]
    names = {"clean_acc>=0.85", "robust_acc<=0.1"}
    assert [set(t.constraints) for t in seen] == [names, names, names, set()]
    assert seen[0].constraints["clean_acc>=0.85"] == pytest.approx(0.05)  # above 0: violated
    assert seen[0].constraints["robust_acc<=0.1"] == pytest.approx(0.12 + 0.002 - 0.1)
    assert seen[0].values == [0.0], "nothing of it is on a front"


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_take_constraints(sampler):
    spec, history = spec_of(constraint=("clean_acc>=0.85",), sampler=sampler, trials=10), History(None)
    _drive(Proposer(spec, history), history, spec)
    assert len(history.trials) == 10 and not history.rows(spec.objectives, spec.goal)
    assert len(history.rows(spec.objectives)) == 10


def test_the_record_has_constraints(tmp_path):
    spec, history = spec_of(constraint=("clean_acc>=0.85",), trials=3, sampler="random"), History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec)
    assert all(t.constraints == {"clean_acc>=0.85": pytest.approx(0.05)} for t in proposer.recorded.study.trials)
    with pytest.raises(ValueError, match="No feasible"):
        _ = proposer.recorded.study.best_trial


@pytest.mark.parametrize(
    "text, part",
    [
        ("clean_accc>=0.8", "clean_acc"),
        ("clean_acc>0.8", "METRIC>=VALUE"),
        ("clean_acc>=high", "'high'"),
        ("clean_acc>=nan", "'nan'"),
        ("0.8", "METRIC>=VALUE"),
    ],
)
def test_wrong_constraints_say_what_is_allowed(text, part):
    with pytest.raises(UsageError, match=part) as error:
        parse_constraint(text)
    assert repr(text) in str(error.value)


def test_smoothing_is_what_decides_and_plain_is_what_is_shown():
    spec = spec_of(smooth_worst="cvar:0.2", offsets="none")
    epoch = {
        "epoch": 12,
        "natural_robust_acc": 0.5,
        "robust_acc": 0.5,
        "worst_class_robust_acc": 0.0,
        **{f"robust_acc/{c}": c / 10 for c in range(10)},
    }
    assert spec.goal.point(epoch) == (0.5, pytest.approx(0.05))
    history = History(None)
    history.append("start", 0, params={"beta": 2.0}, method="trades")
    history.append("epoch", 0, metrics=epoch)
    history.append("end", 0, state=TrialState.FINISHED)
    assert observed(spec, history).values[0].point == (0.5, pytest.approx(0.05))
    assert history.rows(spec.objectives, spec.goal)[0]["worst_class_robust_acc"] == 0.0
    with pytest.raises(UsageError, match="cvar:SHARE"):
        spec_of(smooth_worst="mean:0.2")


# ---- proposals ----------------------------------------------------------------------------------------------------


def _drive(proposer, history, spec, until=None):
    """Run made-up trials one after the other, in full or as previews; returns what was proposed."""
    seen = []
    while (until is None or len(seen) < until) and (proposal := proposer.next()) is not None:
        seen.append(proposal.params)
        number, previews = proposal.trial, spec.scheduling.previewing and proposal.trial > 0
        if number not in history.trials:
            more = {"preview": True} if previews else {}
            history.append("start", number, params=proposal.params, method=spec.method, **more)
        if previews:
            history.append("preview", number, epochs=2, metrics=peaked(10, proposal.params))
        else:
            for epoch in range(len(history.trials[number].epochs) + 1, spec.max_epochs + 1):
                history.append("epoch", number, metrics=peaked(epoch, proposal.params))
            history.append("end", number, state=TrialState.FINISHED)
        proposer.tell(number)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_repeats_and_a_resumed_search_goes_on_with_the_same(tmp_path, sampler, scheduler):
    spec = spec_of(sampler=sampler, trials=12, scheduler=scheduler, max_epochs=4)
    whole = []
    for folder in ("a", "b"):
        history = History(tmp_path / folder)
        whole.append(_drive(Proposer(spec, history, tmp_path / folder), history, spec))
    assert whole[0] == whole[1] and len(whole[0]) == 12
    assert len({tuple(p.values()) for p in whole[0]}) == 12
    history = History(tmp_path / "c")
    first = _drive(Proposer(spec, history, tmp_path / "c"), history, spec, until=8)
    history = History(tmp_path / "c")
    assert first + _drive(Proposer(spec, history, tmp_path / "c"), history, spec) == whole[0]


def test_another_seed_proposes_others():
    runs = [_drive(Proposer(s, h), h, s) for s, h in ((spec_of(trials=6, seed=n), History(None)) for n in (0, 1))]
    assert runs[0][0] == runs[1][0] and all(a != b for a, b in zip(runs[0][1:], runs[1][1:]))


def test_the_papers_setting_is_first_and_every_trial_is_proposed_once():
    spec, history = spec_of(trials=5), History(None)
    proposals = _drive(Proposer(spec, history), history, spec)
    assert proposals[0] == spec.search_space().default() and len(proposals) == 5
    assert Proposer(spec, history).next() is None and Proposer(spec, history).exhausted


@pytest.mark.parametrize(
    "number, values, warm, model",
    [(5, 4, 0, False), (6, 4, 0, True), (6, 3, 0, False), (20, 3, 0, False), (1, 0, 4, True), (1, 0, 3, False)],
)
def test_a_model_is_trusted_from_trial_six_on_and_four_values(monkeypatch, number, values, warm, model):
    """An earlier search's values need no first points."""
    spec, history, earlier = spec_of(scheduler="preview"), History(None), History(None)
    for n in range(warm):
        preview(earlier, n, {"beta": 2.0 + n}, 0.5)
    for n in range(1, number):
        preview(history, n, {"beta": 2.0 + n / 10}, 0.5 if n <= values else float("nan"))
    trial(history, 0, {"beta": 6.0}, 12, TrialState.FINISHED)
    monkeypatch.setattr("tuner.optimizer.proposer.propose", lambda *args: "by a model")
    proposer = Proposer(spec, history, warm=earlier.trials.values())
    proposer.known.update(history.trials)
    assert len(proposer.known.values) == values + warm
    assert (proposer._by_sampler(number) == "by a model") == model


@pytest.mark.slow
def test_every_other_first_point_is_near_the_default_setting():
    """In shares of each range (of a logarithmic one, of its logarithms) the steps have a standard deviation of 0.15,
    but for what the ends of the range cut off: the start of 0.8 is 0.8 of its range, sep_weight 0.653 of its own."""
    spec = SearchSpec(method="srat")
    space, numbers = spec.search_space(), range(0, 800, 2)
    names = list(space.searched)
    steps = {name: [] for name in ("start", "sep_weight", "strength")}
    for number in numbers:
        assert first_points(space, 0, number + 1) == quasi_random(space, 0, number + 1)
        found, default = first_points(space, 0, number), space.default()
        assert space.contains(found) and found == first_points(space, 0, number)
        at, center = space.coordinates(found), space.coordinates(default)
        for name in steps:
            place = names.index(name)
            steps[name].append(at[place] - center[place])
    for found in steps.values():
        assert 0.8 * NEAR < np.std(found) < 1.1 * NEAR and abs(np.mean(found)) < 0.03
        assert np.mean(np.abs(found) < NEAR) == pytest.approx(0.683, abs=0.06)
    assert NEAR == 0.15


def test_conditional_parameters_exist_only_where_they_apply():
    spec, history = SearchSpec(method="srat", trials=24, max_epochs=12), History(None)
    proposals = _drive(Proposer(spec, history), history, spec)
    params, seen = params_of(Srat), set()
    for values in proposals:
        seen.add(values["loss"])
        for name, param in params.items():
            assert (name in values) == param.active(values), (name, values)
            if name in values and hasattr(param.range, "low"):
                assert param.range.low <= values[name] <= param.range.high
    assert seen == {"ce", "focal", "ldam"}


def test_a_search_says_what_it_proposes_with():
    def said(**fields):
        return Proposer(SearchSpec(**fields), History(None)).description

    known = (
        "sampler auto: the default setting (0 of 6 values published), 5 first points, then TPE on the hypervolume of a "
    )
    assert said(method="srat") == f"{known}trial's curve"
    assert said(method="srat", scheduler="preview") == f"{known}trial's curve, by its preview"
    assert said(method="trades", offsets="none", scheduler="none").endswith("then TPE on a trial's objectives")
    assert said(method="trades", sampler="gp", scheduler="none").endswith(
        "then a Gaussian process on the hypervolume of a trial's curve"
    )
    assert said(method="trades", sampler="nsga2") == "sampler nsga2, after the paper's setting"
    assert said(method="at") == "sampler: nothing is searched, the paper's setting runs once"
    assert said(method="at", stems=3) == "sampler: nothing is searched, the paper's setting runs under 3 seeds"


def test_the_start_is_spread_out():
    space = SearchSpec(method="trades").search_space()
    halves = [quasi_random(space, 0, n)["beta"] for n in range(8)]
    low, high = space.params["beta"].range.low, space.params["beta"].range.high
    middle = (low * high) ** 0.5
    assert sum(v < middle for v in halves) == 4 and len(set(halves)) == 8


def test_a_promotion_changes_no_proposal():
    """A promoted trial runs again, but what it is worth to the model is known already."""
    spec, runs = spec_of(sampler="tpe", trials=16, scheduler="preview"), []
    for promoted in (False, True):
        history = History(None)
        proposer = Proposer(spec, history)
        _drive(proposer, history, spec, until=8)
        if promoted:
            history.append("promote", 3)
            history.append("epoch", 3, metrics=metrics(1, {}, worst=0.9))
        runs.append([_drive(proposer, history, spec, until=2)])
    assert runs[0] == runs[1]


def test_what_is_pending_is_shown_as_running():
    spec, history = spec_of(trials=40, sampler="tpe"), History(None)
    proposer = Proposer(spec, history)
    _drive(proposer, history, spec, until=10)
    alone = shown(spec, history)
    history.append("start", 10, params={"beta": 3.0}, method="trades")
    with_pending = shown(spec, history)
    assert len(with_pending) == len(alone) + 1 and with_pending[-1].state == optuna.trial.TrialState.RUNNING


def test_a_model_is_shown_the_best_and_a_sample_of_the_rest():
    spec, history = spec_of(), History(None)
    for number in range(MAX_OBSERVATIONS + 200):
        beta = 1.0 + 9 * (number * 37 % 450) / 450
        trial(history, number, {"beta": beta}, *((12, TrialState.FINISHED) if number % 3 else (1, TrialState.STOPPED)))
    seen = shown(spec, history, seed=5)
    assert len(seen) == MAX_OBSERVATIONS
    complete = sorted((t.params["beta"] for t in seen if t.values), reverse=True)
    best = sorted((t.params["beta"] for n, t in history.trials.items() if n % 3), reverse=True)[:ELITE]
    assert complete[:ELITE] == best
    assert 30 < sum(t.state == optuna.trial.TrialState.PRUNED for t in seen) < 130


@pytest.mark.parametrize("seed", range(20))
def test_the_sample_is_the_one_drawn_from_a_sorted_list_of_all(seed):
    """It is found without sorting all trials again for each proposal."""
    draw, spec, history = random.Random(seed), spec_of(), History(None)
    known, past = Observations(Worth.of(spec)), History(None)
    trial(past, 0, {"beta": 9.0}, 12, TrialState.FINISHED)
    known.add_past(past.trials.values())
    for number in range(MAX_OBSERVATIONS + draw.randrange(1, 300)):
        how = (12, TrialState.FINISHED) if draw.random() < draw.choice([0.1, 0.9]) else (1, TrialState.STOPPED)
        trial(history, number, {"beta": draw.choice([1.0, 2.0, 1 + 9 * draw.random()])}, *how)
        if draw.random() < 0.3:
            known.update(history.trials)
    known.update(history.trials)
    best = sorted(known.values, key=lambda n: (-known.values[n].product, n))[:ELITE]
    others = sorted({*known.values, *known.bad} - {*best})
    assert known._sample(seed) == best + random.Random(seed).sample(others, MAX_OBSERVATIONS - len(best))


# ---- the recorded study -------------------------------------------------------------------------------------------


def study_of(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.log")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def test_the_record_has_what_the_model_is_shown(tmp_path):
    """Of previews their hypervolume; the default setting, which has none, and what ended without a value are pruned."""
    spec = spec_of(trials=7, scheduler="preview")
    history = History(tmp_path)
    proposer = Proposer(spec, history, tmp_path)
    _drive(proposer, history, spec, until=6)
    seventh = proposer.next()
    history.append("start", 6, params=seventh.params, method="trades", preview=True)
    history.append("end", 6, state=TrialState.FAILED, reason="the loss is not finite")
    proposer.tell(6)
    study = study_of(tmp_path)
    assert [t.state.name for t in study.trials] == ["PRUNED"] + ["COMPLETE"] * 5 + ["FAIL"]
    assert study.metric_names == ["hypervolume"]
    for there in study.trials:
        record = history.trials[there.number]
        assert there.params == {"beta": record.params["beta"]}
        last = record.preview.metrics if record.preview else record.last
        end = [last.get(name) for name in spec.objectives]
        assert there.user_attrs["objectives"] == end
        assert there.values == ([pytest.approx(end[0] * end[1])] if record.preview else None)
    history.append("promote", 3)
    for epoch in range(1, 13):
        history.append("epoch", 3, metrics=metrics(epoch, {}, worst=0.9))
    history.append("end", 3, state=TrialState.FINISHED)
    proposer.tell(3)
    assert study_of(tmp_path).trials[3].values == study.trials[3].values, "at one fidelity"


def test_a_study_of_another_number_of_values_is_written_anew(tmp_path):
    """An earlier version recorded objectives."""
    spec, history = spec_of(trials=4, offsets="none", name="s"), History(tmp_path)
    _drive(Proposer(spec, history, tmp_path), history, spec)
    assert [len(t.values) for t in study_of(tmp_path).trials] == [2] * 4
    RecordedStudy(spec_of(trials=4, name="s"), history, tmp_path)
    assert [t.values for t in study_of(tmp_path).trials] == [
        [pytest.approx(t.last["natural_robust_acc"] * t.last["worst_class_robust_acc"])]
        for t in history.trials.values()
    ]


@pytest.mark.parametrize("sampler", ["qmc", "random", "tpe"])
def test_a_small_space_is_gone_through_before_a_setting_repeats(sampler):
    """SRAT with all fixed but two losses and two sizes of a batch: four settings, and the default one, with another."""
    fix = {"one_minus_beta": 1e-4, "strength": 1.0, "start": 0.8, "sep_weight": 0.5, "temperature": 0.1, "gamma": 2.0}
    space = {"loss": ["ce", "focal"], "batch_size": [33, 34]}
    spec, history = SearchSpec(method="srat", trials=7, sampler=sampler, fix=fix, space=space), History(None)
    proposer, seen = Proposer(spec, history), []
    while (proposal := proposer.next()) is not None:
        history.append("start", proposal.trial, params=proposal.params, method="srat")
        history.append("end", proposal.trial, state="failed")
        proposer.tell(proposal.trial)
        seen.append(frozenset(proposal.params.items()))
    assert len(seen) == 7 and len(set(seen[:5])) == len(set(seen)) == 5


def test_a_proposal_that_was_lost_is_handed_out_again(tmp_path):
    """The process died between the study's line and the history's."""
    spec = spec_of(trials=12)
    history = History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec, until=6)
    lost = proposer.next()
    again = Proposer(spec, History(tmp_path), folder=tmp_path)
    assert again.next() == lost
    assert len(study_of(tmp_path).trials) == 7
    history = History(tmp_path)
    _drive(Proposer(spec, history, folder=tmp_path), history, spec)
    assert [t.number for t in study_of(tmp_path).trials] == list(range(12)) == list(history.trials)
    assert not [t for t in study_of(tmp_path).trials if t.state == optuna.trial.TrialState.RUNNING]


def test_the_record_is_made_again_from_the_history(tmp_path):
    spec, history = spec_of(trials=5), History(tmp_path)
    _drive(Proposer(spec, history, folder=tmp_path), history, spec, until=4)
    before = [(t.params, t.values, t.state) for t in study_of(tmp_path).trials]
    (tmp_path / "study.log").unlink()
    RecordedStudy(spec, history, tmp_path)
    assert [(t.params, t.values, t.state) for t in study_of(tmp_path).trials] == before


def test_a_record_that_knows_more_than_the_history_is_made_again(tmp_path):
    """The history was restored from an older copy."""
    spec, history = spec_of(trials=5), History(tmp_path)
    _drive(Proposer(spec, history, folder=tmp_path), history, spec, until=2)
    older = (tmp_path / "history.jsonl").read_bytes()
    _drive(Proposer(spec, history, folder=tmp_path), history, spec, until=2)
    assert len(study_of(tmp_path).trials) == 4
    (tmp_path / "history.jsonl").write_bytes(older)
    assert RecordedStudy(spec, History(tmp_path), tmp_path).lost == {}
    assert [t.number for t in study_of(tmp_path).trials] == [0, 1]


def test_an_end_the_study_missed_is_told_at_the_next_start(tmp_path):
    spec, history = spec_of(trials=5), History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec, until=2)
    proposal = proposer.next()
    trial(history, proposal.trial, proposal.params, 3, TrialState.STOPPED)
    assert [t.state.name for t in study_of(tmp_path).trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    Proposer(spec, History(tmp_path), folder=tmp_path)
    assert [t.state.name for t in study_of(tmp_path).trials] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_a_preview_that_the_study_missed_is_told_at_the_next_start(tmp_path):
    """Also where it has been promoted and trains since."""
    spec, history = spec_of(trials=5, scheduler="preview"), History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec, until=2)
    for _ in range(2):
        proposal = proposer.next()
        preview(history, proposal.trial, proposal.params, 0.5, 0.2)
    history.append("promote", 2)
    assert [t.state.name for t in study_of(tmp_path).trials] == ["PRUNED", "COMPLETE", "RUNNING", "RUNNING"]
    again = Proposer(spec, History(tmp_path), folder=tmp_path)
    assert [t.values for t in study_of(tmp_path).trials[2:]] == [[pytest.approx(0.1)]] * 2
    assert again.next().trial == 2, "it trains on"


def test_the_study_in_a_database(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    spec, history = spec_of(trials=4, study_storage=url), History(tmp_path / "s")
    _drive(Proposer(spec, history, folder=tmp_path / "s"), history, spec)
    assert len(optuna.load_study(study_name=spec.search_name, storage=url).trials) == 4
    assert spec.hash() == spec_of(trials=4).hash() and not (tmp_path / "s" / "study.log").exists()
    with pytest.raises(UsageError, match="belongs to another search"):
        Proposer(spec, History(tmp_path / "other"), folder=tmp_path / "other")
    with pytest.raises(UsageError) as error:
        Proposer(spec_of(study_storage="postgresql://me:secret@nowhere.invalid/db"), History(None), folder=tmp_path)
    assert "secret" not in str(error.value) and "--study-storage" in str(error.value)


# ---- every sampler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_says_what_it_is_and_proposes_inside_the_space(sampler):
    row = SAMPLERS[sampler]
    assert row.name == sampler and row.help.endswith(".")
    spec, history = SearchSpec(method="srat", trials=14, sampler=sampler), History(None)
    proposer, params = Proposer(spec, history), params_of(Srat)
    assert f"sampler {sampler}" in proposer.description
    proposals = _drive(proposer, history, spec)
    assert len(proposals) == 14 and all(proposer.space.contains(p) for p in proposals[1:])
    for values in proposals:
        assert all((name in values) == param.active(values) for name, param in params.items())


def proposals_in_two_dimensions(sampler, slope):
    """Ten proposals, one after the other, where every objective rises (or falls) along beta.

    Two parameters: NSGA-II and NSGA-III always mutate one of them, so with a single one they draw at random.
    """
    spec = spec_of(sampler=sampler, trials=10, space={"lr": [0.01, 0.3]})
    history, proposals = History(None), []
    proposer = Proposer(spec, history)
    while (proposal := proposer.next()) is not None:
        proposals.append(proposal.params)
        level = 0.5 + slope * proposal.params["beta"]
        row = {
            "epoch": 12,
            "natural_robust_acc": level,
            "robust_acc": level,
            "worst_class_robust_acc": level / 2,
            "clean_acc": 0.8,
        }
        history.append("start", proposal.trial, params=proposal.params, method="trades")
        history.append("epoch", proposal.trial, metrics=row)
        history.append("end", proposal.trial, state=TrialState.FINISHED)
        proposer.tell(proposal.trial)
    return proposals


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_learns_if_it_says_so(sampler):
    """Other values of the same settings change what a sampler that learns proposes next, and nothing else."""
    rising, falling = (proposals_in_two_dimensions(sampler, slope) for slope in (0.05, -0.05))
    assert (rising != falling) == SAMPLERS[sampler].learns
    # Optuna's samplers draw at random where they find no trials that they can use
    assert sampler == "random" or rising != proposals_in_two_dimensions("random", 0.05)


@pytest.mark.parametrize("sampler", [name for name, row in SAMPLERS.items() if row.build])
def test_every_sampler_is_built_anew_from_its_seed(sampler):
    row, space = SAMPLERS[sampler], spec_of().search_space()

    def proposal(seed, number):
        return propose(space, 2, [], make_sampler(row, seed=seed, number=number, trials=16))

    assert proposal(0, 5) == proposal(0, 5) and len({str(proposal(s, n)) for s, n in ((0, 5), (1, 5), (0, 6))}) == 3


def test_a_row_without_a_sampler_of_its_own_builds_none():
    with pytest.raises(ValueError, match="'qmc'"):
        make_sampler(SAMPLERS["qmc"], seed=0, number=1, trials=4)


def test_the_table_of_samplers_loads_none_of_them():
    code = "import sys, tuner.spec.samplers as s; print(len(s.SAMPLERS), [m for m in sys.modules if 'optuna' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == [str(len(SAMPLERS)), "[]\n"]


# ---- warm start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_warm_start(tmp_path, scheduler):
    """By previews, the default setting of the earlier search has no value."""
    home, earlier = Home(tmp_path), spec_of(trials=8, name="earlier", seed=1, scheduler=scheduler)
    folder = home.search("earlier")
    history = History(folder)
    _drive(Proposer(earlier, history), history, earlier)
    (folder / "spec.yaml").write_text(earlier.to_yaml())
    spec = spec_of(trials=6, warm_start="earlier", scheduler=scheduler)
    check_warm(spec, home)
    warm = warm_trials(spec, home, tmp_path / "new")
    assert len(warm) == 8 and all(t.state in (TrialState.FINISHED, TrialState.PREVIEWED) for t in warm)
    proposer = Proposer(spec, History(None), warm=warm)
    values = 7 if scheduler == "preview" else 8
    assert len(proposer.known.frozen(proposer.space, 0)) == values and min(proposer.known.values) == -8
    cold, hot = History(None), History(None)
    plain = _drive(Proposer(spec_of(trials=6, scheduler=scheduler), cold), cold, spec)
    told = _drive(Proposer(spec, hot, warm=warm), hot, spec)
    assert plain[0] == told[0] and plain[1] != told[1]  # the model needs no start of its own
    (folder / "history.jsonl").unlink()  # what it learnt from is kept with the search
    assert len(warm_trials(spec, home, tmp_path / "new")) == 8


def test_warm_start_from_a_search_that_did_not_record_an_objective(tmp_path):
    home, earlier = Home(tmp_path), spec_of(name="earlier", objectives=("robust_acc", "worst_class_robust_acc"))
    folder = home.search("earlier")
    history = History(folder)
    history.append("start", 0, params={"beta": 6.0}, method="trades")
    history.append("epoch", 0, metrics={"epoch": 12, "robust_acc": 0.5, "worst_class_robust_acc": 0.1})
    history.append("end", 0, state=TrialState.FINISHED)
    (folder / "spec.yaml").write_text(earlier.to_yaml())
    with pytest.raises(UsageError, match="'earlier' did not record natural_robust_acc, an objective here"):
        check_warm(spec_of(warm_start="earlier"), home)
    check_warm(spec_of(warm_start="earlier", objectives=earlier.objectives), home)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"dataset": "mnist"}, "dataset 'digits' there, 'mnist' here"),
        (
            {"method": "srat"},
            "no searched coordinate with this search: trades has KL weight there; srat has log class-",
        ),
        ({"method": ("trades", "at")}, "no finished trial"),
        ({"burn_in": "own"}, "burn_in 'stem' there, 'own' here"),
        ({"scheduler": "preview"}, "scheduler 'none' there, 'preview' here"),
        ({"offsets": "none"}, "offsets 'auto' there, 'none' here"),
        ({"max_epochs": 27}, "max_epochs 12 there"),
        ({"space": {"lr": [0.01, 0.1]}}, "another space: beta there, beta, lr"),
    ],
)
def test_warm_start_from_something_else_is_refused(tmp_path, changes, part):
    home, earlier = Home(tmp_path), spec_of(trials=2, name="earlier")
    home.search("earlier").mkdir(parents=True)
    (home.search("earlier") / "spec.yaml").write_text(earlier.to_yaml())
    with pytest.raises(UsageError, match=part):
        check_warm(spec_of(warm_start="earlier", **changes), home)
