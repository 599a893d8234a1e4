"""`tuner bundle` and `tuner reproduce`: send what a search needs to be trained again, and train a pick of it again.

A training is repeatable to the last bit with the same code, versions, data and kind of processor. So what differs in
these is said before anything is trained, and afterwards every metric of every epoch is compared bit by bit. Where they
differ, the difference stands beside the interval that the search gives the figure for the images of ``val``: another
machine's rounding moves a training about as another seed does.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.reading import LOG_BYTES, parse_json, read_bytes
from tuner.errors import Failed, UsageError
from tuner.execution.resources import threads_per_process
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.report.files import require_file, write_asked
from tuner.results.bundle import FILES, HISTORY, SPEC, Bundle, packed_bundle, read_bundle
from tuner.results.disk import REPRODUCED
from tuner.results.importing import import_search
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search, stored_search
from tuner.results.trial_record import TrialRecord
from tuner.spec.objectives import shown_metrics
from tuner.spec.plug_ins import require_same
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import init_of
from tuner.sync.named_places import check_named
from tuner.sync.shared_dataset import data_spec, dataset_of
from tuner.verification.code import code_version
from tuner.verification.job import name_of
from tuner.verification.rows import ROLES, row_named

if TYPE_CHECKING:
    from trainables.config import TrialConfig

Say = Callable[[str], None]
SECONDS = ("train_s", "eval_s")  # no two trainings take the same
SUFFIX = ".bundle.zip"
DECIDING = ("python", "torch", "torchvision", "numpy")  # versions that change what is trained; the rest is counted


# ---- tuner bundle ----------------------------------------------------------------------------------------------------


def bundle(
    name: str, file: Path | str | None = None, home: Home | None = None, *, dataset: str | None = None
) -> dict[str, Any]:
    """Write a bundle of the search ``name`` to ``file``, by default ``NAME.bundle.zip`` in this folder; returns its
    path and what it says. It holds no data and no checkpoints. ``dataset`` must repeat the search's where that is a
    URL.

    The versions are those that are installed where the bundle is made: make it where the search ran.

    ``UsageError`` for an unknown search, data that cannot be opened, or a file that cannot be written.
    """
    home, file = home or Home(), Path(file if file is not None else f"{name}{SUFFIX}")
    require_file("to", file)
    run = stored_search(home, name)
    check_named(run.spec, home, name, "bundle", dataset=dataset)
    if not run.history.everything():
        raise UsageError(f"search {name!r} has no trial yet, so there is nothing to train again")
    files = {part: read_bytes(path, most) for part, most in FILES.items() if (path := run.folder / part).is_file()}
    files[SPEC] = replace(run.spec, name=name).to_yaml().encode()
    files[HISTORY] = files[HISTORY][: files[HISTORY].rfind(b"\n") + 1]
    about = {"search": name, **_here(run, dataset_of(run.spec, run.folder))}
    write_asked("to", file, packed_bundle(about, installed(), files))
    return {"bundle": str(file.absolute()), **about}


def installed() -> dict[str, str]:
    """Name -> version of every package of this environment."""
    return {name: package.version for package in metadata.distributions() if (name := package.metadata["Name"])}


def _here(run: SearchRun, dataset: str) -> dict[str, Any]:
    """What decides about a training beside versions: code, data, machine. ``dataset``: where the data lie."""
    from trainables.data import DataError
    from trainables.data.extra import extra_content
    from trainables.data.store import content, prepare
    from trainables.stem import code_version as training_code
    from trainables.verification_run import machine

    images = data_spec(run.spec, dataset, run.folder)
    try:
        data = content(prepare(dataset, run.home.root, images.reading))
        if extra := extra_content(images, run.home.root):
            data = f"{data}+{extra}"
    except DataError as error:
        raise UsageError(str(error)) from None
    training = {method: training_code(method) for method in ("at", *run.spec.methods)}
    python = platform.python_version()
    return {
        "python": python,
        "code": code_version(),
        "training": training,
        "data": data,
        "machine": machine(_device(run.spec)),
    }


def _device(spec: SearchSpec) -> str | None:
    """Where the search's trials train, as Ray shows a worker no GPU that it did not ask for; None: on one if there is
    one."""
    return "cpu" if spec.gpus_per_trial == 0 else None


# ---- tuner reproduce -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Again:
    """What was trained again: ``record`` as the search's own is, None where it diverged (``failed`` says how)."""

    record: TrialRecord | None
    failed: str = ""
    stem: str | None = None  # the name of the stem from which it forked
    stem_epochs: int = 0  # how many epochs of it had to be trained


def reproduce(
    file: Path | str,
    home: Home | None = None,
    *,
    pick: str = "knee",
    dataset: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Train a pick of the search in a bundle again, in this process, and compare it with what the bundle says of it;
    returns what `--json` prints. ``pick`` as in `export_model`. ``dataset``: where the search's data lie here; it must
    be given where the search's own is a URL. A stem is taken from the home, or trained again. What was trained is kept
    until the end alone: a repeated command goes on.

    ``equal`` is whether every metric of every epoch, and of the curve, is the same to the last bit.

    ``UsageError`` for wrong input, for a pick that did not train in full, and for what is not here to train it with.
    """
    home, file = home or Home(), Path(file)
    given = read_bundle(file)
    home.require_writable()
    here = installed()
    mark = hashlib.sha256(repr((given, sorted(here.items()), code_version())).encode()).hexdigest()[:16]
    scratch = Home(home.root / REPRODUCED / mark)
    scratch.storage = None  # TUNER_STORAGE has other searches
    run = _unpacked(file, scratch)
    if pick.partition("@")[0] not in ROLES[1:] and not run.front().rows:  # that of a copy cannot be resumed
        raise UsageError(f"the search in {str(file)!r} has no front; --pick takes paper or no_search, if they finished")
    row = row_named(run, pick)
    record = run.history.record(row["trial"])
    config = _config(run, record, home, dataset, file)
    differs = _differences(given, here, _here(replace(run, home=home), config.dataset))
    for line in differing_lines(differs) or ["versions, code, data and kind of machine are those of the bundle"]:
        say(line)
    again = _train(config, record, run.spec, say)
    result = {
        "search": run.name,
        "pick": pick,
        "trial": record.trial,
        "offsets": row["offsets"],
        "split": "val",
        "differences": differs,
        "stem": _stem(run, record, again),
        **_compared(run, row, record, again),
    }
    shutil.rmtree(scratch.root, ignore_errors=True)
    return result


def _unpacked(file: Path, scratch: Home) -> SearchRun:
    """The search of a bundle in a home of its own."""
    names = [path.name for path in scratch.searches.glob("[!.]*")]
    name = names[0] if names else import_search(file, scratch).run.name
    run = load_search(scratch, name)
    require_same(run.spec.plug_ins)
    return run


def _config(run: SearchRun, record: TrialRecord, home: Home, dataset: str | None, file: Path) -> TrialConfig:
    """The trial as the search trained it, with data and stems of this home."""
    from trainables.data import absolute
    from trainables.initial import has_weights

    spec = run.spec
    if dataset is None and "://" in spec.dataset:
        raise UsageError(
            f"the search in {str(file)!r} uses {spec.dataset!r}, which this command does not name; if you trust its "
            f"author: --dataset {shlex.quote(spec.dataset)}"
        )
    if spec.starts_from and not (
        (start := init_of(spec, run.folder)) and has_weights(str(home.root), start["weights"])
    ):
        raise UsageError(
            f"the search in {str(file)!r} starts from {spec.init!r}, and {str(home.root)!r} does not have these "
            "weights; begin a search with the same --init there first"
        )
    config = trial_config(run, record)
    where = config.dataset if dataset is None else absolute(dataset)
    return replace(config, home=str(home.root), dataset=where, spare_seeds=())


def _train(config: TrialConfig, record: TrialRecord, spec: SearchSpec, say: Say) -> Again:
    import torch

    from trainables.checkpoint import read_checkpoint
    from trainables.curve import Curve
    from trainables.loop import Diverged
    from trainables.verification_run import steps_to_end

    torch.set_num_threads(threads_per_process(spec))  # as a worker does: sums depend on it
    found = Again(None)
    try:
        for step in steps_to_end(config, _device(spec)):
            if "stem" in step:
                found = replace(found, stem=step["stem"])
            elif "stem_epoch" in step:
                found = replace(found, stem_epochs=found.stem_epochs + 1)
                say(f"stem: trained epoch {step['stem_epoch']} of {config.fork}")
            else:
                say(f"{record.label}: trained epoch {step['epoch']} of {config.last_epoch}")
    except Diverged as error:
        return replace(found, failed=str(error))
    except ValueError as error:
        raise UsageError(str(error)) from None
    state = read_checkpoint(config.folder or "")
    if state is None:
        raise Failed(f"the checkpoint in {config.folder!r} is gone")
    curve = state.get("curve") and Curve.of(state["curve"])
    return replace(found, record=replace(record, epochs=[*state.get("past", []), state["metrics"]], curve=curve))


def _stem(run: SearchRun, record: TrialRecord, again: Again) -> dict[str, Any] | None:
    """Of a trial that forked: whether its stem is the search's, by the hash of all that a stem depends on; None where
    the search did not say which it had."""
    if again.stem is None:
        return None
    return {"then": stem_of(run.folder / HISTORY, record.trial), "now": again.stem, "trained": again.stem_epochs}


def stem_of(path: Path, trial: int) -> str | None:
    """The name of the stem from which a trial's full training forked, by a history."""
    name = None
    for line in read_bytes(path, LOG_BYTES).split(b"\n"):
        if b'"stem": "' in line and (event := parse_json(line)).get("trial") == trial and "epochs" in event:
            name = event["stem"]  # of the fork, not of an epoch that was trained for a stem
    return name


# ---- what differs ----------------------------------------------------------------------------------------------------


def _differences(given: Bundle, installed_here: dict[str, str], here: dict[str, Any]) -> list[dict[str, Any]]:
    """Each ``{"what", "then", "now"}``; packages that are here alone say nothing."""
    pairs = {name: (version, installed_here.get(name)) for name, version in given.versions.items()}
    pairs |= {key: (given.about[key], here[key]) for key in ("python", "code", "data")}
    pairs |= {key: (given.about["machine"][key], here["machine"][key]) for key in ("device", "processor")}
    pairs |= {
        f"training code of {method}": (str(mark), here["training"].get(method))
        for method, mark in given.about["training"].items()
    }
    return [{"what": what, "then": then, "now": now} for what, (then, now) in pairs.items() if then != now]


def differing_lines(differs: list[dict[str, Any]]) -> list[str]:
    """One for each that may change what is trained, and one for all the other packages."""
    telling = ("code", "data", "device", "processor")
    shown = [d for d in differs if d["what"] in (*DECIDING, *telling) or d["what"].startswith("training code")]
    lines = [f"differs: {d['what']} was {d['then']}, here {d['now'] or 'not installed'}" for d in shown]
    others = len(differs) - len(shown)
    return lines + ([f"differs: {others} other package{'s' * (others != 1)}"] if others else [])


def _compared(run: SearchRun, row: dict[str, Any], record: TrialRecord, again: Again) -> dict[str, Any]:
    if again.record is None:
        return {"equal": False, "failed": again.failed, "first_difference": None, "rows": []}
    first = first_difference(record, again.record)
    tau = row["offsets"]["tau"]
    then, now = _at(record, tau), _at(again.record, tau)
    rows = [_row(name, then.get(name), now.get(name), row) for name in shown_metrics(run.spec.objectives)]
    return {"equal": first is None, "failed": None, "first_difference": first, "rows": rows}


def _at(record: TrialRecord, tau: float) -> dict[str, Any]:
    return next((metrics for offsets, metrics in record.points if offsets.tau == tau), {})


def _row(metric: str, then: float | None, now: float | None, row: dict[str, Any]) -> dict[str, Any]:
    """``within``: whether the figure that differs lies in the interval, which is drawn towards what similar settings
    have and so need not hold the figure itself."""
    known = then is not None and now is not None
    ci = row.get("ci", {}).get(metric)
    within = ci[0] <= now <= ci[1] if known and ci and now != then else None
    return {
        "metric": metric,
        "then": then,
        "now": now,
        "difference": now - then if known else None,
        "ci": ci and list(ci),
        "within": within,
    }


def first_difference(then: TrialRecord, now: TrialRecord) -> dict[str, Any] | None:
    """``{"epoch", "metric"}`` of the first metric that is not the same to the last bit, times aside; ``curve`` for one
    that only the judging over offsets shows; None where all are the same."""
    for number, (was, has) in enumerate(zip(then.epochs, now.epochs), 1):
        for name in (*was, *(name for name in has if name not in was)):
            if name not in SECONDS and not _same(was.get(name), has.get(name)):
                return {"epoch": number, "metric": name}
    if len(then.epochs) != len(now.epochs):
        return {"epoch": min(len(then.epochs), len(now.epochs)) + 1, "metric": "epoch"}
    curves = [record.curve and json.loads(json.dumps(record.curve.to_dict())) for record in (then, now)]
    return None if curves[0] == curves[1] else {"epoch": len(then.epochs), "metric": "curve"}


def _same(was: Any, has: Any) -> bool:
    return was == has or all(isinstance(value, float) and math.isnan(value) for value in (was, has))


# ---- the terminal ----------------------------------------------------------------------------------------------------


def result_lines(result: dict[str, Any]) -> Iterable[str]:
    """The result as text: a sentence, then a line for each metric."""
    name = name_of(result["trial"], result["offsets"]["tau"])
    if result["equal"]:
        yield f"{name} of {result['search']} is reproduced: every metric of every epoch is equal to the last bit"
    elif result["failed"]:
        yield f"{name} of {result['search']} is not reproduced: {result['failed']}"
    else:
        first = result["first_difference"]
        yield f"{name} of {result['search']} differs, first in {first['metric']} of epoch {first['epoch']}"
    for row in result["rows"]:
        then, now = _text(row["then"]), _text(row["now"])
        yield f"{row['metric']:28} {then} then, {now} now, on {result['split']}{_beside(row)}"
    if stem := result["stem"]:
        how = f"{stem['trained']} of its epochs trained again" if stem["trained"] else "found in this home"
        same = (
            {True: "the search's", False: "another"}.get(stem["then"] == stem["now"]) if stem["then"] else "of its kind"
        )
        yield f"stem {stem['now']}: {same}, {how}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _beside(row: dict[str, Any]) -> str:
    if not row["difference"]:
        return ""
    if row["ci"] is None:
        return f" ({row['difference']:+.4f})"
    inside = "inside" if row["within"] else "outside of"
    return f" ({row['difference']:+.4f}, {inside} {row['ci'][0]:.4f} .. {row['ci'][1]:.4f})"
