"""A budget of epochs, on simulated workers that train an epoch a tick from stems that they share: it is never exceeded,
what fits in it ends, and a search that was killed ends as it would have."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import pytest

from tests.histories import curve, metrics
from tuner.optimizer.ask_tell import AskTell
from tuner.results.bill import expected, stem_of, trained
from tuner.results.history import History
from tuner.results.references import fork_of, references
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec


@dataclass
class Busy:
    """A worker with a trial; ``epochs``: of its preview."""

    record: TrialRecord
    fork: int
    left: bool  # the stem
    epochs: int = 0


def stem_name(spec: SearchSpec, record: TrialRecord) -> tuple:
    """What a stem depends on, as `trainables.stem.stem_key` has it, of what differs between trials of one search."""
    form, head, val_losses = stem_of(record.method)
    hedged = record.params.get("class_weight") == "hedge"
    training = astuple(spec.of(record.method).training())
    return record.params.get("form") or form, head, val_losses or hedged, record.seed, training


class Workers:
    """``there``: the epochs of which other searches have left files of every stem."""

    def __init__(self, spec: SearchSpec, count: int, there: Iterable[int] = ()):
        self.spec, self.count, self.history = spec, count, History(None)
        self.stems: dict[tuple, set[int]] = defaultdict(lambda: {0, *there})
        self.start()

    def start(self) -> None:
        """Begin, or go on after a kill."""
        self.optimizer, self.busy = AskTell(self.spec, self.history, references=references(self.spec)), list[Busy]()

    def run(self, ticks: int = 10_000) -> History:
        for _ in range(ticks):
            self._fill()
            if not self.busy:
                return self.history
            taken: set[tuple] = set()
            for worker in list(self.busy):
                self._epoch(worker, taken)
        return self.history

    def _fill(self) -> None:
        while len(self.busy) < self.count and (not self.busy or self.optimizer.ready):
            proposal = self.optimizer.next()
            if proposal is None:
                return
            number = proposal.trial
            if number not in self.history:
                about = {key: value for key in ("of", "role") if (value := getattr(proposal, key)) is not None}
                about |= {} if proposal.full else {"preview": True}
                self.history.append(
                    "start", number, params=proposal.params, method=proposal.method, seed=proposal.seed, **about
                )
            else:
                previewed = self.history.record(number).state == TrialState.PREVIEWED
                self.history.append("promote" if previewed else "resume", number)
            record = self.history.record(number)
            fork = fork_of(self.spec, self.history, record)
            self.busy.append(Busy(record, fork, left=not fork or bool(record.epochs)))

    def _epoch(self, worker: Busy, taken: set[tuple]) -> None:
        record, key, number = worker.record, stem_name(self.spec, worker.record), worker.record.trial
        values = 0.4 + 0.01 * (number % 17), 0.1 + 0.01 * (number % 13)
        if not worker.left and worker.fork not in self.stems[key]:
            if key not in taken:
                taken.add(key)
                self.history.append("stem", number, stem_epoch=self._stem(self.stems[key], worker.fork))
            return
        if not worker.left:
            worker.left = True
            if record.full:
                past = [{**metrics(epoch, *values), "stem": True} for epoch in range(1, worker.fork + 1)]
                self.history.append("fork", number, epochs=past)
        if record.full:
            epoch = len(record.epochs) + 1
            self.history.append("epoch", number, metrics=metrics(epoch, *values))
            if epoch == self.spec.max_epochs:
                self.history.append("curve", number, curve=curve(*values))
                self._end(worker, "end", state=TrialState.FINISHED)
            return
        worker.epochs += 1
        if worker.epochs == self.spec.of(record.method).epoch_plan.preview[1]:
            self._end(
                worker,
                "preview",
                epochs=worker.epochs,
                metrics=metrics(worker.fork + worker.epochs, *values),
                curve=curve(*values),
            )

    def _stem(self, files: set[int], fork: int) -> int:
        """Train one epoch on the way to a fork; files from the search's earliest fork on are kept."""
        before = max(epoch for epoch in files if epoch < fork)
        files.add(before + 1)
        if 0 < before < min(fork, self.spec.forks[0]):
            files.discard(before)
        return before + 1

    def _end(self, worker: Busy, event: str, **about) -> None:
        self.history.append(event, worker.record.trial, **about)
        self.busy.remove(worker)
        self.optimizer.tell(worker.record.trial)
        self.optimizer.back(worker.record.trial)


def spec_of(budget: float | None = None, **fields) -> SearchSpec:
    text = f"{budget:g}epochs" if budget else None
    return SearchSpec(**{"method": "srat", "sampler": "random", "budget": text, **fields})


RECIPES = {"method": ("gairat", "mail", "trades"), "recipe": "paper"}  # each has a stem of its own
SEARCHES = [
    {},
    {"scheduler": "preview"},
    {"stems": 4},
    {"method": "trades", "stems": 4},
    {"method": ("at", "srat"), "stems": 4},
    {"space": {"form": ["at", "trades"]}},
    {"method": "trades", "seeds": 3},
    {"method": "fairfront", "space": {"class_weight": ["hedge", "none"]}},  # and the hedge, too
    RECIPES,
]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("fields", SEARCHES, ids=str)
def test_a_budget_is_never_exceeded_and_what_fits_ends(fields, workers):
    needs = Workers(spec_of(**fields), workers).run().epochs_trained()
    for budget in (13, 30, 34, 40, 61, 80, needs - 1, needs):
        history = Workers(spec_of(budget, **fields), workers).run()
        assert history.epochs_trained() <= budget, budget
        assert not any(record.state == TrialState.RUNNING for record in history.everything()), budget
    # at the end the same is left to do as without a budget, but for trials whose start might have been the earliest
    if workers == 1:
        assert history.epochs_trained() >= needs - 12


@pytest.mark.parametrize("budget", [30, 34, 36, 45])
@pytest.mark.parametrize("tick", [3, 9, 11])
def test_a_killed_search_trains_what_it_has_begun_to_its_end(budget, tick):
    """What was promised to running trials once left a resume nothing affordable, and they stayed where they were."""
    workers = Workers(spec_of(budget), 4)
    workers.run(tick)
    assert workers.busy
    workers.start()
    history = workers.run()
    assert not any(record.state == TrialState.RUNNING for record in history.everything())
    assert history.with_state(TrialState.FINISHED) and history.epochs_trained() <= budget


@pytest.mark.parametrize(
    "fields, workers, budget, tick",
    [
        ({"method": "dafa", "burn_in": "own", "trials": 4}, 2, 15, 3),  # the reference does not fit
        ({"method": "dafa", "scheduler": "preview", "seed": 7}, 4, 57, 15),  # nor does what is to be promoted
    ],
    ids=str,
)
def test_what_had_begun_goes_before_what_the_budget_ends_with(fields, workers, budget, tick):
    """A resume asked first whether something new fits. Nothing did, the search was over, and what had been cut off
    stayed so."""
    search = Workers(spec_of(budget, **fields), workers)
    search.run(tick)
    search.start()
    history = search.run()
    assert not any(record.state == TrialState.RUNNING for record in history.everything())
    assert history.epochs_trained() <= budget


def users(history: History, event: str, trial: int, **about) -> None:
    history.append(event, trial, by="ann", request=f"{event} {trial}", **about)


def test_of_several_methods_what_had_begun_goes_before_what_a_user_added():
    spec = spec_of(50, method=("wat", "trades"), scheduler="none")
    search = Workers(spec, 1)
    search.run(36)  # both default settings and the reference
    history = search.history
    history.append("start", 2, params={"beta": 3.0}, method="trades", seed=0)
    for epoch in range(1, 7):
        history.append("epoch", 2, metrics=metrics(epoch, 0.4, 0.1))
    users(history, "add", 3, params=spec.of("wat").search_space().default() | {"beta": 2.0}, method="wat", seed=0)
    search.start()
    assert [search.optimizer.next().trial, search.optimizer.next()] == [2, None]


@pytest.mark.parametrize("budget, handed", [(20, [0, None]), (24, [0, -1])])
def test_a_reference_that_is_tried_again_goes_after_what_had_begun(budget, handed):
    spec = spec_of(budget, method="wat", scheduler="none")
    search = Workers(spec, 1)
    history = search.history
    history.append("start", 0, params=spec.search_space().default(), method="wat", seed=0)
    for epoch in range(1, 7):
        history.append("epoch", 0, metrics=metrics(epoch, 0.4, 0.1))
    history.append("start", -1, params={}, method="at", seed=0, role="no_search")
    history.append("end", -1, state=TrialState.FAILED)
    users(history, "retry", -1)
    search.start()
    assert [found and found.trial for found in (search.optimizer.next(), search.optimizer.next())] == handed


def test_what_is_tried_again_has_to_fit_as_well():
    """Its place in the budget was given away once it had ended."""
    spec = spec_of(51, method="trades", scheduler="none")
    search = Workers(spec, 1)
    search.run(26)
    assert [record.trial for record in search.history.tally.running.values()] == [1]
    users(search.history, "skip", 1)
    search.start()
    history = search.run()
    assert history.epochs_trained() == 50 and search.optimizer.late
    users(history, "retry", 1)
    search.start()
    assert search.run().epochs_trained() == 50 and history.trials[1].state == TrialState.WAITING
    search.spec = spec_of(60, method="trades", scheduler="none")
    search.start()
    assert search.run().epochs_trained() == 60 and history.trials[1].state == TrialState.FINISHED


@pytest.mark.parametrize("there", [(9, 10, 11), (6,), (3, 8)], ids=str)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stem_that_another_search_left_is_there_at_some_epochs_only(there, workers):
    """A fork between these trains the stem again from the last one before; once a trial had left it at the ninth epoch,
    all earlier ones were taken for granted."""
    for budget in (30, 45, 61):
        history = Workers(spec_of(budget, method="dafa", scheduler="preview"), workers, there).run()
        assert history.epochs_trained() <= budget and not history.tally.running


def test_what_was_trained_of_another_seeds_stem_is_none_of_a_trials_own():
    """Without a budget workers that wait do that; a resume with one took the trial's own stem to be so far."""
    spec, needs = spec_of(40, method="srat", stems=2, scheduler="none"), []
    for spare in ({}, {"spare": True}):
        history = History(None)
        history.append("start", 0, params=spec.search_space().default(), method="srat", seed=0)
        for epoch in range(1, 6):
            history.append("stem", 0, stem_epoch=epoch, **spare)
        params = spec.search_space().default() | {"start": 0.75}
        history.append("start", 1, params=params, method="srat", seed=0)
        needs.append(AskTell(spec, history)._promised()[0])
    assert needs == [12 + 4 + 3, 12 + 9 + 3]


@pytest.mark.parametrize("budget", [44, 51, 58, 65])
def test_what_a_user_adds_may_fork_before_what_is_kept_of_the_stem(budget):
    spec = spec_of(budget, method="srat", space={"start": [0.6, 0.9]}, scheduler="none")
    search = Workers(spec, 2)
    history = search.run(20)
    params = spec.search_space().default() | {"start": 0.4}
    users(history, "add", len(history.trials), params=params, method="srat", seed=0)
    search.start()
    assert search.run().epochs_trained() <= budget and not history.tally.running


def test_what_users_add_has_no_turn_of_seeds_and_methods():
    """Plain AT was trained twice under the first seed and never under the second, or once less; what was added forked
    at the end of a stem of another learning rate."""
    search = Workers(spec_of(method=("srat", "at"), fix={"lr": 0.1}, stems=2, trials=4, scheduler="none"), 1)
    history = search.run(30)
    assert len(history.trials) == 3
    users(history, "add", 3, params={"lr": 0.05}, method="at", seed=0)
    search.start()
    plain = [trial for trial in search.run().trials.values() if trial.method == "at"]
    assert [(t.seed, t.params["lr"], t.stem_epochs) for t in plain] == [(0, 0.1, 11), (0, 0.05, 0), (1, 0.1, 11)]


def test_plain_at_as_a_method_promises_its_stem_once():
    """16 trials of AT and SRAT under four seeds need what they train; with a budget of as much, all of them end."""
    fields = {"method": ("at", "srat"), "stems": 4, "scheduler": "none"}
    whole = Workers(spec_of(**fields), 8).run()
    budgeted = Workers(spec_of(whole.epochs_trained() + 12, **fields), 8).run()
    assert len(budgeted.with_state(TrialState.FINISHED)) == len(whole.with_state(TrialState.FINISHED)) == 16


def test_the_estimate_is_what_such_a_search_trains():
    """Methods that vary nothing count with what they train, and a method without forks has no stem."""
    for fields in (
        {"method": ("at", "srat")},
        {"method": ("srat", "trades")},
        {"method": ("at", "srat"), "stems": 4},
        {"method": ("at", "lsat"), "stems": 4, "trials": 5},
        {"method": "dafa", "fix": SearchSpec(method="dafa").search_space().default(), "stems": 4},
        RECIPES,
    ):
        spec = spec_of(scheduler="none", **fields)
        found, said = trained(spec, Workers(spec, 4).run()), expected(spec)
        assert found.full == said.full and found.epochs == pytest.approx(said.epochs, rel=0.15), fields
