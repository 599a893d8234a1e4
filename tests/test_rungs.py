"""Early stopping, by hand-computed cases: who is better, who goes on, who is never judged, what a history rebuilds."""

from functools import partial

import numpy as np
import pytest

from trainables.method import start_epoch
from tuner.errors import UsageError
from tuner.optimizer.successive_halving import WINDOW, Rungs, best, net_order, ranked, ranks, rungs_for
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.epoch_plan import (
    CONTINUE,
    PAUSE,
    STOP,
    describe_scheduler,
    levels,
    rung_levels,
    scheduler_name,
    start_of,
)
from tuner.spec.search_spec import SearchSpec


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


def test_best_is_an_epoch_that_was_reached():
    assert best([(0.5, 0.3), (0.55, 0.1), (0.5, 0.3)]) == (0.5, 0.3)  # not (0.55, 0.3)
    assert best([(0.2, 0.0), (0.4, 0.0), (0.3, 0.0)]) == (0.4, 0.0)  # all boxes are empty: the larger sum


def test_levels():
    assert levels(0, 1, 3, 12) == [1, 3, 9]
    assert levels(2, 1, 3, 12) == [3, 5]  # 11 of 12 would save one epoch and lose a point of the front
    assert levels(0, 10, 2, 100) == [10, 20, 40, 80]
    assert levels(5, 3, 3, 7) == []


def feed_all(rungs, level, values):
    return [rungs.feed(trial, level, value) for trial, value in values]


def test_the_first_ones_go_on_then_one_in_three():
    rungs = Rungs([1, 3], 3, protected=())
    answers = feed_all(rungs, 1, [(i, (v, v)) for i, v in enumerate([0.5, 0.4, 0.6, 0.3, 0.55, 0.7, 0.65])])
    #  2 are too few to judge; then floor(n/3): of 3 the best, of 4 and 5 the best, of 6 and 7 the best two
    assert answers == [CONTINUE, CONTINUE, CONTINUE, STOP, STOP, CONTINUE, CONTINUE]


def test_fronts_not_one_objective():
    rungs = Rungs([1], 3, protected=())
    feed_all(rungs, 1, [(0, (0.9, 0.0)), (1, (0.5, 0.1)), (2, (0.4, 0.1)), (3, (0.3, 0.1)), (4, (0.3, 0.0))])
    assert rungs.feed(5, 1, (0.0, 0.9)) == CONTINUE  # the other end of the front: one of two out of six
    assert rungs.feed(6, 1, (0.35, 0.1)) == STOP


def test_a_dip_does_not_kill():
    rungs = Rungs([3], 3, protected=())
    for trial, value in enumerate([0.50, 0.51, 0.52]):
        rungs.feed(trial, 3, (value, value))
    for epoch, value in ((1, 0.4), (2, 0.6), (3, 0.1)):
        answer = rungs.feed(7, epoch, (value, value))
    assert answer == CONTINUE and rungs.rungs[3].points[7] == (0.6, 0.6)
    assert rungs.feed(8, 3, (0.1, 0.1)) == STOP  # the same epoch without a better past


def test_never_before_its_own_start():
    rungs = Rungs([1, 3, 9], 3, protected=())
    for trial in range(6):
        for level in (1, 3, 9):
            rungs.feed(trial, level, (0.9, 0.9))
    assert [rungs.feed(7, epoch, (0.1, 0.1), start=3) for epoch in (1, 2, 3)] == [CONTINUE] * 3
    assert 7 not in rungs.rungs[3].points  # nor are the others measured against what it was before
    rungs.feed(7, 4, (0.05, 0.05), start=3)
    assert rungs.feed(7, 9, (0.2, 0.2), start=3) == STOP
    assert rungs.rungs[9].points[7] == (0.2, 0.2)


def test_the_best_before_the_start_does_not_count():
    rungs = Rungs([4], 3, protected=())
    for epoch, value in ((1, 0.9), (2, 0.9), (3, 0.2), (4, 0.3)):
        rungs.feed(1, epoch, (value, value), start=2)
    assert rungs.rungs[4].points[1] == (0.3, 0.3)


def test_between_rungs_nobody_is_judged():
    rungs = Rungs([2, 6], 3, protected=())
    for trial in range(5):
        rungs.feed(trial, 2, (0.9, 0.9))
    assert rungs.feed(9, 1, (0, 0)) == rungs.feed(9, 3, (0, 0)) == CONTINUE


def test_the_papers_setting_is_never_stopped():
    rungs = Rungs([1], 3)
    feed_all(rungs, 1, [(i, (0.9, 0.9)) for i in range(1, 8)])
    assert rungs.feed(0, 1, (0.0, 0.0)) == CONTINUE and rungs.feed(8, 1, (0.0, 0.0)) == STOP


def test_nan_is_not_judged():
    rungs = Rungs([1], 3, protected=())
    feed_all(rungs, 1, [(i, (0.5, 0.5)) for i in range(5)])
    assert rungs.feed(7, 1, (float("nan"), 0.9)) == CONTINUE and 7 not in rungs.rungs[1].points


def test_a_report_said_twice_changes_nothing():
    rungs = Rungs([2], 3, protected=())
    rungs.feed(1, 1, (0.6, 0.6))
    first = rungs.feed(1, 2, (0.1, 0.1))
    assert rungs.feed(1, 2, (0.1, 0.1)) == first and rungs.rungs[2].points == {1: (0.6, 0.6)}


def test_pause_and_promote():
    rungs = Rungs([1, 3], 3, PAUSE, protected=())
    assert feed_all(rungs, 1, [(1, (0.5, 0.5)), (2, (0.7, 0.7))]) == [PAUSE, PAUSE]
    assert rungs.promotable() is None  # a third of two is nobody
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
    rungs = Rungs([1, 3], 2, PAUSE, protected=())
    for trial, value in ((1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8)):
        rungs.feed(trial, 1, (value, value))
    assert feed_all(rungs, 3, [(3, (0.9, 0.9)), (4, (0.85, 0.85))]) == [PAUSE, PAUSE]
    feed_all(rungs, 1, [(t, (0.1, 0.1)) for t in (5, 6, 7, 8)])
    assert rungs.promotable() == 3  # the best of two on rung 3, before the fourth best of eight on rung 1
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
        assert noted(Rungs([4], 2), order).feed(number, 4, (0.99, 0.99)) == CONTINUE
        assert noted(Rungs([4], 2), order).feed(number, 4, (0.0, 0.0)) == STOP


def test_who_waits_while_the_window_moves_on_can_still_be_promoted():
    rungs = noted(Rungs([4], 2, PAUSE), [(trial, 0.9) for trial in range(100, WINDOW + 100)])
    assert rungs.feed(7, 4, (0.5, 0.5)) == PAUSE and rungs.feed(5, 4, (0.6, 0.6)) == PAUSE
    assert rungs.promotable() is None
    noted(rungs, [(trial, 0.1) for trial in range(WINDOW + 100, 2 * WINDOW + 100)])  # proposals have become worse
    assert rungs.promotable() == 5
    rungs.promote(5)
    assert rungs.promotable() == 7


def test_many_who_wait_do_not_lower_the_bar():
    rungs = noted(Rungs([4], 2, PAUSE), [(trial, 0.5 + trial / 1e4) for trial in range(1000, 1000 + WINDOW)])
    assert feed_all(rungs, 4, [(trial, (0.4, 0.4)) for trial in range(1, 40)]) == [PAUSE] * 39
    assert rungs.promotable() is None


def test_median_does_not_depend_on_the_order():
    values = [(trial, (0.9 if trial < 300 else 0.1,)) for trial in range(WINDOW + 300)]
    for order in (values, values[::-1]):
        rungs = Rungs([2], rule="median", protected=())
        for trial, value in order:
            rungs.note(trial, 2, value)
        assert rungs.feed(2000, 2, (0.5,)) == CONTINUE


def test_median():
    rungs = Rungs(range(1, 9), rule="median", protected=())
    assert feed_all(rungs, 2, [(i, (v,)) for i, v in enumerate([0.9, 0.1, 0.2, 0.3, 0.4])]) == [CONTINUE] * 5
    assert rungs.feed(5, 2, (0.29,)) == STOP and rungs.feed(6, 2, (0.295,)) == CONTINUE


def _run(rungs, history, spec, trials, rng):
    """A made-up search: odd trials start reweighting late."""
    point, answers = spec.goal.point, []
    for trial in trials:
        params = {"start": 0.0 if trial % 2 else 0.4}
        history.append("start", trial, params=params, method="trades")
        state = TrialState.FINISHED
        for epoch in range(1, spec.max_epochs + 1):
            metrics = {"epoch": epoch, "robust_acc": rng.random(), "worst_class_robust_acc": rng.random()}
            history.append("epoch", trial, metrics=metrics)
            answers.append(rungs.feed(trial, epoch, point(metrics), start_of(spec, params)))
            if answers[-1] == STOP:
                state = TrialState.STOPPED
                break
        history.append("end", trial, state=state)
        rungs.forget(trial)
    return answers


def test_replay_from_the_history_equals_live():
    spec = SearchSpec(method="trades", max_epochs=27, reduction=2, grace=2, scheduler="pareto-asha")
    live, history = rungs_for(spec), History(None)
    _run(live, history, spec, range(30), np.random.default_rng(1))
    assert len(history.with_state(TrialState.STOPPED)) > 5 and len(history.with_state(TrialState.FINISHED)) > 2
    again = rungs_for(spec).replay(history, spec.goal.point, partial(start_of, spec))
    assert {n: r.points for n, r in again.rungs.items()} == {n: r.points for n, r in live.rungs.items()}
    for rungs, rng in ((live, np.random.default_rng(2)), (again, np.random.default_rng(2))):
        rungs.answers = _run(rungs, History(None), spec, range(30, 50), rng)
    assert live.answers == again.answers and STOP in live.answers


def test_replay_knows_who_has_passed():
    spec = SearchSpec(method="trades", max_epochs=12, grace=1, scheduler="pareto-asha")
    history = History(None)
    history.append("start", 3, params={}, method="trades")
    for epoch in (1, 2):
        history.append("epoch", 3, metrics={"epoch": epoch, "robust_acc": 0.0, "worst_class_robust_acc": 0.0})
    rungs = rungs_for(spec).replay(history, spec.goal.point, partial(start_of, spec))
    feed_all(rungs, 1, [(i, (0.9, 0.9)) for i in range(4, 9)])
    assert rungs.feed(3, 1, (0.0, 0.0)) == CONTINUE  # it had been let through before


@pytest.mark.parametrize("start", [0.0, 0.2, 0.45, 0.5, 0.95])
@pytest.mark.parametrize("epochs", [7, 12, 27])
def test_the_start_is_the_trials_own(start, epochs):
    class Params:
        pass

    Params.start = start
    spec = SearchSpec(method="srat", max_epochs=epochs)
    assert start_of(spec, {"start": start}) == start_epoch(Params, epochs)
    assert start_of(spec, {}) == start_epoch(object(), epochs) == 0


def test_rungs_count_from_the_earliest_start():
    assert rung_levels(SearchSpec(method="srat", max_epochs=12)) == [4, 6]  # start is searched from 0.2 up: epoch 2
    assert rung_levels(SearchSpec(method="srat", max_epochs=12, fix={"start": 0.5})) == [7, 8]
    assert rung_levels(SearchSpec(method="trades", max_epochs=27)) == [5, 10, 20]
    assert rung_levels(SearchSpec(method="trades", max_epochs=27, trunk="at:9")) == [12, 15, 21]


def test_the_default_gives_way_but_a_choice_does_not():
    short = SearchSpec(method="srat", max_epochs=3)
    assert scheduler_name(short) == "none" and rungs_for(short) is None
    assert "none" in describe_scheduler(short) and "3 epochs" in describe_scheduler(short)
    assert scheduler_name(SearchSpec(method="srat")) == "pareto-asha"
    with pytest.raises(UsageError, match="pareto-asha has 1 rung here, but needs 2.*epoch 1 of 3"):
        SearchSpec(method="srat", max_epochs=3, scheduler="pareto-asha")
    with pytest.raises(UsageError, match="asha"):
        SearchSpec(method="srat", max_epochs=12, fix={"start": 0.9}, scheduler="asha")
    assert rungs_for(SearchSpec(method="srat", max_epochs=12, scheduler="none")) is None


def test_asha_looks_at_one_objective():
    assert SearchSpec(scheduler="asha").scheduler_objectives == ("robust_acc",)
    assert SearchSpec(scheduler="asha", asha_metric="clean_acc").scheduler_objectives == ("clean_acc",)
    assert SearchSpec(scheduler="pareto-asha").scheduler_objectives == ("robust_acc", "worst_class_robust_acc")
