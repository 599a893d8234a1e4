"""The study as people see it: an Optuna journal in the search's folder, or a database, which optuna-dashboard opens.

It is a record, not the truth: what is missing is filled in from the history, and what cannot be true is written anew.
Only trials of full budget carry values; the user attribute ``epoch`` says at how many epochs values were taken,
``values_at_end`` holds those of the others.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.optimizer.samplers import make_sampler
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import WORST

OWNER = "owner"  # user attribute of a study in a database; the search's folder holds the same in ``study.owner``


def open_storage(url: str | None, folder: Path | None):
    """The database at ``url``, else the journal ``study.log`` in ``folder``, else memory."""
    if url:
        try:
            return RDBStorage(url)
        except Exception as error:  # a missing driver, a refused connection, no such host: one sentence each
            raise UsageError(
                f"--study-storage {_without_password(url)!r} cannot be opened: "
                f"{type(error).__name__}: {_without_password(str(error).splitlines()[0])}"
            ) from None
    if folder is None:
        return InMemoryStorage()
    folder.mkdir(parents=True, exist_ok=True)
    return _open_journal(folder / "study.log")


def _open_journal(path: Path) -> JournalStorage:
    """The journal without the half line that a killed writer may leave. One that cannot be read is set aside."""
    text = path.read_bytes() if path.exists() else b""
    end = text.rfind(b"\n") + 1
    if end < len(text):
        os.truncate(path, end)
    try:
        if end:
            json.loads(text[:end].splitlines()[-1])  # which Optuna looks at when another line follows
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception:  # whatever it stumbled over, the history has it all
        os.replace(path, path.with_name("study.unreadable.log"))
        return JournalStorage(JournalFileBackend(str(path)))


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def _key(folder: Path | None) -> str:
    """This search's own key. A study is named by what the search is, so that of another home may have the same name."""
    if folder is None:
        return uuid.uuid4().hex
    path = folder / "study.owner"  # goes where the folder goes: a home that takes the search over is its owner too
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex)
    return path.read_text()


class Record:
    """Writes trials down as they start and end. Trial numbers are the history's."""

    def __init__(self, spec, history: History, folder: Path | None = None, name: str | None = None):
        self.spec, self.space, self.goal = spec, spec.search_space(), spec.goal
        self.storage = open_storage(spec.study_storage, folder)
        self.study = self._open(name or spec.search_name)
        self.lost: dict[int, dict[str, Any]] = {}  # proposed, but the process died before the history heard of it
        self._catch_up(history, _key(folder) if spec.study_storage else None)

    def _open(self, name: str) -> optuna.Study:
        study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            load_if_exists=True,
            directions=["maximize"] * len(self.spec.objectives),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(
                [
                    f"{n} ({self.spec.smooth_worst})" if self.spec.smooth_worst and n == WORST else n
                    for n in self.spec.objectives
                ]
            )
        return study

    def _catch_up(self, history: History, key: str | None) -> None:
        """Make the study say what the history says. ``key``: the owner's, for a study that others could open too."""
        owner, recorded = self.study.user_attrs.get(OWNER), self.study.get_trials(deepcopy=False)
        if owner not in (None, key):
            raise self._not_ours()
        unknown = [t for t in recorded if t.number not in history.trials]
        if any(t.state != OptunaState.RUNNING for t in unknown):
            if owner != key:  # nobody's, from before there were owners
                raise self._not_ours()
            optuna.delete_study(study_name=self.study.study_name, storage=self.storage)  # our history came back older
            self.study, owner, recorded, unknown = self._open(self.study.study_name), None, [], []
        if owner != key:
            self.study.set_user_attr(OWNER, key)
        self.lost = {t.number: self._params(t) for t in unknown}
        for number, trial in sorted(history.trials.items()):
            if number >= len(recorded):
                self.start(number, trial.params)
            if trial.state != TrialState.RUNNING:
                self.end(number, trial.state, trial.last)

    def _not_ours(self) -> UsageError:
        return UsageError(
            f"the study {self.study.study_name!r} in that storage belongs to another search; "
            "give this one another --name"
        )

    def _params(self, trial) -> dict[str, Any]:
        if trial.user_attrs.get("paper"):
            return self.space.default()
        return self.space.resolve(lambda param: trial.params.get(param.name, param.default))

    def start(self, number: int, params: dict[str, Any]) -> None:
        """A proposal is on its way."""
        inside = self.space.contains(params)  # the paper's setting may lie outside the ranges
        searched = {n: params[n] for n in self.space.searched if n in params} if inside else {}
        trial_id = self.storage.create_new_trial(
            self._study_id,
            create_trial(
                state=OptunaState.RUNNING,
                params=searched,
                distributions={n: self.space.params[n].range for n in searched},
                user_attrs={"paper": number == 0},
            ),
        )
        self._check(number, self.storage.get_trial_number_from_id(trial_id))

    @property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.study.study_name)

    def _check(self, number: int, given: int) -> None:
        if given != number:  # values would be told to the trials of somebody else
            raise self._not_ours()

    def ask(self, number: int, total: int) -> dict[str, Any]:
        """A proposal by a sampler that keeps its state in this study; it is written down already."""
        self.study.sampler = make_sampler(self.spec.sampler, seed=self.spec.seed, number=number, trials=total)
        trial = self.study.ask()
        self._check(number, trial.number)
        trial.set_user_attr("paper", False)
        return self.space.sample(trial)

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        """A trial has ended; does nothing where that is known already."""
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        trial = self.storage.get_trial(trial_id)
        if trial.state.is_finished():
            return
        values = self.goal.point(metrics)
        live = optuna.trial.Trial(self.study, trial_id)
        for name, violation in self.goal.violations(metrics).items():  # on every trial: the samplers want all or none
            live.set_constraint(name, violation)
        live.set_user_attr("epoch", metrics.get("epoch", 0))
        in_study = bool(trial.params) or not self.space.searched
        if state == TrialState.FINISHED and in_study and not any(map(math.isnan, values)):
            self.study.tell(number, values)
            return
        live.set_user_attr("values_at_end", [None if math.isnan(v) else v for v in values])
        self.study.tell(number, state=OptunaState.FAIL if state == TrialState.FAILED else OptunaState.PRUNED)
