"""What every listener keeps."""

from __future__ import annotations

import inspect
import json

from tuner.home import Home
from tuner.results.history import History
from tuner.results.listener import LISTENERS, Listener
from tuner.results.search_run import SearchRun
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

EVENTS = [name for name in vars(Listener) if not name.startswith("_") and name != "name"]
METRICS = {"robust_acc": 0.4, "natural_robust_acc": 0.5, "worst_class_robust_acc": 0.1, "clean_acc": 0.7}


class ListenerContract:
    """``listener``: its name; ``make`` may return one that has arguments."""

    listener = ""

    def make(self) -> Listener:
        return LISTENERS[self.listener]()

    def test_it_has_a_name_and_hears_something(self):
        cls = type(self.make())
        heard = [event for event in EVENTS if getattr(cls, event) is not getattr(Listener, event)]
        assert cls.name != Listener.name and heard, "it overrides none of the events"
        for event in heard:
            asked, given = (list(inspect.signature(getattr(c, event)).parameters) for c in (Listener, cls))
            assert len(asked) == len(given), f"{event} takes {', '.join(asked[1:]) or 'nothing'}"

    def test_a_search_with_a_finished_and_a_failed_trial(self, tmp_path):
        """It raises nothing, and what it adds to the result can be printed as JSON."""
        listener = self.make()
        spec = SearchSpec(method="trades", trials=2, max_epochs=1, name="heard")
        run = SearchRun(spec, Home(tmp_path), spec.search_name, History(tmp_path / "searches" / "heard"))
        listener.search_started(run)
        for trial, end in ((0, {"state": TrialState.FINISHED}), (1, {"state": TrialState.FAILED, "reason": "made up"})):
            run.history.append("start", trial, params=spec.search_space().default(), method="trades", seed=0)
            record = run.history.trials[trial]
            listener.trial_started(record)
            if trial == 0:
                listener.training_began()
                metrics = {"epoch": 1, **METRICS, **{f"robust_acc/{c}": 0.4 for c in range(3)}}
                run.history.append("epoch", trial, metrics=metrics)
                listener.epoch_ended(record, metrics)
            run.history.append("end", trial, **end)
            listener.trial_ended(record)
            listener.front_changed(run.front(), trial + 1)
        listener.trouble("a node was lost")
        listener.search_ended(run, "finished")
        added = listener.result()
        assert isinstance(added, dict) and json.dumps(added)
