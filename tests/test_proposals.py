"""What a proposal model is told: values of one budget, which trials run, what is not feasible; and nothing else."""

import subprocess
import sys

import optuna
import pytest

from search_spaces.param import params_of
from search_spaces.srat import Params as Srat
from tuner.errors import UsageError
from tuner.home import Home
from tuner.optimizer.observations import ELITE, Observations, propose
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.samplers import make_sampler, quasi_random
from tuner.optimizer.study import RecordedStudy
from tuner.optimizer.successive_halving import Rungs
from tuner.optimizer.warm_start import check_warm, warm_trials
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import parse_constraint
from tuner.spec.samplers import MAX_OBSERVATIONS, SAMPLERS
from tuner.spec.schedulers import Decision
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


def trial(history, number, params, epochs, state):
    history.append("start", number, params=params, method="trades")
    for epoch in range(1, epochs + 1):
        history.append("epoch", number, metrics=metrics(epoch, params))
    if state != TrialState.RUNNING:
        history.append("end", number, state=state)


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 40, "max_epochs": 12, "grace": 1, "sampler": "tpe", **changes})


def observed(spec, history, levels=(1, 3, 9, 12)):
    known = Observations(list(levels), spec.goal, spec.epoch_plan.start_of)
    known.update(history.trials)
    return known


def test_values_of_one_budget_only():
    spec, history = spec_of(), History(None)
    for number in range(12):
        epochs = (1, 3, 12, 12)[number % 4]
        trial(
            history,
            number,
            {"beta": 1.0 + number / 10},
            epochs,
            TrialState.FINISHED if epochs == 12 else TrialState.STOPPED,
        )
    known = observed(spec, history)
    for level in (1, 3, 12):
        seen = known.frozen(level, spec.search_space(), (), 0)
        assert len(seen) == 12
        for number, shown in enumerate(seen):
            reached = history.trials[number].last["epoch"] >= level
            assert shown.state == (optuna.trial.TrialState.COMPLETE if reached else optuna.trial.TrialState.PRUNED)
            if reached:
                assert shown.values == list(spec.goal.point(metrics(level, history.trials[number].params)))


def test_the_highest_budget_with_enough_values():
    spec, history = spec_of(), History(None)
    for number in range(20):
        trial(history, number, {"beta": 2.0}, 12 if number < 4 else 3 if number < 12 else 1, TrialState.STOPPED)
    known = observed(spec, history)
    assert known.budget(4, 12) == 3 and known.budget(4, 4) == 12 and known.budget(4, 13) == 1
    assert known.budget(4, 21) == 1 and known.budget(21, 30) is None


@pytest.mark.parametrize("valued, model", [(8, True), (7, False)])
def test_a_model_starts_from_eight_values_at_one_budget(monkeypatch, valued, model):
    """40 trials have a start of 10: here 14 have ended, but no budget holds 10 of them, as where starts vary."""
    spec, history = spec_of(method="gairat", grace=None, trunk="none"), History(None)
    late, early = {"lam": 1.0, "start": 0.9}, {"lam": 1.0, "start": 0.0}
    for number in range(14):
        history.append("start", number, params=late if number < valued else early, method="gairat")
        for epoch in range(1, 13 if number < valued else 2):
            history.append("epoch", number, metrics=metrics(epoch, {}))
        history.append("end", number, state=TrialState.FINISHED if number < valued else TrialState.STOPPED)
    monkeypatch.setattr("tuner.optimizer.proposer.propose", lambda *args: "by a model")
    proposer = Proposer(spec, history, Rungs(spec.early_stopping))
    assert (proposer._plan(14, observed(spec, history))() == "by a model") == model


def test_running_trials_are_known_and_those_that_reached_the_budget_count():
    spec, history = spec_of(), History(None)
    trial(history, 0, {"beta": 2.0}, 12, TrialState.FINISHED)
    trial(history, 1, {"beta": 3.0}, 3, TrialState.RUNNING)
    trial(history, 2, {"beta": 4.0}, 2, TrialState.RUNNING)
    trial(history, 3, {"beta": 5.0}, 0, TrialState.RUNNING)
    trial(history, 4, {"beta": 6.0}, 1, TrialState.RUNNING)  # this one waits at a rung
    seen = observed(spec, history).frozen(3, spec.search_space(), [4], 0)
    assert [t.state.name for t in seen] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING", "PRUNED"]
    assert [t.params["beta"] for t in seen] == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_gaussian_process_knows_which_trials_diverged_and_which_wait():
    """It reads no PRUNED trials, nor what is said of them."""
    spec, history = spec_of(constraint=("clean_acc>=0.85",)), History(None)
    trial(history, 0, {"beta": 2.0}, 12, TrialState.FINISHED)
    trial(history, 1, {"beta": 3.0}, 4, TrialState.FINISHED)
    trial(history, 2, {"beta": 4.0}, 1, TrialState.STOPPED)
    trial(history, 3, {"beta": 5.0}, 0, TrialState.FAILED)
    trial(history, 4, {"beta": 6.0}, 1, TrialState.RUNNING)  # this one waits at a rung
    trial(history, 5, {"beta": 7.0}, 1, TrialState.RUNNING)
    known, space = observed(spec, history), spec.search_space()
    seen = known.frozen(3, space, [4], 0, reads_pruned=False)
    assert [t.state.name for t in seen] == ["COMPLETE"] * 2 + ["PRUNED", "COMPLETE"] + ["RUNNING"] * 2
    assert [t.params["beta"] for t in seen] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert seen[3].values == [min(t.values[i] for t in seen[:2]) for i in (0, 1)]
    assert seen[3].constraints == {"clean_acc>=0.85": pytest.approx(0.05)}
    assert [t.state.name for t in known.frozen(3, space, [4], 0)][2:] == ["PRUNED"] * 3 + ["RUNNING"]
    for epoch in (1, 2, 3):  # a worse one comes in
        history.append("epoch", 5, metrics=metrics(epoch, {"beta": 7.0}, worst=0.0))
    known.update(history.trials)
    assert known.frozen(3, space, [4], 0, reads_pruned=False)[3].values[1] == 0.0


def test_a_gaussian_process_leaves_a_region_where_trials_diverge():
    """The values rise towards it; a model that does not know which trials diverged would propose nothing else."""
    spec, history = spec_of(trials=40, sampler="gp", scheduler="none"), History(None)
    proposer = Proposer(spec, history)
    low, high = spec.search_space().params["beta"].range.low, spec.search_space().params["beta"].range.high
    middle, failed = (low * high) ** 0.5, 0
    while (proposal := proposer.next()).trial < 20:
        bad = proposal.params["beta"] > middle
        failed += bad and proposal.trial >= 12
        trial(history, proposal.trial, proposal.params, *((1, TrialState.FAILED) if bad else (12, TrialState.FINISHED)))
    assert failed <= 4, f"{failed} of 8"


def test_a_thousand_pending_trials_are_shown_in_part():
    spec, history = spec_of(trials=2000), History(None)
    trial(history, 0, {"beta": 2.0}, 12, TrialState.FINISHED)
    for number in range(1, 1001):
        trial(history, number, {"beta": 1.0 + number / 1000}, 0, TrialState.RUNNING)
    known = observed(spec, history)
    seen = [known.frozen(12, spec.search_space(), (), seed) for seed in (0, 0, 1)]
    assert [len(s) for s in seen] == [1 + MAX_OBSERVATIONS] * 3 and all(a is b for a, b in zip(seen[0], seen[1]))
    assert [t.state.name for t in seen[2]] == ["COMPLETE"] + ["RUNNING"] * MAX_OBSERVATIONS
    assert {t.params["beta"] for t in seen[0]} != {t.params["beta"] for t in seen[2]}
    for epoch in range(1, 13):  # a pending one gets its value
        history.append("epoch", 1, metrics=metrics(epoch, {"beta": 1.001}))
    history.append("end", 1, state=TrialState.FINISHED)
    known.update(history.trials)
    assert [t.state.name for t in known.frozen(12, spec.search_space(), (), 0)[:2]] == ["COMPLETE"] * 2


def test_observations_follow_the_history():
    spec, history = spec_of(), History(None)
    trial(history, 0, {"beta": 2.0}, 1, TrialState.RUNNING)
    known = observed(spec, history)
    assert set(known.values[1]) == {0} and not known.values[3] and 0 in known.open
    for epoch in (2, 3):
        history.append("epoch", 0, metrics=metrics(epoch, {"beta": 2.0}))
    history.append("end", 0, state=TrialState.STOPPED)
    known.update(history.trials)
    assert set(known.values[3]) == {0} and not known.open and 0 in known.ended_below[9] and not known.ended_below[3]


def test_epochs_before_the_start_give_no_value():
    spec = SearchSpec(method="srat", max_epochs=12)
    history = History(None)
    trial(history, 0, {"start": 0.5, "beta": 1.0}, 12, TrialState.FINISHED)
    known = observed(spec, history)
    assert [len(known.values[level]) for level in (1, 3, 9, 12)] == [0, 0, 1, 1]


def test_a_trial_that_had_not_started_at_a_budget_did_not_end_below_it():
    spec, history = SearchSpec(method="srat", max_epochs=12), History(None)
    trial(history, 0, {**spec.search_space().default(), "start": 0.5}, 9, TrialState.STOPPED)
    seen = observed(spec, history).frozen(3, spec.search_space(), (), 0)
    assert seen == [] and len(observed(spec, history).frozen(9, spec.search_space(), (), 0)) == 1


def test_nan_has_no_value_and_is_no_error(tmp_path):
    spec = spec_of(trials=3, sampler="random")
    history = History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    for _ in range(2):
        proposal = proposer.next()
        history.append("start", proposal.trial, params=proposal.params, method="trades")
    history.append(
        "epoch",
        0,
        metrics={
            "epoch": 12,
            "natural_robust_acc": float("nan"),
            "robust_acc": float("nan"),
            "worst_class_robust_acc": 0.1,
        },
    )
    history.append("end", 0, state=TrialState.FINISHED)
    proposer.tell(0, TrialState.FINISHED, history.trials[0].last)
    proposer.tell(1, TrialState.FAILED, {})
    assert [t.state.name for t in proposer.recorded.study.trials] == ["PRUNED", "FAIL"]
    assert proposer.recorded.study.trials[0].user_attrs["values_at_end"] == [None, 0.1]
    assert not observed(spec, history).values[12]


# ---- constraints and smoothing ------------------------------------------------------------------------------------


def test_constraints_are_on_every_trial_that_ended():
    spec, history = spec_of(constraint=("clean_acc>=0.85", "robust_acc<=0.1")), History(None)
    for number in range(4):
        trial(
            history,
            number,
            {"beta": 2.0},
            (12, 3, 12, 2)[number],
            (TrialState.FINISHED, TrialState.STOPPED, TrialState.FINISHED, TrialState.RUNNING)[number],
        )
    seen = observed(spec, history).frozen(12, spec.search_space(), (), 0)
    assert [t.state.name for t in seen] == ["COMPLETE", "PRUNED", "COMPLETE", "RUNNING"]
    names = {"clean_acc>=0.85", "robust_acc<=0.1"}
    assert [set(t.constraints) for t in seen] == [names, names, names, set()]
    assert seen[0].constraints["clean_acc>=0.85"] == pytest.approx(0.05)  # above 0: violated
    assert seen[0].constraints["robust_acc<=0.1"] == pytest.approx(0.12 + 0.002 - 0.1)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_take_constraints(sampler):
    spec, history = spec_of(constraint=("clean_acc>=0.85",), sampler=sampler, trials=14), History(None)
    _drive(Proposer(spec, history), history, spec)
    assert len(history.trials) == 14 and not history.rows(spec.objectives, spec.goal)
    assert len(history.rows(spec.objectives)) == 14


def test_the_record_has_constraints(tmp_path):
    spec, history = spec_of(constraint=("clean_acc>=0.85",), trials=3, sampler="random"), History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec)
    assert all(t.constraints == {"clean_acc>=0.85": pytest.approx(0.05)} for t in proposer.recorded.study.trials)
    assert not proposer.recorded.study.best_trials


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
    spec = spec_of(smooth_worst="cvar:0.2")
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
    assert observed(spec, history).values[12][0].point == (0.5, pytest.approx(0.05))
    assert history.rows(spec.objectives, spec.goal)[0]["worst_class_robust_acc"] == 0.0
    with pytest.raises(UsageError, match="cvar:SHARE"):
        spec_of(smooth_worst="mean:0.2")


# ---- proposals ----------------------------------------------------------------------------------------------------


def _drive(proposer, history, spec, until=None, rungs=None):
    """Run made-up trials one after the other; returns what was proposed."""
    seen = []
    while (until is None or len(seen) < until) and (proposal := proposer.next()) is not None:
        seen.append(proposal.params)
        if proposal.trial not in history.trials:
            history.append("start", proposal.trial, params=proposal.params, method=spec.method)
        record, state = history.trials[proposal.trial], TrialState.FINISHED
        for epoch in range(len(record.epochs) + 1, spec.max_epochs + 1):
            history.append("epoch", proposal.trial, metrics=peaked(epoch, proposal.params))
            point, start = spec.goal.point(record.last), spec.epoch_plan.start_of(proposal.params)
            if rungs and rungs.feed(proposal.trial, epoch, point, start) == Decision.STOP:
                state = TrialState.STOPPED
                break
        history.append("end", proposal.trial, state=state)
        proposer.tell(proposal.trial, state, record.last)
    return seen


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_repeats_and_a_resumed_search_goes_on_with_the_same(tmp_path, sampler):
    spec = spec_of(sampler=sampler, trials=16)
    whole = []
    for folder in ("a", "b"):
        history, rungs = History(tmp_path / folder), Rungs(spec.early_stopping)
        whole.append(_drive(Proposer(spec, history, rungs, tmp_path / folder), history, spec, rungs=rungs))
    assert whole[0] == whole[1] and len(whole[0]) == 16
    assert len({tuple(p.values()) for p in whole[0]}) == 16
    history, rungs = History(tmp_path / "c"), Rungs(spec.early_stopping)
    first = _drive(Proposer(spec, history, rungs, tmp_path / "c"), history, spec, until=9, rungs=rungs)
    history = History(tmp_path / "c")
    rungs = Rungs(spec.early_stopping).replay(history, spec.goal.point, spec.epoch_plan.start_of)
    assert first + _drive(Proposer(spec, history, rungs, tmp_path / "c"), history, spec, rungs=rungs) == whole[0]


def test_another_seed_proposes_others():
    runs = [_drive(Proposer(s, h), h, s) for s, h in ((spec_of(trials=6, seed=n), History(None)) for n in (0, 1))]
    assert runs[0][0] == runs[1][0] and all(a != b for a, b in zip(runs[0][1:], runs[1][1:]))


def test_the_papers_setting_is_first_and_every_trial_is_proposed_once():
    spec, history = spec_of(trials=5), History(None)
    proposals = _drive(Proposer(spec, history), history, spec)
    assert proposals[0] == spec.search_space().default() and len(proposals) == 5
    assert Proposer(spec, history).next() is None and Proposer(spec, history).exhausted


def test_conditional_parameters_exist_only_where_they_apply():
    spec, history = SearchSpec(method="srat", trials=24, max_epochs=12, scheduler="none"), History(None)
    proposals = _drive(Proposer(spec, history), history, spec)
    params, seen = params_of(Srat), set()
    for values in proposals:
        seen.add(values["loss"])
        for name, param in params.items():
            assert (name in values) == param.active(values), (name, values)
            if name in values and hasattr(param.range, "low"):
                assert param.range.low <= values[name] <= param.range.high
    assert seen == {"ce", "focal", "ldam"}


def test_autos_choice():
    def of(name, conditional, objectives, values):
        return SAMPLERS[name].model(conditional=conditional, objectives=objectives, values=values).name

    assert of("auto", False, 2, 100) == of("auto", False, 3, MAX_OBSERVATIONS) == "gp"
    assert of("auto", False, 4, 100) == of("auto", True, 2, 100) == of("auto", False, 2, MAX_OBSERVATIONS + 1) == "tpe"
    assert of("gp", True, 5, 10**4) == "gp" and of("random", True, 5, 10**4) == "random"
    assert SearchSpec(method="srat").search_space().conditional
    assert not SearchSpec(method="trades").search_space().conditional


def test_a_search_says_what_it_proposes_with():
    def said(**fields):
        return Proposer(SearchSpec(**fields), History(None)).description

    assert said(method="srat") == (
        "sampler auto: the default setting (0 of 6 values published), 3 quasi-random ones, then TPE (conditional space)"
    )
    assert said(method="trades").endswith("then a Gaussian process (flat space, objectives: 2; TPE after 250 values)")
    four = ("robust_acc", "worst_class_robust_acc", "clean_acc", "tail_robust_acc")
    assert said(method="trades", objectives=four).endswith("then TPE (4 objectives)")
    assert said(method="trades", sampler="gp") == "sampler gp, after the paper's setting"
    assert said(method="at") == "sampler: nothing is searched, the paper's setting runs once"


def test_the_start_is_spread_out():
    space = SearchSpec(method="trades").search_space()
    halves = [quasi_random(space, 0, n)["beta"] for n in range(8)]
    low, high = space.params["beta"].range.low, space.params["beta"].range.high
    middle = (low * high) ** 0.5
    assert sum(v < middle for v in halves) == 4 and len(set(halves)) == 8


def test_a_proposal_depends_on_what_was_known_not_on_when(tmp_path):
    """With a Gaussian process the next proposal is made from what was known when the last one was handed out."""
    spec = spec_of(sampler="gp", trials=12)
    runs = []
    for late in (False, True):
        history = History(None)
        proposer = Proposer(spec, history)
        _drive(proposer, history, spec, until=8)
        eighth = proposer.next()
        history.append("start", eighth.trial, params=eighth.params, method="trades")
        if late:  # the result comes in before the next question
            trial_ = history.trials[eighth.trial]
            for epoch in range(1, 13):
                history.append("epoch", trial_.trial, metrics=metrics(epoch, trial_.params, worst=0.9))
            history.append("end", trial_.trial, state=TrialState.FINISHED)
        runs.append(proposer.next().params)
    assert runs[0] == runs[1]


def test_what_is_pending_changes_the_proposal():
    spec, history = spec_of(trials=40, sampler="tpe"), History(None)
    proposer = Proposer(spec, history)
    _drive(proposer, history, spec, until=20)
    known, space = observed(spec, history, levels=(12,)), spec.search_space()
    alone = known.frozen(12, space, (), 0)
    history.append("start", 20, params={"beta": 3.0}, method="trades")
    known.update(history.trials)
    with_pending = known.frozen(12, space, (), 0)
    assert len(with_pending) == len(alone) + 1 and with_pending[-1].state == optuna.trial.TrialState.RUNNING


def test_a_model_is_shown_the_best_and_a_sample_of_the_rest():
    spec, history = spec_of(), History(None)
    for number in range(MAX_OBSERVATIONS + 200):
        beta = 1.0 + 9 * (number * 37 % 450) / 450
        trial(history, number, {"beta": beta}, *((12, TrialState.FINISHED) if number % 3 else (1, TrialState.STOPPED)))
    seen = observed(spec, history).frozen(12, spec.search_space(), (), seed=5)
    assert len(seen) == MAX_OBSERVATIONS
    complete = sorted((t.params["beta"] for t in seen if t.values), reverse=True)
    best = sorted((t.params["beta"] for n, t in history.trials.items() if n % 3), reverse=True)[:ELITE]
    assert complete[:ELITE] == best
    assert 30 < sum(t.state == optuna.trial.TrialState.PRUNED for t in seen) < 130


# ---- the recorded study -------------------------------------------------------------------------------------------


def study_of(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.log")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def test_the_record_says_at_which_budget_values_were_taken(tmp_path):
    spec = spec_of(trials=12, scheduler="pareto-asha")
    history, rungs = History(tmp_path), Rungs(spec.early_stopping)
    _drive(Proposer(spec, history, rungs, tmp_path), history, spec, rungs=rungs)
    study = study_of(tmp_path)
    assert {t.state.name for t in study.trials} == {"COMPLETE", "PRUNED"} and len(study.trials) == 12
    for shown in study.trials:
        record = history.trials[shown.number]
        assert shown.params == {"beta": record.params["beta"]} and shown.user_attrs["epoch"] == record.last["epoch"]
        end = [record.last[o] for o in spec.objectives]
        if record.state == TrialState.FINISHED:
            assert shown.values == end and shown.user_attrs["epoch"] == 12
        else:
            assert shown.values is None and shown.user_attrs["values_at_end"] == end
    assert all(history.trials[t.number].state == TrialState.FINISHED for t in study.best_trials)


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


def test_an_end_the_study_missed_is_told_at_the_next_start(tmp_path):
    spec, history = spec_of(trials=5), History(tmp_path)
    proposer = Proposer(spec, history, folder=tmp_path)
    _drive(proposer, history, spec, until=2)
    proposal = proposer.next()
    trial(history, proposal.trial, proposal.params, 3, TrialState.STOPPED)
    Proposer(spec, History(tmp_path), folder=tmp_path)
    assert [t.state.name for t in study_of(tmp_path).trials] == ["COMPLETE", "COMPLETE", "PRUNED"]


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
    assert row.name == sampler and row.help.endswith(".") and all(name in SAMPLERS for name in row.models)
    spec, history = SearchSpec(method="srat", trials=14, scheduler="none", sampler=sampler), History(None)
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
    spec = spec_of(sampler=sampler, trials=10, scheduler="none", space={"lr": [0.01, 0.3]})
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
        proposer.tell(proposal.trial, TrialState.FINISHED, row)
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


def test_warm_start(tmp_path):
    home, earlier = Home(tmp_path), spec_of(trials=8, name="earlier", seed=1)
    folder = home.search("earlier")
    history = History(folder)
    _drive(Proposer(earlier, history), history, earlier)
    (folder / "spec.yaml").write_text(earlier.to_yaml())
    spec = spec_of(trials=6, warm_start="earlier")
    check_warm(spec, home)
    warm = warm_trials(spec, home, tmp_path / "new")
    assert len(warm) == 8 and all(t.state == TrialState.FINISHED for t in warm)
    proposer = Proposer(spec, History(None), warm=warm)
    assert proposer.known.budget(4, 8) == 12 and len(proposer.known.frozen(12, proposer.space, (), 0)) == 8
    cold, hot = History(None), History(None)
    plain = _drive(Proposer(spec_of(trials=6), cold), cold, spec)
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
        ({"method": "srat"}, "method"),
        ({"method": ("trades", "at")}, "method"),
        ({"trunk": "at:3"}, "trunk 'auto' there, 'at:3' here"),
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
