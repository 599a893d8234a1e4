"""Many at once: fifty readers of a search that is being written. Seconds are for `benchmarks/load.py`."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.histories import fill
from tuner.home import Home
from tuner.results.history import History
from tuner.results.listing import Listing
from tuner.results.searches import load_search
from tuner.results.summary import front_json, save_result, saved_result
from tuner.spec.search_spec import SearchSpec

READERS, TRIALS = 50, 12


@pytest.mark.slow
def test_c4_fifty_readers_see_whole_views_of_a_search_that_is_written(tmp_path):
    """What `ls` and `front` read: no error, never less than before, no trial in part."""
    home, spec = Home(tmp_path), SearchSpec(method="trades", trials=TRIALS, max_epochs=4, name="s", scheduler="none")
    folder, written = home.search("s"), threading.Event()
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history, results = History(folder), []

    def write():
        fill(history, spec, trials=TRIALS, failed=False, curves=True)
        for number in range(20):
            save_result(folder, {"state": "finished", "epochs_trained": number, "wall_s": 1.0, "pad": "x" * 100_000})
        written.set()

    def read(number):
        views = [(0, 0)]
        while not written.is_set() or len(views) < 3:
            run, row = load_search(home, "s"), Listing(home).row("s")
            for trial in run.history.everything():
                assert [m["epoch"] for m in trial.epochs] == [*range(1, len(trial.epochs) + 1)] or trial.role
                assert trial.state != "finished" or trial.last["epoch"] == spec.max_epochs
                assert all(len(m) == len(trial.epochs[0]) for m in trial.epochs)
            assert {r["trial"] for r in run.front().rows} <= {t.trial for t in run.history.with_state("finished")}
            result = saved_result(folder)
            assert result is None or len(result["pad"]) == 100_000
            results.append(result)
            events = run.history.changes
            assert events >= views[-1][0] and row["trials"] >= views[-1][1]
            views.append((events, row["trials"]))
        return views

    with ThreadPoolExecutor(READERS + 1) as pool:
        readers = [pool.submit(read, number) for number in range(READERS)]
        pool.submit(write).result()
        seen = [reader.result() for reader in readers]
    assert len({view for views in seen for view in views}) > 20, "they read while it was written"
    assert any(results) and all(views[-1][1] == TRIALS for views in seen)
    assert front_json(load_search(home, "s"))["trials"]["finished"] == len(history.with_state("finished"))
