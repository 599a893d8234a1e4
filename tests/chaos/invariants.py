"""What must hold when a search has ended, whatever happened to it."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.results.history import History

if TYPE_CHECKING:
    from tests.chaos.play import Round

GONE_S = 20.0  # until the last process of a search has ended
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8,12}|.*\.(part|tmp|new)\b.*|ballast|aside|trash.*")
RAYS = "_dict_checkpoint.pkl"  # in the folder that Ray Tune leaves where it cannot write its snapshot
SAME = ("state", "front", "hypervolume", "hypervolume_claimed", "paper_curve", "no_search", "gain", "trials", "band")


def broken(round_: Round) -> list[str]:
    """Every invariant that does not hold, in words."""
    return [
        *_events(round_),
        *_checkpoints(round_),
        *_mlflow(round_),
        *_sent(round_),
        *_left(round_),
        *_processes(round_),
    ]


# ---- trials ----------------------------------------------------------------------------------------------------------


def events(round_: Round) -> Iterator[dict[str, Any]]:
    """Of the history. A line that a killed driver cut is none."""
    for line in round_.lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


ONCE = ("start", "end", "preview", "promote", "curve")  # events that a trial has once at most


def _events(round_: Round) -> Iterator[str]:
    """No finished trial is lost or trained again, no epoch more often than its trial was interrupted."""
    told = list(events(round_))
    if len(round_.lines) - len(told) > round_.starts - 1:
        yield f"{len(round_.lines) - len(told)} lines of the history are cut, in {round_.starts} starts"
    counts = Counter((e["event"], e["trial"]) for e in told)
    yield from (f"trial {t} has {n} events {name}" for (name, t), n in counts.items() if name in ONCE and n > 1)
    yield from _after_end(told)
    ends = [e for e in told if e["event"] == "end" and e["state"] != "finished"]
    yield from (f"trial {e['trial']} ended as {e['state']}: {e['reason']}" for e in ends)
    epochs = Counter((e["trial"], e["metrics"]["epoch"]) for e in told if e["event"] == "epoch")
    for (trial, epoch), count in epochs.items():
        if count > 1 + counts["resume", trial] + counts["lost", trial]:
            yield f"epoch {epoch} of trial {trial} was trained {count} times"
    if missing := {*range(5), -1} - {trial for (event, trial) in counts if event in ("end", "preview")}:
        yield f"trials {sorted(missing)} have not ended"
    trials = round_.result.get("trials", {})
    if trials.get("failed") or trials.get("stopped") or round_.result.get("state") != "finished":
        yield f"the result says {round_.result.get('state')}, {trials}"


def _after_end(told: list[dict[str, Any]]) -> Iterator[str]:
    """A trial that has ended stays ended, unless it is promoted."""
    ended: set[int] = set()
    for event in told:
        name, trial = event["event"], event["trial"]
        if name == "promote":
            ended.discard(trial)
        elif trial in ended:
            yield f"trial {trial} has an event {name} after its end"
        if name in ("end", "preview"):
            ended.add(trial)


def checkpoints(round_: Round) -> dict[int, str]:
    """Finished trial -> checksum of its checkpoint, "" where there is none."""
    finished = [e["trial"] for e in events(round_) if e["event"] == "end" and e["state"] == "finished"]
    files = {trial: round_.trained / "trials" / str(trial) / "checkpoint.pt" for trial in finished}
    return {
        trial: hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for trial, file in files.items()
    }


def _checkpoints(round_: Round) -> Iterator[str]:
    round_._check_kept()
    if lost := [trial for trial, checksum in checkpoints(round_).items() if not checksum and trial not in round_.lost]:
        yield f"finished trials {lost} have no checkpoint"


SENT = ("spec.yaml", "history.jsonl", "result.json", "front.parquet")  # of what a storage has at the end


def _sent(round_: Round) -> Iterator[str]:
    """The storage has what the home has, after a `tuner sync` where the search asked for one."""
    for name in SENT if round_.plan.storage else ():
        ours, theirs = ((folder / name) for folder in (round_.search, round_.trained))
        if ours.exists() and (not theirs.exists() or ours.read_bytes() != theirs.read_bytes()):
            yield f"the storage has another {name} than the home, or none"


def outcome(round_: Round) -> dict[str, Any]:
    """What became of every trial, and the result, but for times: equal to the bit for equal searches."""
    fields = ("trial", "method", "params", "seed", "of", "role", "state", "full", "stem_epochs", "curve")
    trials = {
        t.trial: {
            **{key: repr(getattr(t, key)) for key in fields},
            "epochs": [_timeless(metrics) for metrics in t.epochs],
            "preview": t.preview and repr((t.preview.epochs, _timeless(t.preview.metrics), t.preview.curve)),
        }
        for t in History(round_.search).everything()
    }
    return {"records": trials, **{key: round_.result.get(key) for key in SAME}}


def _timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.endswith("_s")}


def unequal(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Where two outcomes differ."""
    for key in ours:
        if key != "records" and ours[key] != theirs[key]:
            yield f"{key} is {str(ours[key])[:200]}, undisturbed {str(theirs[key])[:200]}"
    for trial in sorted(ours["records"].keys() | theirs["records"].keys()):
        one, other = ours["records"].get(trial, {}), theirs["records"].get(trial, {})
        for key in one.keys() | other.keys():
            if one.get(key) != other.get(key):
                yield f"trial {trial}: {key} is {str(one.get(key))[:200]}, undisturbed {str(other.get(key))[:200]}"


# ---- MLflow ----------------------------------------------------------------------------------------------------------


def _mlflow(round_: Round) -> Iterator[str]:
    """MLflow has every trial and epoch and nothing runs there, or the driver said that `tuner sync` fills it in."""
    if "fills it in" in round_.said:
        words = ("--storage", str(round_.storage)) if round_.plan.storage else ()
        done = round_.run("sync", round_.plan.name, "--home", str(round_.home), *words)
        if done.poll() != 0:
            yield f"tuner sync ended with {done.poll()}: {done.said!r}"
    database = round_.server.database if round_.plan.server else round_.home / "mlflow.db"
    ours = "SELECT run_uuid FROM tags WHERE key = 'tuner.search' AND value = ?"
    with closing(sqlite3.connect(database)) as opened:
        status = dict(
            opened.execute(f"SELECT run_uuid, status FROM runs WHERE run_uuid IN ({ours})", [round_.plan.name])
        )
        trial_of = dict(
            opened.execute(
                f"SELECT run_uuid, value FROM tags WHERE key = 'tuner.trial' AND run_uuid IN ({ours})",
                [round_.plan.name],
            )
        )
        steps = opened.execute(
            f"SELECT DISTINCT run_uuid, step FROM metrics WHERE key = 'robust_acc' AND run_uuid IN ({ours})",
            [round_.plan.name],
        ).fetchall()
    if wrong := {trial_of.get(run, "search"): state for run, state in status.items() if state != "FINISHED"}:
        yield f"runs of MLflow are {wrong}"
    known = {t.trial: {m["epoch"] for m in t.epochs} for t in History(round_.search).everything()}
    if sorted(trial_of.values()) != sorted(map(str, known)) or len(status) != len(known) + 1:
        yield f"MLflow has {len(status)} runs, of trials {sorted(trial_of.values())}, the history {sorted(known)}"
    for run, trial in trial_of.items():
        there = {step for other, step in steps if other == run}
        if missing := known.get(int(trial), set()) - there:
            yield f"MLflow lacks epochs {sorted(missing)} of trial {trial}"


# ---- what is left ----------------------------------------------------------------------------------------------------


def _left(round_: Round) -> Iterator[str]:
    if left := [*round_.trained.glob("previews/*/*")]:
        yield f"previews have ended and left {[*map(str, left)]}"
    for root in (round_.home, round_.storage, round_.temporary):
        left = [p.relative_to(root.parent) for p in root.rglob("*") if _is_temporary(p)]
        if root == round_.temporary:
            left = [p.name for p in root.iterdir() if not (p / RAYS).exists()]
        if left:
            yield f"left behind: {[*map(str, left)]}"


def _is_temporary(path: Path) -> bool:
    return bool(TEMPORARY.fullmatch(path.name)) and not path.name.endswith(".lock")


def _processes(round_: Round) -> Iterator[str]:
    until = time.monotonic() + GONE_S * round_.patience
    while (left := round_.processes()) and time.monotonic() < until:
        time.sleep(0.2)
    if left:
        yield f"processes are left after {GONE_S * round_.patience:.0f} s: {left}"
