"""What users ask of a search while it runs or afterwards: more trials, one of their own, narrower ranges, an end or
another try of a trial, a note or a star on one.

A command leaves a request, a small file in the search's folder. Whoever holds the search's lock takes it up: the driver
that runs it, from time to time, else the command itself. Taken up, it is an event of the history, with who asked and
when, so that everything else follows from the history alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from search_spaces import method_space
from search_spaces.param import Param, coerce, describe, params_of
from search_spaces.training import Training
from trainables.files import locked
from trainables.reading import intact, read_json, shaped
from tuner.errors import UsageError
from tuner.escape import printable
from tuner.files import write_atomically
from tuner.home import Home, user_name
from tuner.results.history import History
from tuner.results.replicates import total_trials
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import WHOLE, TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space
from tuner.sync.mirror import REQUESTS as FOLDER
from tuner.sync.mirror import lease_of, leave_request, mirrored
from tuner.sync.named_places import check_named

SIZE = 2**20  # bytes of one
NOTE = 2000  # characters of a note


class NotYet(Exception):
    """The request waits until it can be done."""


@dataclass(frozen=True)
class Request:
    """``kind``: the event's name. ``about``: what it asks, in words of `KINDS`. ``id``: also the file's name, by which
    requests are taken up in the order in which they were made."""

    id: str
    kind: str
    by: str
    about: dict[str, Any]


# ---- what may be asked -----------------------------------------------------------------------------------------------


def _extend(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    now = history.in_force(spec)
    trials = SearchSpec(trials=about["trials"]).trials  # raises what is no number of trials
    if trials <= now.trials:
        raise UsageError(f"--trials {trials} adds nothing: search {now.search_name!r} has {now.trials} already")
    if total_trials(now.changed(trials=trials)) == total_trials(now):
        under = f" and has a trial under each of its {now.stems} seeds" if now.stems > 1 else ""
        raise UsageError(f"search {now.search_name!r} varies nothing{under}, so there is nothing more to try")
    return {"trial": WHOLE, "trials": trials}


def _add(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    method = about.get("method") or (spec.methods[0] if len(spec.methods) == 1 else None)
    if method not in spec.methods:
        raise UsageError(
            f"--method {method!r} is not of this search; choose one of: {', '.join(spec.methods)}"
            if method
            else f"this search has several methods; say which with --method: {', '.join(spec.methods)}"
        )
    lane = spec.of(method)
    params = setting_of(lane.search_space(), method, about.get("params") or {})
    lane.changed(fix=params, space={})  # raises what the search's other fields do not allow beside it
    for record in history.trials.values():
        if (record.method, record.params, record.seed) == (method, params, spec.seed):
            raise UsageError(
                f"trial {record.trial} has this setting already; training is seeded, so it would be the same"
            )
    if not history.numbers.get(method):
        raise NotYet  # trial 0 is the default setting
    number = len(history.trials) + len(history.replicates)
    more = {"preview": True} if lane.scheduling.previewing else {}
    return {"trial": number, "params": params, "method": method, "seed": spec.seed, **more}


def setting_of(space: Space, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """A user's own setting, completed with fixed values and defaults. A value may lie outside of the searched range but
    not of the parameter's own. ``UsageError`` for anything else, in one sentence."""
    if not isinstance(given, dict) or not given:
        raise UsageError("nothing is given: write NAME=VALUE for what differs from the default setting")
    takes, values = _taken(method), {}
    for name, value in given.items():
        if name not in space.params:
            raise UsageError(f"unknown key {name!r}: what may vary in this search is {', '.join(space.params)}")
        values[name] = _coerced(takes[name], value)
    found = dataclasses.replace(space, fixed={**space.fixed, **values}).default()
    for name in values:
        if name not in found:
            needs = " and ".join(f"{k} in {{{', '.join(map(str, v))}}}" for k, v in space.params[name].when.items())
            raise UsageError(f"{name}={given[name]!r} has no effect here: {name} of {method} exists only with {needs}")
    return found


def _coerced(param: Param, value: Any) -> Any:
    try:
        return coerce(param, value)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _skip(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    record = _record(history, about)
    if record.role:
        raise UsageError(f"{record.label} is what the search is compared with; it cannot be skipped")
    if record.state.ended and record.state != TrialState.PREVIEWED:
        raise UsageError(f"{record.label} has ended already: {record.state}")
    return {"trial": record.trial}


def _retry(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    record = _record(history, about)
    if record.state not in (TrialState.FAILED, TrialState.SKIPPED):
        raise UsageError(f"{record.label} is {record.state}; only one that failed or was skipped is tried again")
    return {"trial": record.trial}


def _confirm(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    record = _record(history, about)
    if record.trial not in history.trials or record.state != TrialState.FINISHED:
        raise UsageError(f"{record.label} is {record.state}; another seed confirms a trial that trained in full")
    known = sum(r.of == record.trial for r in history.replicates.values())
    return {"trial": record.trial, "seeds": max(record.seeds, known + 1) + 1}


def _note(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    record, text, star = _record(history, about), about.get("text", ""), about.get("star")
    if not isinstance(text, str) or len(text) > NOTE:
        raise UsageError(f"a note is a text of up to {NOTE} characters; this one has {len(str(text))}")
    if not text.strip() and not isinstance(star, bool):
        raise UsageError("nothing is noted: give a text, or say whether the trial has a star")
    return {"trial": record.trial, "text": printable(text.strip()), "star": star if isinstance(star, bool) else None}


def _narrow(spec: SearchSpec, history: History, about: dict[str, Any]) -> dict[str, Any]:
    space = about["space"]
    if not isinstance(space, dict) or not space:
        raise UsageError("--space names no parameter; its lines are those of a space file of tuner search")
    for key in space:
        if key in spec.fix:
            raise UsageError(f"--space {key} has no effect: this search has it fixed (--fix {key}={spec.fix[key]})")
    now, new = history.narrowed(spec), history.narrowed(spec, space)
    for lane, narrower in zip(now.lanes, new.lanes):
        _check_narrower(lane, narrower, space)
    varied = list(dict.fromkeys(name for lane in now.lanes for name in lane.search_space().searched))
    for key in space:
        if key not in varied:
            raise UsageError(f"--space {key} cannot be narrowed: this search varies {', '.join(varied)}")
    if not any(lane.search_space().searched for lane in new.lanes):
        raise UsageError("--space leaves nothing to search: every parameter would be fixed")
    return {"trial": WHOLE, "space": {key: _on_its_scale(now, key, value) for key, value in space.items()}}


def _on_its_scale(spec: SearchSpec, key: str, value: Any) -> Any:
    """A range as it is given; where that does not say its scale, and the search has another than the parameter's own,
    with that of the search."""
    lane = next(lane for lane in spec.lanes if key in lane.search_space().searched)
    now, own = lane.search_space().params[key].range, _taken(lane.method_names)[key].range
    log = getattr(now, "log", None)  # choices have none
    if not isinstance(value, (list, dict)) or log == getattr(own, "log", None):
        return value
    low_high = dict(zip(("low", "high"), value)) if isinstance(value, list) else value
    return {"log": log, **low_high}


def _taken(method: str) -> dict[str, Param]:
    """What parameters of a method, and of training, take."""
    return params_of(Training) | params_of(method_space(method).Params)


def _check_narrower(lane: SearchSpec, narrower: SearchSpec, space: dict[str, Any]) -> None:
    """``UsageError`` unless what is named and was searched before had a range that holds the new one."""
    before, after = lane.search_space(), narrower.search_space()
    for key in [key for key in space if key in before.searched]:
        if not before.holds(after, key):
            raise UsageError(
                f"--space {key}={space[key]!r} is not narrower than {describe(before.params[key].range)}; stems, and "
                "what is known, are of the ranges of before: a new search takes others"
            )
        if SAMPLERS[lane.sampler].own_study and _chosen(before.params[key]):
            raise UsageError(f"--space {key}: --sampler {lane.sampler} keeps the choices that it began with")


def _chosen(param: Param) -> bool:
    return isinstance(param.range, CategoricalDistribution)


def _record(history: History, about: dict[str, Any]) -> TrialRecord:
    number = about.get("trial")
    if type(number) is not int or number not in history:
        raise UsageError(f"there is no trial {number!r}; `tuner trials` lists them")
    return history.record(number)


# The fields of the event that a request becomes, with its trial; `UsageError` where it cannot be done.
Check = Callable[[SearchSpec, History, dict[str, Any]], dict[str, Any]]
KINDS: dict[str, Check] = {
    "extend": _extend,
    "add": _add,
    "skip": _skip,
    "retry": _retry,
    "narrow": _narrow,
    "confirm": _confirm,
    "note": _note,
}
COMMANDS = {"extend": "resume", "confirm": "front"}  # where they are not called as the request is
REMARKS = ("note",)  # which change nothing of the search


# ---- asking, and taking up -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What became of a request, in ``words``. ``done``: it is an event of the history now; else it was refused."""

    request: Request
    words: str
    done: bool = True


# ---- from Python -----------------------------------------------------------------------------------------------------


def add(name: str, setting: dict[str, Any], home: Home | None = None, method: str | None = None) -> Answer | None:
    """Add a trial with a user's own setting to the search ``name``; see `ask`. ``method``: where it has several."""
    return _ask(name, home, "add", params=setting, **({"method": method} if method else {}))


def skip(name: str, trial: int, home: Home | None = None) -> Answer | None:
    """End a trial that waits or runs; see `ask`. One that was previewed is not promoted."""
    return _ask(name, home, "skip", trial=trial)


def retry(name: str, trial: int, home: Home | None = None) -> Answer | None:
    """Try a trial again that failed or was skipped; see `ask`."""
    return _ask(name, home, "retry", trial=trial)


def confirm(name: str, trial: int, home: Home | None = None) -> Answer | None:
    """Train the setting of a trial that trained in full under one more seed; see `ask`."""
    return _ask(name, home, "confirm", trial=trial)


def narrow(name: str, space: dict[str, Any], home: Home | None = None) -> Answer | None:
    """Let new proposals come from narrower ranges, given as in a space file; see `ask`."""
    return _ask(name, home, "narrow", space=space)


def note(name: str, trial: int, text: str = "", home: Home | None = None, star: bool | None = None) -> Answer | None:
    """Write a note on a trial, mark it with a star of one's own, or take that away; see `ask`."""
    return _ask(name, home, "note", trial=trial, text=text, star=star)


def _ask(name: str, home: Home | None, kind: str, **about: Any) -> Answer | None:
    return ask(load_search(home or Home(), name), kind, **about)


def answered(answer: Answer) -> str:
    """A line for the user."""
    return f"{answer.request.by}: {answer.words}" if answer.done else f"not done: {answer.words}"


def ask(run: SearchRun, kind: str, **about: Any) -> Answer | None:
    """Ask for a change. None: it waits for the search's driver, or for the next one. ``UsageError`` where it cannot be
    done."""
    check_named(run.spec, run.home, run.name, COMMANDS.get(kind, kind))
    with suppress(NotYet):
        KINDS[kind](run.spec, run.history, about)
    run.home.require_writable(run.folder)
    run.home.require_own_files(run.name)
    request = Request(f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", kind, user_name(), about)
    text, storage = json.dumps({"kind": kind, "by": request.by, "about": about}), run.spec.storage
    if storage:  # its driver may work in another home
        leave_request(storage, run.name, f"{request.id}.json", text)
        if lease_of(storage, run.name) is not None:
            return None
    else:
        write_atomically(run.folder / FOLDER / f"{request.id}.json", text)
    with locked(run.folder / ".lock", patience=0.2) as free:
        answers = _taken_up(run) if free else []
    mine = next((answer for answer in answers if answer.request.id == request.id), None)
    if mine and not mine.done:
        raise UsageError(mine.words)
    return mine


def _taken_up(run: SearchRun) -> list[Answer]:
    """What `take_up` does of a search that no driver runs; its storage has it then."""
    with mirrored(run.spec, run.home, run.name):
        return take_up(run.spec, History(run.folder), run.folder)


def pending(folder: Path) -> list[Path]:
    """The requests in a search's folder that nobody has taken up yet, oldest first."""
    with suppress(FileNotFoundError), os.scandir(folder / FOLDER) as entries:
        files = (entry for entry in entries if entry.name.endswith(".json") and not entry.name.startswith("."))
        return sorted(Path(entry.path) for entry in files if entry.is_file(follow_symlinks=False))
    return []


def take_up(spec: SearchSpec, history: History, folder: Path, out: Collection[int] = ()) -> list[Answer]:
    """Do what users have asked for, as far as it can be done now. For whoever holds the search's lock. ``out``: trials
    that are with a worker. ``OSError`` where the history cannot be written; the requests are kept then.

    A kill between the event and the removal of its request does nothing twice: the history knows the request.
    """
    answers = []
    for path in pending(folder):
        request = _read(path)
        if request.id not in history.requests:
            try:
                answers.append(_do(spec, history, request, out))
            except NotYet:
                continue
        path.unlink(missing_ok=True)
    return answers


def _read(path: Path) -> Request:
    found = intact(lambda: read_json(path, SIZE))
    if found is None or not shaped(found, {"kind": str, "by": str, "about": dict}):
        return Request(path.stem, "", "", {})
    return Request(path.stem, found["kind"], found["by"][:80], found["about"])


def _do(spec: SearchSpec, history: History, request: Request, out: Collection[int]) -> Answer:
    if request.kind not in KINDS:
        return Answer(request, f"{request.id}.json is no request that this version knows", done=False)
    try:
        fields = KINDS[request.kind](spec, history, request.about)
    except NotYet:
        raise
    except Exception as error:  # whatever stands in a file that anyone may have put there
        return Answer(request, str(error), done=False)
    if request.kind == "retry" and fields["trial"] in out:
        raise NotYet  # its process has not heard yet that it was skipped
    history.append(request.kind, fields.pop("trial"), by=request.by, request=request.id, **fields)
    return Answer(request, _words(history, request))


def _words(history: History, request: Request) -> str:
    match request.kind:
        case "extend":
            return f"the search has {history.steered.trials} trials now"
        case "confirm":
            record = history.trials[request.about["trial"]]
            return f"{record.label} will be trained with {record.seeds} seeds in all"
        case "narrow":
            space = ", ".join(f"{name} {value}" for name, value in history.steered.space.items())
            return f"new proposals come from {space}"
        case "add":
            record = history.trials[max(history.trials)]
            return f"trial {record.trial} is added: {', '.join(f'{k}={v}' for k, v in record.params.items())}"
        case "note":
            record, star = history.record(request.about["trial"]), request.about.get("star")
            words = [f"{record.label} has a new note"] if str(request.about.get("text", "")).strip() else []
            words += [] if star is None else [f"{record.label} {'has a star' if star else 'has no star any more'}"]
            return " and ".join(words)
    done = {"skip": "is skipped", "retry": "will be tried again"}[request.kind]
    return f"{history.record(request.about['trial']).label} {done}"
