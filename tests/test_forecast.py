"""What a budget may find, by recorded searches: the table that benchmarks make, and the line before a search."""

import json

import pytest

from benchmarks import forecast as made
from benchmarks.live_report import stored
from tests.conftest import tuner_here
from tuner.results import forecast as module
from tuner.results.forecast import TABLE, forecast
from tuner.spec.search_spec import SearchSpec


def run(seed, ends, cost=100.0, epochs_trained=60, problem="srat", **changed):
    """A recording whose trace has (cost, hypervolume) ``ends``."""
    about = {
        "problem": problem,
        "arm": "ours in full",
        "seed": seed,
        "workers": 4,
        "offsets": "auto",
        "trials": 16,
        "epochs": 12,
        "set": {},
    }
    trace = [{"cost": cost, "held_out": found} for cost, found in ends]
    return {**about, "cost": cost, "epochs_trained": epochs_trained, "trace": trace, **changed}


RUNS = [run(n, [(20, 0.2 + n / 100), (60, 0.4), (95, 0.5)]) for n in range(5)]


def test_the_table_by_hand():
    """60 of 100 are training epochs, so a cost of 20 is 12 of them: one training of 12 epochs."""
    (recording,) = json.loads(made.table(RUNS))["recordings"]
    assert (recording["method"], recording["runs"], recording["ended"]) == ("srat", 5, 5.0)
    assert recording["scheduler"] == "none"
    steps = {step["trainings"]: step for step in recording["after"]}
    assert list(steps) == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    assert steps[1.0] == {"trainings": 1.0, "share": 0.44, "lowest": 0.4, "highest": 0.48}
    assert steps[2.5]["share"] == 0.44 and steps[3.0]["share"] == 0.8 and steps[5.0]["share"] == 1.0


@pytest.mark.parametrize(
    "others",
    [
        [run(n, [(20, 0.1)], arm="stock") for n in range(9)],
        [run(n, [(20, 0.1)], set={"passes": 1}) for n in range(9)],
        [run(n, [(20, 0.1)], problem="srat-cifar10") for n in range(9)],
        [run(n, [(20, 0.1)], problem="done") for n in range(4)],  # too few
        [run(n, [(90, 0.5)], workers=16) for n in range(9)],
        [run(9, [])],
    ],
)
def test_other_runs_are_left_out(others):
    assert made.table([*RUNS, *others]) == made.table(RUNS)


def test_the_shipped_table_is_that_of_the_stored_recordings():
    assert TABLE.read_text() == made.table(stored()), "run: make docs"


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(module, "_recordings", lambda: json.loads(made.table(RUNS))["recordings"])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"budget": "38epochs"}, "3.2 trainings' worth gave 5 recorded searches of srat on digits (exp:10, 16 trials x "
         "12 epochs) about 0.80 (0.80 to 0.80) of what they found in the end; another seed may differ"),
        ({"budget": "11epochs"}, "0.9 trainings' worth: 5 recorded searches of srat on digits (exp:10, 16 trials x 12 "
         "epochs) had no front so early; another seed may differ"),
        ({"trials": 64}, "more than any of 5 recorded searches of srat on digits"),
        ({"dataset": "cifar10", "budget": "38epochs"}, "(0.80 to 0.80) of what they found in the end; this is "
         "not that search, and may differ"),
        *(
            ({**other, "budget": "38epochs"}, "; this is not that search, and may differ")
            for other in (
                *({"fix": {"loss": "ce"}}, {"threat": "l2:0.5"}, {"stems": 4}, {"burn_in": "own"}, {"offsets": "none"}),
                {"objectives": ("robust_acc", "clean_acc")},
            )
        ),
        ({"seed": 7, "budget": "38epochs", "scheduler": "none"}, "; another seed may differ"),
    ],
)  # fmt: skip
def test_the_line(known, changes, words):
    assert words in forecast(SearchSpec(**{"method": "srat", **changes})).words


@pytest.mark.parametrize(
    "changes",
    [
        *({"method": "dafa"}, {"budget": "30min"}, {"time_budget": 60.0}, {"method": ("srat", "dafa")}),
        {"scheduler": "preview"},
    ],
)
def test_nothing_is_said_where_nothing_was_recorded(known, changes):
    assert forecast(SearchSpec(**{"method": "srat", **changes})) is None


def test_a_dry_run_says_it_beside_the_spec():
    done = tuner_here("search", "--method", "srat", "--budget", "40epochs", "--dry-run")
    assert "scheduler none: " in done.stderr and "; --budget ends it at 3.3" in done.stderr
    assert "cost: about 6.7 trainings' worth" in done.stderr and "forecast: 3.3 trainings' worth gave " in done.stderr
    assert done.returncode == 0 and "forecast" not in done.stdout and "budget: 40epochs" in done.stdout
    assert "forecast" not in tuner_here("search", "--method", "at", "--dry-run").stderr
