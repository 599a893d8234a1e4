"""`--time-budget` ends a real search, and nothing is started that could not end (seconds: benchmarks/promptness.py)."""

import json
import time

import pytest

from tests.conftest import tuner
from tuner.execution.stopping import training_time
from tuner.results.history import History
from tuner.results.trial_state import TrialState

BUDGET = 30  # seconds, 24 of them for training


def test_a_tenth_of_a_minute_or_a_fifth_is_left_for_the_report():
    assert training_time(3600) == 3590 and training_time(20) == 16 and training_time(50) == 40


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """(result, folder, when it began) of a search with a time budget, where MLflow cannot even be imported."""
    home, begin = tmp_path_factory.mktemp("timed"), time.time()
    (home / "mlflow.py").write_text("raise ImportError('no MLflow here')\n")
    done = tuner(
        "search",
        *("--method", "trades", "--trials", 400, "--max-epochs", 3, "--seeds", 3, "--time-budget", BUDGET),
        *("--set", "passes=2", "--set", "attack_steps=2", "--max-concurrent", 1),
        *("--name", "timed", "--home", home, "--json"),
        env={"PYTHONPATH": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), home / "searches" / "timed", begin


def test_the_search_ends_in_time(timed):
    result, folder, begin = timed
    history = History(folder)
    assert result["state"] == "stopped" and history.with_state(TrialState.FINISHED) and not history.replicates
    # one that was running when training had to end; none was begun just before
    ends = [t.ended for t in history.everything() if t.state in (TrialState.FINISHED, TrialState.STOPPED)]
    left = history.with_state(TrialState.RUNNING)
    assert len(left) <= 1 and sum(result["trials"].values()) < 400
    assert all(t.started < begin + BUDGET for t in history.trials.values())
    for trial in left:
        assert trial.started < max(ends) + 3


def test_the_pictures_do_not_need_mlflow(timed):
    result, folder, _ = timed
    assert result["mlflow"]["run_id"] is None
    assert "Pareto front" in (folder / "front.html").read_text() and (folder / "front.png").exists()
