"""The best validation epoch: which it is, its weights through interruptions and forks, its export."""

from dataclasses import asdict, replace

import pytest
import torch

from trainables.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.curve import Curve, CurvePoint
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.model_io import load_trial
from trainables.offsets import NONE, Offsets
from trainables.stem import key_hash, run_to_fork, stem_config, stem_key
from tuner.report.model_card import _origin, _selection_note, _weights
from tuner.report.text import notes
from tuner.results.best_epoch import parted, parted_rows, standard_error
from tuner.results.pareto import Front
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

NAMES = ("robust_acc", "worst_class_robust_acc")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    home = str(tmp_path_factory.mktemp("home"))
    return TrialConfig("srat", {"start": 0.5}, training=training, home=home, max_epochs=4, objectives=NAMES)


def epoch(number, average, worst):
    return {"epoch": number, "robust_acc": average, "worst_class_robust_acc": worst, "clean_acc": 0.9}


def record(*epochs, **more):
    fields = {"params": {}, "method": "trades", "state": TrialState.FINISHED, **more}
    return TrialRecord(0, epochs=list(epochs), **fields)


CURVE = [epoch(1, 0.9, 0.9), epoch(2, 0.5, 0.3), epoch(3, 0.45, 0.35), epoch(4, 0.6, 0.1)]


def test_best_is_the_largest_sum_and_the_first_of_equals():
    assert record(*CURVE).best(NAMES)["epoch"] == 1
    assert record(*CURVE[1:]).best(NAMES)["epoch"] == 2  # 0.8, 0.8, 0.7
    assert record(*CURVE).best(["clean_acc"])["epoch"] == 1
    assert record().best(NAMES) == {}


def test_epochs_before_the_reweighting_do_not_count():
    assert record(*CURVE, params={"start": 0.25}).best(NAMES)["epoch"] == 2
    assert record(*CURVE, params={"start": 1.0}).best(NAMES)["epoch"] == 4
    assert record(*CURVE, stem_epochs=3).best(NAMES)["epoch"] == 4


def test_row_has_the_best_epoch_beside_the_last():
    row = record(*CURVE, params={"start": 0.25}).row(NAMES)
    assert row["epoch"] == 4 and row["robust_acc"] == 0.6
    assert row["best_epoch"] == 2
    assert row["best"] == {"robust_acc": 0.5, "worst_class_robust_acc": 0.3, "clean_acc": 0.9}
    assert "best" not in record(*CURVE, state=TrialState.RUNNING).row(NAMES)


METRICS = {"robust_acc/a": 0.5, "robust_acc/b": 0.2, "robust_acc/c": 0.8, "clean_acc/a": 1.0, "clean_acc/b": 0.9}
COUNTS = {"a": 100, "b": 16, "c": 64}  # 30, 16 and 30 of which judge an epoch


def curve_of(counts, train_counts=None):
    """Only which images there are counts here."""
    point = CurvePoint(NONE, tuple(counts.values()), (), ())
    return Curve(tuple(counts), tuple(train_counts or [1] * len(counts)), (point,))


def test_standard_errors_by_hand():
    a, b, c = 0.25 / 30, 0.16 / 16, 0.16 / 30  # variances
    counts = curve_of(COUNTS, [60, 30, 10])
    natural = (0.6**2 * a + 0.3**2 * b + 0.1**2 * c) ** 0.5
    assert standard_error(METRICS, "natural_robust_acc", counts) == pytest.approx(natural)
    assert standard_error(METRICS, "robust_acc", counts) == pytest.approx((a + b + c) ** 0.5 / 3)
    assert standard_error(METRICS, "worst_class_robust_acc", counts) == pytest.approx(0.1)
    assert standard_error(METRICS, "tail_robust_acc", counts) == pytest.approx(0.1)  # 30 % of three are one
    assert standard_error(METRICS, "clean_acc", counts) == pytest.approx((0.09 / 16) ** 0.5 / 2)
    assert standard_error(METRICS, "robust_acc_gap", counts) is None
    tracks = replace(counts, points=(replace(counts.points[0], tracks=(25, 4, 16)),))  # a track counts as one image
    assert standard_error(METRICS, "worst_class_robust_acc", tracks) == pytest.approx((0.16 / 4) ** 0.5)
    assert standard_error(METRICS, "robust_acc", tracks) == pytest.approx((0.25 / 25 + 0.04 + 0.16 / 16) ** 0.5 / 3)
    assert standard_error({}, "robust_acc", counts) is None


def test_of_a_curve_on_half_of_the_images_an_epoch_is_judged_on_both_halves():
    """Offsets of single classes are fitted on the other 8 of 16 images; an epoch's worst class rests on all 16."""
    half = curve_of({"a": 50, "b": 8, "c": 32})
    fitted = replace(half.points[0], offsets=Offsets("classes", 1.0, (0.0, 0.5, 0.0)))
    halved = replace(half, points=(*half.points, fitted))
    assert standard_error(METRICS, "worst_class_robust_acc", halved) == pytest.approx((0.16 / 16) ** 0.5)
    assert standard_error(METRICS, "worst_class_robust_acc", half) == pytest.approx((0.16 / 8) ** 0.5)


def test_only_more_than_two_standard_errors_part():
    """One class of 100 images: 0.5 against p at the end; the error of the difference is 0.0698 for p = 0.36."""

    def of(last):
        values = [
            {"robust_acc/a": v, "robust_acc": v, "worst_class_robust_acc": v, "epoch": e}
            for e, v in ((1, 0.5), (2, last))
        ]
        return parted(record(*values, curve=curve_of({"a": 100})), NAMES)

    assert of(0.37) == {} and set(of(0.35)) == set(NAMES)  # 2 sigma: 0.1392 and 0.1384
    assert of(0.35)["robust_acc"] == [0.5, 0.35]


def test_a_line_says_which_rows_part():
    low, high = ({"robust_acc": v, "worst_class_robust_acc": v, "robust_acc/a": v} for v in (0.2, 0.6))
    trial = record({**high, "epoch": 1}, {**low, "epoch": 2}, curve=curve_of({"a": 100}))
    rows = parted_rows(Front.of([trial.row(NAMES)], NAMES), {0: trial})
    assert rows == [{"trial": 0, "best_epoch": 1, "objectives": {n: [0.6, 0.2] for n in NAMES}}]
    (line,) = notes({"parted": rows}, NAMES)
    assert "trial 0 at epoch 1 (class mean 0.600, at the end 0.200, " in line and "--epoch best" in line
    assert notes({}, NAMES) == []


def test_no_row_is_said_to_have_been_better_where_it_was_worse_or_cannot_be_exported():
    """The sum is larger at epoch 1, by a worst class within its noise; the average, which is surer, is far lower. And
    an epoch has no offsets: a trial that is on the front with some alone has no other epoch to take."""

    def of(number, average, worst):
        each = {f"robust_acc/{c}": (10 * average - worst) / 9 for c in range(9)} | {"robust_acc/9": worst}
        return {"epoch": number, "robust_acc": average, "worst_class_robust_acc": worst, **each}

    counts = curve_of({str(c): 30 for c in range(10)})
    worse = record(of(1, 0.4, 0.4), of(2, 0.55, 0.2), curve=counts)
    assert worse.best(NAMES)["epoch"] == 1 and set(parted(worse, NAMES)) == {"robust_acc"}
    assert parted_rows(Front.of([worse.row(NAMES)], NAMES), {0: worse}) == []
    better = record(of(1, 0.7, 0.5), of(2, 0.3, 0.2), curve=counts)
    plain, shifted = (better.row(NAMES, offsets=offsets) for offsets in (NONE, Offsets("prior", 0.5, (0.0, 1.0))))
    assert len(parted_rows(Front.of([plain, shifted], NAMES), {0: better})) == 1
    assert parted_rows(Front.of([shifted], NAMES), {0: better}) == []


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in b) and set(a) == set(b)


def forced(trainer, values):
    """Let the epochs have these averages, whatever they are; returns the weights after each."""
    weights, keep = [], trainer._keep_best

    def keep_best(metrics):
        metrics |= {"robust_acc": values[trainer.epoch - 1], "worst_class_robust_acc": 0.0}
        weights.append({k: v.clone() for k, v in trainer.final_model.state_dict().items()})
        keep(metrics)

    trainer._keep_best = keep_best
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}], ids=["plain", "ema"])
def test_weights_of_the_best_epoch_are_kept_through_an_interruption(config, tmp_path, changes):
    config = replace(config, training={**config.training, **changes})
    values = [0.9, 0.8, 0.7, 0.6]  # the first two epochs are the plain base's
    first = Trainer(config)
    weights = forced(first, values)
    past = []
    for _ in range(3):
        past.append(first.run_epoch())
        save_checkpoint(tmp_path, first, past[-1], past[:-1])
    first.run_epoch()
    assert first.best["epoch"] == 3 and same(first.best["model"], weights[2])  # later epochs do not change them
    second = Trainer(config)
    load_checkpoint(tmp_path, second)
    forced(second, values)
    save_checkpoint(tmp_path, second, second.run_epoch(), past)
    best = read_checkpoint(tmp_path)["best"]
    assert best["epoch"] == 3 and best["metrics"]["robust_acc"] == 0.7 and same(best["model"], weights[2])
    model, about = load_trial(tmp_path, config.home, which="best")
    assert same(model.state_dict(), weights[2]) and about["epoch"] == 3
    assert about["weights"] == ("average" if changes else "last")
    last, about = load_trial(tmp_path, config.home)
    assert same(last.state_dict(), second.final_model.state_dict()) and about["epoch"] == 4
    assert not same(last.state_dict(), weights[2])
    with pytest.raises(ValueError, match="'first' is not allowed"):
        load_trial(tmp_path, config.home, which="first")


@pytest.mark.slow
@pytest.mark.parametrize("fork, preview, first", [(2, None, 3), (1, None, 3), (3, None, 4), (2, 2, 3), (0, None, 3)])
def test_only_epochs_count_in_which_the_method_acts(config, fork, preview, first):
    """Of 4 or, in a preview, 2 + 2; the method starts after 2. The stem's were better, and are not the trial's."""
    trial = Trainer(replace(config, fork=fork, stem=config.training, cool_down=preview))
    past = run_to_fork(trial)
    assert len(past) == fork and trial.best is None
    assert trial.config.own_from() == first - 1
    weights = forced(trial, [0.9, 0.8, 0.7, 0.6])
    rows = [trial.run_epoch() for _ in range(fork, 4)]
    assert trial.best["epoch"] == first and same(trial.best["model"], weights[first - 1 - fork])
    known = record(*past, *rows, params={"start": 0.5}, stem_epochs=fork)
    assert known.best(NAMES)["epoch"] == first


def test_stems_are_those_of_any_objectives(config):
    config = replace(config, fork=2, stem=config.training)
    keys = [key_hash(stem_key(Trainer(replace(config, objectives=o)))) for o in ((), NAMES, ("clean_acc",))]
    assert len(set(keys)) == 1
    stem = Trainer(stem_config(config))
    stem.run_epoch()
    assert stem.state_dict()["best"] is None  # its file is not larger than it has to be


def test_a_checkpoint_without_a_best_epoch_says_so(config, tmp_path):
    trainer = Trainer(replace(config, objectives=()))
    save_checkpoint(tmp_path, trainer, trainer.run_epoch())
    assert read_checkpoint(tmp_path)["best"] is None
    with pytest.raises(ValueError, match="keeps its last epoch alone"):
        load_trial(tmp_path, config.home, which="best")


def test_the_card_says_which_epoch():
    assert _weights({"weights": "last"}) == "those after the last epoch"
    best = {"epoch": "best", "epochs": 3, "spec": {"max_epochs": 4}}
    assert _weights({"weights": "last", **best}).startswith("those after the best of its epochs on `val`")
    assert _weights({"weights": "last", **best}).endswith("not the last")
    assert _weights({"weights": "last", **best, "epochs": 4}).endswith("which is the last")
    assert _weights({"weights": "average", **best}).startswith("the average over training up to the best")


@pytest.mark.parametrize(
    "role, epoch, selected",
    [("front", "last", "the model"), ("paper", "last", None), ("no_search", "best", "the epoch")],
)
def test_the_card_says_what_was_chosen_by_what(role, epoch, selected):
    about = {"role": role, "epoch": epoch, "metrics": [{"split": "val"}]}
    said = _selection_note(about)
    assert f"{selected} was selected by these numbers" in said if selected else "selected" not in said
    front = {"pick": "knee", "spec": {"objectives": ["clean_acc", "tail_robust_acc"]}}
    assert _origin(front) == (
        "picked as `knee` from a Pareto front of clean accuracy and tail robust accuracy (worst 30 % of classes)"
    )
