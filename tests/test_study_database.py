"""`--study-storage postgresql://...` against a real PostgreSQL: what it holds, a resume, a wrong password."""

from dataclasses import replace

import optuna
import pytest

from tests.postgres import PASSWORD, WHY_NOT, postgres
from tests.test_lanes import drive, dying, spec_of, summary
from tuner.errors import UsageError
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.study import open_storage
from tuner.results.history import History

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def url():
    """With its password where a spec has none: in the environment."""
    with postgres() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield address.replace(f":{PASSWORD}@", "@")


def test_a_search_in_postgresql_that_was_killed_goes_on(url, tmp_path):
    spec = spec_of(trials=10, max_epochs=9, study_storage=url, name="in-postgres", seeds=2)
    whole = History(tmp_path / "whole")
    journal = replace(spec, study_storage=None)
    drive(AskTell(journal, whole, tmp_path / "whole"), whole, journal, at=dying)
    for until in (30, None):
        history = History(tmp_path / "s")
        drive(AskTell(spec, history, tmp_path / "s"), history, spec, until=until, at=dying)
    assert summary(history) == summary(whole) and not (tmp_path / "s" / "study.log").exists()
    for method in ("srat", "trades"):
        study = optuna.load_study(study_name=f"in-postgres/{method}", storage=url)
        lane = history.lane(method)
        assert [t.number for t in study.trials] == list(lane.trials)
        assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
        for shown, record in zip(study.trials, lane.trials.values()):
            assert shown.params.items() <= record.params.items() and record.state.ended
            assert (shown.values is not None) == (record.preview is not None)


def test_a_refused_connection_is_one_sentence_without_the_password(url, tmp_path):
    for wrong in (url.replace("@", ":wrong-2718@"), url.replace("/postgres", "/nowhere")):
        with pytest.raises(UsageError, match="--study-storage") as error:
            open_storage(wrong, tmp_path)
        assert "\n" not in str(error.value)
        assert PASSWORD not in str(error.value) and "wrong-2718" not in str(error.value)
