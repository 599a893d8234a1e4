"""Our packages leave a caller's settings of logging and warnings alone: when imported, and after a proposal."""

import json
import logging
import subprocess
import sys
import threading
import time
import warnings

import optuna
import pytest

from tests.test_house import FILES
from tuner.optimizer import quiet
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.quiet import quiet_optuna
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec

# What other libraries change when they are imported is theirs, so they come first.
IMPORTS = """
import importlib, json, logging, sys, warnings
import matplotlib.pyplot, mlflow, mlflow.pyfunc, optuna, plotly.graph_objects, pyarrow.parquet, ray, ray.tune, torch
import scipy.linalg, scipy.optimize, torchvision, typer, rich
optuna.logging.set_verbosity(optuna.logging.DEBUG)

def settings():
    loggers = dict(logging.root.manager.loggerDict, root=logging.root)
    return [
        [repr(f) for f in warnings.filters],
        repr(warnings.showwarning), logging.root.manager.disable, logging.raiseExceptions,
        optuna.logging.get_verbosity(),
        {n: [l.level, l.propagate, l.disabled, len(l.handlers), len(l.filters)]
         for n, l in loggers.items() if isinstance(l, logging.Logger)},
    ]

before = settings()
for name in MODULES:
    importlib.import_module(name)
after = settings()
after[-1] = {n: row for n, row in after[-1].items() if n in before[-1]}
print(json.dumps([before, after]))
"""


def test_imports_change_no_settings():
    modules = [name for name in FILES if not name.endswith("__main__")]
    assert "tuner.optimizer.observations" in modules and "trainables.loop" in modules
    code = IMPORTS.replace("MODULES", repr(modules))
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before == after


@pytest.fixture
def alone():
    """A test before may have left a thread that computes a proposal which nobody asks for any more."""
    until = time.monotonic() + 30
    while quiet._inside:
        assert time.monotonic() < until
        time.sleep(0.01)


def settings():
    levels = [logging.getLogger(name).level for name in ("optuna", "optuna._gp.gp", "root")]
    return list(warnings.filters), warnings.showwarning, levels


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_silent_and_settings_stay(sampler, tmp_path, caplog, alone):
    spec, history = SearchSpec(method="trades", trials=8, sampler=sampler, scheduler="none"), History(tmp_path)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()  # to caplog
    try:
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG, "root"):
            warnings.simplefilter("always")
            before = settings()
            proposer = Proposer(spec, history, folder=tmp_path)
            while (proposal := proposer.next()) is not None:
                history.append("start", proposal.trial, params=proposal.params, method="trades")
                row = {
                    "epoch": 12,
                    "natural_robust_acc": 0.5,
                    "robust_acc": 0.5,
                    "worst_class_robust_acc": 0.0,
                    "clean_acc": 0.8,
                }
                history.append("epoch", proposal.trial, metrics=row)
                history.append("end", proposal.trial, state=TrialState.FINISHED)
                proposer.tell(proposal.trial)
            assert len(history.trials) == 8 and settings()[1:] == before[1:]
            assert [f for f in warnings.filters if f in before[0]] == before[0]  # SciPy and PyTorch add their own
            assert not any(f in warnings.filters for f in quiet.FILTERS)
            assert not [r.getMessage() for r in caplog.records if r.name.startswith("optuna")]
            assert not [str(w.message) for w in caught]
            optuna.create_study()  # ours are held back, the caller's own are not
            assert caplog.records[-1].getMessage().startswith("A new study")
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(level)


def test_what_another_thread_changes_in_between_stays(alone):
    """As where MLflow is imported while a proposal is computed."""
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with quiet_optuna():
            warnings.filterwarnings("ignore", message="of another library")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        assert warnings.filters[1:] == before and "of another library" in str(warnings.filters[0])
        outer = quiet_optuna()
        outer.__enter__()
        with warnings.catch_warnings():
            outer.__exit__(None, None, None)
            assert warnings.filters[1:] == before
        assert warnings.filters[1:] == before
        with quiet_optuna(), warnings.catch_warnings():
            warnings.resetwarnings()
            with quiet_optuna():  # another thread's, which enters later
                assert all(f in warnings.filters for f in quiet.FILTERS)
        assert warnings.filters[1:] == before and quiet._inside == 0


def test_the_last_thread_restores_the_settings(alone):
    """Whatever the order in which they leave."""
    before, inside, leave = settings(), threading.Event(), threading.Event()

    def other():
        with quiet_optuna():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with quiet_optuna():
        thread.start()
        assert inside.wait(10)
    assert optuna.logging.get_verbosity() == logging.WARNING and settings() != before
    leave.set()
    thread.join()
    assert settings() == before and quiet._inside == 0


def test_a_stricter_level_of_the_caller_stays(alone):
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.CRITICAL
        assert optuna.logging.get_verbosity() == optuna.logging.CRITICAL
    finally:
        optuna.logging.set_verbosity(level)
