"""Early stopping, by hand-computed cases: which trial is better, which goes on, which is never judged, what a history
rebuilds; and the contract of every scheduler."""

import numpy as np
import pytest

from trainables.method import start_epoch
from tuner.errors import UsageError
from tuner.optimizer.successive_halving import WINDOW, Rungs, best_epoch, net_order, ranked, ranks
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import SCHEDULERS, Decision, Median, ParetoAsha, choose_scheduler
from tuner.spec.search_spec import SearchSpec

CONTINUE, STOP, PAUSE = Decision.CONTINUE, Decision.STOP, Decision.PAUSE


def rungs_at(levels, reduction=3, on_rung=STOP, rule=ParetoAsha, **options):
    """Rungs at these levels of a search that is just long enough for them."""
    scheduler = rule(
        start=0,
        max_epochs=-(-levels[-1] * 5 // 4),
        objectives=("robust_acc", "worst_class_robust_acc"),
        grace=levels[0],
        reduction=reduction,
        on_rung=on_rung,
    )
    assert list(scheduler.levels) == list(levels)
    return Rungs(scheduler, **options)


def test_ranks_peel_fronts_one_by_one():
    points = np.array([[3, 1], [2, 2], [1, 3], [2, 1], [1, 2], [1, 1], [2, 2], [0, 9]])
    assert ranks(points).tolist() == [0, 0, 0, 1, 1, 2, 0, 0]  # the two (2, 2) do not dominate each other


def test_ranks_with_three_objectives_against_the_definition():
    points = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    left, rank, number = set(range(60)), {}, 0
    while left:
        front = {
            i for i in left if not any((points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in left)
        }
        rank.update(dict.fromkeys(front, number))
        left, number = left - front, number + 1
    assert ranks(points).tolist() == [rank[i] for i in range(60)]


def test_net_order_takes_one_end_then_always_the_farthest():
    # best first objective: row 3; farthest from it: row 0; then the middle (row 2), last the one close to row 0
    points = np.array([[0.0, 1.0], [0.1, 0.95], [0.5, 0.5], [1.0, 0.0]])
    assert net_order(points) == [3, 0, 2, 1]
    # each objective is measured by the front's own range: by plain distance row 2 would come before row 3
    assert net_order(np.array([[1.0, 0.0], [0.0, 1000.0], [0.9, 480.0], [0.45, 550.0]])) == [0, 1, 3, 2]


def test_net_order_of_equal_points_goes_by_row():
    assert net_order(np.array([[1.0, 1.0]] * 3)) == [0, 1, 2]


def test_ranked_goes_by_front_first():
    points = np.array([[0.4, 0.4], [0.0, 1.0], [1.0, 0.0], [0.6, 0.6], [0.3, 0.5]])
    assert ranked(points) == [2, 1, 3, 4, 0] or ranked(points) == [2, 1, 3, 0, 4]
    assert ranked(points)[3:] == [0, 4]  # best first objective first


def test_one_objective_is_plain_order():
    assert ranked(np.array([[0.1], [0.3], [0.3], [0.2]])) == [1, 2, 3, 0]


def test_the_best_epoch_is_an_epoch_that_was_reached():
    assert best_epoch([(0.5, 0.3), (0.55, 0.1), (0.5, 0.3)]) == (0.5, 0.3)  # not (0.55, 0.3)
    assert best_epoch([(0.2, 0.0), (0.4, 0.0), (0.3, 0.0)]) == (0.4, 0.0)  # all products are 0: the larger sum


def levels(start, grace, reduction, max_epochs):
    return ParetoAsha(start, max_epochs, ("robust_acc",), grace=grace, reduction=reduction).levels


def test_levels():
    assert levels(0, 1, 3, 12) == (1, 3, 9)
    assert levels(2, 1, 3, 12) == (3, 5)  # 11 of 12 would save one epoch and lose a point of the front
    assert levels(0, 10, 2, 100) == (10, 20, 40, 80)
    assert levels(5, 3, 3, 7) == ()


def feed_all(rungs, level, values):
    return [rungs.feed(trial, level, value) for trial, value in values]


def test_the_first_ones_go_on_then_the_best_third():
    rungs = rungs_at([1, 3], 3, protected=())
    answers = feed_all(rungs, 1, [(i, (v, v)) for i, v in enumerate([0.5, 0.4, 0.6, 0.3, 0.55, 0.7, 0.65])])
    #  2 are too few to judge; then floor(n/3): of 3 the best, of 4 and 5 the best, of 6 and 7 the best two
    assert answers == [CONTINUE, CONTINUE, CONTINUE, STOP, STOP, CONTINUE, CONTINUE]


def test_fronts_not_one_objective():
    rungs = rungs_at([1], 3, protected=())
    feed_all(rungs, 1, [(0, (0.9, 0.0)), (1, (0.5, 0.1)), (2, (0.4, 0.1)), (3, (0.3, 0.1)), (4, (0.3, 0.0))])
    assert rungs.feed(5, 1, (0.0, 0.9)) == CONTINUE  # the other end of the front: one of two out of six
    assert rungs.feed(6, 1, (0.35, 0.1)) == STOP


def test_a_dip_does_not_kill():
    rungs = rungs_at([3], 3, protected=())
    for trial, value in enumerate([0.50, 0.51, 0.52]):
        rungs.feed(trial, 3, (value, value))
    for epoch, value in ((1, 0.4), (2, 0.6), (3, 0.1)):
        answer = rungs.feed(7, epoch, (value, value))
    assert answer == CONTINUE and rungs.rungs[3].points[7] == (0.6, 0.6)
    assert rungs.feed(8, 3, (0.1, 0.1)) == STOP  # the same epoch without a better past


def test_never_before_its_own_start():
    rungs = rungs_at([1, 3, 9], 3, protected=())
    for trial in range(6):
        for level in (1, 3, 9):
            rungs.feed(trial, level, (0.9, 0.9))
    assert [rungs.feed(7, epoch, (0.1, 0.1), start=3) for epoch in (1, 2, 3)] == [CONTINUE] * 3
    assert 7 not in rungs.rungs[3].points  # nor are the others measured against what it was before
    rungs.feed(7, 4, (0.05, 0.05), start=3)
    assert rungs.feed(7, 9, (0.2, 0.2), start=3) == STOP
    assert rungs.rungs[9].points[7] == (0.2, 0.2)


def test_the_best_before_the_start_does_not_count():
    rungs = rungs_at([4], 3, protected=())
    for epoch, value in ((1, 0.9), (2, 0.9), (3, 0.2), (4, 0.3)):
        rungs.feed(1, epoch, (value, value), start=2)
    assert rungs.rungs[4].points[1] == (0.3, 0.3)


def test_between_rungs_no_trial_is_judged():
    rungs = rungs_at([2, 6], 3, protected=())
    for trial in range(5):
        rungs.feed(trial, 2, (0.9, 0.9))
    assert rungs.feed(9, 1, (0, 0)) == rungs.feed(9, 3, (0, 0)) == CONTINUE


def test_the_papers_setting_is_never_stopped():
    rungs = rungs_at([1], 3)
    feed_all(rungs, 1, [(i, (0.9, 0.9)) for i in range(1, 8)])
    assert rungs.feed(0, 1, (0.0, 0.0)) == CONTINUE and rungs.feed(8, 1, (0.0, 0.0)) == STOP


def test_nan_is_not_judged():
    rungs = rungs_at([1], 3, protected=())
    feed_all(rungs, 1, [(i, (0.5, 0.5)) for i in range(5)])
    assert rungs.feed(7, 1, (float("nan"), 0.9)) == CONTINUE and 7 not in rungs.rungs[1].points


def test_a_report_said_twice_changes_nothing():
    rungs = rungs_at([2], 3, protected=())
    rungs.feed(1, 1, (0.6, 0.6))
    first = rungs.feed(1, 2, (0.1, 0.1))
    assert rungs.feed(1, 2, (0.1, 0.1)) == first and rungs.rungs[2].points == {1: (0.6, 0.6)}


def test_pause_and_promote():
    rungs = rungs_at([1, 3], 3, PAUSE, protected=())
    assert feed_all(rungs, 1, [(1, (0.5, 0.5)), (2, (0.7, 0.7))]) == [PAUSE, PAUSE]
    assert rungs.promotable() is None  # a third of two is none
    assert rungs.feed(3, 1, (0.6, 0.6)) == PAUSE and rungs.promotable() == 2
    assert rungs.promotable() == 2  # asking changes nothing
    rungs.promote(2)
    assert rungs.promotable() is None and rungs.feed(2, 1, (0.7, 0.7)) == CONTINUE  # it says its last epoch again
    assert rungs.feed(2, 3, (0.8, 0.8)) == PAUSE  # the first one on the next rung waits there
    feed_all(rungs, 1, [(4, (0.1, 0.1)), (5, (0.2, 0.2)), (6, (0.1, 0.1))])
    assert rungs.promotable() == 3  # six trials: the best two of rung 1
    rungs.forget(3)
    assert rungs.promotable() is None


def test_the_highest_rung_is_promoted_first():
    rungs = rungs_at([1, 2], 2, PAUSE, protected=())
    for trial, value in ((1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8)):
        rungs.feed(trial, 1, (value, value))
    assert feed_all(rungs, 2, [(3, (0.9, 0.9)), (4, (0.85, 0.85))]) == [PAUSE, PAUSE]
    feed_all(rungs, 1, [(t, (0.1, 0.1)) for t in (5, 6, 7, 8)])
    assert rungs.promotable() == 3  # the best of two on rung 2, before the fourth best of eight on rung 1
    rungs.promote(3)
    assert rungs.promotable() == 1


def noted(rungs, values):
    """``rungs`` that know ``values`` of the rung at epoch 4 without having decided anything."""
    for trial, value in values:
        rungs.note(trial, 4, (value, value))
    return rungs


@pytest.mark.parametrize("number", [5, WINDOW + 200])
def test_a_trial_that_arrives_late_is_compared_with_the_latest_whatever_its_number(number):
    there = [(trial, trial / 1e4) for trial in range(100, WINDOW + 150)]
    for order in (there, there[::-1]):  # a history may be read in any order
        assert noted(rungs_at([4], 2), order).feed(number, 4, (0.99, 0.99)) == CONTINUE
        assert noted(rungs_at([4], 2), order).feed(number, 4, (0.0, 0.0)) == STOP


def test_a_trial_that_waits_while_the_window_moves_on_can_still_be_promoted():
    rungs = noted(rungs_at([4], 2, PAUSE), [(trial, 0.9) for trial in range(100, WINDOW + 100)])
    assert rungs.feed(7, 4, (0.5, 0.5)) == PAUSE and rungs.feed(5, 4, (0.6, 0.6)) == PAUSE
    assert rungs.promotable() is None
    noted(rungs, [(trial, 0.1) for trial in range(WINDOW + 100, 2 * WINDOW + 100)])  # proposals have become worse
    assert rungs.promotable() == 5
    rungs.promote(5)
    assert rungs.promotable() == 7


def test_many_waiting_trials_do_not_lower_the_bar():
    rungs = noted(rungs_at([4], 2, PAUSE), [(trial, 0.5 + trial / 1e4) for trial in range(1000, 1000 + WINDOW)])
    assert feed_all(rungs, 4, [(trial, (0.4, 0.4)) for trial in range(1, 40)]) == [PAUSE] * 39
    assert rungs.promotable() is None


def test_median_does_not_depend_on_the_order():
    values = [(trial, (0.9 if trial < 300 else 0.1,)) for trial in range(WINDOW + 300)]
    for order in (values, values[::-1]):
        rungs = rungs_at([2], rule=Median, protected=())
        for trial, value in order:
            rungs.note(trial, 2, value)
        assert rungs.feed(2000, 2, (0.5,)) == CONTINUE


def test_median():
    rungs = rungs_at(range(1, 9), rule=Median, protected=())
    assert feed_all(rungs, 2, [(i, (v,)) for i, v in enumerate([0.9, 0.1, 0.2, 0.3, 0.4])]) == [CONTINUE] * 5
    assert rungs.feed(5, 2, (0.29,)) == STOP  # the median of the others is 0.3
    assert rungs.feed(6, 2, (0.294,)) == STOP and rungs.feed(7, 2, (0.294,)) == CONTINUE  # then 0.295, then 0.294


def _run(rungs, history, spec, trials, rng):
    """A made-up search: odd trials start reweighting late."""
    point, answers = spec.goal.point, []
    for trial in trials:
        params = {"start": 0.0 if trial % 2 else 0.4}
        history.append("start", trial, params=params, method="trades")
        state = TrialState.FINISHED
        for epoch in range(1, spec.max_epochs + 1):
            metrics = {
                "epoch": epoch,
                "natural_robust_acc": rng.random(),
                "robust_acc": rng.random(),
                "worst_class_robust_acc": rng.random(),
            }
            history.append("epoch", trial, metrics=metrics)
            answers.append(rungs.feed(trial, epoch, point(metrics), spec.epoch_plan.start_of(params)))
            if answers[-1] == STOP:
                state = TrialState.STOPPED
                break
        history.append("end", trial, state=state)
        rungs.forget(trial)
    return answers


def test_replay_from_the_history_equals_live():
    spec = SearchSpec(method="trades", max_epochs=27, reduction=2, grace=2, scheduler="pareto-asha")
    live, history = Rungs(spec.early_stopping), History(None)
    _run(live, history, spec, range(30), np.random.default_rng(1))
    assert len(history.with_state(TrialState.STOPPED)) > 5 and len(history.with_state(TrialState.FINISHED)) > 2
    again = Rungs(spec.early_stopping).replay(history, spec.goal.point, spec.epoch_plan.start_of)
    assert {n: r.points for n, r in again.rungs.items()} == {n: r.points for n, r in live.rungs.items()}
    for rungs, rng in ((live, np.random.default_rng(2)), (again, np.random.default_rng(2))):
        rungs.answers = _run(rungs, History(None), spec, range(30, 50), rng)
    assert live.answers == again.answers and STOP in live.answers


def test_replay_knows_which_trials_have_passed():
    spec = SearchSpec(method="trades", max_epochs=12, grace=1, scheduler="pareto-asha")
    history = History(None)
    history.append("start", 3, params={}, method="trades")
    for epoch in (1, 2):
        history.append(
            "epoch",
            3,
            metrics={"epoch": epoch, "natural_robust_acc": 0.0, "robust_acc": 0.0, "worst_class_robust_acc": 0.0},
        )
    rungs = Rungs(spec.early_stopping).replay(history, spec.goal.point, spec.epoch_plan.start_of)
    feed_all(rungs, 1, [(i, (0.9, 0.9)) for i in range(4, 9)])
    assert rungs.feed(3, 1, (0.0, 0.0)) == CONTINUE  # it had been let through before


@pytest.mark.parametrize("start", [0.0, 0.2, 0.45, 0.5, 0.95])
@pytest.mark.parametrize("epochs", [7, 12, 27])
def test_the_start_is_the_trials_own(start, epochs):
    class Params:
        pass

    Params.start = start
    plan = SearchSpec(method="srat", max_epochs=epochs).epoch_plan
    assert plan.start_of({"start": start}) == start_epoch(Params, epochs)
    assert plan.start_of({}) == start_epoch(object(), epochs) == 0


def rung_levels(**fields):
    return SearchSpec(**fields).early_stopping.levels


def test_rungs_count_from_the_earliest_start():
    assert rung_levels(method="srat", max_epochs=12) == (4, 6)  # start is searched from 0.2 up: epoch 2
    assert rung_levels(method="srat", max_epochs=12, fix={"start": 0.5}) == (7, 8)
    assert rung_levels(method="trades", max_epochs=27) == (5, 10, 20)
    assert rung_levels(method="trades", max_epochs=27, trunk="at:9") == (12, 15, 21)


def test_the_default_gives_way_but_a_choice_does_not():
    short = SearchSpec(method="srat", max_epochs=3).early_stopping
    assert short.name == "none" and Rungs(short).levels == []
    assert "none" in short.describe() and "3 epochs" in short.describe()
    assert SearchSpec(method="srat").early_stopping.name == "pareto-asha"
    with pytest.raises(UsageError, match="pareto-asha has 1 rung here, but needs 2.*epoch 1 of 3"):
        SearchSpec(method="srat", max_epochs=3, scheduler="pareto-asha")
    with pytest.raises(UsageError, match="asha"):
        SearchSpec(method="srat", max_epochs=12, fix={"start": 0.9}, scheduler="asha")
    named = SearchSpec(method="srat", max_epochs=12, scheduler="none").early_stopping
    assert named.describe() == "scheduler none; every trial runs to its end"


def test_single_objective_schedulers_compare_the_first_objective_or_the_one_asked_for():
    for name in ("asha", "median"):
        assert SearchSpec(scheduler=name).early_stopping.compares == ("natural_robust_acc",)
        assert SearchSpec(scheduler=name, asha_metric="clean_acc").early_stopping.compares == ("clean_acc",)
    assert SearchSpec(scheduler="pareto-asha").early_stopping.compares == (
        "natural_robust_acc",
        "worst_class_robust_acc",
    )


@pytest.mark.parametrize(
    "scheduler, ignored",
    [("pareto-asha", ["--asha-metric"]), ("asha", []), ("none", ["--asha-metric", "--grace", "--on-rung"])],
)
def test_options_without_effect_are_named(scheduler, ignored):
    spec = SearchSpec(scheduler=scheduler, asha_metric="clean_acc", grace=1, on_rung="pause")
    assert [note.split()[0] for note in spec.notes] == ignored


def test_schedulers_say_what_they_do():
    both = {"scheduler": "pareto-asha", "method": "trades", "max_epochs": 27}
    assert SearchSpec(**both).early_stopping.describe() == (
        "scheduler pareto-asha on natural_robust_acc and worst_class_robust_acc at epochs 5, 10, 20: "
        "the best 1/2 go on, the others stop"
    )
    median = SearchSpec(**{**both, "scheduler": "median", "on_rung": "pause"}).early_stopping
    assert median.describe() == (
        "scheduler median on natural_robust_acc at epochs 5 to 21: those below the median wait"
    )


# ---- every scheduler -------------------------------------------------------------------------------------------------


def scheduler_of(name, **options):
    return choose_scheduler(name, start=2, max_epochs=30, objectives=("robust_acc", "clean_acc"), **options)


@pytest.fixture(params=sorted(SCHEDULERS))
def named(request):
    return request.param


def test_every_scheduler_says_what_it_is(named):
    assert SCHEDULERS[named].name == named and SCHEDULERS[named].help.endswith(".")
    line = scheduler_of(named).describe()
    assert line.startswith(f"scheduler {named}") and "\n" not in line
    short = choose_scheduler(named, start=2, max_epochs=3, objectives=("robust_acc",))
    if named == "none":
        short.check()
    else:
        with pytest.raises(UsageError, match=f"--scheduler {named} has . rungs? here"):
            short.check()


def test_every_scheduler_says_which_options_it_ignores(named):
    lines = scheduler_of(named, metric="clean_acc", grace=2, on_rung="pause").without_effect()
    said = {line.split()[0].removeprefix("--").replace("-", "_") for line in lines}
    assert said == set(SCHEDULERS[named].ignores) and all(line.endswith(named) for line in lines)
    assert scheduler_of(named).without_effect() == []


def test_every_scheduler_has_rungs_behind_the_start_and_before_the_end(named):
    levels = scheduler_of(named).levels
    assert list(levels) == sorted(set(levels)) and all(2 < level < 30 for level in levels)
    assert (len(levels) == 0) == (named == "none")


@pytest.mark.parametrize("on_rung", ["stop", "pause"])
def test_every_scheduler_protects_the_papers_setting_and_decides_as_it_was_asked(named, on_rung):
    scheduler, rng = scheduler_of(named, on_rung=on_rung), np.random.default_rng(0)
    rungs, answers, paper = Rungs(scheduler), set(), set()
    for trial in range(1, 41):
        for epoch in range(1, 31):
            answer = rungs.feed(trial, epoch, tuple(rng.random(len(scheduler.compares))), start=2)
            answers.add(answer)
            if answer != CONTINUE:
                break
    for epoch in range(1, 31):
        paper.add(rungs.feed(0, epoch, (0.0,) * len(scheduler.compares), start=2))
    assert paper == {CONTINUE} and answers == ({CONTINUE} if named == "none" else {CONTINUE, Decision(on_rung)})
    if on_rung == "pause" and named != "none":
        assert len(rungs.paused) > 5
        while (trial := rungs.promotable()) is not None:  # ends: a promoted trial waits no longer
            assert trial in rungs.paused
            rungs.promote(trial)


@pytest.mark.parametrize("on_rung", ["stop", "pause"])
def test_every_scheduler_keeps_no_state_of_its_own(named, on_rung):
    """The same trials at a rung, whatever was decided before, give the same answer."""
    scheduler = scheduler_of(named, on_rung=on_rung)
    if not scheduler.levels:
        assert scheduler.decide(None, 3) == CONTINUE
        return
    level, rng = scheduler.levels[0], np.random.default_rng(1)
    points = {trial: tuple(rng.random(len(scheduler.compares))) for trial in range(12)}
    live, silent = Rungs(scheduler, protected=()), Rungs(scheduler_of(named, on_rung=on_rung), protected=())
    for trial, point in points.items():
        live.feed(trial, level, point, start=2)
        silent.note(trial, level, point, start=2)
    for trial in points:
        assert scheduler.decide(live.rungs[level], trial) == silent.scheduler.decide(silent.rungs[level], trial)
