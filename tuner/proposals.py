"""What to try next: the paper's setting first, then what the sampler proposes. Ray knows nothing of this file."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tuner.history import FAILED, FULL, RUNNING, History
from tuner.sampler import make_sampler
from tuner.spec import SearchSpec


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number (also its number in the study) and the method's parameters."""

    trial: int
    params: dict[str, Any]


class Proposer:
    """Asks the study for settings and tells it results. The study lives in ``<folder>/study.log`` (Optuna journal)."""

    def __init__(self, spec: SearchSpec, folder: Path, history: History):
        self.spec, self.space, self.history = spec, spec.search_space(), history
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
        self.study = optuna.create_study(
            storage=self.storage, study_name=spec.search_name,
            directions=["maximize"] * len(spec.objectives), load_if_exists=True)
        self.study.set_metric_names(list(spec.objectives))
        self.total = spec.trials if self.space.searched else 1  # nothing to search: the paper's setting once
        self._unfinished = [t for t in history.trials.values() if t.state == RUNNING]
        self._clear_zombies()

    def _clear_zombies(self) -> None:
        """A trial that was proposed but never reached the log would stay RUNNING in the study for ever."""
        known = set(self.history.trials)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            if trial.number not in known and trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def next(self) -> Proposal | None:
        """The next trial to run, or None when every trial asked for has been proposed."""
        if self._unfinished:
            record = self._unfinished.pop(0)
            return Proposal(record.trial, record.params)
        if len(self.history.trials) >= self.total:
            return None
        number = len(self.history.trials)
        self.study.sampler = make_sampler(self.spec.sampler, seed=self.spec.seed, number=number, trials=self.total)
        paper = self.space.default()
        outside = number == 0 and not self.space.contains(paper)
        if number == 0 and not outside:
            self.study.enqueue_trial({k: v for k, v in paper.items() if k in self.space.searched})
        trial = self.study.ask()
        params = paper if outside else self.space.sample(trial)
        trial.set_user_attr("paper", number == 0)
        return Proposal(trial.number, params)

    def tell(self, trial: int, state: str, metrics: dict[str, float]) -> None:
        """Record how a trial ended. Only full budgets carry values; others keep what they had as attributes."""
        frozen = self.study.get_trials(deepcopy=False)[trial]
        if frozen.state.is_finished():
            return
        values = [metrics.get(name, math.nan) for name in self.spec.objectives]
        in_study = bool(frozen.params) or not self.space.searched  # a paper's setting outside the ranges is not
        if state == FULL and in_study and not any(map(math.isnan, values)):
            self.study.tell(trial, values)
            return
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial)
        self.storage.set_trial_user_attr(trial_id, "values_at_end", values)
        self.storage.set_trial_user_attr(trial_id, "epoch", metrics.get("epoch", 0))
        self.study.tell(trial, state=TrialState.FAIL if state == FAILED else TrialState.PRUNED)
