"""The front that a search can show before enough of its trials have finished."""

import pytest

from tests.histories import curve, run_of
from tests.test_wrong_input import run
from tuner.home import Home
from tuner.results.history import History
from tuner.results.provisional import provisional
from tuner.results.summary import front_json
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

OBJECTIVES = ("natural_robust_acc", "worst_class_robust_acc")
CURVES = [
    [(0.30, 0.10), (0.40, 0.20), (0.50, 0.25)],  # what trials 0 to 4 reached, epoch by epoch
    [(0.31, 0.09), (0.42, 0.10), (0.52, 0.20)],
    [(0.20, 0.05), (0.38, 0.18)],
    [(0.25, 0.10), (0.35, 0.22)],
    [(0.90, 0.90)],
]


def searched(folder=None, curves=CURVES, **ends):
    history = History(folder)
    for number, points in enumerate(curves):
        history.append("start", number, params={"beta": 1.0 + number}, method="trades", seed=0)
        for epoch, point in enumerate(points, 1):
            history.append("epoch", number, metrics={"epoch": epoch, **dict(zip(OBJECTIVES, point)), "clean_acc": 0.8})
    for number, state in ends.items():
        history.append("end", int(number.removeprefix("t")), state=state)
    return history


def test_trials_under_way_are_compared_at_the_latest_epoch_that_four_have_reached():
    epoch, front = provisional(searched(), OBJECTIVES)
    assert epoch == 2  # at the last epochs 0.50/0.25 would win, and trial 4 has one epoch
    assert [(r["trial"], r["epoch"], r["natural_robust_acc"], r["worst_class_robust_acc"]) for r in front.rows] == [
        (1, 2, 0.42, 0.10),
        (0, 2, 0.40, 0.20),
        (3, 2, 0.35, 0.22),
    ]
    assert front.hypervolume == pytest.approx(0.35 * 0.22 + 0.05 * 0.20 + 0.02 * 0.10)


def test_who_was_stopped_counts_and_who_failed_does_not():
    assert provisional(searched(t2=TrialState.STOPPED), OBJECTIVES)[0] == 2
    assert provisional(searched(t2=TrialState.FAILED), OBJECTIVES)[0] == 1


def test_what_the_trunk_had_says_nothing_about_a_trial():
    history = searched(curves=[*CURVES[:4], [(0.28, 0.08)]])
    history.record(0).trunk_epochs = history.record(2).trunk_epochs = 2
    epoch, front = provisional(history, OBJECTIVES)  # own epochs: up to 3, 3, none, 2 and 1
    assert epoch == 1 and [r["trial"] for r in front.rows] == [1, 3]  # by the trunk's epoch 0 would be there
    history.record(1).trunk_epochs = 3
    assert provisional(history, OBJECTIVES) is None  # three trials are too few


def test_it_makes_way_for_four_finished_trials_and_for_a_better_front_of_fewer():
    worse = [c + [(0.1, 0.1)] for c in CURVES]
    assert (
        provisional(
            searched(
                curves=worse,
                t0=TrialState.FINISHED,
                t1=TrialState.FINISHED,
                t2=TrialState.FINISHED,
                t3=TrialState.FINISHED,
            ),
            OBJECTIVES,
        )
        is None
    )
    assert (
        provisional(
            searched(curves=worse, t0=TrialState.FINISHED, t1=TrialState.FINISHED, t2=TrialState.FINISHED), OBJECTIVES
        )
        is not None
    )
    assert (
        provisional(searched(t0=TrialState.FINISHED, t1=TrialState.FINISHED), OBJECTIVES) is None
    )  # 0.135 against 0.089
    low = [[*CURVES[0][:2], (0.30, 0.20)], *CURVES[1:]]
    assert provisional(searched(curves=low, t0=TrialState.FINISHED), OBJECTIVES)[0] == 2
    assert (
        provisional(
            searched(curves=low, t0=TrialState.FINISHED, **{f"t{n}": TrialState.STOPPED for n in range(1, 5)}),
            OBJECTIVES,
        )
        is None
    )


def test_a_trial_is_one_however_many_offsets_it_has():
    """Trials 0 and 1 have finished, with three points each, of at most 0.12 and 0.07 (see `curve`)."""
    history = searched(curves=[c + [(0.1, 0.1)] for c in CURVES])
    for trial in (0, 1):
        history.append("curve", trial, curve=curve(0.12, 0.05))
        history.append("end", trial, state=TrialState.FINISHED)
    assert len(history.rows(OBJECTIVES)) == 6
    epoch, front = provisional(history, OBJECTIVES)
    assert epoch == 3 and [r["trial"] for r in front.rows] == [1, 0]


def test_a_front_without_hypervolume_is_better_than_none():
    history = searched(curves=[[(0.1 * n, 0.0)] for n in range(5)])
    assert [r["trial"] for r in provisional(history, OBJECTIVES)[1].rows] == [4]
    history.append("end", 0, state=TrialState.FINISHED)
    assert provisional(history, OBJECTIVES) is None


def test_constraints_hold_at_that_epoch():
    spec = SearchSpec(method="trades", constraint=("worst_class_robust_acc>=0.15",))
    _, front = provisional(searched(), OBJECTIVES, spec.goal)
    assert [r["trial"] for r in front.rows] == [0, 3]
    nobody = SearchSpec(method="trades", constraint=("worst_class_robust_acc>=0.95",))
    assert provisional(searched(), OBJECTIVES, nobody.goal) is None


def test_tuner_front_shows_it_beside_the_empty_front(tmp_path, capsys, monkeypatch):
    spec = SearchSpec(method="trades", trials=8, max_epochs=12)
    folder = Home(tmp_path).search("early")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = searched(folder)
    found = front_json(run_of(spec, history))
    assert found["front"] == [] and found["provisional"]["epoch"] == 2
    assert [row["trial"] for row in found["provisional"]["front"]] == [1, 0, 3]
    code, out, _ = run(capsys, monkeypatch, "front", "early", "--home", tmp_path)
    assert code == 0 and "The front is empty: no trial has finished its full budget." in out
    assert "Provisional front at epoch 2 of 12 on val" in out and "0.420" in out
