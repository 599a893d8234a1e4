"""Several methods in one budget, replicates and the time budget: what runs next, without Ray, on made-up curves."""

import os
import time

import pytest

from search_spaces.param import params_of
from search_spaces.srat import Params as Srat
from search_spaces.trades import Params as Trades
from tests.histories import run_of
from tuner.errors import UsageError
from tuner.optimizer.ask_tell import AskTell
from tuner.report.reference import references_of
from tuner.report.text import front_cells, notes
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.references import references
from tuner.results.replicates import fell_off, total_trials, wanted
from tuner.results.steering import KINDS
from tuner.results.summary import extras, front_json, state_of
from tuner.results.trial_record import NO_SEARCH
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import SCHEDULERS
from tuner.spec.search_spec import SearchSpec

BOTH = ("srat", "trades")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A history waits for the disk after each line, which takes longer than all the rest here."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def spec_of(**changes):
    return SearchSpec(**{"method": BOTH, "trials": 24, "max_epochs": 12, "sampler": "tpe", **changes})


def metrics_at(epoch, level):
    return {
        "epoch": epoch,
        "natural_robust_acc": level + epoch / 100,
        "robust_acc": level + epoch / 100,
        "worst_class_robust_acc": level / 2 + epoch / 200,
        "clean_acc": 0.8,
        "train_s": 2.0,
        "eval_s": 1.0,
    }


def curve(record, epoch):
    """srat stands still; trades is better the closer its beta is to 4; other seeds lower every value."""
    beta = record.params.get("beta")
    level = 0.3 if beta is None else 0.5 - 0.02 * (beta - 4) ** 2 / 4
    return metrics_at(epoch, level - 0.01 * (record.seed + record.trial % 3))


def dying(record, epoch):
    """Here srat has the better worst class, and every other trial classifies no better than chance (0.5 of two classes)
    in full."""
    metrics, dies = curve(record, epoch), record.full and record.of is None and record.trial in range(2, 99, 2)
    clean = 0.5 if dies else metrics["clean_acc"]
    worst = metrics["worst_class_robust_acc"] + (0.2 if record.method == "srat" else 0.0)
    own = {"worst_class_robust_acc": worst, "clean_acc": clean, "clean_acc/a": clean, "clean_acc/b": clean}
    return {**metrics, **own}


def drive(optimizer, history, spec, until=None, at=curve):
    """One worker's search, as Ray and `tuner.execution.ray_callback` run it; ``until``: how many events are written
    before the process dies."""
    events = 0

    def write(*args, **fields):
        nonlocal events
        history.append(*args, **fields)
        events += 1
        if events == until:
            raise Killed

    try:
        while (record := optimizer.next()) is not None:
            if record.trial not in history:
                more = {key: value for key in ("of", "role") if (value := getattr(record, key)) is not None}
                more |= {} if record.full else {"preview": True}
                write("start", record.trial, params=record.params, method=record.method, seed=record.seed, **more)
            elif record.state == TrialState.PREVIEWED:
                write("promote", record.trial)
            record = history.record(record.trial)
            if record.full:
                train(optimizer, write, record, spec, at)
            else:
                fork, epochs = spec.of(record.method).epoch_plan.preview
                write("preview", record.trial, epochs=epochs, metrics=at(record, fork + epochs))
            optimizer.tell(record.trial)
    except Killed:
        return  # before the study was told


class Killed(Exception):
    pass


def train(optimizer, write, record, spec, at):
    """A full training, from its fork or from where it stood."""
    fork = 0 if record.role or record.of is not None else spec.of(record.method).epoch_plan.fork_of(record.params)
    if fork and not record.epochs and record.trial >= len(spec.methods):
        write("fork", record.trial, epochs=[{**at(record, epoch), "stem": True} for epoch in range(1, fork + 1)])
    # an actor that starts anew says its last epoch again: the process may have died before it was judged
    dead = bool(record.epochs) and optimizer.dead(record.trial, record.last)
    for epoch in range(len(record.epochs) + 1, spec.max_epochs + 1):
        if dead:
            break
        write("epoch", record.trial, metrics=at(record, epoch))
        dead = optimizer.dead(record.trial, record.last)
    write("end", record.trial, state=TrialState.STOPPED if dead else TrialState.FINISHED)


def summary(history):
    return [
        (t.trial, t.method, t.of, t.seed, t.state, t.full, t.stem_epochs, len(t.epochs), tuple(t.params.items()))
        for t in history.everything()
    ]


# ---- several methods -------------------------------------------------------------------------------------------------


def test_several_methods_share_one_budget():
    spec, history = spec_of(), History(None)
    drive(AskTell(spec, history), history, spec)
    assert sorted(history.trials) == list(range(24)) and state_of(run_of(spec, history)) == "finished"
    own = {"srat": params_of(Srat), "trades": params_of(Trades)}
    for record in history.trials.values():
        assert set(record.params) <= set(own[record.method])
    firsts = [history.trials[numbers[0]] for numbers in history.numbers.values()]
    assert all(
        t.params == spec.of(t.method).search_space().default() and t.state == TrialState.FINISHED for t in firsts
    )
    assert [t.method for t in history.trials.values()] == ["srat", "trades"] * 12


def test_every_method_is_searched_as_it_would_be_alone():
    """Its first proposals are those of a search of its own: numbers, seeds and rungs are the lane's."""
    spec, history = spec_of(), History(None)
    drive(AskTell(spec, history), history, spec)
    alone, single = History(None), spec.of("trades")
    drive(AskTell(single, alone), alone, single)
    first = [[t.params for t in h.trials.values()][:4] for h in (history.lane("trades"), alone)]
    assert first[0] == first[1]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", ["tpe", "auto"])
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(tmp_path, sampler, scheduler):
    """With one worker: the same trials, of the same methods, previewed, promoted and stopped alike, the same reference
    and replicates."""
    spec = spec_of(trials=14, seeds=2, sampler=sampler, scheduler=scheduler, max_epochs=9)

    def asked(history, folder):
        return AskTell(spec, history, folder, references=references(spec))

    whole = History(tmp_path / "whole")
    drive(asked(whole, whole.folder), whole, spec, at=dying)
    assert whole.replicates and whole.with_state(TrialState.STOPPED) and state_of(run_of(spec, whole)) == "finished"
    assert bool(whole.with_state(TrialState.PREVIEWED)) == (scheduler == "preview")
    assert any(t.stem_epochs for t in whole.trials.values()), "srat has a start"
    assert [(r.of, r.seed) for r in whole.replicates.values() if r.method == "at"] == [(NO_SEARCH, 1)]
    events = len(whole.path.read_text().splitlines())
    for kill in [*range(7, events, events // 6), 13]:  # the first trial has 11 events, the reference the next 11
        folder = tmp_path / str(kill)
        history = History(folder)
        drive(asked(history, folder), history, spec, until=kill, at=dying)
        again = History(folder)
        assert state_of(run_of(spec, again)) == "stopped"
        assert kill != 13 or again.record(NO_SEARCH).state == TrialState.RUNNING
        drive(asked(again, folder), again, spec, at=dying)
        assert summary(again) == summary(whole), kill


def test_epochs_are_counted_with_the_reference(tmp_path):
    """By hand: trial 2 stays at chance and is stopped after two epochs, ceil(0.15 x 9); the other three, the reference,
    and the second seeds of it and of the members train nine each."""
    spec = SearchSpec(method="trades", trials=4, max_epochs=9, seeds=2, sampler="random")
    history = History(tmp_path)
    drive(AskTell(spec, history, references=references(spec)), history, spec, at=dying)
    assert [(t.trial, len(t.epochs)) for t in history.with_state(TrialState.STOPPED)] == [(2, 2)]
    assert history.epochs_trained() == 2 + 9 * (3 + 1 + len(history.replicates)) and len(history.replicates) >= 2
    assert history.epochs_saved(9) == {"stem": 0, "previews": 0, "at_chance": 7}
    result = front_json(run_of(spec, history))
    assert result["trials"] == {"finished": 3, "previewed": 0, "stopped": 1, "failed": 0}
    assert result["replicates"] == {"finished": len(history.replicates), "failed": 0}
    assert [row["seeds"] for row in result["no_search"]] == [[0, 1]]


def test_a_method_without_parameters_runs_once():
    spec, history = spec_of(method=("at", "trades"), trials=6), History(None)
    drive(AskTell(spec, history), history, spec)
    assert total_trials(spec) == 6 and len(history.numbers["at"]) == 1 and len(history.numbers["trades"]) == 5
    assert total_trials(spec_of(method=("at", "lsat"), trials=6)) == 2


def test_trials_take_their_seeds_in_turn():
    """Of each method by its own numbers: the default setting, which others are compared with, has the search's seed."""
    spec, history = spec_of(trials=14, seed=5, stems=3), History(None)
    drive(AskTell(spec, history, references=references(spec)), history, spec)
    for numbers in history.numbers.values():
        assert [history.record(n).seed for n in numbers] == [5 + place % 3 for place in range(len(numbers))]
    assert history.record(NO_SEARCH).seed == 5
    again = spec_of(trials=14, seed=5, stems=3)
    assert again.search_name != spec_of(trials=14, seed=5).search_name
    assert spec_of(trials=14, seed=5, stems=1).search_name == spec_of(trials=14, seed=5).search_name


def test_a_method_without_parameters_runs_once_under_each_seed():
    """Plain AT under four seeds, trained in full without a preview: what seeds alone are worth."""
    spec, history = spec_of(method=("at", "trades"), trials=12, stems=4), History(None)
    drive(AskTell(spec, history), history, spec)
    plain = [history.record(n) for n in history.numbers["at"]]
    assert [(t.seed, t.full, t.preview, t.params) for t in plain] == [(s, True, None, {}) for s in range(4)]
    assert len(history.numbers["trades"]) == 8 and total_trials(spec) == 12
    assert total_trials(spec_of(method=("at", "lsat"), trials=6, stems=2)) == 4
    assert total_trials(spec_of(method="at", trials=3, stems=8)) == 3


@pytest.mark.parametrize("sampler", ["auto", "gp", "nsga2"])
def test_plain_at_alone_is_a_search_over_seeds(sampler):
    spec, history = spec_of(method="at", trials=9, stems=3, sampler=sampler), History(None)
    drive(AskTell(spec, history, references=references(spec)), history, spec)
    assert [(t.seed, t.state) for t in history.trials.values()] == [(s, "finished") for s in range(3)]
    assert "stems: trials are trained under 3 seeds in turn" in AskTell(spec, history).descriptions, "there is no stem"
    fixed = SearchSpec(method="dafa", fix=SearchSpec(method="dafa").search_space().default(), stems=3)
    assert "stems: trials are trained under 3 seeds in turn" in AskTell(fixed, History(None)).descriptions
    both = AskTell(spec_of(stems=3), History(None)).descriptions
    assert "stems: trials are trained under 3 seeds in turn, each with its own stem" in both


def test_replicates_of_a_trial_have_other_seeds_than_its_own():
    spec, history = SearchSpec(method="trades", trials=4, seeds=3, stems=2), History(None)
    for number, worst in enumerate((0.1, 0.2, 0.1, 0.1)):
        ended(history, number, 0.5, worst, seed=number % 2)
    (best,) = {row["trial"] for row in front_of(spec, history).rows}
    assert (best, history.record(best).seed) == (1, 1)
    assert wanted(spec, history) == [(0, 1), (1, 0), (0, 2), (1, 2)]
    ended(history, 4, 0.5, 0.2, of=1, seed=0)
    assert wanted(spec, history) == [(0, 1), (0, 2), (1, 2)]


def test_spec_file_json_and_lanes_of_several_methods(tmp_path):
    spec = spec_of(fix={"beta": 3.0, "lr": 0.05}, space={"start": [0.3, 0.6]})
    assert SearchSpec.from_yaml(spec.to_yaml()) == spec and spec.to_dict()["method"] == ["srat", "trades"]
    assert [lane.fix for lane in spec.lanes] == [{"lr": 0.05}, {"beta": 3.0, "lr": 0.05}]
    assert [lane.space for lane in spec.lanes] == [{"start": [0.3, 0.6]}, {}]
    assert spec.notes == [
        "--fix beta is for trades alone: srat knows no such parameter",
        "--space start is for srat alone: trades knows no such parameter",
    ]
    assert SearchSpec(method=["srat"]) == SearchSpec() and SearchSpec().lanes == (SearchSpec(),)
    assert not SearchSpec().notes
    assert spec.search_name.startswith("srat-trades-digits-")
    assert spec.training().lr == 0.05


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"method": ("srat", "srta")}, "'srta'"),
        ({"method": ("srat", "srat")}, "must be different"),
        ({"method": ()}, "at least one"),
        ({"trials": 1}, "--trials 1 .* 2 methods"),
        ({"fix": {"gamma_9": 1}}, "'gamma_9' in --fix: none of srat, trades"),
        ({"fix": {"beta": 1e9}}, "beta=1000000000.0 is not allowed"),
        ({"max_epochs": 3, "scheduler": "preview"}, "needs --max-epochs of at least 4, but it is 3"),
        ({"burn_in": "own", "scheduler": "preview"}, "forks from the stem; --burn-in own has none"),
        ({"seeds": 0}, "--seeds 0 is not allowed"),
    ],
)
def test_wrong_input_names_the_method_or_the_key(changes, part):
    with pytest.raises(UsageError, match=part):
        spec_of(**changes)


def test_reports_say_who_got_what_and_holds_what(tmp_path):
    spec, history = spec_of(), History(None)
    drive(AskTell(spec, history), history, spec)
    found = front_json(run_of(spec, history))
    by = {row["method"]: row for row in found["methods"]}
    assert sum(row["trials"] for row in by.values()) == 24
    assert sum(row["epochs"] for row in by.values()) == history.epochs_trained()
    assert sorted(n for row in by.values() for n in row["front"]) == sorted(r["trial"] for r in found["front"])
    assert by["srat"]["adds"] == 0 and not by["srat"]["front"] and by["trades"]["adds"] > 0.01
    assert by["srat"]["paper"]["trial"] == found["paper"]["trial"] == 0 and by["trades"]["paper"]["trial"] == 1
    said = notes(found, spec.objectives)
    assert any(line.startswith("trades:") and "adds 0." in line for line in said)
    assert any("srat" in line and "holds nothing of the front" in line for line in said)
    header, rows = front_cells(front_of(spec, history), references_of(found), spec.shown_space().searched)
    assert header[1] == "method" and {row[1] for row in rows} == {"trades", "srat"}


# ---- replicates ------------------------------------------------------------------------------------------------------


def ended(history, number, average, worst, *, of=None, seed=0, state=TrialState.FINISHED, method="trades"):
    more = {} if of is None else {"of": of}
    params = {"beta": 2.0 + (number if of is None else of)} if number else {"beta": 6.0}
    history.append("start", number, params=params if method == "trades" else {}, method=method, seed=seed, **more)
    history.append(
        "epoch",
        number,
        metrics={
            "epoch": 12,
            "natural_robust_acc": average,
            "robust_acc": average,
            "worst_class_robust_acc": worst,
            "clean_acc": 0.8,
        },
    )
    if state != TrialState.RUNNING:
        history.append("end", number, state=state)


def replicated():
    """Trial 1 and 3 are on the front by one seed; 2 is just behind 1, and 0 is the default setting."""
    history = History(None)
    for number, point in enumerate([(0.30, 0.10), (0.60, 0.20), (0.58, 0.19), (0.40, 0.30)]):
        ended(history, number, *point)
    return SearchSpec(method="trades", trials=4, seeds=2), history


def test_no_training_is_repeated_that_is_a_trial_anyway():
    """Plain AT under the seeds 0 to 3 is four trials, which are each other's replicates; a fifth seed is none."""
    history = History(None)
    for number in range(4):
        ended(history, number, 0.3, 0.1, method="at", seed=number)
    assert wanted(SearchSpec(method="at", trials=4, stems=4, seeds=3), history) == []
    assert wanted(SearchSpec(method="at", trials=4, stems=4, seeds=6), history) == [(0, 4), (0, 5)]
    ended(alone := History(None), 0, 0.3, 0.1, method="at")
    assert wanted(SearchSpec(method="at", trials=1, seeds=3), alone) == [(0, 1), (0, 2)]


def test_a_seed_that_a_user_asks_for_is_one_that_no_trial_has():
    """Of plain AT under four seeds: `--confirm` of one trial was answered by the others, and nothing was trained; of
    two, both were trained under the same seed."""
    spec, history = SearchSpec(method="at", trials=4, stems=4), History(None)
    for number in range(4):
        ended(history, number, 0.3, 0.1, method="at", seed=number)
    for trial, new in ((0, [(0, 4)]), (2, [(0, 4), (2, 4)]), (0, [(0, 4), (0, 5), (2, 4)])):
        history.append("confirm", **KINDS["confirm"](spec, history, {"trial": trial}), by="ada")
        assert wanted(spec, history) == new  # whichever is trained first has the seed
    ended(history, 4, 0.2, 0.1, method="at", seed=4, of=0)
    assert wanted(spec, history) == [(0, 5), (2, 5)]


def test_replicates_leave_the_seeds_of_stems_to_the_trials_that_an_extension_brings():
    """Plain AT was trained twice under each seed that a replicate had before."""
    history = History(None)
    for number in range(4):
        ended(history, number, 0.3, 0.1, method="at", seed=number)
    spec = SearchSpec(method="at", trials=4, stems=8, seeds=6)
    assert wanted(spec, history) == [(0, 8), (0, 9)]
    for number, seed in ((4, 8), (5, 9)):
        ended(history, number, 0.3, 0.1, method="at", seed=seed, of=0)
    for number in range(4, 8):
        ended(history, number + 2, 0.3, 0.1, method="at", seed=number)
    assert wanted(spec.changed(trials=8), history) == []


def test_of_an_odd_number_of_trials_each_method_has_its_turns():
    """Of 5 trials the second method has two. It was taken to have three: a replicate under the third seed was thought
    to be a trial, and was never trained."""
    spec, history = SearchSpec(method=("trades", "at"), trials=5, stems=4, seeds=3, scheduler="none"), History(None)
    assert [lane.default_trials for lane in spec.lanes] == [1, 2] and spec.proposals == 2
    for number in range(5):
        method = spec.methods[number % 2]
        ended(history, number, 0.3, 0.1, method=method, seed=spec.seed_of(number // 2))
    assert (1, 4) in wanted(spec, history)


def test_only_the_front_and_the_papers_setting_are_run_again():
    spec, history = replicated()
    assert wanted(spec, history) == [(0, 1), (1, 1), (3, 1)]
    assert wanted(SearchSpec(method="trades", trials=4), history) == []
    assert wanted(SearchSpec(method="trades", trials=5, seeds=2), history) == []  # a trial is still to come
    three = SearchSpec(method="trades", trials=4, seeds=3)
    assert wanted(three, history) == [(0, 1), (1, 1), (3, 1), (0, 2), (1, 2), (3, 2)]
    assert state_of(run_of(spec, history)) == "stopped"


def test_the_front_is_drawn_on_means_and_who_falls_off_is_named():
    spec, history = replicated()
    ended(history, 4, 0.32, 0.12, of=0, seed=1)
    ended(history, 5, 0.40, 0.10, of=1, seed=1)  # the mean of trial 1: 0.50, 0.15: below trial 2
    ended(history, 6, 0.44, 0.26, of=3, seed=1)  # of trial 3: 0.42, 0.28
    assert wanted(spec, history) == [(2, 1)]  # it has come onto the front
    ended(history, 7, 0.56, 0.21, of=2, seed=1)
    assert wanted(spec, history) == [] and state_of(run_of(spec, history)) == "finished"
    rows = front_of(spec, history).rows
    assert [(r["trial"], r["seeds"]) for r in rows] == [(2, [0, 1]), (3, [0, 1])]
    assert rows[1]["robust_acc"] == pytest.approx(0.42) and rows[1]["worst_class_robust_acc"] == pytest.approx(0.28)
    assert rows[1]["std"]["robust_acc"] == pytest.approx(0.04 / 2**0.5)  # of 0.40 and 0.44
    assert fell_off(spec, history) == [1]
    alone = front_json(run_of(spec.changed(seeds=1), history))
    assert [r["trial"] for r in alone["fell_off"]] == [1], "of trials that a user wants confirmed, too"
    found = extras(run_of(spec, history))
    assert found["replicates"] == {"finished": 4, "failed": 0} and [r["trial"] for r in found["fell_off"]] == [1]
    (line,) = notes(found, spec.objectives)
    assert "Trial 1" in line and "natural average 0.500 ± 0.141" in line and "worst class 0.150 ± 0.071" in line


def test_replicates_are_trials_of_their_own_but_not_counted_as_such(tmp_path):
    spec, history = replicated()
    ended(history, 4, 0.40, 0.10, of=1, seed=1)
    assert sorted(history.trials) == [0, 1, 2, 3] and sorted(history.replicates) == [4]
    assert front_json(run_of(spec, history))["trials"]["finished"] == 4
    assert history.epochs_trained() == 5 and history.record(4).of == 1
    table = history.table().to_pydict()
    assert table["trial"] == [0, 1, 2, 3, 4] and table["of"] == [None] * 4 + [1] and table["seed"][-1] == 1


def test_a_replicate_that_failed_is_not_tried_again_and_does_not_count():
    spec, history = replicated()
    for number, of in ((4, 0), (5, 1), (6, 3)):
        ended(history, number, 0.9, 0.9, of=of, seed=1, state=TrialState.FAILED)
    assert wanted(spec, history) == [] and state_of(run_of(spec, history)) == "finished"
    assert all("seeds" not in row for row in front_of(spec, history).rows)


def test_constraints_hold_for_means():
    spec, history = replicated()
    spec = SearchSpec(method="trades", trials=4, seeds=2, constraint=("worst_class_robust_acc>=0.18",))
    ended(history, 4, 0.60, 0.10, of=1, seed=1)
    assert 1 not in {r["trial"] for r in front_of(spec, history).rows}


def test_seeds_asked_for_later_are_added_to_the_same_search():
    assert SearchSpec(seeds=3).search_name == SearchSpec().search_name


def test_running_replicates_hold_back_the_end():
    spec, history = replicated()
    optimizer = AskTell(spec, history)
    first = optimizer.next()
    assert (first.trial, first.of, first.seed) == (4, 0, 1)
    for number, of in ((4, 0), (5, 1)):
        ended(history, number, 0.3, 0.1, of=of, seed=1)
    ended(history, 6, 0.4, 0.3, of=3, seed=1, state=TrialState.RUNNING)
    assert optimizer.ready and wanted(spec, history) == [(2, 1)]  # 1 fell by its mean
    ended(history, 7, 0.58, 0.19, of=2, seed=1, state=TrialState.RUNNING)
    assert not optimizer.ready  # what runs may bring somebody else onto the front
    again = AskTell(spec, history)  # a new driver goes on with them
    assert [again.next().trial, again.next().trial] == [6, 7]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_nothing_starts_that_cannot_end_in_time():
    spec, history = spec_of(method="trades", scheduler="none"), History(None)
    optimizer = AskTell(spec, history, until=time.monotonic() + 1000)
    drive(optimizer, history, spec, until=4 * 14)  # four trials of 12 epochs of 3 s
    assert not optimizer.late and len(history.trials) == 4
    for left, late in ((36 + 5, False), (36 - 5, True)):
        optimizer = AskTell(spec, history, until=time.monotonic() + left)
        assert (optimizer.next() is None) is late is optimizer.late
    assert optimizer.next() is None and len(history.trials) == 4


def test_what_has_begun_goes_on_however_little_time_there_is():
    """A search that was resumed for less than a training takes trained nothing, each time."""
    spec, history = spec_of(method="trades", scheduler="none"), History(None)
    drive(AskTell(spec, history), history, spec, until=14 + 1 + 2)  # two of 12 epochs of 3 s of the second trial
    optimizer = AskTell(spec, history, until=time.monotonic() + 6)
    assert optimizer.next().trial == 1 and not optimizer.late
    assert optimizer.next() is None and optimizer.late and not optimizer.spent


def test_a_preview_needs_the_time_of_a_preview_and_a_promoted_trial_that_of_a_training():
    """Of the epochs of 3 s a preview trains two, and a full training those after its fork: srat's start is 0.5."""
    spec, history = spec_of(method="srat", fix={"start": 0.5}, scheduler="preview"), History(None)
    drive(AskTell(spec, history), history, spec, until=14 + 2 * 7)  # the default setting and seven previews
    for epoch in range(1, 9):
        history.append("stem", 1, stem_epoch=epoch)
    assert len(history.trials) == 8 and AskTell(spec, history).promotable is None
    for left, late in ((6 + 4, False), (6 - 4, True)):
        optimizer = AskTell(spec, history, until=time.monotonic() + left)
        assert (optimizer.next() is None) is late is optimizer.late
    drive(AskTell(spec, history), history, spec, until=2)
    for left, late in ((18 + 5, False), (18 - 5, True)):
        optimizer = AskTell(spec, history, until=time.monotonic() + left)
        assert optimizer.promotable is not None
        assert (optimizer.next() is None) is late is optimizer.late
    assert state_of(run_of(spec, history)) == "stopped", "a promotion waits for a resume"


def test_the_pace_is_that_of_a_methods_own_epochs():
    """An epoch of srat takes 1 s, one of trades 9 s; those that a trial has from the stem say nothing."""
    spec, history = spec_of(scheduler="none"), History(None)
    for number, (method, seconds) in enumerate([("srat", 1.0), ("trades", 9.0)] * 2):
        history.append("start", number, params=spec.of(method).search_space().default(), method=method)
        history.append("fork", number, epochs=[{"epoch": n, "stem": True, "train_s": 99.0} for n in range(1, 9)])
        for epoch in range(9, 13):
            history.append("epoch", number, metrics={**metrics_at(epoch, 0.5), "train_s": seconds, "eval_s": 0.0})
        history.append("end", number, state=TrialState.FINISHED)
    optimizer = AskTell(spec, history)
    for left, fits in ((12 - 5, []), (12 + 5, ["srat"]), (108 - 5, ["srat"]), (108 + 5, ["srat", "trades"])):
        optimizer.until = time.monotonic() + left
        assert [method for method in spec.methods if optimizer._in_time(method, lambda stems: 12)] == fits


def test_no_replicate_starts_that_cannot_end_in_time():
    spec, history = replicated()
    for record in history.trials.values():
        record.last.update(train_s=4.0, eval_s=1.0)
    optimizer = AskTell(spec, history, until=time.monotonic() + 50)
    assert optimizer.next() is None and optimizer.late  # 12 epochs of 5 s
    assert AskTell(spec, history, until=time.monotonic() + 70).next().of == 0


# ---- budgets ---------------------------------------------------------------------------------------------------------


def test_nothing_starts_that_would_exceed_the_budget():
    """Three trainings of 12 epochs are 36; the epochs of a trial that runs are promised."""
    spec, history = spec_of(method="trades", scheduler="none", budget="40epochs"), History(None)
    drive(AskTell(spec, history), history, spec, until=2 * 14 + 1 + 5)  # two of them, and five epochs of the third
    ask = AskTell(spec, history)
    assert ask.next().trial == 2 and not ask.late, "it goes on: what it still trains is counted once"
    assert ask.next() is None and ask.late and ask.spent
    drive(AskTell(spec, history), history, spec)
    assert history.epochs_trained() == 36 and len(history.trials) == 3 and state_of(run_of(spec, history)) == "stopped"
    history = History(None)
    ask = AskTell(spec, history)
    for number in range(3):  # side by side
        history.append("start", number, params=ask.next().params, method="trades")
    assert ask.next() is None and ask.late


def test_a_budget_counts_previews_stem_and_gpus():
    """The default setting has 12, the stem 8 and each preview 2; an epoch of 3 s on half a GPU is 1/2400 GPU hour."""
    for budget, previews in (("25epochs", 2), ("23.9epochs", 1)):
        spec, history = spec_of(method="trades", budget=budget), History(None)
        history.append("start", 0, params=spec.search_space().default(), method="trades")
        for epoch in range(1, 9):
            history.append("stem", 0, stem_epoch=epoch)
        drive(AskTell(spec, history), history, spec)
        assert len(history.with_state(TrialState.PREVIEWED)) == previews, budget
    spec, history = spec_of(method="trades", budget="0.0101gpu-h", gpus_per_trial=0.5, scheduler="none"), History(None)
    drive(AskTell(spec, history), history, spec)
    assert len(history.trials) == 2, "24 epochs are 0.01 GPU hours"
