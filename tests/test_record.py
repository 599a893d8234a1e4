"""The recorded study where it and the history disagree: half a line, an older history, somebody else's database."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.histories import metrics
from tuner.errors import UsageError
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.study import OWNER
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import pull, push


class Searching:
    """A search as a driver has it, opened anew from what its folder holds."""

    def __init__(self, spec, folder):
        self.spec, self.history = spec, History(folder)
        self.optimizer = AskTell(spec, self.history, folder)

    def start(self):
        record = self.optimizer.next()
        if record.trial not in self.history.trials:
            self.history.append("start", record.trial, params=record.params, method=record.method)
        return record

    def end(self, number, state=TrialState.FINISHED):
        mean = 0.5 + number / 100
        self.history.append("epoch", number, metrics=metrics(self.spec.max_epochs, mean, mean / 2))
        self.history.append("end", number, state=state)
        self.optimizer.tell(number, state)

    def run(self, trials):
        for _ in range(trials):
            self.end(self.start().trial)
        return self


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 8, "scheduler": "none", "sampler": "tpe", **changes})


def in_database(tmp_path, **changes):
    return spec_of(study_storage=f"sqlite:///{tmp_path}/studies.db", **changes)


def study_of(spec, folder=None):
    storage = spec.study_storage or JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name=spec.search_name, storage=storage)


def says_what_the_history_says(study, history):
    assert [t.number for t in study.trials] == list(history.trials)
    for shown, record in zip(study.trials, history.trials.values()):
        assert shown.params == {"beta": record.params["beta"]}
        assert (
            shown.state
            == {TrialState.FINISHED: optuna.trial.TrialState.COMPLETE, "running": optuna.trial.TrialState.RUNNING}[
                record.state
            ]
        )
        assert record.state != TrialState.FINISHED or shown.values[0] == record.last["natural_robust_acc"]


# ---- the journal -----------------------------------------------------------------------------------------------------

HALF = b'{"op_code":4,"work'


@pytest.mark.parametrize(
    "torn, aside",
    [(HALF, False), (b"\0" * 300, False), (HALF + b"\n", True), (HALF + b"\n{}\n", True)],
    ids=["half a line", "zeros", "unreadable at its end", "unreadable"],
)
def test_a_torn_journal_is_no_end_of_a_search(tmp_path, torn, aside):
    spec = spec_of()
    Searching(spec, tmp_path).run(3)
    with open(tmp_path / "study.log", "ab") as file:
        file.write(torn)
    again = Searching(spec, tmp_path).run(2)
    says_what_the_history_says(study_of(spec, tmp_path), again.history)
    assert (tmp_path / "study.unreadable.log").exists() == aside


def test_a_journal_that_knows_more_than_the_history_is_written_anew(tmp_path):
    """A storage may hold a journal that was sent just before the machine was lost, and the history of before."""
    spec = spec_of()
    before = Searching(spec, tmp_path).run(2).history.path.read_bytes()
    Searching(spec, tmp_path).run(2)
    (tmp_path / "history.jsonl").write_bytes(before)
    again = Searching(spec, tmp_path)
    assert again.start().trial == 2
    says_what_the_history_says(study_of(spec, tmp_path), again.history)


# ---- a database ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_two_homes_do_not_share_a_study(tmp_path, sampler):
    """The name of a search says what it is, so theirs have the same."""
    spec = in_database(tmp_path, sampler=sampler)
    first = Searching(spec, tmp_path / "a")
    first.start()
    with pytest.raises(UsageError, match="belongs to another search; give this one another --name"):
        Searching(spec, tmp_path / "b")
    first.end(0)
    first.run(2)
    says_what_the_history_says(study_of(spec), first.history)


@pytest.mark.parametrize("left", ["owner", "nobody"])
def test_what_a_search_that_is_gone_gave_up_is_not_taken_over(tmp_path, left):
    spec = in_database(tmp_path)
    gone = Searching(spec, tmp_path / "gone")
    gone.end(gone.start().trial, TrialState.FAILED)
    if left == "nobody":
        forget_owner(spec)
    with pytest.raises(UsageError, match="belongs to another search"):
        Searching(spec, tmp_path / "new")


def forget_owner(spec):
    """As older versions left their studies."""
    study = study_of(spec)
    study.set_user_attr(OWNER, None)


def test_a_study_without_an_owner_is_adopted(tmp_path):
    spec = in_database(tmp_path)
    Searching(spec, tmp_path / "a").run(2)
    (tmp_path / "a" / "study.owner").unlink()
    forget_owner(spec)
    again = Searching(spec, tmp_path / "a").run(1)
    says_what_the_history_says(study_of(spec), again.history)
    with pytest.raises(UsageError, match="belongs to another search"):
        Searching(spec, tmp_path / "b")


@pytest.mark.parametrize("more", [0, 1], ids=["all was sent", "an end was not"])
def test_a_home_that_takes_a_search_over_from_a_storage_owns_its_study(tmp_path, more):
    spec, storage = in_database(tmp_path, name="s"), str(tmp_path / "storage")
    a, b = Home(tmp_path / "a"), Home(tmp_path / "b")
    first = Searching(spec, a.search("s")).run(2)
    (a.search("s") / "spec.yaml").write_text(spec.to_yaml())
    push(storage, a, "s")
    first.run(more)
    assert pull(storage, b, "s")
    second = Searching(spec, b.search("s")).run(1)
    assert list(second.history.trials) == [0, 1, 2]
    says_what_the_history_says(study_of(spec), second.history)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_trial_that_gets_another_number_is_refused(tmp_path, sampler):
    spec = in_database(tmp_path, sampler=sampler)
    first = Searching(spec, tmp_path / "a").run(1)
    study_of(spec).ask()  # somebody writes into it while we run
    with pytest.raises(UsageError, match="belongs to another search"):
        first.start()
