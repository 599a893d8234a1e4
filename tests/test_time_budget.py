"""`--time-budget` ends a real search, and nothing is started that could not end (seconds: benchmarks/promptness.py)."""

import json
import time

from tests.conftest import tuner
from tuner.execution.stopping import training_time
from tuner.results.history import History
from tuner.results.trial_state import TrialState


def test_a_tenth_of_a_minute_or_a_fifth_is_left_for_the_report():
    assert training_time(3600) == 3590 and training_time(20) == 16 and training_time(50) == 40


def test_the_search_ends_in_time_and_goes_on_later(tmp_path):
    budget, begin = 40, time.time()  # 32 of them for training
    done = tuner(
        "search",
        "--method",
        "trades",
        "--trials",
        400,
        "--max-epochs",
        3,
        "--set",
        "passes=2",
        "--set",
        "attack_steps=2",
        "--seeds",
        3,
        "--time-budget",
        budget,
        "--max-concurrent",
        1,
        "--name",
        "timed",
        "--home",
        tmp_path,
        "--json",
    )
    result, history = json.loads(done.stdout), History(tmp_path / "searches" / "timed")
    assert done.returncode == 0 and result["state"] == "stopped", done.stderr
    assert history.with_state(TrialState.FINISHED) and not history.replicates
    # one that was running when training had to end; none was begun just before
    ends = [t.ended for t in history.with_state(TrialState.FINISHED, TrialState.STOPPED)]
    left = history.with_state(TrialState.RUNNING)
    assert len(left) <= 1 and sum(result["trials"].values()) < 400
    assert all(t.started < begin + budget for t in history.trials.values())
    for trial in left:
        assert trial.started < max(ends) + 3
