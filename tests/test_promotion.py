"""Which previews train in full: the rule by hand, the bill, every scheduler's contract, the states of a trial, and that
a history alone decides, also after a kill."""

import json

import numpy as np
import pytest

from tests.histories import run_of
from tests.test_lanes import drive, metrics_at, quick  # noqa: F401 - a fixture
from tuner.errors import UsageError
from tuner.optimizer.ask_tell import AskTell
from tuner.results import promotion
from tuner.results.bill import Bill, cost_words, epochs_left, expected, trained
from tuner.results.history import History
from tuner.results.promotion import adds_most, curve_of, promotable
from tuner.results.references import references
from tuner.results.replicates import trials_ended
from tuner.results.summary import front_json, state_of
from tuner.results.trial_record import NO_SEARCH
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import parse_constraints
from tuner.spec.schedulers import SCHEDULERS, Preview, choose_scheduler
from tuner.spec.search_spec import SearchSpec

# ---- the rule by hand ------------------------------------------------------------------------------------------------


def one_by_one(curves, known=()):
    """All trials in the order in which they are taken, each beside those before it."""
    left, taken, there = dict(curves), [], list(known)
    while left:
        taken.append(adds_most(left, there))
        there += left.pop(taken[-1])
    return taken


def test_the_largest_comes_first_then_who_adds_most():
    """Hypervolumes: 0.20, 0.18, 0.16, 0.189. To the first, trial 1 adds (0.6 - 0.5) x 0.3 = 0.03, trial 2 adds 0.2 x
    (0.8 - 0.4) = 0.08, and trial 3 adds 0.45 x 0.02 = 0.009."""
    curves = {0: [(0.5, 0.4)], 1: [(0.6, 0.3)], 2: [(0.2, 0.8)], 3: [(0.45, 0.42)]}
    assert one_by_one(curves) == [0, 2, 1, 3]


def test_a_curve_counts_with_all_its_points():
    """By their best points trial 1 is the larger one (0.25); the three of trial 0 enclose 0.9 x 0.1 + 0.5 x 0.3 +
    0.1 x 0.5 = 0.29. Trial 2 adds (0.75 - 0.5) x (0.3 - 0.1) = 0.05 to them, trial 1 adds 0.1 x (0.5 - 0.1) = 0.04."""
    curves = {0: [(0.9, 0.1), (0.5, 0.4), (0.1, 0.9)], 1: [(0.5, 0.5)], 2: [(0.75, 0.3), (0.3, 0.3)]}
    assert one_by_one(curves) == [0, 2, 1]


def test_of_equal_gains_the_larger_curve_then_the_lower_number():
    """To (0.5, 0.5) all others add 0.02; trial 2 has 0.22 of its own, and once it is there trial 1 adds 0.01."""
    curves = {0: [(0.5, 0.5)], 1: [(0.6, 0.2)], 2: [(0.55, 0.4)], 3: [(0.2, 0.6)]}
    assert one_by_one(curves) == [0, 2, 3, 1]
    assert one_by_one({9: [(0.5, 0.5)], 4: [(0.5, 0.5)], 7: [(0.5, 0.5)]}) == [4, 7, 9]
    assert 0.7 * 0.1 < 0.07 * 1.0, "equal but for the last bit"
    assert adds_most({1: [(0.07, 1.0)], 0: [(0.7, 0.1)]}, []) == 0


def test_a_trial_without_a_feasible_point_comes_last():
    assert one_by_one({0: [], 1: [(0.2, 0.2)], 2: [(0.0, 0.9)]}) == [1, 0, 2], "a point on an axis encloses nothing"


def cells(points, size=8):
    """How many unit cells the boxes of ``points``, whole numbers, hold: an oracle for the hypervolume."""
    grid = np.zeros((size,) * 3, dtype=bool)
    for x, y, z in points:
        grid[: int(x), : int(y), : int(z)] = True
    return int(grid.sum())


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("seed", range(8))
def test_three_objectives_against_counting_cells(seed, known):
    """``known``: how many of the curves are there already."""
    draw = np.random.default_rng(seed)
    curves = {n: [tuple(map(float, p)) for p in draw.integers(0, 8, (draw.integers(1, 4), 3))] for n in range(12)}
    there = [p for trial in range(known) for p in curves.pop(trial)]
    found, taken = one_by_one(curves, there), []
    while left := [n for n in curves if n not in taken]:
        taken.append(max(left, key=lambda n: (cells([*there, *curves[n]]) - cells(there), cells(curves[n]), -n)))
        there += curves[taken[-1]]
    assert found == taken


# ---- the rule on a history -------------------------------------------------------------------------------------------


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 16, "max_epochs": 12, **changes})


def previewed(history, number, *point, **more):
    """A preview that ended with these two objectives; without any it diverged."""
    history.append("start", number, params={"beta": float(number + 1)}, method="trades", preview=True)
    if not point:
        history.append("end", number, state=TrialState.FAILED, reason="the loss is not finite")
        return
    metrics = {"epoch": 10, "natural_robust_acc": point[0], "worst_class_robust_acc": point[1], "clean_acc": 0.8}
    history.append("preview", number, epochs=2, metrics={**metrics, **more})


def asked(spec, history):
    return promotable(spec.scheduling, spec.goal, history)


def handed(spec, history):
    """All that train in full now, in the order in which they are handed out; the history says so then."""
    taken = []
    while (number := asked(spec, history)) is not None:
        assert asked(spec, history) == number and number not in taken, "asking changes nothing"
        history.append("promote", number)
        taken.append(number)
    return taken


LEVELS = [0.10, 0.60, 0.20, 0.70, 0.30, 0.40, 0.50, 0.15, 0.12]  # of trials 1 to 9


@pytest.mark.parametrize("trials, first", [(100, 8), (16, 8), (15, 7), (9, 4), (6, 3), (5, 2)])
def test_nothing_trains_in_full_before_eight_or_half_of_all_are_in(trials, first):
    """Then one in four, rounded up."""
    spec, history = spec_of(trials=trials), History(None)
    for number in range(1, first + 1):
        assert asked(spec, history) is None
        previewed(history, number, LEVELS[number - 1], 0.5)
    best = sorted(range(1, first + 1), key=lambda n: -LEVELS[n - 1])
    assert handed(spec, history) == best[: {8: 2, 7: 2, 4: 1, 3: 1, 2: 1}[first]]


def test_one_in_four_rounded_up():
    spec, history = spec_of(trials=100), History(None)
    counts = []
    for number in range(1, 14):
        previewed(history, number, 0.9 - number / 100, 0.5)  # none is better than those before
        counts.append(len(handed(spec, history)))
    assert counts == [0] * 7 + [2, 1, 0, 0, 0, 1], "ceil(8/4), ceil(9/4) and ceil(13/4) are the first"
    assert [t.trial for t in history.trials.values() if t.full] == [1, 2, 3, 4]


def test_a_later_preview_that_is_the_best_trains_too():
    spec, history = spec_of(trials=100), History(None)
    for number in range(1, 9):
        previewed(history, number, LEVELS[number - 1], 0.5)
    assert handed(spec, history) == [4, 2]
    previewed(history, 9, 0.8, 0.5)
    assert handed(spec, history) == [9], "the third of nine"
    previewed(history, 10, 0.75, 0.5)
    assert handed(spec, history) == [], "better than two that train, but a quarter do already"
    previewed(history, 11, 0.9, 0.5)
    assert handed(spec, history) == [11], "better than all: one more than ceil(11/4)"
    for number in (12, 13, 14):  # fourteen: four train, as many as a quarter
        previewed(history, number, 0.95, 0.5)
    assert handed(spec, history) == [12], "the first of equal ones, which then is as good as the others"


def test_what_trains_already_is_not_found_again():
    """The third of nine: trial 9 encloses 0.33, more than all others that wait, but it adds nothing to (0.7, 0.5);
    trial 8 adds 0.05 x (0.9 - 0.5) = 0.02 to it and encloses 0.045."""
    spec, history = spec_of(trials=100), History(None)
    for number in range(1, 8):
        previewed(history, number, LEVELS[number - 1] / 2 + 0.35 * (number == 4), 0.5)
    previewed(history, 8, 0.05, 0.9)
    assert handed(spec, history) == [4, 8]
    previewed(history, 9, 0.66, 0.5)
    previewed(history, 10, 0.04, 0.95)  # adds 0.04 x 0.05 = 0.002
    assert handed(spec, history) == [10]


def test_one_that_failed_in_full_keeps_its_place():
    spec, history = spec_of(trials=100), History(None)
    for number in range(1, 9):
        previewed(history, number, LEVELS[number - 1], 0.5)
    assert handed(spec, history) == [4, 2]
    history.append("end", 4, state=TrialState.FAILED)
    history.append("end", 2, state=TrialState.STOPPED)
    assert asked(spec, history) is None


def test_the_default_setting_is_not_counted():
    spec, history = spec_of(), History(None)
    history.append("start", 0, params=spec.search_space().default(), method="trades")
    history.append("epoch", 0, metrics={"epoch": 12, "natural_robust_acc": 0.99, "worst_class_robust_acc": 0.99})
    history.append("end", 0, state=TrialState.FINISHED)
    for number in range(1, 8):
        previewed(history, number, 0.5, 0.5)
    assert asked(spec, history) is None, "seven previews, whatever else there is"
    previewed(history, 8, 0.4, 0.4)
    assert handed(spec, history) == [1, 2]


def test_previews_that_diverged_are_in_too():
    """Of 15, eight diverge: without them there would never be eight, and nothing would train in full."""
    spec, history = spec_of(), History(None)
    for number in range(1, 16):
        previewed(history, number, *((LEVELS[number // 2], 0.5) if number % 2 == 0 else ()))
        if number == 7:
            assert asked(spec, history) is None
    # 15 are in, so four train: trials 2, 4, ... 14 have the levels 0.60, 0.20, 0.70, 0.30, 0.40, 0.50, 0.15
    assert handed(spec, history) == [6, 2, 12, 10]


def test_only_points_that_satisfy_the_constraints_count():
    spec, history = spec_of(constraint=("clean_acc>=0.7",)), History(None)
    for number in range(1, 9):
        previewed(history, number, LEVELS[number - 1], 0.5, clean_acc=0.6 if number in (2, 4) else 0.75)
    assert handed(spec, history) == [7, 6]
    assert curve_of(history.trials[4], spec.goal) == [] and curve_of(history.trials[7], spec.goal) == [(0.5, 0.5)]


def test_where_no_preview_satisfies_the_constraints_the_nearest_trains():
    spec, history = spec_of(constraint=("clean_acc>=0.7",)), History(None)
    for number, clean in enumerate((0.3, 0.5, 0.65, 0.6, 0.65, 0.2, 0.1, 0.4), 1):
        previewed(history, number, 1 - clean, 0.5, clean_acc=clean)
    assert handed(spec, history) == [3, 5], "equally near: the lower number"


def test_a_value_that_is_none_counts_for_nothing():
    spec, history = spec_of(), History(None)
    for number in range(1, 9):
        previewed(history, number, float("nan") if number == 4 else LEVELS[number - 1], 0.5)
    assert handed(spec, history) == [2, 7] and curve_of(history.trials[4], spec.goal) == []


def swept(*points):
    """A curve over offsets; ``points``: (robust images of class a, of class b) of 100 each, as many to train."""
    offsets = [{"kind": "classes", "tau": n / 4, "values": [0.0, n / 4]} for n in range(len(points))]
    return {
        "classes": ["a", "b"],
        "train_counts": [50, 50],
        "points": [
            {"offsets": o, "count": [100, 100], "clean": [100, 100], "robust": list(p)} for o, p in zip(offsets, points)
        ],
    }


def test_a_preview_counts_with_its_curve_over_offsets():
    """The natural average is (a + b) / 200, the worst class min(a, b) / 100."""
    spec, history = spec_of(), History(None)
    for number in range(1, 9):
        previewed(history, number, 0.4, 0.2 + number / 1000)
    history.append("start", 9, params={"beta": 3.0}, method="trades", preview=True)
    metrics = {"epoch": 10, "natural_robust_acc": 0.0, "worst_class_robust_acc": 0.0}
    history.append("preview", 9, epochs=2, metrics=metrics, curve=swept((80, 20), (60, 40)))
    assert curve_of(history.trials[9], spec.goal) == [(pytest.approx(0.5), 0.2), (pytest.approx(0.5), 0.4)]
    assert handed(spec, history)[0] == 9


def test_only_the_latest_previews_are_compared(monkeypatch):
    monkeypatch.setattr(promotion, "WINDOW", 8)
    spec, history = spec_of(trials=100), History(None)
    for number in range(1, 9):
        previewed(history, number, 0.9 - number / 100, 0.9)
    for number in range(9, 17):
        previewed(history, number, LEVELS[number - 9], 0.5)
    assert handed(spec, history) == [12, 10], "two of the eight latest, though the first eight were better"


def test_a_search_without_previews_promotes_nothing():
    spec, history = spec_of(scheduler="none"), History(None)
    for number in range(1, 12):
        previewed(history, number, 0.5, 0.5)
    assert asked(spec, history) is None


# ---- what it costs ---------------------------------------------------------------------------------------------------


PREVIEWED = {"scheduler": "preview"}


@pytest.mark.parametrize(
    "changes, bill, words",
    [
        # the preview forks at 0.7 x 12 = 8 and trains ceil(0.11 x 12) = 2; plain AT leaves its own stem at 8, too; 4 of
        # 15
        ({}, Bill(12, 16, 15, 30, 6, 12 + 4 + 4 * 12), "9.2 trainings' worth: 16 epochs of stems, 15 previews and 6 "),
        # start from 0.2 to 0.95: forks from 2 to 11, so 5.5 of their own in the middle, but 2 by default (0.8), and
        # half of the way there is 3.75; plain AT takes 11 from the stem
        ({"method": "srat", **PREVIEWED}, Bill(12, 11, 15, 30, 6, 12 + 1 + 4 * 3.75), None),
        # stems of AT and of TRADES
        ({"method": "srat", **PREVIEWED, "space": {"form": ["at", "trades"]}}, Bill(12, 22, 15, 30, 6, 28.0), None),
        # one trial under each of three seeds forks from AT's or from TRADES': half of each, and AT's under seed 0
        (
            {"method": "srat", "space": {"form": ["at", "trades"]}, "stems": 4, "trials": 4},
            Bill(12, 44, 0, 0, 5, 24.25),
            None,
        ),
        ({"method": "srat", **PREVIEWED, "fix": {"form": "trades"}}, Bill(12, 22, 15, 30, 6, 28.0), None),
        ({"method": "srat"}, Bill(12, 11, 0, 0, 17, 12 + 1 + 15 * 3.75), None),
        ({"method": "srat", "sampler": "random"}, Bill(12, 11, 0, 0, 17, 12 + 1 + 15 * 5.5), None),
        # DONE starts at once by default, and its trials do as they are drawn: forks from 0 to 11
        ({"method": "done"}, Bill(12, 11, 0, 0, 17, 12 + 1 + 15 * 6.5), None),
        # AT has one trial and proposes nothing; TRADES forks from nothing where nothing is previewed
        ({"method": ("srat", "at")}, Bill(12, 11, 0, 0, 16, 12 + 1 + 14 * 3.75), None),
        ({"method": ("srat", "trades"), "scheduler": "none"}, Bill(12, 11, 0, 0, 17, 24 + 1 + 14 * 7.875), None),
        ({"scheduler": "none"}, Bill(12, 0, 0, 0, 17, 17 * 12), "17.0 trainings' worth: 17 trainings in full"),
        ({"method": "srat", "burn_in": "own"}, Bill(12, 0, 0, 0, 17, 17 * 12), None),
        # two default settings, 14 previews of which four train
        ({"method": ("trades", "wat")}, Bill(12, 24, 14, 28, 7, 24 + 4 + 4 * 12), None),  # wat's measures losses
        # plain AT is the first trial of its method, not one more
        ({"method": ("trades", "at")}, Bill(12, 16, 14, 28, 6, 12 + 4 + 4 * 12), None),
        # TRADES under four seeds, plain AT under one; as a method it takes all of its four, and leaves 11 previews
        ({"stems": 4}, Bill(12, 40, 15, 30, 6, 12 + 4 + 4 * 12), None),
        ({"method": ("trades", "at"), "stems": 4}, Bill(12, 64, 11, 22, 8, 12 + 4 * 4 + 3 * 12), None),
        ({"stems": 8, "trials": 5}, Bill(12, 40, 4, 8, 3, 12 + 4 + 12), None),  # seeds 0 to 4 alone have a trial
        ({"method": "at", "stems": 3, "trials": 4}, Bill(12, 0, 0, 0, 3, 36), None),
        ({"method": "at", "trials": 4}, Bill(12, 0, 0, 0, 1, 12), "1.0 trainings' worth: 1 training in full"),
    ],
    ids=str,
)
def test_what_a_search_will_cost(changes, bill, words):
    found = expected(spec_of(**changes))
    assert found == bill
    assert words is None or found.words.startswith(words)


def test_what_a_search_has_cost():
    """By hand: 8 epochs of the stem; 12 of the default setting; 4 of plain AT; two previews of 2; 12 of one of them."""
    spec, history = spec_of(trials=5), History(None)
    history.append("start", 0, params=spec.search_space().default(), method="trades")
    history.append("start", NO_SEARCH, params={}, method="at", role="no_search")
    for epoch in range(1, 13):
        history.append("epoch", 0, metrics={"epoch": epoch})
    for epoch in range(1, 9):
        history.append("stem", NO_SEARCH, stem_epoch=epoch)
    history.append("fork", NO_SEARCH, epochs=[{"epoch": e, "stem": True} for e in range(1, 9)], stem="s")
    for epoch in range(9, 13):
        history.append("epoch", NO_SEARCH, metrics={"epoch": epoch})
    previewed(history, 1, 0.5, 0.5)
    previewed(history, 2, 0.4, 0.4)
    assert handed(spec, history) == [1]
    for epoch in range(1, 13):
        history.append("epoch", 1, metrics={"epoch": epoch})
    for number in (0, NO_SEARCH, 1):
        history.append("end", number, state=TrialState.FINISHED)
    assert trained(spec, history) == Bill(12, 8, 2, 4, 3, 12 + 4 + 12)
    assert trained(spec, history).to_dict()["epochs"] == history.epochs_trained() == 40
    # trial 2 was only previewed: 12 epochs less, 4 of previews more; of the stem's 8 nothing, plain AT alone used it
    assert history.epochs_saved(12) == {"stem": 0, "previews": 12 - 4, "at_chance": 0}


@pytest.mark.parametrize("scheduler, more", [("preview", 2 + 12), ("none", 12)])
def test_what_users_add_counts_in_what_is_left_and_once_it_trains_in_what_was_trained(scheduler, more):
    """A search said that nothing was left while it trained what was added, which it counted before it had begun."""
    spec, history = spec_of(trials=5, scheduler=scheduler), History(None)
    default, whole = spec.search_space().default(), expected(spec).epochs
    history.append("start", 0, params=default, method="trades")
    assert trained(spec, history).full == 0
    history.append("epoch", 0, metrics={"epoch": 1})
    waits = {"preview": True} if scheduler == "preview" else {}
    history.append("add", 1, params={"beta": 2.0}, method="trades", by="ann", request="1", **waits)
    assert epochs_left(spec, history) == whole - 1 + more and trained(spec, history).full == 1
    assert epochs_left(spec.changed(budget="20epochs"), history) == 19
    assert cost_words(spec.changed(budget="20epochs"), 1).endswith("; --budget ends it at 1.7")


def test_nothing_is_left_where_all_trials_have_ended():
    """Some at chance, failed or skipped: "5/5 done, about 4 min left"."""
    spec, history = SearchSpec(method="trades", trials=2, max_epochs=4, scheduler="none"), History(None)
    default = spec.search_space().default()
    for trial in (0, NO_SEARCH, 1):
        assert epochs_left(spec, history) > 0, "there is more to come"
        extra = {"role": "no_search", "method": "at"} if trial == NO_SEARCH else {"method": "trades"}
        history.append("start", trial, params={} if trial == NO_SEARCH else default, **extra)
        history.append("epoch", trial, metrics={"epoch": 1})
    for trial, state in ((0, "failed"), (1, "stopped"), (NO_SEARCH, "failed")):
        assert epochs_left(spec, history) > 0, "some train"
        history.append("end", trial, state=state)
    assert epochs_left(spec, history) == 0
    history.append("add", 2, params=default | {"beta": 2.0}, method="trades", by="ada")
    assert epochs_left(spec, history) > 0
    history.append("skip", 2, by="ada")
    assert epochs_left(spec, history) == 0


def test_something_is_left_while_previews_wait_for_what_becomes_of_them():
    spec, history = spec_of(trials=5, scheduler="preview"), History(None)
    default = spec.search_space().default()
    for number in (NO_SEARCH, 0):
        extra = {"role": "no_search", "method": "at"} if number == NO_SEARCH else {"method": "trades"}
        history.append("start", number, params=default if number == 0 else {}, **extra)
        history.append("end", number, state="failed")
    for number in range(1, 5):
        history.append("start", number, params=default | {"beta": float(number)}, method="trades", preview=True)
        history.append("preview", number, epochs=2, metrics={"epoch": 10})
    assert history.tally.ended == 5 and epochs_left(spec, history) > 0


# ---- every scheduler -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_says_what_it_is(name):
    made = choose_scheduler(name, max_epochs=12, previews=15)
    assert (made.name, type(made)) == (name, SCHEDULERS[name]) and made.help.endswith(".")
    assert made.describe().startswith(f"scheduler {name}") and "\n" not in made.describe()
    made.check()
    counts = [made.most(n) for n in range(100)]
    assert counts == sorted(counts) and all(0 <= count <= n for n, count in enumerate(counts))
    assert made.previewing == bool(counts[-1]), "who previews promotes, and nobody else"


@pytest.mark.slow
@pytest.mark.parametrize("burn_in", ["stem", "own"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_brings_all_trials_to_an_end(tmp_path, name, burn_in):
    """Each proposal trains in full or stays at its preview, the default setting in full; the history alone decides:
    killed anywhere, the search goes on to the same end."""
    if SCHEDULERS[name].previewing and burn_in == "own":
        with pytest.raises(UsageError, match=f"--scheduler {name} forks from the stem; --burn-in own has none"):
            spec_of(scheduler=name, burn_in=burn_in)
        return
    spec = spec_of(scheduler=name, burn_in=burn_in, trials=12, sampler="tpe")
    whole = History(tmp_path / "whole")
    drive(AskTell(spec, whole, whole.folder), whole, spec)
    assert state_of(run_of(spec, whole)) == "finished" and trials_ended(spec, whole)
    assert whole.trials[0].state == TrialState.FINISHED and whole.trials[0].preview is None
    for record in list(whole.trials.values())[1:]:
        assert record.full == (record.state == TrialState.FINISHED)
        assert (record.preview is not None) == spec.scheduling.previewing
        assert record.state == (TrialState.FINISHED if len(record.epochs) == 12 else TrialState.PREVIEWED)
    full = sum(t.full for t in whole.trials.values())
    assert 1 + 3 <= full <= 1 + 5 if spec.scheduling.previewing else full == 12
    lines = whole.path.read_text().splitlines()
    for kill in range(3, len(lines), 1 + len(lines) // 7):
        folder = tmp_path / str(kill)
        history = History(folder)
        drive(AskTell(spec, history, folder), history, spec, until=kill)
        assert [unclocked(a) for a in history.path.read_text().splitlines()] == [unclocked(a) for a in lines[:kill]]
        again = History(folder)
        drive(AskTell(spec, again, folder), again, spec)
        seen = [
            [(t.trial, t.params, t.state, t.full, t.epochs, t.preview and t.preview.metrics) for t in h.trials.values()]
            for h in (again, whole)
        ]
        assert seen[0] == seen[1], kill


def unclocked(line):
    return {key: value for key, value in json.loads(line).items() if key != "time"}


def test_a_scheduler_that_nobody_named_is_the_one_that_saves():
    assert [spec_of(trials=n).scheduling.name for n in (4, 5)] == ["none", "preview"]
    assert [spec_of(max_epochs=n).scheduling.name for n in (3, 4)] == ["none", "preview"]
    assert spec_of(burn_in="own").scheduling.name == "none" and spec_of(method="at").scheduling.name == "none"
    why = "scheduler none: previews need 4 settings beside the default, 4 epochs and a stem; every trial trains in full"
    assert spec_of(trials=4).scheduling.describe() == why
    # trainings of 12 epochs: after their forks 12 of TRADES, 12 - (2 + 11) / 2 = 5.5 of SRAT; previews have two
    assert 12 >= 2 * (2 + 12 / 4) and 5.5 < 2 * (2 + 5.5 / 4) and 8.75 >= 2 * (2 + 8.75 / 4)
    methods = ("trades", "srat", ("trades", "srat"), ("dafa", "srat"))
    assert [spec_of(method=m).scheduling.name for m in methods] == ["preview", "none", "preview", "none"]
    why = ": from their forks on, trainings are too short for previews to halve what is trained"
    assert spec_of(method="srat").scheduling.describe() == f"scheduler none{why}; every trial trains in full"
    assert spec_of(method="srat", fix={"start": 0.2}).scheduling.name == "preview", "10 epochs each"
    assert spec_of(scheduler="none").scheduling.describe() == "scheduler none; every trial trains in full"
    assert Preview(12, 15).describe() == (
        "scheduler preview: 15 previews, of which the best 1/4 (4, or more if better ones come late) train in full"
    )
    with pytest.raises(UsageError, match="--scheduler preview needs --max-epochs of at least 4, but it is 3"):
        spec_of(scheduler="preview", max_epochs=3)


# ---- states ----------------------------------------------------------------------------------------------------------


def test_a_trial_goes_from_its_preview_to_the_end_or_stays_there(tmp_path):
    history = History(tmp_path)
    history.append("start", 1, params={"beta": 2.0}, method="trades", preview=True)
    record = history.trials[1]
    assert (record.state, record.full, record.points) == (TrialState.RUNNING, False, [(record.points[0][0], {})])
    history.append("preview", 1, epochs=2, metrics={"epoch": 10, "robust_acc": 0.4}, curve=swept((60, 20), (50, 30)))
    assert (record.state, record.full) == (TrialState.PREVIEWED, False) and record.state.ended
    assert [metrics["worst_class_robust_acc"] for _, metrics in record.points] == [0.2, 0.3]
    assert record.epochs == [] and record.trained == 2 and record.preview.ended == record.ended > 0
    assert history.rows(("natural_robust_acc", "worst_class_robust_acc")) == [], "a preview is on no front"
    history.append("promote", 1)
    assert (record.state, record.full, record.points[0][1]) == (TrialState.RUNNING, True, {})
    assert len(record.preview_points) == 2, "what it was promoted for stays known"
    history.append("resume", 1)
    history.append("epoch", 1, metrics={"epoch": 1, "robust_acc": 0.1})
    history.append("end", 1, state=TrialState.FINISHED)
    assert (record.state, record.full, record.trained) == (TrialState.FINISHED, True, 3)
    assert [metrics["robust_acc"] for _, metrics in record.points] == [0.1]
    assert History(tmp_path).trials[1] == record


def test_the_page_of_a_search_counts_previews_apart():
    spec, history = spec_of(trials=6), History(None)
    history.append("start", 0, params=spec.search_space().default(), method="trades")
    history.append("epoch", 0, metrics={"epoch": 12, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.1})
    history.append("end", 0, state=TrialState.FINISHED)
    for number in range(1, 5):
        previewed(history, number, LEVELS[number], 0.5)
    previewed(history, 5)
    assert front_json(run_of(spec, history))["trials"] == {"finished": 1, "previewed": 4, "stopped": 0, "failed": 1}
    assert not trials_ended(spec, history) and state_of(run_of(spec, history)) == "stopped"
    # five are in, so two train: trials 1 to 4 have the levels 0.6, 0.2, 0.7, 0.3
    assert handed(spec, history) == [3, 1] and not trials_ended(spec, history)
    history.append("end", 3, state=TrialState.STOPPED)
    history.append("end", 1, state=TrialState.FAILED)
    assert front_json(run_of(spec, history))["trials"] == {"finished": 1, "previewed": 2, "stopped": 1, "failed": 2}
    assert trials_ended(spec, history) and state_of(run_of(spec, history)) == "finished"


# ---- the history decides ---------------------------------------------------------------------------------------------


def test_at_every_line_the_file_says_what_the_search_decided(tmp_path):
    """Of the file's first n lines another process makes the same decision as the one that wrote them."""
    spec, history = spec_of(trials=14, sampler="random", method=("trades", "mail")), History(tmp_path / "live")
    optimizer, decided, append = AskTell(spec, history, history.folder), [None], history.append

    def noted(*args, **fields):
        append(*args, **fields)
        assert optimizer.promotable == asked(spec, history)
        decided.append(optimizer.promotable)

    history.append = noted
    drive(optimizer, history, spec)
    lines = history.path.read_text().splitlines(keepends=True)
    assert len({n for n in decided if n is not None}) >= 3 and len(decided) == len(lines) + 1
    for count, number in enumerate(decided):
        (tmp_path / "history.jsonl").write_text("".join(lines[:count]))
        assert asked(spec, History(tmp_path)) == number, lines[count - 1]


STAGES = {
    "start 0": (0, True),  # events so far, and what a resume hands out: trial, whether it trains in full
    "epoch 0": (0, True),
    "end 0": (1, False),
    "start 1": (1, False),
    "preview 1": (2, False),
    "start 2": (2, False),
    "preview 2": (2, True),  # the better one of two
    "promote 2": (2, True),
    "epoch 2": (2, True),
    "end 2": (3, False),
    "start 3": (3, False),
    "preview 3": (4, False),
    "start 4": (4, False),
    "preview 4": None,  # one of four is in full already
}


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_resume_hands_out(tmp_path, stage):
    """A search of four previews, of which one trains in full once two are in; it dies right after each of its lines."""
    spec, history = spec_of(trials=5, sampler="random"), History(tmp_path)
    optimizer = AskTell(spec, history, tmp_path)
    levels = {0: 0.5, 1: 0.3, 2: 0.4, 3: 0.2, 4: 0.1}
    for step in STAGES:
        event, number = step.split()[0], int(step.split()[1])
        metrics = metrics_at(12, levels[number])
        if event in ("start", "promote"):
            record = optimizer.next()
            assert (record.trial, record.full) == (number, number == 0)
        more = {
            "start": lambda: {"params": record.params, "method": "trades", **({"preview": True} if number else {})},
            "preview": lambda: {"epochs": 2, "metrics": metrics},
            "epoch": lambda: {"metrics": metrics},
            "end": lambda: {"state": TrialState.FINISHED},
            "promote": dict,
        }[event]()
        history.append(event, number, **more)
        if event in ("preview", "end"):
            optimizer.tell(number)
        if step == stage:
            break
    again = History(tmp_path)
    resumed = AskTell(spec, again, tmp_path)
    found = resumed.next()
    if STAGES[stage] is None:
        assert found is None and resumed.exhausted and trials_ended(spec, again)
        return
    number, full = STAGES[stage]
    promoted = stage == "preview 2"  # the history does not say so yet
    assert (found.trial, found.full) == (number, full and not promoted)
    if number in again.trials:
        assert found is again.trials[number]
        assert found.state == (TrialState.PREVIEWED if promoted else TrialState.RUNNING)
    history = again if promoted else None
    if history:
        history.append("promote", number)
        assert resumed.next().trial == 3


def test_references_and_promotions_come_before_proposals():
    spec, history = spec_of(trials=5, sampler="random"), History(None)
    optimizer = AskTell(spec, history, references=references(spec))
    order = []
    while (record := optimizer.next()) is not None:
        order.append((record.trial, record.full or record.state == TrialState.PREVIEWED))
        if record.trial in history:
            history.append("promote", record.trial)
        else:
            more = {"role": record.role} if record.role else {} if record.full else {"preview": True}
            history.append("start", record.trial, params=record.params, method=record.method, **more)
        if record.full:
            history.append("end", record.trial, state=TrialState.FINISHED)
        else:
            history.append("preview", record.trial, epochs=2, metrics=metrics_at(10, 0.5))
            optimizer.tell(record.trial)
    assert order[:3] == [(0, True), (NO_SEARCH, True), (1, False)]


@pytest.mark.parametrize("seed", range(6))
def test_with_several_workers_and_kills_nothing_is_lost_or_done_twice(tmp_path, seed):
    """Three workers that end in any order, and a driver that dies now and then."""
    spec, draw = spec_of(trials=20, sampler="random", method=("trades", "wat")), np.random.default_rng(seed)
    history, running, kills, ended = History(tmp_path), {}, 0, []
    optimizer = AskTell(spec, history, tmp_path, references=references(spec))
    while True:
        while len(running) < 3 and (record := optimizer.next()) is not None:
            number = record.trial
            assert number not in running
            if number not in history:
                more = {"role": record.role} if record.role else {} if record.full else {"preview": True}
                history.append("start", number, params=record.params, method=record.method, **more)
            elif record.state == TrialState.PREVIEWED:
                history.append("promote", number)
            running[number] = history.record(number)
        if not running:
            break
        number = sorted(running)[draw.integers(len(running))]
        record = running.pop(number)
        fails = draw.random() < 0.2
        if record.full or fails:
            history.append("end", number, state=TrialState.FAILED if fails else TrialState.FINISHED)
        else:
            history.append("preview", number, epochs=2, metrics=metrics_at(10, 0.9 * draw.random()))
        ended.append((number, record.full))
        optimizer.tell(number)
        assert optimizer.promotable == asked(spec, history)
        if draw.random() < 0.3 and kills < 5:
            kills += 1
            history, running = History(tmp_path), {}
            optimizer = AskTell(spec, history, tmp_path, references=references(spec))
    assert len(ended) == len(set(ended)), "nothing ends twice"
    assert (
        trials_ended(spec, history) and sorted(history.trials) == list(range(20)) and list(history.references) == [-1]
    )
    previews = [t for t in history.trials.values() if t.trial > 1]
    assert len(previews) == 18 and 5 <= sum(t.full for t in previews) <= 10, "ceil(18/4), or more"
    assert all(t.state.ended for t in history.everything()) and kills


# ---- dead trials -----------------------------------------------------------------------------------------------------


def epoch_of(number, clean):
    """Four classes: chance is 0.25, and up to 1.05 times that counts as it."""
    return {"epoch": number, "clean_acc": clean, **{f"clean_acc/{c}": clean for c in "abcd"}}


def training(history, number, *clean, forked=0, **more):
    """A trial whose epochs so far had these clean accuracies, after ``forked`` of the stem, at chance too."""
    history.append("start", number, params={"beta": 2.0}, method="trades", **more)
    if forked:
        history.append("fork", number, epochs=[{**epoch_of(e, 0.25), "stem": True} for e in range(1, forked + 1)])
    for epoch, value in enumerate(clean, forked + 1):
        history.append("epoch", number, metrics=epoch_of(epoch, value))


@pytest.mark.parametrize(
    "max_epochs, clean, dead",
    [
        (12, (0.25,), False),  # two epochs at least
        (12, (0.25, 0.25), True),  # ceil(0.15 x 12) = 2
        (12, (0.2625, 0.26), True),  # 1.05 x 0.25 still counts as chance
        (12, (0.25, 0.263), False),
        (12, (0.3, 0.25), False),  # the one before was better
        (12, (0.3, 0.25, 0.25), True),
        (12, (0.25, 0.25, 0.3), False),
        (30, (0.25,) * 4, False),  # ceil(0.15 x 30) = 5
        (30, (0.25,) * 5, True),
        (40, (0.25,) * 5, False),  # ceil(0.15 x 40) = 6
        (40, (0.25,) * 6, True),
        (100, (0.25,) * 14, False),
        (100, (0.25,) * 15, True),
    ],
)
@pytest.mark.parametrize("forked", [0, 3])
def test_a_trial_that_stays_at_chance_is_dead(max_epochs, clean, dead, forked):
    """``clean``: of its own epochs; those of the stem do not count."""
    spec, history = spec_of(max_epochs=max_epochs, scheduler="none"), History(None)
    training(history, 0, 0.9)
    training(history, 1, *clean, forked=forked)
    assert AskTell(spec, history).dead(1, history.trials[1].last) == dead
    history.trials[1].epochs.pop()  # Ray's scheduler is asked before the history has the epoch
    assert AskTell(spec, history).dead(1, epoch_of(forked + len(clean), clean[-1])) == dead


def test_references_replicates_default_settings_and_previews_are_never_dead():
    spec, history = spec_of(method=("trades", "mail"), seeds=2), History(None)
    chance = (0.25,) * 6
    training(history, 0, *chance)
    history.append("start", 1, params={}, method="mail")
    for epoch in range(1, 7):
        history.append("epoch", 1, metrics=epoch_of(epoch, 0.25))
    training(history, NO_SEARCH, *chance, role="no_search")
    training(history, 2, *chance)
    training(history, 3, *chance, preview=True)
    training(history, 4, *chance, of=2, seed=1)
    optimizer = AskTell(spec, history)
    found = {t.trial: optimizer.dead(t.trial, t.last) for t in history.everything()}
    assert found == {0: False, 1: False, NO_SEARCH: False, 2: True, 3: False, 4: False}


def test_a_default_setting_is_not_dead_under_its_second_seed_either():
    spec, history = spec_of(fix={"beta": 2.0}, stems=2, scheduler="none"), History(None)
    training(history, 0, 0.25, 0.25)
    training(history, 1, 0.25, 0.25, seed=1)
    assert history.trials[1].params == {"beta": 2.0}
    assert not AskTell(spec, history).dead(1, history.trials[1].last)


def test_without_rates_of_classes_nothing_is_at_chance():
    spec, history = spec_of(scheduler="none"), History(None)
    training(history, 0)
    history.append("start", 1, params={"beta": 2.0}, method="trades")
    for epoch in range(1, 4):
        history.append("epoch", 1, metrics={"epoch": epoch, "clean_acc": 0.1})
    assert not AskTell(spec, history).dead(1, history.trials[1].last)


def test_a_curve_is_that_of_the_preview():
    """Also once the trial has trained in full."""
    spec, history = spec_of(), History(None)
    previewed(history, 1, 0.5, 0.4)
    record = history.trials[1]
    assert curve_of(record, spec.goal) == [(0.5, 0.4)]
    history.append("promote", 1)
    history.append("epoch", 1, metrics={"epoch": 12, "natural_robust_acc": 0.6, "worst_class_robust_acc": 0.3})
    history.append("end", 1, state=TrialState.FINISHED)
    assert curve_of(record, spec.goal) == [(0.5, 0.4)]
    bound = type(spec.goal)(spec.objectives, parse_constraints(("worst_class_robust_acc>=0.45",)))
    assert curve_of(record, bound) == [] and curve_of(record, spec.goal) == [(0.5, 0.4)]
