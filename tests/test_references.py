"""A trial is a curve, and what a search is compared with: rows, replicates, order of trials, what may be claimed."""

import math
import random
from dataclasses import replace

import pytest

from tests.histories import run_of
from trainables.offsets import prior
from tuner.optimizer.ask_tell import AskTell
from tuner.report.gain import gains
from tuner.report.reference import front_in, references_of
from tuner.results import assessment
from tuner.results.assessment import assess, flat, nearest
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.results.references import no_search_rows, paper_rows, paper_trial, references, role_of
from tuner.results.replicates import trials_ended, wanted
from tuner.results.summary import front_json, state_of
from tuner.results.trial_record import NO_SEARCH, WHOLE
from tuner.spec.search_spec import SearchSpec

CLASSES, TRAIN, N = ["a", "b"], [30, 3], 400
OBJECTIVES = ("natural_robust_acc", "worst_class_robust_acc")


def curve(*points):
    """(tau, robust images of a, of b) of 400 each; everything is classified right without an attack."""
    return {
        "classes": CLASSES,
        "train_counts": TRAIN,
        "points": [
            {
                "offsets": prior(TRAIN, tau).to_dict() if tau else {"kind": "none", "tau": 0.0, "values": []},
                "count": [N, N],
                "clean": [N, N],
                "robust": [a, b],
            }
            for tau, a, b in points
        ],
    }


def finish(history, trial, *points, params=None, method="wat", **more):
    history.append("start", trial, params=params or {}, method=method, **more)
    history.append("epoch", trial, metrics={"epoch": 1, "robust_acc": 0.9, "clean_acc": 0.9, "train_loss": 1.5})
    if points:
        history.append("curve", trial, curve=curve(*points))
    history.append("end", trial, state="finished")


def no_search(history, *points):
    finish(history, NO_SEARCH, *points, method="at", role="no_search")


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_a_trial_is_a_row_for_each_of_its_offsets(tmp_path):
    finish(History(tmp_path), 0, (0, 300, 40), (1.0, 260, 200))
    rows = History(tmp_path).rows(OBJECTIVES)  # read again from the file
    assert [row_label(row) for row in rows] == ["0", "0@1"]
    assert rows[0]["natural_robust_acc"] == pytest.approx((30 * 300 + 3 * 40) / 33 / N)
    assert rows[1]["worst_class_robust_acc"] == pytest.approx(200 / N)
    assert rows[1]["offsets"] == {"kind": "prior", "tau": 1.0, "values": pytest.approx([0.0, 2.302585092994046])}
    assert rows[1]["robust_acc"] == pytest.approx(460 / 2 / N) and rows[1]["epoch"] == 1
    assert [row_label(r) for r in Front.of(rows, OBJECTIVES).rows] == ["0", "0@1"]


def test_a_trial_of_an_earlier_version_is_one_row_as_its_last_epoch_says():
    history = History(None)
    finish(history, 0)
    (row,) = history.rows(("robust_acc",))
    assert row["robust_acc"] == 0.9 and row["offsets"] == {"kind": "none", "tau": 0.0, "values": []}
    assert assess(SearchSpec(method="wat", objectives=("robust_acc", "clean_acc")), history) is None


def test_constraints_hold_for_each_point():
    history, spec = History(None), SearchSpec(method="wat", constraint=("worst_class_robust_acc>=0.3",))
    finish(history, 0, (0, 300, 40), (1.0, 260, 200))
    assert [row_label(row) for row in history.rows(OBJECTIVES, spec.goal)] == ["0@1"]


def test_a_trial_is_infeasible_where_it_is_with_all_its_offsets():
    spec, history = SearchSpec(method="wat", trials=3, constraint=("worst_class_robust_acc>=0.3",)), History(None)
    default = spec.search_space().default()
    finish(history, 0, (0, 300, 40), (1.0, 260, 200), params=default)
    finish(history, 1, (0, 300, 40), (1.0, 290, 110), params={**default, "beta": 1.5})
    result = front_json(run_of(spec, history))
    assert [row_label(row) for row in result["front"]] == ["0@1"] and result["infeasible"] == [1]
    assert row_label(result["paper"]) == "0" and result["paper"]["feasible"] is False


def test_a_reference_counts_with_the_offsets_that_satisfy_the_constraints():
    """Class a has 30, b 3 training images: natural averages of no search 0.693 and 0.636, of the trials 0.636, 0.65."""
    spec, history = SearchSpec(method="wat", trials=3, constraint=("worst_class_robust_acc>=0.3",)), History(None)
    default = spec.search_space().default()
    finish(history, 0, (0, 300, 40), (1.0, 260, 200), params=default)
    no_search(history, (0, 300, 50), (1.0, 260, 200))
    result = front_json(run_of(spec, history))
    assert [row["feasible"] for row in result["no_search"]] == [False, True]
    equal = result["gain"]["over_no_search"]
    assert equal["last"]["of"] == "no_search@1" and equal["hypervolume"]["value"] == pytest.approx(0, abs=0.02)
    reference, paper = references_of(result)
    assert row_label(reference.best(OBJECTIVES)) == "no_search@1" and row_label(paper.best(OBJECTIVES)) == "0@1"
    strict = SearchSpec(method="wat", trials=3, constraint=("worst_class_robust_acc>=0.55",))
    finish(history, 1, (0, 260, 230), params={**default, "beta": 1.5})
    result = front_json(run_of(strict, history))
    assert result["gain"] == {} and [row_label(row) for row in result["front"]] == ["1"]
    first, second = gains(front_in(result, OBJECTIVES), references_of(result)).splitlines()
    why = "it violates the constraints with all its offsets."
    assert first == f"Nothing is compared with no search (plain AT with offsets): {why}"
    assert second.startswith("Nothing is compared with the ") and second.endswith(f", trial 0: {why}")


@pytest.mark.parametrize("methods", [["at", "wat"], ["wat", "at"]])
def test_the_default_setting_is_that_of_a_method_whose_training_is_not_plain(methods):
    """Whichever is named first: plain AT is no search already, and there are two references."""
    spec, history = SearchSpec(method=methods, trials=4), History(None)
    for trial, method in enumerate(methods):
        params = spec.of(method).search_space().default()
        finish(history, trial, (0, 300, 100 + 50 * trial), params=params, method=method)
    result = front_json(run_of(spec, history))
    plain, default = references_of(result)
    assert (plain.role, plain.plain["method"], default.role, default.plain["method"]) == (
        "no_search",
        "at",
        "paper",
        "wat",
    )
    assert set(result["gain"]) == {"over_no_search", "over_paper"}
    alone = SearchSpec(method="at", trials=1)
    history = History(None)
    finish(history, 0, (0, 300, 100), method="at")
    assert paper_trial(alone, history) == 0


def test_means_over_seeds_are_of_the_same_offsets():
    history = History(None)
    finish(history, 0, (0, 300, 40), (1.0, 260, 200))
    finish(history, 1, (0, 100, 80), (1.0, 300, 100), of=0, seed=1)
    plain, shifted = history.rows(OBJECTIVES)
    assert plain["worst_class_robust_acc"] == pytest.approx(60 / N) and plain["seeds"] == [0, 1]
    assert shifted["worst_class_robust_acc"] == pytest.approx(150 / N)
    assert shifted["std"]["worst_class_robust_acc"] == pytest.approx(100 / N / 2**0.5)


def test_a_seed_for_which_no_offsets_helped_counts_with_any():
    """Offsets of single classes are fitted to each model. Where they are all 0 its curve is the model as it is, and the
    rows of the other seeds were lost; where another kind was not judged so, nothing can be said."""
    history = History(None)
    finish(history, 0, (0, 300, 40), (1.0, 260, 200))
    finish(history, 1, (0, 100, 80), of=0, seed=1)
    _, shifted = history.rows(OBJECTIVES)
    assert shifted["worst_class_robust_acc"] == pytest.approx((200 + 80) / 2 / N) == 140 / N
    assert shifted["std"]["worst_class_robust_acc"] == pytest.approx(120 / N / 2**0.5)
    assert [(p.position, p.robust) for p in assessment._judged(history, 0, None)] == [(0, [200, 60]), (1.0, [180, 140])]
    finish(history, 2, (0, 100, 80), (0.5, 100, 80), of=0, seed=2)
    assert [row["offsets"]["tau"] for row in history.rows(OBJECTIVES)] == [0]


def test_pick_names_a_row():
    history = History(None)
    finish(history, 4, (0, 300, 40), (0.5, 280, 150), (1.0, 260, 200))
    finish(history, 5, (0, 320, 20))
    front = Front.of(history.rows(OBJECTIVES), OBJECTIVES)
    assert row_label(front.pick("4@0.5")) == "4@0.5" and row_label(front.pick(4)) == "4"
    assert row_label(front.pick("5")) == "5" and row_label(front.pick("worst")) == "4@1"
    with pytest.raises(
        ValueError, match="'4@2' is not on the front; choose knee, worst, average or one of: 5, 4, 4@0.5"
    ):
        front.pick("4@2")
    only = Front(OBJECTIVES, tuple(row for row in front.rows if row["trial"] == 4 and row["offsets"]["tau"]))
    with pytest.raises(ValueError, match="trial '4' is on the front 2 times; choose knee, worst, average or one of"):
        only.pick("4")


def test_rows_are_picked_by_shrunk_values_where_they_are_known():
    lucky = {"trial": 0, "a": 0.5, "b": 0.9, "shrunk": {"a": 0.5, "b": 0.4}}
    sound = {"trial": 1, "a": 0.6, "b": 0.7, "shrunk": {"a": 0.6, "b": 0.6}}
    assert Front(("a", "b"), (sound, lucky)).pick("worst") is sound
    plain = ({k: v for k, v in row.items() if k != "shrunk"} for row in (sound, lucky))
    assert Front(("a", "b"), tuple(plain)).pick("worst")["trial"] == 0


# ---- the reference ---------------------------------------------------------------------------------------------------


def test_the_reference_follows_the_first_trial_and_is_no_trial():
    spec, history = SearchSpec(method="srat", trials=3), History(None)
    ask = AskTell(spec, history, references=references(spec))
    handed = []
    while (record := ask.next()) is not None:
        handed.append(record.trial)
        role = {"role": record.role} if record.role else {}
        history.append("start", record.trial, params=record.params, method=record.method, seed=record.seed, **role)
    assert handed == [0, NO_SEARCH, 1, 2]
    assert sorted(history.trials) == [0, 1, 2] and list(history.references) == [NO_SEARCH]
    assert history.record(NO_SEARCH).label == "no search" and history.record(NO_SEARCH).method == "at"
    ended = {"epoch": 12, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.2}
    history.append("epoch", NO_SEARCH, metrics=ended)
    history.append("end", NO_SEARCH, state="finished")
    ask.tell(NO_SEARCH)
    known = ask.methods["srat"].known
    known.update(ask.methods["srat"].history.trials)
    assert known.worth(history.record(NO_SEARCH)) and not known.values, "no model learns from it"


def test_an_interrupted_reference_goes_on_and_a_finished_one_is_not_trained_again():
    spec, history = SearchSpec(method="srat", trials=1), History(None)
    history.append("start", 0, params=spec.search_space().default(), method="srat")
    history.append("start", NO_SEARCH, params={}, method="at", role="no_search")
    history.append("end", 0, state="finished")
    assert AskTell(spec, history, references=references(spec)).next().trial == NO_SEARCH
    assert not trials_ended(spec, history)
    history.append("end", NO_SEARCH, state="finished")
    assert AskTell(spec, history, references=references(spec)).next() is None and trials_ended(spec, history)


def test_plain_at_is_its_own_reference():
    spec, history = SearchSpec(method=("wat", "at"), trials=2), History(None)
    assert references(spec) == []
    finish(history, 0, (0, 300, 40))
    assert no_search_rows(spec, history) == []
    finish(history, 1, (0, 310, 30), (1.0, 280, 100), method="at")
    assert [row_label(row) for row in no_search_rows(spec, history)] == ["1", "1@1"]


def test_references_get_all_seeds():
    spec, history = SearchSpec(method="wat", trials=1, seeds=2), History(None)
    finish(history, 0, (0, 300, 40), params=spec.search_space().default())
    no_search(history, (0, 310, 30))
    assert wanted(spec, history) == [(NO_SEARCH, 1), (0, 1)]


# ---- what may be said ------------------------------------------------------------------------------------------------


def assessed(*trials, reference):
    spec, history = SearchSpec(method="wat", trials=8), History(None)
    space = spec.search_space()
    for number, points in enumerate(trials):
        params = space.default() if number == 0 else {**space.default(), "beta": 1.0 + number / 10}
        finish(history, number, *points, params=params)
    no_search(history, *reference)
    assert paper_rows(spec, history)[0]["trial"] == 0
    return assess(spec, history)


def test_a_search_that_only_equals_no_search_does_not_claim_a_gain():
    same = [(0, 300, 100), (1.0, 260, 200)]
    found = assessed(same, same, same, reference=same)
    for gain in found.gain.values():
        assert gain["hypervolume"]["verdict"] == "not distinguishable"
        assert gain["last"] is None or gain["last"]["verdict"] == "not distinguishable"
    assert set(found.gain) == {"no_search", "paper"} and found.images == 2 * N


def test_a_large_gain_is_told_with_its_rows():
    better = [(0, 340, 200), (1.0, 320, 300)]
    found = assessed([(0, 300, 40)], better, better, reference=[(0, 300, 40), (1.0, 280, 60)])
    gain = found.gain["no_search"]
    assert gain["hypervolume"]["verdict"] == "gain" and gain["hypervolume"]["ci"][0] > 0
    assert (
        gain["last"]["verdict"] == "gain"
        and gain["last"]["of"] == "no_search@1"
        and gain["last"]["by"] in ("1@1", "2@1")
    )


def test_every_row_of_the_front_has_interval_probability_and_shrunk_value():
    found = assessed([(0, 300, 40), (1.0, 260, 200)], [(0, 310, 60)], reference=[(0, 300, 40)])
    for row in found.front.rows:
        assert 0 <= row["p_front"] <= 1
        for name in OBJECTIVES:
            low, high = row["ci"][name]
            assert low <= row["shrunk"][name] <= high and high - low < 0.3
    assert found.hypervolume["ci"][0] <= found.hypervolume["claimed"] <= found.hypervolume["ci"][1]
    assert len(found.band["x"]) == len(found.band["lower"]) == len(found.band["upper"])


def test_a_track_counts_as_one_image():
    """With four frames a track, what may be said is what a quarter of the images would say, less than all would."""

    def of(frames, tracks=None):
        spec, history = SearchSpec(method="wat", trials=8), History(None)
        for trial, points in enumerate([[(0, 300, 40), (1.0, 260, 200)], [(0, 320, 60)], [(0, 300, 40)]]):
            scaled = curve(*((tau, a // frames, b // frames) for tau, a, b in points))
            for point in scaled["points"]:
                point["count"] = point["clean"] = [N // frames] * 2
                point |= {"tracks": tracks} if tracks else {}
            number, role = (NO_SEARCH, {"role": "no_search"}) if trial == 2 else (trial, {})
            history.append("start", number, params={}, method="wat", **role)
            history.append("epoch", number, metrics={"epoch": 1, "clean_acc": 0.9, "train_loss": 1.5})
            history.append("curve", number, curve=scaled)
            history.append("end", number, state="finished")
        return assess(spec, history)

    all_frames, a_quarter, by_track = of(1), of(4), of(1, [N // 4] * 2)
    name, wide = OBJECTIVES[-1], []
    for found in (all_frames, a_quarter, by_track):
        low, high = found.front.rows[0]["ci"][name]
        wide.append(high - low)
    assert wide[2] == pytest.approx(wide[1]) and wide[2] > 1.4 * wide[0]
    assert by_track.hypervolume["claimed"] == pytest.approx(a_quarter.hypervolume["claimed"])
    assert by_track.gain["no_search"]["hypervolume"]["ci"] == pytest.approx(
        a_quarter.gain["no_search"]["hypervolume"]["ci"]
    )
    assert (by_track.images, by_track.tracks) == (2 * N, N // 2) and all_frames.tracks is None


def test_of_very_many_trials_those_near_the_front_are_assessed():
    rows = [{"trial": n, "a": a, "b": b} for n, (a, b) in enumerate([(1, 9), (9, 1), (5, 5), (4, 4), (1, 1), (3, 4)])]
    rows.append({"trial": 4, "a": 2.0, "b": 8.0})  # another point of the fifth
    assert nearest(rows, ("a", "b"), 9) == [0, 1, 2, 3, 4, 5]
    assert nearest(rows, ("a", "b"), 4) == [0, 1, 2, 4]
    assert nearest(rows, ("a", "b"), 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_left_out_of_very_many_rows_is_what_no_front_reaches(seed, monkeypatch):
    """With ties, copies, missing values, and curves that cross: the same trials as where all rows are compared."""
    numbers = random.Random(seed)

    def value():
        kinds = [None, math.nan, *[numbers.random()] * 12, *[numbers.randrange(5) / 4] * 12]
        return numbers.choice(kinds if seed % 5 else kinds[:2])

    trials = [trial for trial in range(60) for _ in range(numbers.randint(1, 5))]
    rows = [{"trial": trial, "a": value(), "b": value()} for trial in trials]
    numbers.shuffle(rows)
    left = assessment._within(rows, ("a", "b"), 2)
    found = [nearest(rows, ("a", "b"), most) for most in (2, 7, 70)]
    monkeypatch.setattr(assessment, "_within", lambda rows, objectives, most: list(rows))
    assert found == [nearest(rows, ("a", "b"), most) for most in (2, 7, 70)]
    assert len(left) < len(rows) or not seed % 5


def test_an_assessment_is_computed_once_for_each_state_of_the_history():
    spec, history = SearchSpec(method="wat", trials=2), History(None)
    finish(history, 0, (0, 300, 40), params=spec.search_space().default())
    first = assess(spec, history)
    assert assess(spec, history) is first and "no_search" not in first.gain
    no_search(history, (0, 310, 30))
    assert "no_search" in assess(spec, history).gain
    assert assess(SearchSpec(method="wat", trials=2, constraint=("clean_acc>=0.1",)), history) is not first


# ---- a front that does not move --------------------------------------------------------------------------------------


def trained_in_turn(spec, *curves):
    """A history whose trials ended one after the other with these curves; the first is the default setting."""
    history = History(None)
    default = spec.search_space().default()
    for number, points in enumerate(curves):
        finish(history, number, *points, params={**default, "beta": 1.0 + number / 10} if number else default)
        history.trials[number].ended = float(number)
    return history


SAME, BETTER = [(0, 300, 100), (1.0, 260, 200)], [(0, 380, 300), (1.0, 360, 350)]


@pytest.mark.parametrize(
    "curves, expected",
    [
        ([SAME, SAME], False),  # one proposal in full, where two in a row are asked for
        ([SAME, SAME, SAME], True),
        ([SAME, BETTER, SAME], False),  # one of the latest two moved it
        ([SAME, SAME, BETTER], False),
        ([SAME, BETTER, SAME, SAME], True),
        ([BETTER, SAME], False),  # the default setting is no proposal
    ],
)
def test_a_front_is_flat_once_the_latest_trainings_have_not_moved_it(curves, expected):
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random")
    history = trained_in_turn(spec, *curves)
    assert flat(spec, history) == expected
    assert not flat(replace(spec, until_flat=None), history)
    assert (AskTell(spec, history).next() is None) == expected
    assert state_of(run_of(spec, history)) == ("finished" if expected else "stopped")


def test_default_settings_are_no_proposals():
    spec = SearchSpec(method=("wat", "trades"), trials=9, until_flat=1, scheduler="none")
    history = trained_in_turn(spec.of("wat"), SAME)
    finish(history, 1, *SAME, params=spec.of("trades").search_space().default(), method="trades")
    assert not flat(spec, history)
    finish(history, 2, *SAME, params={"beta": 2.0}, method="trades")
    assert flat(spec, history)


def test_what_had_begun_when_the_front_was_flat_is_trained_to_its_end():
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random")
    history = trained_in_turn(spec, SAME, SAME, SAME)
    history.append("start", 3, params={**spec.search_space().default(), "beta": 2.0}, method="wat")
    assert state_of(run_of(spec, history)) == "stopped"
    optimizer = AskTell(spec, history)
    assert optimizer.next() is history.trials[3] and optimizer.next() is None
    history.append("end", 3, state="failed")
    assert state_of(run_of(spec, history)) == "finished"


def test_what_a_user_adds_trains_in_full_though_the_front_is_flat():
    """Its preview was the end of it, since nothing else is promoted then."""
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="preview", sampler="random")
    history = trained_in_turn(spec, SAME, SAME, SAME)
    params = {**spec.search_space().default(), "beta": 2.0}
    history.append("add", 3, params=params, method="wat", preview=True, by="ann")
    assert AskTell(spec, history).next() is history.trials[3]
    history.append("preview", 3, epochs=2, metrics={"epoch": 10, "clean_acc": 0.9}, curve=curve(*SAME))
    assert state_of(run_of(spec, history)) == "stopped"
    assert AskTell(spec, history).next() is history.trials[3]
    history.append("promote", 3)
    finish(history, 3, *SAME)
    assert state_of(run_of(spec, history)) == "finished" and AskTell(spec, history).next() is None


def test_a_flat_front_is_repeated_under_its_seeds():
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random", seeds=2)
    history = trained_in_turn(spec, SAME, SAME, SAME)
    assert state_of(run_of(spec, history)) == "stopped", "the front has one seed yet"
    again = AskTell(spec, history).next()
    assert (again.of, again.seed, again.trial) == (0, 1, 3)


def test_replicates_do_not_take_back_that_a_front_was_flat():
    """They begin because it was; whoever reads the history anew, with their means in it, decides as before."""
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random", seeds=2)
    history = trained_in_turn(spec, SAME, SAME, SAME)
    for number, trial, values in ((3, 0, SAME), (4, 1, BETTER), (5, 2, BETTER)):
        finish(history, number, *values, params=history.trials[trial].params, seed=1, of=trial)
    assert flat(spec, history) and AskTell(spec, history).next() is None
    assert state_of(run_of(spec, history)) == "finished"


def test_after_replicates_more_trainings_in_a_row_may_be_asked_for():
    """Once there were any, a front was called flat whatever number was asked for: the search did not go on."""
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random", seeds=2)
    history = trained_in_turn(spec, SAME, SAME, SAME)
    finish(history, 3, *SAME, params=history.trials[0].params, seed=1, of=0)
    later = replace(spec, until_flat=3)
    assert flat(spec, history) and not flat(later, history)
    again = AskTell(later, history).next()
    assert again.of is None and again.trial == 4


def test_who_reads_the_history_anew_finds_the_same_front_flat():
    """A default setting is none of the latest proposals, but they are compared with it: one that ends after them."""
    spec, history = SearchSpec(method=("wat", "trades"), trials=9, until_flat=1, scheduler="none"), History(None)
    for number, points in ((0, SAME), (2, BETTER), (1, BETTER)):
        default = spec.of(spec.methods[number % 2]).search_space().default()
        params = {**default, "beta": 2.0} if number == 2 else default
        history.append("start", number, params=params, method=spec.methods[number % 2])
    for number, points in ((0, SAME), (2, BETTER)):
        finish(history, number, *points)
    assert not flat(spec, history)
    finish(history, 1, *BETTER)
    assert flat(spec, history)


def test_an_extended_search_is_flat_again_once_new_trainings_have_not_moved_it():
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", sampler="random")
    history = trained_in_turn(spec, SAME, SAME, SAME)
    assert flat(spec, history)
    history.append("extend", WHOLE, trials=12)
    assert not flat(spec, history) and AskTell(spec.changed(trials=12), history).next().trial == 3
    for number in (3, 4):
        assert not flat(spec, history)
        finish(history, number, *SAME, params={**spec.search_space().default(), "beta": number + 0.5}, method="wat")
    assert flat(spec, history)


def test_without_curves_a_front_is_never_called_flat():
    spec = SearchSpec(method="wat", trials=9, until_flat=2, scheduler="none", objectives=("robust_acc", "clean_acc"))
    assert not flat(spec, trained_in_turn(spec, [], [], []))


def test_a_default_setting_of_before_a_parameter_was_added_is_still_one():
    spec, history = SearchSpec(method="srat"), History(None)
    default = spec.search_space().default()
    assert default.pop("form") == "at"
    finish(history, 0, (0, 300, 40), params=default, method="srat")
    finish(history, 1, (0, 300, 90), params={**default, "strength": 1.5}, method="srat")
    assert paper_trial(spec, history) == 0 and role_of(spec, history, history.trials[0]) == "paper"
