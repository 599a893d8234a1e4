"""`tuner verify --model FILE`: test a model that no search made by the same attacks, with the same tables, certificate
and audit. In place of FILE it may be a function of the user's own that returns a model (`trainables.called`).

Its weights are read as `--init` reads them and kept as a checkpoint of ours in ``models/NAME/`` of the home, beside the
results. NAME holds a hash of the file and of all that is asked for, so a repeated command tests only what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.reading import Damaged
from tuner.errors import UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.verification import verify
from tuner.verification.job import Job
from tuner.verification.summary import CORRECTION, TEST_SPLIT, is_of, row_of

if TYPE_CHECKING:
    from torch import nn

    from trainables.config import TrialConfig
    from trainables.first_look import Accuracy

ROLE = "model"  # of its row
ASKED = ("image_size", "test_split", "groups", "threat")  # fields of a spec, beside `set`


@dataclass(frozen=True)
class ForeignModel:
    """A model from a file or of a function. ``spec``: the data, the file's network and the attack's radius, as a search
    says them.

    ``arch``: what its network is called. ``config``: its checkpoint, which lies in ``folder``. ``digest``: the file's
    SHA-256, or the function's `Called.digest`. ``about``: what was read how, and how accurate it is on `val`, in
    sentences. ``network``: of a function.
    """

    name: str
    spec: SearchSpec
    home: Home
    config: TrialConfig
    digest: str
    about: tuple[str, ...]
    arch: str
    network: nn.Module | None = None

    @property
    def folder(self) -> Path:
        return folder_of(self.home, self.name)


def folder_of(home: Home, name: str) -> Path:
    return home.root / "models" / name


def open_model(model: Path | str, spec: SearchSpec, home: Home) -> ForeignModel:
    """Read a model's weights and keep them in the home. ``model``: a file, whose network is ``spec.model``, or the name
    of a function, which is called.

    ``UsageError``, one sentence, where the file cannot be read or does not fit network and data, or where the function
    returns no model for the data.
    """
    from trainables.called import is_call

    home.require_writable()
    return _of_function(str(model), spec, home) if is_call(str(model)) else _of_file(Path(model), spec, home)


def _of_function(text: str, spec: SearchSpec, home: Home) -> ForeignModel:
    from trainables.called import CALL, call, first_look_at
    from trainables.data import absolute

    try:
        called = call(text)
        name = _name(CALL.fullmatch(text)["function"], f"{called.digest} {text}", spec)
        config = _config(spec, home, str(folder_of(home, name)), absolute(spec.dataset))
        seen, answers = first_look_at(called, config)
    except UsageError:  # of the data
        raise
    except ValueError as error:
        raise UsageError(f"--model {text!r} cannot be used: {error}") from None
    _keep(config, dict(called.network.state_dict()), answers)
    about = (f"the model that {text} returns, {called.parameters} parameters", _seen(seen))
    return ForeignModel(name, spec, home, config, called.digest, about, text, called.network)


def _of_file(file: Path, spec: SearchSpec, home: Home) -> ForeignModel:
    from trainables.data import absolute
    from trainables.first_look import first_look
    from trainables.foreign import read_state

    try:
        read = read_state(file)
    except IsADirectoryError:
        raise UsageError(f"--model {str(file)!r} is a folder; FILE of an export is its model.safetensors") from None
    except OSError as error:
        raise UsageError(f"--model {str(file)!r} cannot be read ({error.strerror})") from None
    except Damaged as error:
        raise UsageError(f"--model: {error}") from None
    name = _name(file.stem, read.digest, spec)
    config = _config(spec, home, str(folder_of(home, name)), absolute(spec.dataset))
    try:
        fitted, seen = first_look(read.state, config)
    except ValueError as error:
        raise UsageError(f"--model {str(file)!r} cannot be used as {spec.model}: {error}") from None
    _keep(config, fitted.weights)
    notes = "; ".join([*read.notes, *fitted.notes])
    about = (
        f"the file {file.name} (SHA-256 {read.digest[:12]}...) as {spec.model}" + (f": {notes}" if notes else ""),
        _seen(seen),
    )
    return ForeignModel(name, spec, home, config, read.digest, about, spec.model)


def _seen(seen: Accuracy) -> str:
    return (
        f"a first look at {seen.images} images of val, which may have trained it: {seen.clean_acc:.3f} right without "
        f"an attack, {seen.robust_acc:.3f} of {seen.attacked} under the search's"
    )


def _name(stem: str, digest: str, spec: SearchSpec) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:60] or "model"
    asked = json.dumps([digest, spec.identity()], sort_keys=True)
    return f"{safe}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def _config(spec: SearchSpec, home: Home, folder: str, dataset: str) -> TrialConfig:
    """``UsageError`` where there are no such data, or all images are within the radius."""
    from trainables.data import check
    from trainables.threats import check_radius
    from tuner.execution.trial_config import first_trial
    from tuner.results.history import History
    from tuner.results.search_run import SearchRun

    config = first_trial(SearchRun(spec, home, spec.search_name, History(None)))
    config = dataclasses.replace(config, folder=folder, dataset=dataset, stem={}, spare_seeds=())
    try:
        check_radius(spec.threat_model, check(config.data_spec, home.root).shape)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config


def _keep(config: TrialConfig, weights: dict[str, Any], answers: Sequence[str] = ()) -> None:
    """Write the weights as a checkpoint, unless they are there: its hash is that of the stored results. ``answers``: of
    a function, whose code may change while its weights do not."""
    import torch

    from trainables.checkpoint import NAME
    from trainables.storage import Storage

    state = {"config": config.to_dict(), "epoch": 0, "metrics": {}, "model": weights, "average": None}
    state |= {"answers": list(answers)} if answers else {}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store = Storage(config.folder)
    if store.read(NAME) != buffer.getvalue():
        store.write(NAME, buffer.getbuffer())


def verify_model(
    model: Path | str, spec: SearchSpec, home: Home | None = None, *, attack: str = "apgd", say=lambda text: None
) -> dict[str, Any]:
    """Test ``model`` on split test; returns what `--json` prints. ``model`` and ``spec``: as in `open_model`.

    The command asks with method "at" and imbalance "none". The latter says of which training images `val` is what is
    left, and by which the natural average weighs the classes. ``UsageError`` for wrong input.
    """
    from tuner.verification.certificate import write_certificate
    from tuner.verification.report import write_report

    home, attack = home or Home(), verify.parse_attack(attack)
    verify.check_ball(attack, spec.threat_model.name)
    opened = open_model(model, spec, home)
    for line in opened.about:
        say(line)
    path = opened.folder / "verify" / verify.folder_of(attack) / ROLE
    job = Job(0, opened.config, path, role=ROLE, title=opened.name, published=opened.digest)
    if (known := verify.stored(job)) and is_of(known, verify.test_data(job)):
        say("it is tested already")
    elif opened.network is None:
        verify.run_jobs([job], spec, attack, say)
    else:
        _test_here(job, opened, attack, say)
    done = [(job, verify.stored(job))]
    result = _summary(opened, attack, *done[0])
    write_certificate(opened, attack, done, model=opened.arch)
    write_report(result, opened)
    return result


def _test_here(job: Job, model: ForeignModel, attack: str, say: verify.Say) -> None:
    """In this process, which has called the function."""
    from trainables.data import check
    from trainables.verification_run import test_model

    summary = check(model.config.data_spec, model.home.root)
    counts = summary.counts["train"]
    for event in test_model(model.network, model.config, attack, classes=summary.classes, train_counts=counts):
        verify.keep([job], attack, {**event, "at": 0})
        say(f"{job.label}: {verify.said(job, event)}")


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
        "model": {
            "arch": model.arch,
            "file": model.digest,
            "called": model.network is not None,
            "options": _options(model.spec),
        },
    }


def _options(spec: SearchSpec) -> list[str]:
    """What else was asked of the images and the attack, as words of a command: an audit must be asked the same."""
    asked, usual = spec.to_dict(), SearchSpec().to_dict()
    said = {f"--{name.replace('_', '-')}": asked[name] for name in ASKED if asked[name] != usual[name]}
    settings = [("--set", f"{key}={value}") for key, value in spec.set.items()]
    return [str(word) for pair in [*said.items(), *settings] for word in pair]
