"""`--study-storage postgresql://...` against a real PostgreSQL: what it holds, a resume, a wrong password."""

import optuna
import pytest

from tests.postgres import PASSWORD, WHY_NOT, postgres
from tests.test_lanes import drive, spec_of, summary
from tuner.errors import UsageError
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.study import open_storage
from tuner.results.history import History
from tuner.results.trial_state import TrialState

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def url():
    with postgres() as address:
        yield address


def test_a_search_in_postgresql_that_was_killed_goes_on(url, tmp_path):
    spec = spec_of(trials=10, max_epochs=9, grace=1, study_storage=url, name="in-postgres", seeds=2)
    whole = History(tmp_path / "whole")  # in a journal
    drive(
        AskTell(spec_of(trials=10, max_epochs=9, grace=1, name="in-postgres", seeds=2), whole, tmp_path / "whole"),
        whole,
        spec,
    )
    for until in (30, None):
        history = History(tmp_path / "s")
        drive(AskTell(spec, history, tmp_path / "s"), history, spec, until=until)
    assert summary(history) == summary(whole) and not (tmp_path / "s" / "study.log").exists()
    for method in ("srat", "trades"):
        study = optuna.load_study(study_name=f"in-postgres/{method}", storage=url)
        lane = history.lane(method)
        assert [t.number for t in study.trials] == list(lane.trials)
        assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
        for shown, record in zip(study.trials, lane.trials.values()):
            assert shown.params.items() <= record.params.items() and record.state in (
                TrialState.FINISHED,
                TrialState.STOPPED,
            )
            assert (shown.values is not None) == (record.state == TrialState.FINISHED)


def test_a_refused_connection_is_one_sentence_without_the_password(url, tmp_path):
    for wrong in (url.replace(PASSWORD, "wrong-2718"), url.replace("/postgres", "/nowhere")):
        with pytest.raises(UsageError, match="--study-storage") as error:
            open_storage(wrong, tmp_path)
        assert "\n" not in str(error.value)
        assert PASSWORD not in str(error.value) and "wrong-2718" not in str(error.value)
