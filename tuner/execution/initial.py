"""Open what a search starts from (``--init``), look at it, and put it where the workers find it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.reading import Damaged, intact, read_json, shaped
from tuner.errors import Failed, UsageError
from tuner.execution.trial_config import first_trial, trial_config
from tuner.home import Home
from tuner.results.history import History
from tuner.results.references import no_search_trial
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.search_spec import EXPORT, SearchSpec
from tuner.sync.initial import init_of
from tuner.sync.named_places import places
from tuner.sync.storage_spec import storage_errors, with_storage

if TYPE_CHECKING:
    from trainables.config import TrialConfig
    from trainables.foreign import Read

NO_SEARCH_NAME = "no_search"


def prepare_init(spec: SearchSpec, home: Home) -> dict[str, Any] | None:
    """What the search starts from, as its folder will keep it (`tuner.sync.initial`); None without ``--init``.

    A search that began keeps what it began from: its file is not needed any more, but must not be another one now.
    ``UsageError``, one sentence, where the weights cannot be read or do not fit.
    """
    if not spec.starts_from:
        return None
    from trainables.initial import bring_weights, has_weights

    kept, where = init_of(spec, home.search(spec.search_name)), spec.storage or str(home.root)
    found = _open(spec, home, missing_ok=kept is not None)
    if kept and found and found.digest != kept["file"]:
        raise UsageError(
            f"--init {spec.init!r} is not the file that search {spec.search_name!r} began with; put that one back, or "
            "choose another --name"
        )
    with storage_errors(spec.storage or str(home.root)):
        if kept and has_weights(where, kept["weights"]):
            return kept
        if kept and spec.storage and bring_weights(home.root, where, kept["weights"]):  # it began without a storage
            return kept
    if not found:
        raise UsageError(f"--init {spec.init!r} is gone, and so are the weights that were read from it, in {where!r}")
    return _looked_at(spec, home, found, where)


def _looked_at(spec: SearchSpec, home: Home, found: Read, where: str) -> dict[str, Any]:
    from trainables.first_look import first_look
    from trainables.initial import keep_weights

    config = first_trial(SearchRun(spec, home, spec.search_name, History(None)))
    try:
        _check_heads(spec)
        fitted, accuracy = first_look(found.state, config)
    except ValueError as error:
        raise UsageError(f"--init {spec.init!r} cannot be used with model {spec.model}: {error}") from None
    with storage_errors(where):
        weights = keep_weights(where, fitted.weights)
    return {
        "source": spec.init,
        "file": found.digest,
        "weights": weights,
        "notes": [*found.notes, *fitted.notes],
        "accuracy": accuracy.to_dict(),
        "val": _trained_on_val(spec, home, config),
    }


def _trained_on_val(spec: SearchSpec, home: Home, config: TrialConfig) -> str:
    """What is to be said of `val` where the weights may know its images; empty where they do not."""
    import numpy as np

    from trainables.data.split import choose
    from trainables.data.store import mapped, prepare

    made, own, known = _made_by(spec, home), config.data_spec, None
    source = mapped(prepare(own.dataset, home.root, own.reading) / "train.arrow")
    same = ("dataset", "image_size", "groups")
    if made and not made.starts_from and all(getattr(made, name) == getattr(spec, name) for name in same):
        then = {name: getattr(made, name) for name in ("imbalance", "seed", "val_fraction", "val_per_class")}
        known = intact(lambda: choose(source, replace(own, **then))[0])  # None: the images are others now
    if known is None:
        return "whether it was trained on images of val is not known; if so, rates on val are too high"
    val = choose(source, own)[1]
    both = len(np.intersect1d(known, val))
    return f"it was trained on {both} of the {len(val)} images of val, so rates on val are too high" if both else ""


def _made_by(spec: SearchSpec, home: Home) -> SearchSpec | None:
    """The search that made the weights; None where it is not known."""
    if spec.init.startswith(EXPORT):
        about = read_json(Path(spec.init.removeprefix(EXPORT)) / "model.json")
        return intact(lambda: SearchSpec.from_stored(json.dumps(about["spec"])))
    search, colon, _ = spec.init.rpartition(":")
    return load_search(home, search).spec if colon and not Path(spec.init).exists() else None


def _check_heads(spec: SearchSpec) -> None:
    from trainables.methods import method_class

    for method in spec.methods:
        if (head := method_class(method).head) != "linear":
            raise ValueError(f"{method} trains a {head} head, which no published weights have")


def _open(spec: SearchSpec, home: Home, missing_ok: bool) -> Read | None:
    """``UsageError``; None for what is not there where that does not matter."""
    from trainables.foreign import read_state

    try:
        if spec.init.startswith(EXPORT):
            return _export(Path(spec.init.removeprefix(EXPORT)), spec)
        path, (search, colon, trial) = Path(spec.init), spec.init.rpartition(":")
        if not colon or path.exists():
            return read_state(path)
        return _trial(search, trial, spec, home, missing_ok)
    except FileNotFoundError as error:
        if missing_ok:
            return None
        raise UsageError(
            f"--init {spec.init!r} is not there ({error.filename}); it takes a FILE of weights, {EXPORT}DIR or "
            "SEARCH:TRIAL"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"--init {spec.init!r} is a folder; it takes a FILE of weights, or {EXPORT}DIR") from None
    except OSError as error:
        raise UsageError(f"--init {spec.init!r} cannot be read ({error.strerror})") from None
    except Damaged as error:
        raise UsageError(f"--init: {error}") from None


def _export(folder: Path, spec: SearchSpec) -> Read:
    from trainables.foreign import read_state
    from trainables.model_io import ARCHITECTURE, WEIGHTS

    about = read_json(folder / "model.json")
    if not shaped(about, {"architecture": ARCHITECTURE}):
        raise Damaged(f"{str(folder)!r} holds no model of tuner export")
    _check_model(about["architecture"]["model"], spec)
    return read_state(folder / WEIGHTS)


def _trial(search: str, trial: str, spec: SearchSpec, home: Home, missing_ok: bool) -> Read | None:
    """What a trial has trained; None where that is not to be found, and does not matter: its search is in another home,
    was removed, or `tuner gc` took the checkpoint."""
    from trainables.foreign import state_in

    try:
        data, model = _checkpoint(search, trial, spec, home)
    except (UsageError, Failed, Damaged):
        if missing_ok:
            return None
        raise
    _check_model(model, spec)
    return state_in(data, spec.init)


def _checkpoint(search: str, trial: str, spec: SearchSpec, home: Home) -> tuple[bytes, str]:
    """A trial's checkpoint, and the model that it is of."""
    from trainables.checkpoint import checkpoint_bytes

    run = load_search(home, search)
    named = with_storage(SearchSpec(), home).storage
    if places(run.spec).get("storage", named) != named:
        raise UsageError(f"--init {spec.init!r} is in {run.spec.storage!r}, which this command does not name")
    number = int(trial) if trial.isdecimal() else None
    if trial == NO_SEARCH_NAME:
        plain = no_search_trial(run.spec, run.history)  # of a search of plain AT its first trial
        number = NO_SEARCH if plain is None else plain
    try:
        record = run.history.record(number)
    except KeyError:
        raise UsageError(f"--init {spec.init!r}: search {search!r} has no trial {trial!r}") from None
    data = checkpoint_bytes(trial_config(run, record).folder)
    if data is None:
        raise UsageError(f"--init {spec.init!r}: trial {trial} has no checkpoint")
    return data, run.spec.model


def _check_model(theirs: str, spec: SearchSpec) -> None:
    if theirs != spec.model:
        raise UsageError(f"--init {spec.init!r} is a model {theirs}, not {spec.model}; --model {theirs} takes it")
