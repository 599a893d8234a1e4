"""What users change of a search: more trials, one of their own, an end or another try of one. Without Ray, on made-up
curves: what a resumed process makes of a history is what the running one does."""

import json
import os
import time
from dataclasses import replace

import pytest

from tests.conftest import tuner_here
from tests.histories import fill, run_of, start
from tests.test_driver import driven  # noqa: F401 - a fixture
from tests.test_lanes import curve, dying, metrics_at, quick, summary, train  # noqa: F401 - a fixture
from trainables.files import locked
from trainables.storage import Storage
from tuner.cli.app import whole_command
from tuner.errors import UsageError
from tuner.execution.driver import resume
from tuner.execution.ray_callback import SearchCallback
from tuner.files import write_atomically
from tuner.home import Home, user_name
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.observations import Observations, Worth
from tuner.results.history import History
from tuner.results.listener import Listener
from tuner.results.references import references
from tuner.results.searches import load_search, stored_search
from tuner.results.steering import KINDS, ask, pending, setting_of, take_up
from tuner.results.summary import front_json, state_of
from tuner.results.trial_record import NO_SEARCH, TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import mirrored, push


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 16, "max_epochs": 12, "sampler": "tpe", "name": "s", **changes})


class Worker:
    """One worker's search, as the driver runs it; ``ask`` asks for a change between two trials."""

    def __init__(self, spec, folder, at=curve):
        self.asked_for, self.folder, self.at = spec, folder, at
        self.history = History(folder)
        self.spec = self.history.in_force(spec)
        self.optimizer = AskTell(self.spec, self.history, folder, references=references(spec))

    def run(self, most=10**6):
        """So many trials, previews or full trainings; all that are left."""
        while most and (record := self.optimizer.next()) is not None:
            self.handed(record)
            self.finish(record.trial)
            most -= 1
        return self

    def handed(self, record):
        number = record.trial
        if number not in self.history:
            more = {key: value for key in ("of", "role") if (value := getattr(record, key)) is not None}
            more |= {} if record.full else {"preview": True}
            self.history.append("start", number, params=record.params, method=record.method, seed=record.seed, **more)
        else:
            self.history.append("promote" if record.state == TrialState.PREVIEWED else "resume", number)

    def finish(self, number):
        record = self.history.record(number)
        if record.full:
            train(self.optimizer, self.history.append, record, self.spec, self.at)
        else:
            fork, epochs = self.spec.of(record.method).epoch_plan.preview
            self.history.append("preview", number, epochs=epochs, metrics=self.at(record, fork + epochs))
        self.optimizer.tell(number)
        self.optimizer.back(number)

    def ask(self, kind, **about):
        """As a command beside the driver does, and the driver when it looks."""
        run = run_of(self.spec, self.history, Home(self.folder.parent.parent), "s")
        with locked(self.folder / ".lock"):
            assert ask(run, kind, **about) is None
        answers = take_up(self.asked_for, self.history, self.folder, self.optimizer.out)
        if any(answer.done for answer in answers):
            self.spec = self.history.in_force(self.asked_for)
            self.optimizer.take_over(self.spec)
        return answers


@pytest.fixture
def folder(tmp_path):
    """``folder(name)``: that of the search ``s`` in a home of this name."""

    def made(home):
        found = Home(tmp_path / home).search("s")
        found.mkdir(parents=True)
        return found

    return made


def lines(history):
    """What happened, without who, when and what cannot be compared."""
    found = []
    for line in history.path.read_text().splitlines():
        event = json.loads(line)
        if event["event"] != "extend":
            found.append({k: v for k, v in event.items() if k not in ("time", "by", "request")})
    return found


# ---- extend ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "gp"},
        {"sampler": "random"},
        {"method": "srat"},
        {"scheduler": "none", "trials": 3},
        {"method": ("srat", "trades")},
        {"stems": 3},
        {"method": ("srat", "at"), "stems": 4, "trials": 21},
        {"method": "at", "stems": 25},
    ],
    ids=str,
)
def test_extended_is_asked_for_from_the_start(folder, changes):
    """To the last bit of every setting, promotion and metric: nothing that was decided at the old end differs once
    eight previews were in."""
    at = dying if changes.get("method") else curve
    trials = max(21, changes.get("trials", 17) + 4)
    long = spec_of(**{**changes, "trials": trials})
    straight = Worker(long, folder("straight"), at).run()
    short = spec_of(**{"trials": 17, **changes})
    Worker(short, where := folder("extended"), at).run()
    assert state_of(run_of(short, History(where))) == "finished"
    History(where).append("extend", -2, trials=trials)
    again = Worker(short, where, at)
    assert state_of(run_of(again.spec, again.history)) == "stopped" and again.spec.trials == trials
    again.run()
    assert lines(again.history) == lines(straight.history)
    assert summary(again.history) == summary(straight.history)


def test_an_extension_keeps_what_was_promoted_at_the_old_end(folder):
    """Of six trials one preview of five is promoted once three are in; of a search of 24, none before eight are in."""
    short = Worker(spec_of(trials=6), where := folder("short")).run()
    early = [t.trial for t in short.history.trials.values() if t.full]
    short.history.append("extend", -2, trials=24)
    extended = Worker(spec_of(trials=6), where).run()
    straight = Worker(spec_of(trials=24), folder("straight")).run()
    assert set(early) <= {t.trial for t in extended.history.trials.values() if t.full}
    assert lines(extended.history) != lines(straight.history)
    assert len(extended.history.trials) == len(straight.history.trials) == 24


def test_a_search_that_previews_nothing_goes_on_so(folder):
    """Three trials would train in full, of 24 a quarter: with the first ones unpreviewed a model could not compare."""
    spec = history_with("extend", trials=24).in_force(spec_of(trials=3))
    assert (spec.trials, spec.scheduling.name) == (24, "none") and history_with("extend", trials=24).in_force(
        spec
    ) == spec
    assert spec.search_name == "s" and spec_of(trials=24).scheduling.previewing


def history_with(event, **fields):
    history = History(None)
    history.append(event, -2, **fields)
    return history


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_replicates_of_the_old_end_stay_and_numbers_go_on(folder, sampler):
    """Trials and replicates are numbered in one series; proposals, and the study, count trials alone."""

    def at(record, epoch):
        return metrics_at(epoch, 0.5 - 0.005 * (record.params.get("beta", 0) - 4) ** 2 - 0.01 * record.seed)

    short = Worker(spec_of(seeds=2, sampler=sampler), where := folder("short"), at).run()
    first = set(short.history.replicates)
    assert first and state_of(run_of(short.spec, short.history)) == "finished"
    short.history.append("extend", -2, trials=19)
    extended = Worker(spec_of(seeds=2, sampler=sampler), where, at).run().history
    straight = Worker(spec_of(trials=19, sampler=sampler), folder("straight"), at).run().history
    assert [t.params for t in extended.trials.values()] == [t.params for t in straight.trials.values()]
    assert first <= set(extended.replicates)
    assert sorted([*extended.trials, *extended.replicates]) == [*range(19 + len(extended.replicates))]
    assert state_of(run_of(spec_of(seeds=2, trials=19), extended)) == "finished"
    study = AskTell(spec_of(seeds=2, trials=19, sampler=sampler), extended, where).methods["trades"].recorded.study
    assert [t.state.name for t in study.trials] == ["PRUNED", *(18 * ["COMPLETE"])], (
        "the default setting has no preview"
    )


@pytest.mark.slow
def test_an_extension_while_it_runs(folder):
    worker = Worker(spec_of(sampler="gp"), folder("live")).run(9)
    (answer,) = worker.ask("extend", trials=18)
    assert answer.words == "the search has 18 trials now" and answer.request.by == user_name()
    worker.run()
    straight = Worker(spec_of(trials=18, sampler="gp"), folder("straight")).run()
    assert lines(worker.history) == lines(straight.history)
    (event,) = [e for e in map(json.loads, worker.history.path.read_text().splitlines()) if e["event"] == "extend"]
    assert event["by"] == user_name() and event["time"] > 0 and event["trial"] == -2


# ---- trials of one's own -------------------------------------------------------------------------------------------


def killed_anywhere(folder, steps, at=curve):
    """``steps(worker)`` of a search that nobody kills, and of one that is opened anew before every trial."""

    class Restarted(Worker):
        def run(self, most=10**6):
            while most:
                self.__init__(self.asked_for, self.folder, self.at)
                if (record := self.optimizer.next()) is None:
                    break
                self.handed(record)
                self.finish(record.trial)
                most -= 1
            return self

    found = []
    for kind in (Worker, Restarted):
        spec = spec_of(sampler=steps.sampler, trials=10 if steps.sampler == "gp" else 16)
        worker = kind(spec, folder(f"{kind.__name__}-{steps.sampler}"), at)
        steps(worker)
        found.append(worker)
    whole, killed = found
    assert summary(whole.history) == summary(killed.history)
    assert [e for e in lines(whole.history) if e["event"] != "resume"] == [
        e for e in lines(killed.history) if e["event"] != "resume"
    ]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_a_trial_of_ones_own_is_next_and_trains_in_full(folder, sampler):
    def steps(worker):
        worker.run(9)  # the default setting, the reference, seven previews
        (answer,) = worker.ask("add", params={"beta": 9.5})
        assert answer.words.startswith("trial 8 is added: beta=9.5")
        worker.run(1)
        assert worker.history.trials[8].state == TrialState.PREVIEWED, "it is next"
        worker.run()

    steps.sampler = sampler
    worker = killed_anywhere(folder, steps)
    record, history = worker.history.trials[8], worker.history
    assert (record.added, record.full, record.state, record.params["beta"]) == (user_name(), True, "finished", 9.5)
    assert len(history.trials) == 17 and history.proposed == 16, "beside those that the search proposes"
    assert state_of(run_of(worker.spec, history)) == "finished"
    mine = [t for t in history.trials.values() if not t.added and t.preview and t.full]
    assert len(mine) >= 4, "a quarter of the search's own"


def test_a_trial_of_ones_own_after_the_end(folder):
    worker = Worker(spec_of(), where := folder("a")).run()
    run = run_of(worker.spec, worker.history, Home(where.parent.parent), "s")
    before = summary(worker.history)
    answer = ask(run, "add", params={"beta": "9.5"})
    assert answer.done and not pending(where)
    again = Worker(spec_of(), where)
    assert again.history.trials[16].state == "waiting" and state_of(run_of(spec_of(), again.history)) == "stopped"
    assert front_json(run_of(spec_of(), again.history))["trials"]["waiting"] == 1
    again.run()
    assert summary(again.history)[:16] == before[:16] and again.history.trials[16].state == "finished"


def test_a_trial_of_ones_own_takes_none_of_the_trials_asked_for(folder):
    spec = spec_of(trials=3, scheduler="none")
    worker = Worker(spec, folder("a")).run(3)  # two trials and the reference
    worker.ask("add", params={"beta": 9.5})
    assert len(worker.run(1).history.trials) == 3 and all(t.state.ended for t in worker.history.everything())
    assert state_of(run_of(spec, worker.history)) == "stopped", "the search's third is still to come"
    assert len(worker.run().history.trials) == 4 and state_of(run_of(spec, worker.history)) == "finished"


def test_what_the_model_cannot_express_it_is_not_shown():
    """SRAT's own loss is not searched: a trial with another would be shown as if it had the searched one."""
    space = SearchSpec(method="srat").search_space()
    inside = setting_of(space, "srat", {"start": 0.3})
    assert space.expresses(inside) and space.expresses(space.default())
    other = setting_of(space, "srat", {"form": "trades"})
    assert space.contains(other) and not space.expresses(other)
    narrow = SearchSpec(method="trades", space={"beta": [1, 2]}).search_space()
    assert setting_of(narrow, "trades", {"beta": 8})["beta"] == 8.0, "beyond what is searched, within what it takes"
    assert not narrow.expresses({"beta": 8.0})


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({}, "nothing is given: write NAME=VALUE"),
        ({"r": 2}, "unknown key 'r': what may vary in this search is "),
        ({"lr": 0.05}, "unknown key 'lr': "),
        ({"beta": "much"}, "beta='much' is not allowed; beta takes "),
        ({"beta": 1e9}, "beta=1000000000.0 is not allowed; beta takes "),
        ([1], "nothing is given"),
    ],
    ids=str,
)
def test_a_setting_that_is_none(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        setting_of(SearchSpec(method="trades").search_space(), "trades", given)


def test_a_training_setting_may_lie_beyond_the_searched_range_too():
    space = SearchSpec(method="trades", space={"lr": [0.1, 0.2], "head_repair": ["none", "norm"]}).search_space()
    found = setting_of(space, "trades", {"lr": 0.3, "head_repair": "sam"})
    assert (found["lr"], found["head_repair"]) == (0.3, "sam")
    with pytest.raises(UsageError, match="lr=-1 is not allowed; lr takes "):
        setting_of(space, "trades", {"lr": -1})


@pytest.mark.parametrize(
    "changes, params, sentence",
    [
        ({"method": "done", "threat": "l2:0.5"}, {"barrier": True}, "'l2:0.5' is not allowed with done and barrier"),
        (
            {"method": "cfa", "set": {"ema": 0.9}, "fix": {"average": "none"}},
            {"average": "fawa"},
            "ema=0.9 is not allowed with cfa",
        ),
        (
            {"set": {"batch_size": 128}, "space": {"batch_size": [64, 128]}, "processes_per_trial": 64},
            {"batch_size": 32},
            "64 processes of a",
        ),
        ({"method": "srat", "space": {"gamma": [1, 2]}}, {"strength": 0.5}, ""),  # there is no gamma beside loss=ce
    ],
    ids=str,
)
def test_a_setting_of_ones_own_keeps_to_what_the_search_allows(changes, params, sentence):
    """It was taken, and its training failed three times."""
    spec, history = spec_of(**changes), History(None)
    start(history, spec, 0, spec.search_space().default())
    if not sentence:
        assert KINDS["add"](spec, history, {"params": params})["params"]["strength"] == 0.5
        return
    with pytest.raises(UsageError, match=sentence):
        KINDS["add"](spec, history, {"params": params})


def test_a_setting_without_effect():
    space = SearchSpec(method="srat").search_space()
    with pytest.raises(UsageError, match="scale=3 has no effect here: .* exists only with loss in {ldam}"):
        setting_of(space, "srat", {"loss": "ce", "scale": 3})


# ---- narrower ranges -----------------------------------------------------------------------------------------------


def far(record, epoch):
    """Better the closer beta is to 9.5."""
    return metrics_at(epoch, 0.5 - 0.004 * abs(record.params.get("beta", 0) - 9.5))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "qmc", "random"])
def test_proposals_come_from_the_narrower_range(folder, sampler):
    """The best that is known lies outside: a model that knows of it proposes near the end towards it."""

    def steps(worker):
        worker.run(7)
        (answer,) = worker.ask("narrow", space={"beta": [2.0, 4.0]})
        assert answer.words == "new proposals come from beta [2.0, 4.0]"
        worker.run()

    steps.sampler = sampler
    worker = killed_anywhere(folder, steps, far)
    before, after = [
        [t.params["beta"] for t in worker.history.trials.values() if (t.trial > 5) == late] for late in (0, 1)
    ]
    assert any(beta > 4 for beta in before[1:]) and all(2 <= beta <= 4 for beta in after) and len(after) >= 4
    if sampler == "gp":
        assert after[0] == 4.0, "the end of the range that is next to the best"
        whole, space = (s.of("trades").search_space() for s in (worker.spec, worker.history.narrowed(worker.spec)))
        proposer = worker.optimizer.methods["trades"]
        shown = proposer.known.frozen(space, 0, whole=whole)
        assert {*before[1:]} < {t.params["beta"] for t in shown} and shown[0].distributions["beta"].high == 4.0
    assert worker.optimizer.methods["trades"].recorded.study.trials[3].params["beta"] == before[3]


def test_of_choices_and_fixed_values_that_are_gone_nothing_is_shown():
    spec = SearchSpec(method="srat")
    whole = spec.search_space()
    some = history_with("narrow", space={"loss": ["ce", "focal"], "start": [0.5, 0.6]}).narrowed(spec).search_space()
    one = history_with("narrow", space={"loss": "ce", "strength": 1.0}).narrowed(spec).search_space()
    focal = setting_of(whole, "srat", {"loss": "focal", "start": 0.9})
    ldam = setting_of(whole, "srat", {"loss": "ldam"})
    assert some.has_place_for(focal) and not some.contains(focal) and not some.has_place_for(ldam)
    assert not one.has_place_for(focal) and one.has_place_for(whole.default())
    assert not one.has_place_for(setting_of(whole, "srat", {"strength": 0.5}))
    assert "loss" not in one.searched and "scale" not in some.searched
    known = Observations(Worth.of(spec))
    known.expect(TrialRecord(1, whole.default(), "srat"))
    (shown,) = known.frozen(one, 0, whole=whole)
    assert {*shown.params} == {*shown.distributions} and "loss" not in shown.params and "start" in shown.params


def test_a_method_that_has_nothing_left_to_vary_proposes_nothing_more(folder):
    """The others take the trials that are left."""
    worker = Worker(spec_of(method=("srat", "trades")), folder("a")).run(8)
    before = len(worker.history.numbers["trades"])
    worker.ask("narrow", space={"beta": 3.0})
    numbers = worker.run().history.numbers
    assert before >= 2 and len(numbers["trades"]) == before and len(numbers["srat"]) == 16 - before
    assert worker.optimizer.descriptions[1] == "trades: sampler: nothing is searched, the paper's setting runs once"


def test_the_default_setting_stays_what_it_is(folder):
    """It is what the search is compared with, although nobody would propose it now."""
    worker = Worker(spec_of(), where := folder("a")).run(4)
    worker.ask("narrow", space={"beta": [1.0, 2.0]})
    assert front_json(run_of(worker.run().spec, worker.history))["paper"]["trial"] == 0
    assert Worker(spec_of(), where).spec == worker.spec, "the spec is as it was made"


@pytest.mark.parametrize(
    "changes, space, sentence",
    [
        ({}, {}, "--space names no parameter"),
        ({}, {"betta": [1, 2]}, "unknown key 'betta' in --space"),
        ({}, {"beta": [1, 20]}, "beta=20 is not allowed; beta takes "),
        ({"space": {"beta": [2, 4]}}, {"beta": [1, 3]}, r"beta=\[1, 3\] is not narrower than \[2, 4\] log; stems, and"),
        ({"space": {"beta": [2, 4]}}, {"beta": 5}, "beta=5 is not narrower than"),
        ({"fix": {"beta": 3}}, {"beta": [1, 3]}, r"beta has no effect: this search has it fixed \(--fix beta=3\)"),
        ({}, {"beta": 3}, "leaves nothing to search"),
        ({}, {"lr": [0.01, 0.02]}, "lr cannot be narrowed: this search varies beta"),
        ({"method": "srat", "sampler": "nsga2"}, {"loss": ["ce"]}, "--sampler nsga2 keeps the choices"),
        ({"method": ("srat", "trades")}, {"beta": [1, 20]}, "beta=20 is not allowed"),
    ],
    ids=str,
)
def test_what_is_not_narrower(changes, space, sentence):
    spec, history = spec_of(**changes), History(None)
    with pytest.raises(UsageError, match=sentence):
        KINDS["narrow"](spec, history, {"space": space})


@pytest.mark.parametrize("given", [[3, 4], {"low": 3, "high": 4}])
def test_a_narrower_range_stays_on_its_scale(given):
    """Of beta that is logarithmic, where a search does not say otherwise."""
    for space, log in (({"beta": [2, 8]}, True), ({"beta": {"low": 2, "high": 8, "log": False}}, False)):
        spec, history = spec_of(space=space), History(None)
        history.append("narrow", **KINDS["narrow"](spec, history, {"space": {"beta": given}}))
        found = history.narrowed(spec).search_space().params["beta"].range
        assert (found.low, found.high, found.log) == (3.0, 4.0, log)
        assert log is False or history.steered.space == {"beta": given}, "as it was given"


def test_ranges_only_become_narrower_one_by_one():
    spec, history = spec_of(method=("srat", "trades")), History(None)
    for space in ({"beta": [2, 4]}, {"loss": ["ce", "focal"]}, {"beta": [2, 3], "start": 0.5}):
        fields = KINDS["narrow"](spec, history, {"space": space})
        history.append("narrow", fields.pop("trial"), **fields)
    assert history.steered.space == {"beta": [2, 3], "loss": ["ce", "focal"], "start": 0.5}
    srat, trades = (history.narrowed(spec).of(method).search_space() for method in spec.methods)
    assert (trades.params["beta"].range.low, trades.params["beta"].range.high) == (2, 3)
    assert srat.fixed == {"start": 0.5} and srat.params["loss"].range.choices == ("ce", "focal")
    with pytest.raises(UsageError, match="not narrower"):
        KINDS["narrow"](spec, history, {"space": {"beta": [2, 4]}})


# ---- a copy --------------------------------------------------------------------------------------------------------


def test_a_clone_goes_its_own_way(made):
    checkpoint = made.folder / "trials" / "0" / "checkpoint.pt"
    write_atomically(checkpoint, b"weights")
    (made.folder / "init.json").write_text("{}")
    (made.folder / "images").write_text("0" * 32)
    (made.folder / "trials" / "1").symlink_to(made.home.root)
    (made.folder / "result.json").write_text("{}")
    before = (made.folder / "history.jsonl").read_text()
    with open(made.folder / "history.jsonl", "a") as file:
        file.write('{"event": "epo')  # a driver is writing
    done = tuner_here("clone", "s", "--name", "again", "--home", made.home.root)
    assert done.returncode == 0 and done.stdout == "again has the 6 trials of s\n", done.stderr
    copy = load_search(made.home, "again")
    assert copy.spec == replace(made.spec, name="again") and copy.history.path.read_text() == before
    assert sorted(p.relative_to(copy.folder).as_posix() for p in copy.folder.rglob("*") if p.is_file()) == [
        *("history.jsonl", "images", "init.json", "spec.yaml", "trials/0/checkpoint.pt")
    ]
    write_atomically(checkpoint, b"trained on")
    assert (copy.folder / "trials" / "0" / "checkpoint.pt").read_bytes() == b"weights"
    ask(copy, "retry", trial=5)
    assert load_search(made.home, "s").history.trials[5].state == "failed"
    for name, sentence in (("again", "exists already"), ("../x", "is not allowed"), ("s", "exists already")):
        again = tuner_here("clone", "s", "--name", name, "--home", made.home.root)
        assert again.returncode == 2 and sentence in again.stderr
    assert {p.name for p in made.home.searches.iterdir()} == {"s", "again"}


# ---- an end, and another try ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_who_is_skipped_is_neither_promoted_nor_shown(folder, sampler):
    def steps(worker):
        worker.run(7)
        worker.ask("skip", trial=3)  # only previewed: it is not promoted
        worker.ask("add", params={"beta": 9.5})
        worker.ask("skip", trial=6)  # the added one, which waits
        worker.run()

    steps.sampler = sampler
    history = killed_anywhere(folder, steps).history
    assert [t.trial for t in history.with_state(TrialState.SKIPPED)] == [3, 6]
    assert history.trials[3].reason == f"skipped by {user_name()}" and not history.trials[3].full
    assert history.trials[6].preview is None and history.proposed == (10 if sampler == "gp" else 16)
    assert front_json(run_of(spec_of(), history))["trials"]["skipped"] == 2


def test_previews_that_are_skipped_count_as_previews(folder):
    """Too few were left for any to be chosen, and the search ended with its default setting alone."""
    worker = Worker(spec_of(scheduler="preview", trials=9), folder("a")).run(4)  # trials 0 to 2, the reference
    while worker.history.proposed < 9 and (record := worker.optimizer.next()) is not None:
        worker.handed(record)
        if record.full:
            worker.finish(record.trial)
            continue
        worker.ask("skip", trial=record.trial)
        worker.optimizer.back(record.trial)
    full = [t.trial for t in worker.run().history.trials.values() if t.full]
    assert full == [0, 1, 2] and state_of(run_of(worker.spec, worker.history)) == "finished"


def test_a_preview_that_was_skipped_and_is_tried_again_waits_for_its_promotion(folder):
    """It was handed out as a preview once more, whose end nobody recorded: the search did not end."""
    worker = Worker(spec_of(scheduler="preview"), folder("a")).run(7)
    assert worker.history.trials[3].state == TrialState.PREVIEWED
    worker.ask("skip", trial=3)
    worker.ask("retry", trial=3)
    record = worker.history.trials[3]
    assert record.state == TrialState.PREVIEWED and record.reason == "" and record.ended > 0
    assert worker.history.tally.running.get(3) is None
    worker.run()
    assert all(trial.state.ended for trial in worker.history.trials.values())


@pytest.mark.parametrize("method", ["trades", ("trades", "wat")])
def test_whoever_takes_over_leaves_alone_what_is_with_a_worker(folder, method):
    """One that nobody has goes first. Trials of several methods have the same numbers, each in its own."""
    worker = Worker(spec_of(method=method, scheduler="none"), folder("a"))
    for _ in range(5):  # the reference is one of them
        worker.handed(worker.optimizer.next())
    last = max(worker.history.trials)
    worker.optimizer.out.discard(last)
    worker.optimizer.take_over(worker.spec)
    assert worker.optimizer.next().trial == last
    assert worker.optimizer.next().trial == last + 1


def test_a_running_trial_is_skipped_and_what_it_trains_meanwhile_is_not_heard(folder):
    worker = Worker(spec_of(), where := folder("a")).run(4)
    record = worker.optimizer.next()
    worker.handed(record)
    worker.ask("skip", trial=record.trial)
    assert worker.optimizer.skipped(record.trial) and record.trial in worker.optimizer.out
    told = worker.history.changes
    watch = SearchCallback(run_of(worker.spec, worker.history, name="s"), worker.optimizer, Listener(), print)
    watch.on_trial_result(0, [], None, {"trial": record.trial, "metrics": {"epoch": 10}, "done": True})
    assert worker.history.changes == told
    (answer,) = [a for a in worker.ask("retry", trial=record.trial)] or [None]
    assert answer is None and pending(where), "its process does not know yet that it was skipped"


def test_a_trial_that_failed_is_tried_again(folder):
    """Resumed or live, the model and the study take it for one that runs."""

    def steps(worker):
        worker.run(4)
        record = worker.optimizer.next()
        worker.handed(record)
        worker.history.append("error", record.trial, reason="no memory")
        worker.history.append("end", record.trial, state="failed", reason="no memory")
        worker.optimizer.tell(record.trial)
        worker.optimizer.back(record.trial)
        worker.run(1)
        (answer,) = worker.ask("retry", trial=record.trial)
        assert answer.words == f"trial {record.trial} will be tried again"
        assert (record := worker.history.trials[record.trial]).state == "waiting" and not (
            record.errors or record.reason
        )
        worker.run()
        assert worker.history.trials[record.trial].preview
        study = worker.optimizer.methods["trades"].recorded.study
        assert study.trials[record.trial].state.name == "COMPLETE"

    steps.sampler = "nsga2"
    history = killed_anywhere(folder, steps).history
    assert not history.with_state(TrialState.FAILED) and len(history.trials) == 16


@pytest.mark.parametrize(
    "kind, about, sentence",
    [
        ("skip", {"trial": 0}, "trial 0 has ended already: finished"),
        ("skip", {"trial": 99}, "there is no trial 99; `tuner trials` lists them"),
        ("skip", {"trial": NO_SEARCH}, "no search is what the search is compared with; it cannot be skipped"),
        ("retry", {"trial": 0}, "trial 0 is finished; only one that failed or was skipped is tried again"),
        ("extend", {"trials": 6}, "--trials 6 adds nothing: search 's' has 6 already"),
        ("extend", {"trials": 0}, "--trials 0 is not allowed"),
        ("add", {"params": {"beta": 6}}, "trial 0 has this setting already"),
        (
            "add",
            {"params": {"beta": 7}, "method": "srat"},
            "--method 'srat' is not of this search; choose one of: trades",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_one_sentence(made, kind, about, sentence):
    before = made.history.path.read_text()
    with pytest.raises(UsageError, match=sentence):
        ask(made, kind, **about)
    assert not pending(made.folder) and made.history.path.read_text() == before


@pytest.mark.parametrize(
    "changes, trials, sentence",
    [
        ({"method": "at", "trials": 3, "stems": 5}, 4, ""),
        ({"method": "at", "trials": 8, "stems": 5}, 16, "varies nothing and has a trial under each of its 5 seeds"),
        ({"method": "at", "trials": 3}, 4, "varies nothing, so there is nothing more to try"),
        ({"method": ("at", "lsat"), "trials": 16, "stems": 2}, 32, "under each of its 2 seeds"),
        ({"method": ("at", "trades"), "trials": 16, "stems": 2}, 32, ""),
    ],
    ids=str,
)
def test_what_varies_nothing_ends_with_its_seeds(changes, trials, sentence):
    def extend():
        return KINDS["extend"](spec_of(**changes), History(None), {"trials": trials})

    if not sentence:
        assert extend()["trials"] == trials
        return
    with pytest.raises(UsageError, match=sentence):
        extend()


def test_one_more_seed_of_a_trial(folder):
    """Whoever wants to be sure of one point need not train the front again; asked twice it is one more each time."""
    worker = Worker(spec_of(trials=9), where := folder("a")).run()
    trial = next(t.trial for t in worker.history.trials.values() if t.full and t.trial)
    for seeds in (2, 3):
        (answer,) = worker.ask("confirm", trial=trial)
        assert answer.words == f"trial {trial} will be trained with {seeds} seeds in all"
    again = Worker(spec_of(trials=9), where)
    assert state_of(run_of(again.spec, again.history)) == "stopped"
    again.run()
    assert [(r.of, r.seed, r.params) for r in again.history.replicates.values()] == [
        (trial, seed, again.history.trials[trial].params) for seed in (1, 2)
    ]
    assert (
        state_of(run_of(again.spec, again.history)) == "finished" and again.history.row(trial, ["clean_acc"])["seeds"]
    )
    with pytest.raises(UsageError, match="seed 1 is finished; another seed confirms a trial that trained in full"):
        KINDS["confirm"](again.spec, again.history, {"trial": max(again.history.replicates) - 1})
    more = Worker(spec_of(trials=9, seeds=2), where).run().history
    assert len({(r.of, r.seed) for r in more.replicates.values()}) == len(more.replicates) > 2
    assert KINDS["confirm"](spec_of(trials=9, seeds=2), more, {"trial": trial})["seeds"] == 4


def test_the_answer_to_at_can_be_confirmed(made):
    where = ["--home", made.home.root]
    done = tuner_here("front", "s", "--at", "clean_acc>=0.1", "--confirm", *where)
    assert done.returncode == 0 and "will be trained with 2 seeds in all; go on with: tuner resume s" in done.stderr
    (result,) = json.loads(tuner_here("front", "s", "--at", "clean_acc>=0.1", "--confirm", "--json", *where).stdout)
    assert load_search(made.home, "s").history.trials[result["at"]["trial"]].seeds == 3
    for args in (["--confirm"], ["s", "--at", "clean_acc>=0.1", "--confirm"]):
        wrong = tuner_here("front", *(["s"] if args[0] == "--confirm" else ["s", "t"]), *args[-1:], *where)
        assert wrong.returncode == 2 and "--confirm needs --at" in wrong.stderr


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A search with a finished, a stopped and a failed trial, as a home has it."""
    spec, home = spec_of(trials=6, scheduler="none"), Home(tmp_path / "home")
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    fill(History(folder), spec, trials=5, curves=True)
    return load_search(home, "s")


def test_a_request_is_done_once_whatever_kill_comes_between(made):
    """Killed after the event was written, before the request was removed."""
    with locked(made.folder / ".lock"):
        assert ask(made, "extend", trials=9) is None
    (path,) = pending(made.folder)
    text = path.read_text()
    (answer,) = take_up(made.spec, made.history, made.folder)
    assert answer.done and not path.exists()
    path.write_text(text)
    assert take_up(made.spec, History(made.folder), made.folder) == [] and not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"kind": "add"}', '{"kind": "rm", "by": "x", "about": {}}'),
        *(
            json.dumps({"kind": kind, "by": "x", "about": about})
            for kind in ("add", "skip", "retry", "extend", "narrow", "confirm")
            for about in (
                {},
                {"trial": []},
                {"trials": {}},
                {"params": [1]},
                {"params": {"beta": {}}},
                {"method": []},
                {"space": {"beta": {}}},
            )
        ),
    ],
)
def test_whatever_stands_in_a_request_ends_no_driver(made, text):
    (made.folder / "requests").mkdir()
    (made.folder / "requests" / "1.json").write_text(text)
    (answer,) = take_up(made.spec, made.history, made.folder)
    assert not answer.done and answer.words and not pending(made.folder)


def test_a_request_is_no_link_and_no_pipe(made):
    (folder := made.folder / "requests").mkdir()
    (folder / "a.json").symlink_to(made.folder / "spec.yaml")
    os.mkfifo(folder / "b.json")
    assert pending(made.folder) == []


@pytest.mark.slow
def test_a_driver_of_another_home_takes_up_what_lies_in_the_storage(tmp_path):
    storage = str(tmp_path / "storage")
    spec = spec_of(trials=6, scheduler="none", storage=storage)
    here, there = (Home(tmp_path / name, storage) for name in "ab")
    folder = here.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    fill(History(folder), spec, trials=5)
    push(storage, here, "s")
    run = load_search(there, "s")
    with pytest.raises(UsageError, match="which this command does not name"):
        ask(load_search(Home(tmp_path / "b"), "s"), "retry", trial=5)
    assert ask(run, "retry", trial=5).words == "trial 5 will be tried again" and not pending(run.folder)
    assert load_search(Home(tmp_path / "c", storage), "s").history.trials[5].state == "waiting", "the storage has it"
    with pytest.raises(UsageError, match="trial 5 is waiting"):
        ask(load_search(there, "s"), "retry", trial=5)
    with mirrored(spec, here, "s"):
        assert History(folder).trials[5].state == "waiting"
        extended = tuner_here("resume", "s", "--trials", 9, "--home", there.root, "--storage", storage)
        assert extended.returncode == 0 and extended.stdout.startswith("asked for; taken up where it runs"), extended
        with pytest.raises(UsageError, match="'s' is running already, from .*; wait for it"):
            resume("s", there, trials=12, seeds=2)
        deadline = time.time() + 20
        while not pending(folder) and time.time() < deadline:
            time.sleep(0.05)
        assert pending(folder), "it looks there while it runs, too"
        (asked,) = pending(folder)
        assert json.loads(asked.read_text())["about"] == {"trials": 9}, "what was refused left nothing"
    assert not list(Storage(storage).files("searches/s/requests"))


def test_a_running_driver_looks_for_what_was_asked_for(folder):
    """Between two steps of Ray Tune's loop; what it says, and whom it tells. Once Ray has heard that there is nothing
    more, the driver looks again."""
    worker, said, told = Worker(spec_of(trials=6), folder("a")).run(4), [], []
    listener = Listener()
    listener.trial_ended = lambda record: told.append((record.trial, record.state))
    run = run_of(worker.spec, worker.history, Home(worker.folder.parent.parent), "s")
    watch = SearchCallback(run, worker.optimizer, listener, said.append)
    with locked(worker.folder / ".lock"):
        for kind, about in (("extend", {"trials": 9}), ("skip", {"trial": 1}), ("skip", {"trial": 0})):
            path = worker.folder / "requests" / f"{kind}-{about.get('trial')}.json"
            write_atomically(path, json.dumps({"kind": kind, "by": "ann", "about": about}))
    watch.on_step_end(0, [])
    assert said == [
        *(
            "ann: the search has 9 trials now",
            "not done: trial 0 has ended already: finished",
            "ann: trial 1 is skipped",
        )
    ]
    assert told == [(1, "skipped")] and not pending(worker.folder) and worker.optimizer.total == 9
    write_atomically(worker.folder / "requests" / "2.json", '{"kind": "extend", "by": "ann", "about": {"trials": 12}}')
    watch.on_step_end(0, [])
    assert worker.optimizer.total == 9, "not at every step"
    assert watch.take_up() and worker.optimizer.total == 12 and not watch.take_up()
    write_atomically(worker.folder / "requests" / "3.json", '{"kind": "retry", "by": "ann", "about": {"trial": 1}}')
    assert watch.take_up() and told == [(1, "skipped"), (1, "previewed")], "MLflow said that it is skipped"


def test_nothing_is_asked_twice_by_the_command_line(made):
    home = ["--home", made.home.root]
    done = tuner_here("retry", "s", "5", *home)
    assert done.returncode == 0 and done.stdout.startswith("trial 5 will be tried again; go on with: tuner resume s")
    again = tuner_here("retry", "s", 5, *home)
    assert again.returncode == 2 and "trial 5 is waiting; only one that" in again.stderr
    for trial, what in (("no_search", "no search is "), ("-1x", "'-1x' is no number of a trial"), (77, "no trial 77")):
        refused = tuner_here("retry", "s", *home, "--", trial)
        assert refused.returncode == 2 and what in refused.stderr, refused.stderr
    helps = {name: whole_command().commands[name].params[1].help for name in ("skip", "retry", "note")}
    assert {name for name, text in helps.items() if "no_search" in text} == {"retry", "note"}, "others refuse it"
    added = json.loads(tuner_here("add", "s", "beta=7.5", *home, "--json").stdout)
    assert added["done"] and added["words"] == "trial 6 is added: beta=7.5"
    with locked(made.folder / ".lock"):
        skipped = tuner_here("skip", "s", 6, *home)
        more = tuner_here("resume", "s", "--trials", 9, *home)
        assert tuner_here("resume", "s", "--trials", 9, "--seeds", 2, *home).returncode == 2, "it is running"
    assert skipped.stdout == more.stdout == "asked for; the search's driver takes it up within seconds\n", more.stderr
    assert [a.words for a in take_up(made.spec, History(made.folder), made.folder)] == [
        *("trial 6 is skipped", "the search has 9 trials now")
    ]
    found = load_search(made.home, "s")
    assert found.spec.trials == 9 and stored_search(made.home, "s").spec == spec_of(trials=6, scheduler="none")
    assert (found.history.trials[6].state, found.history.trials[6].added) == ("skipped", user_name())
    assert tuner_here("add", "s", "beta", *home).returncode == 2


def test_a_driver_goes_on_with_what_was_asked_for(driven):  # noqa: F811
    """And the same command as before opens the search, whatever it was extended to."""

    def fill_all(history):
        fill(history, driven.spec, failed=False)

    result = driven(fill_all)
    assert result["state"] == "finished"
    with pytest.raises(UsageError, match="or extend it: tuner resume s --trials 9 --home"):
        driven(fill_all, trials=9)

    before = driven.folder.joinpath("history.jsonl").read_text()
    with pytest.raises(UsageError, match="'6gpu-h' counts GPUs"):
        driven.resume(fill_all, Home(driven.folder.parent.parent), trials=9, budget="6gpu-h")
    assert driven.folder.joinpath("history.jsonl").read_text() == before, "what is refused extends nothing"

    def three_more(history):
        spec = history.in_force(driven.spec)
        assert spec.trials == 9
        for trial in range(6, 9):
            start(history, spec, trial, {"beta": 1.0 + trial / 10})
            history.append("end", trial, state="failed")

    home = Home(driven.folder.parent.parent)
    result = driven.resume(three_more, home, trials=9)
    assert result["state"] == "finished" and sum(result["trials"].values()) == 9
    assert (
        driven.resume(pytest.fail, home, trials=9) == driven.resume(pytest.fail, home) == driven(pytest.fail) == result
    )
    assert stored_search(home, "s").spec.trials == 6 and load_search(home, "s").spec.trials == 9
    assert driven.resume(three_more, home, time_budget=50.0)["state"] == "finished"
    assert stored_search(home, "s").spec.time_budget == 50.0
