"""Several methods in one budget, replicates and the time budget: what runs next, without Ray, on made-up curves."""

import time

import pytest

from search_spaces.param import params_of
from search_spaces.srat import Params as Srat
from search_spaces.trades import Params as Trades
from tests.histories import run_of
from tuner.errors import UsageError
from tuner.optimizer import method_bandit
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.method_bandit import RewardWindow
from tuner.report.reference import references_of
from tuner.report.text import front_cells, notes
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.references import references
from tuner.results.replicates import fell_off, total_trials, wanted
from tuner.results.summary import extras, front_json, state_of
from tuner.results.trial_record import NO_SEARCH
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import Decision
from tuner.spec.search_spec import SearchSpec

BOTH = ("srat", "trades")


def spec_of(**changes):
    return SearchSpec(**{"method": BOTH, "trials": 24, "max_epochs": 12, "sampler": "tpe", **changes})


def curve(record, epoch):
    """srat stands still; trades is better the closer its beta is to 4; other seeds lower every value."""
    beta = record.params.get("beta")
    level = 0.3 if beta is None else 0.5 - 0.02 * (beta - 4) ** 2 / 4
    level -= 0.01 * (record.seed + record.trial % 3)
    return {
        "epoch": epoch,
        "natural_robust_acc": level + epoch / 100,
        "robust_acc": level + epoch / 100,
        "worst_class_robust_acc": level / 2 + epoch / 200,
        "clean_acc": 0.8,
        "train_s": 2.0,
        "eval_s": 1.0,
    }


def drive(optimizer, history, spec, until=None, at=curve):  # noqa: C901 - a worker that may die after any event
    """One worker's search; ``until``: how many events are written before the process dies."""
    events = 0

    def write(*args, **fields):
        nonlocal events
        history.append(*args, **fields)
        events += 1
        return events == until

    while (record := optimizer.next()) is not None:
        of = {key: value for key in ("of", "role") if (value := getattr(record, key)) is not None}
        if record.trial not in {t.trial for t in history.everything()} and write(
            "start", record.trial, params=record.params, method=record.method, seed=record.seed, **of
        ):
            return
        record, state = history.record(record.trial), TrialState.FINISHED
        if record.epochs and optimizer.feed(record.trial, record.last) != Decision.CONTINUE:
            # the actor says its last epoch again: the process may have died before it was judged
            state = TrialState.STOPPED
        for epoch in range(len(record.epochs) + 1, spec.max_epochs + 1) if state == TrialState.FINISHED else ():
            if write("epoch", record.trial, metrics=at(record, epoch)):
                return
            if optimizer.feed(record.trial, record.last) != Decision.CONTINUE:
                state = TrialState.STOPPED
                break
        dead = write("end", record.trial, state=state)
        optimizer.tell(record.trial, state)
        if dead:
            return


def summary(history):
    return [
        (t.trial, t.method, t.of, t.seed, t.state, len(t.epochs), tuple(t.params.items())) for t in history.everything()
    ]


# ---- the bandit ------------------------------------------------------------------------------------------------------


def grown(*points, epochs=10):
    growth = RewardWindow()
    for point in points:
        growth.add(epochs, point)
    return growth


def test_rates_are_what_the_front_would_lose_per_epoch():
    # one box 0.5 x 0.4; b's newest lifts the other corner: 0.2 x (0.6 - 0.4) = 0.04 more
    methods = {"a": grown((0.5, 0.4)), "b": grown((0.2, 0.6), epochs=4)}
    # without a's: 0.2 x 0.6 = 0.12 of 0.24 is left; without b's: 0.5 x 0.4 = 0.20
    assert method_bandit.rates(methods) == {"a": pytest.approx(0.12 / 10), "b": pytest.approx(0.04 / 4)}
    assert method_bandit.shares(methods) == {
        "a": pytest.approx(0.15 + 0.7 * 0.012 / 0.022),
        "b": pytest.approx(0.15 + 0.7 * 0.010 / 0.022),
    }


def test_what_was_found_long_ago_is_no_growth():
    old = grown((0.5, 0.5), *[(0.1, 0.1)] * method_bandit.RECENT)
    assert method_bandit.rates({"old": old, "new": grown((0.4, 0.6))})["old"] == 0
    assert old.older == [(0.5, 0.5)]


def test_without_growth_all_are_equal_and_stopped_trials_cost_their_epochs():
    even = dict.fromkeys("abc", pytest.approx(1 / 3))
    assert method_bandit.shares({"a": grown(), "b": grown((0.0, 0.3)), "c": grown(None)}) == even
    assert grown(None, None, epochs=3).epochs == 6
    assert method_bandit.rates({"a": grown(None, (0.5, 0.5), epochs=5)}) == {"a": pytest.approx(0.025)}


def test_the_draw_is_the_same_whenever_it_is_asked():
    methods = {"a": grown((0.5, 0.4)), "b": grown((0.2, 0.6))}
    drawn = [method_bandit.choose(methods, 0, number) for number in range(300)]
    assert drawn == [method_bandit.choose(methods, 0, number) for number in range(300)]
    assert 0.6 < drawn.count("a") / 300 < 0.78  # its share: 0.15 + 0.7 * 0.75 = 0.675


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
    assert [t.method for t in list(history.trials.values())[:8]] == ["srat", "trades"] * 4  # first four each
    assert len(history.numbers["trades"]) > len(history.numbers["srat"]) > 4  # whose front grows gets more


def test_every_method_is_searched_as_it_would_be_alone():
    """Its first proposals are those of a search of its own: numbers, seeds and rungs are the lane's."""
    spec, history = spec_of(), History(None)
    drive(AskTell(spec, history), history, spec)
    alone, single = History(None), spec.of("trades")
    drive(AskTell(single, alone), alone, single)
    first = [[t.params for t in h.trials.values()][:4] for h in (history.lane("trades"), alone)]
    assert first[0] == first[1]


@pytest.mark.parametrize("sampler", ["tpe", "auto"])
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(tmp_path, sampler):
    """With one worker: the same trials, of the same methods, stopped at the same rungs, the same reference and
    replicates."""
    spec = spec_of(trials=12, seeds=2, sampler=sampler, max_epochs=9, grace=1)

    def asked(history, folder):
        return AskTell(spec, history, folder, references=references(spec))

    whole = History(tmp_path / "whole")
    drive(asked(whole, whole.folder), whole, spec)
    assert whole.replicates and whole.with_state(TrialState.STOPPED) and state_of(run_of(spec, whole)) == "finished"
    assert [(r.of, r.seed) for r in whole.replicates.values() if r.method == "at"] == [(NO_SEARCH, 1)]
    events = len(whole.path.read_text().splitlines())
    for kill in [*range(7, events, events // 5), 13]:  # the first trial has 11 events, the reference the next 11
        folder = tmp_path / str(kill)
        history = History(folder)
        drive(asked(history, folder), history, spec, until=kill)
        again = History(folder)
        assert state_of(run_of(spec, again)) == "stopped"
        assert kill != 13 or again.record(NO_SEARCH).state == TrialState.RUNNING
        drive(asked(again, folder), again, spec)
        assert summary(again) == summary(whole), kill


def test_epochs_are_counted_with_the_reference(tmp_path):
    """By hand: 4 trials of 9 epochs each but for those stopped, the reference, and two seeds of it and the members."""
    spec = SearchSpec(method="trades", trials=4, max_epochs=9, grace=1, seeds=2, sampler="random")
    history = History(tmp_path)
    drive(AskTell(spec, history, references=references(spec)), history, spec)
    early = [len(t.epochs) for t in history.with_state(TrialState.STOPPED)]
    full = 4 - len(early) + 1 + len(history.replicates)
    assert early and history.epochs_trained() == sum(early) + 9 * full
    assert history.epochs_saved(9) == {"trunk": 0, "early_stopping": 9 * len(early) - sum(early)}
    result = front_json(run_of(spec, history))
    assert result["trials"] == {"finished": 4 - len(early), "stopped": len(early), "failed": 0}
    assert result["replicates"] == {"finished": len(history.replicates), "failed": 0}
    assert [row["seeds"] for row in result["no_search"]] == [[0, 1]]


def test_a_method_without_parameters_runs_once():
    spec, history = spec_of(method=("at", "trades"), trials=6), History(None)
    drive(AskTell(spec, history), history, spec)
    assert total_trials(spec) == 6 and len(history.numbers["at"]) == 1 and len(history.numbers["trades"]) == 5
    assert total_trials(spec_of(method=("at", "lsat"), trials=6)) == 2


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
        ({"trunk": "at:3"}, "srat has a start"),
        ({"max_epochs": 3, "scheduler": "asha"}, "needs 2"),
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


def ended(history, number, average, worst, *, of=None, seed=0, state=TrialState.FINISHED):
    more = {} if of is None else {"of": of}
    params = {"beta": 2.0 + (number if of is None else of)} if number else {"beta": 6.0}
    history.append("start", number, params=params, method="trades", seed=seed, **more)
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
    spec, history = spec_of(scheduler="none"), History(None)
    optimizer = AskTell(spec, history, until=time.time() + 1000)
    drive(optimizer, history, spec, until=4 * 14)  # four trials of 12 epochs of 3 s
    assert not optimizer.late and len(history.trials) == 4
    for left, late in ((36 + 5, False), (36 - 5, True)):
        optimizer = AskTell(spec, history, until=time.time() + left)
        assert (optimizer.next() is None) is late is optimizer.late
    assert optimizer.next() is None and len(history.trials) == 4


def test_no_replicate_starts_that_cannot_end_in_time():
    spec, history = replicated()
    for record in history.trials.values():
        record.last.update(train_s=4.0, eval_s=1.0)
    optimizer = AskTell(spec, history, until=time.time() + 50)
    assert optimizer.next() is None and optimizer.late  # 12 epochs of 5 s
    assert AskTell(spec, history, until=time.time() + 70).next().of == 0
