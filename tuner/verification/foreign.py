"""`tuner verify --model FILE`: test a model that no search made by the same attacks, with the same tables, certificate
and audit.

Its weights are read as `--init` reads them and kept as a checkpoint of ours in ``models/NAME/`` of the home, beside the
results. NAME holds a hash of the file and of all that is asked for, so a repeated command tests only what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.reading import Damaged
from tuner.errors import UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.verification.job import Job
from tuner.verification.summary import CORRECTION, TEST_SPLIT, row_of

if TYPE_CHECKING:
    from trainables.config import TrialConfig

ROLE = "model"  # of its row


@dataclass(frozen=True)
class ForeignModel:
    """A model from a file. ``spec``: the data, the network and the attack's radius, as a search says them.

    ``config``: its checkpoint, which lies in ``folder``. ``digest``: the file's SHA-256. ``about``: what was read how,
    and how accurate it is on `val`, in sentences.
    """

    name: str
    spec: SearchSpec
    home: Home
    config: TrialConfig
    digest: str
    about: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return folder_of(self.home, self.name)


def folder_of(home: Home, name: str) -> Path:
    return home.root / "models" / name


def open_model(file: Path, spec: SearchSpec, home: Home) -> ForeignModel:
    """Read a model's weights and keep them in the home. ``spec.model`` is its network.

    ``UsageError``, one sentence, where the file cannot be read, or does not fit network and data.
    """
    from trainables.data import absolute
    from trainables.first_look import first_look
    from trainables.foreign import read_state

    home.require_writable()
    try:
        read = read_state(file)
    except OSError as error:
        raise UsageError(f"--model {str(file)!r} cannot be read ({error.strerror})") from None
    except Damaged as error:
        raise UsageError(f"--model: {error}") from None
    name = _name(file, read.digest, spec)
    config = _config(spec, home, str(folder_of(home, name)), absolute(spec.dataset))
    try:
        fitted, seen = first_look(read.state, config)
    except ValueError as error:
        raise UsageError(f"--model {str(file)!r} cannot be used as {spec.model}: {error}") from None
    _keep(config, fitted.weights)
    about = (
        f"{file.name} (SHA-256 {read.digest[:12]}...) as {spec.model}: {'; '.join([*read.notes, *fitted.notes])}",
        f"a first look at {seen.images} images of val: {seen.clean_acc:.3f} right without an attack, "
        f"{seen.robust_acc:.3f} of {seen.attacked} under the search's",
    )
    return ForeignModel(name, spec, home, config, read.digest, about)


def _name(file: Path, digest: str, spec: SearchSpec) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem).lstrip("._-")[:60] or "model"
    asked = json.dumps([digest, spec.identity()], sort_keys=True)
    return f"{safe}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def _config(spec: SearchSpec, home: Home, folder: str, dataset: str) -> TrialConfig:
    from tuner.execution.trial_config import first_trial
    from tuner.results.history import History
    from tuner.results.search_run import SearchRun

    config = first_trial(SearchRun(spec, home, spec.search_name, History(None)))
    return dataclasses.replace(config, folder=folder, dataset=dataset, stem={}, spare_seeds=())


def _keep(config: TrialConfig, weights: dict[str, Any]) -> None:
    """Write the weights as a checkpoint, unless they are there: its hash is that of the stored results."""
    import torch

    from trainables.checkpoint import NAME
    from trainables.storage import Storage

    state = {"config": config.to_dict(), "epoch": 0, "metrics": {}, "model": weights, "average": None}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store = Storage(config.folder)
    if store.read(NAME) != buffer.getvalue():
        store.write(NAME, buffer.getbuffer())


def verify_model(
    file: Path, spec: SearchSpec, home: Home | None = None, *, attack: str = "apgd", say=lambda text: None
) -> dict[str, Any]:
    """Test the model in ``file`` on split test; returns what `--json` prints. ``spec``: as in `open_model`.

    ``UsageError`` for wrong input.
    """
    from tuner.verification import verify
    from tuner.verification.certificate import write_certificate
    from tuner.verification.report import write_report

    home, attack = home or Home(), verify.parse_attack(attack)
    verify.check_ball(attack, spec.threat_model.name)
    model = open_model(file, spec, home)
    for line in model.about:
        say(line)
    path = model.folder / "verify" / verify.folder_of(attack) / ROLE
    job = Job(0, model.config, path, role=ROLE, title=model.name, published=model.digest)
    if verify.stored(job) is None:
        verify.run_jobs([job], spec, attack, say)
    else:
        say("it is tested already")
    done = [(job, verify.stored(job))]
    result = _summary(model, attack, *done[0])
    write_report(result, model)
    write_certificate(model, attack, done)
    return result


def _summary(model: ForeignModel, attack: str, job: Job, stored: dict[str, Any]) -> dict[str, Any]:
    """The same keys as those of a search's verification (`tuner.verification.summary`)."""
    about = {"label": model.name, "name": model.name, "role": ROLE, "also": [], "val": {}}
    return {
        "search": model.name,
        "split": TEST_SPLIT,
        "attack": attack,
        "rows": [{**row_of(stored, job.flags), **about}],
        "gain": [],
        "subject": {"label": model.name, "why": "the model asked for"},
        "objectives": list(model.spec.objectives),
        "front": [],
        "fell_off": [],
        "left_out": [],
        "note": CORRECTION,
        "home": str(model.home.root),
        "about": list(model.about),
        "model": {"arch": model.spec.model, "file": model.digest},
    }
