"""The recorded study, for optuna-dashboard and for samplers that read it: a journal in the search's folder, or a
database.

The history is the truth: trials that the study lacks are filled in from it, and a study that contradicts it is written
anew. A trial's value is what the model is shown of it (`tuner.optimizer.observations.Worth`): a trial that has none is
pruned, one that diverged has failed. The user attribute ``objectives`` holds those at the end of its preview or
training.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from trainables.reading import read_text
from trainables.urls import masked
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.optimizer.observations import Worth, searched
from tuner.optimizer.quiet import quiet_optuna
from tuner.optimizer.samplers import make_sampler
from tuner.results.history import History
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import WORST
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space

OWNER = "owner"  # user attribute of a study in a database; the search's folder holds the same in ``study.owner``


def open_storage(url: str | None, folder: Path | None) -> BaseStorage:
    """The database at ``url``, else the journal ``study.log`` in ``folder``, else memory.

    ``UsageError`` in one sentence, without the password, where the database cannot be opened.
    """
    if url:
        try:
            return RDBStorage(url)
        except Exception as error:  # a missing driver, a refused connection, no such host: one sentence each
            raise UsageError(
                f"--study-storage {masked(url, url)!r} cannot be opened: "
                f"{type(error).__name__}: {masked(str(error).splitlines()[0], url)}"
            ) from None
    if folder is None:
        return InMemoryStorage()
    folder.mkdir(parents=True, exist_ok=True)
    return _open_journal(folder / "study.log")


def _open_journal(path: Path) -> JournalStorage:
    """The journal, cut behind its last whole line: a killed writer may leave half a line. One that cannot be read is
    renamed to ``study.unreadable.log`` and a new one begun."""
    for left in path.parent.glob(f"{path.name}.lock*"):  # by an earlier version
        left.unlink()
    text = path.read_bytes() if path.exists() else b""
    end = text.rfind(b"\n") + 1
    if end < len(text):
        os.truncate(path, end)
    try:
        if end:
            json.loads(text[:end].splitlines()[-1])  # Optuna reads the last line only once another one follows
        return JournalStorage(JournalFileBackend(str(path), _NoLock(str(path))))
    except Exception:  # whatever is wrong with it, the history holds the same trials
        os.replace(path, path.with_name("study.unreadable.log"))
        return JournalStorage(JournalFileBackend(str(path), _NoLock(str(path))))


class _NoLock(JournalFileSymlinkLock):
    """The driver holds the search's own lock, which the kernel releases. Optuna's is a link with an absolute place: one
    that a killed driver left makes the next one wait for 30 s, and leads out of a home that was moved."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _key(folder: Path | None) -> str:
    """This search's own key. A study is named by what the search is, so a search of another home may have the same
    name. The key lies in the search's folder: a home that takes the search over owns its study too."""
    if folder is None:
        return uuid.uuid4().hex
    path = folder / "study.owner"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex)
    return read_text(path)


def _ended(record: TrialRecord) -> bool:
    """Whether the study has the trial's end, or that of its preview."""
    return record.state.ended or record.preview is not None


def _ahead(trial: FrozenTrial, record: TrialRecord | None) -> bool:
    """Whether the study has an end of the trial that the history, whose ``record`` that is, has not."""
    if record is None:
        return trial.state != OptunaState.RUNNING
    return trial.state.is_finished() and not _ended(record)


class RecordedStudy:
    """Records trials as they start and end, under the history's trial numbers.

    ``space``: what is proposed from, where it has been narrowed; settings are recorded in the whole one.
    ``UsageError`` where a study of that name in the database belongs to another search. ``lost``: parameters of the
    trials that were proposed before the process died, and that the history does not know.
    """

    @quiet_optuna()
    def __init__(
        self,
        spec: SearchSpec,
        history: History,
        folder: Path | None = None,
        name: str | None = None,
        space: Space | None = None,
    ):
        self.proposals_from = space or spec.search_space()
        self.spec, self.space, self.goal, self.worth = spec, spec.search_space(), spec.goal, Worth.of(spec)
        self.storage = open_storage(spec.study_storage, folder)
        self.study = self._open(name or spec.search_name)
        self.lost: dict[int, dict[str, Any]] = {}
        self._catch_up(history, _key(folder) if spec.study_storage else None)

    def _open(self, name: str) -> optuna.Study:
        study = optuna.create_study(
            storage=self.storage, study_name=name, load_if_exists=True, directions=["maximize"] * self.worth.values
        )
        if len(study.directions) != self.worth.values:  # of a version that recorded something else
            optuna.delete_study(study_name=name, storage=self.storage)
            return self._open(name)
        smooth = self.spec.smooth_worst
        names = [f"{n} ({smooth})" if smooth and n == WORST else n for n in self.spec.objectives]
        study.set_metric_names(["hypervolume"] if self.worth.swept else names)
        return study

    def _catch_up(self, history: History, key: str | None) -> None:
        """Bring the study into agreement with the history. ``key``: the owner's, for a study in a shared database."""
        owner, recorded = self.study.user_attrs.get(OWNER), self.study.get_trials(deepcopy=False)
        if owner not in (None, key):
            raise self._not_ours()
        unknown = [t for t in recorded if t.number not in history.trials]
        if any(_ahead(t, history.trials.get(t.number)) for t in recorded):
            if owner != key:  # of a version that did not write owners
                raise self._not_ours()
            # ours, but the history is older: it was restored from a copy; or a trial that had ended is tried again
            optuna.delete_study(study_name=self.study.study_name, storage=self.storage)
            self.study, owner, recorded, unknown = self._open(self.study.study_name), None, [], []
        if owner != key:
            self.study.set_user_attr(OWNER, key)
        self.lost = {t.number: self._params(t) for t in unknown}
        for number, trial in sorted(history.trials.items()):
            if number >= len(recorded):
                self.start(number, trial.params)
            if _ended(trial):
                self.end(trial)

    def _not_ours(self) -> UsageError:
        return UsageError(
            f"the study {self.study.study_name!r} in that storage belongs to another search; "
            "give this one another --name"
        )

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        if trial.user_attrs.get("paper"):
            return self.space.default()
        return self.space.resolve(lambda param: trial.params.get(param.name, param.default))

    @quiet_optuna()
    def start(self, number: int, params: dict[str, Any]) -> None:
        """A trial was proposed."""
        inside = self.space.expresses(params)  # the default setting may lie outside the ranges
        setting, about = searched(self.space, params if inside else {}), {"paper": number == 0}
        trial = create_trial(state=OptunaState.RUNNING, user_attrs=about, **setting)
        trial_id = self.storage.create_new_trial(self._study_id, trial)
        self._check(number, self.storage.get_trial_number_from_id(trial_id))

    @property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.study.study_name)

    def _check(self, number: int, given: int) -> None:
        """The study gave a trial another number: another process writes into it, and values would go to its trials."""
        if given != number:
            raise self._not_ours()

    @quiet_optuna()
    def ask(self, number: int, total: int) -> dict[str, Any]:
        """Proposal ``number`` of ``total`` by a sampler that reads this study, in which it is recorded at once."""
        row = SAMPLERS[self.spec.sampler]
        self.study.sampler = make_sampler(row, seed=self.spec.seed, number=number, trials=total)
        trial = self.study.ask()
        self._check(number, trial.number)
        trial.set_user_attr("paper", False)
        return self.proposals_from.sample(trial)

    @quiet_optuna()
    def end(self, record: TrialRecord) -> None:
        """A trial has ended, or its preview; no effect where the study knows."""
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, record.trial)
        trial = self.storage.get_trial(trial_id)
        if trial.state.is_finished():
            return
        value, metrics = self.worth(record), record.preview.metrics if record.preview else record.last
        live = optuna.trial.Trial(self.study, trial_id)
        violations = value.violations if value else self.goal.violations(metrics)
        for name, violation in violations.items():  # samplers want them on all trials or on none
            live.set_constraint(name, violation)
        live.set_user_attr("objectives", [None if math.isnan(v) else v for v in self.goal.point(metrics)])
        in_study = bool(trial.params) or not self.space.searched
        if value and in_study:
            self.study.tell(record.trial, value.point)
            return
        failed = record.state == TrialState.FAILED
        self.study.tell(record.trial, state=OptunaState.FAIL if failed else OptunaState.PRUNED)
