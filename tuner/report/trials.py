"""The trials of a search in the terminal: all of them, one of them, its log, and a view that renews itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from trainables.gpu_use import in_words
from trainables.reading import LOG_BYTES, parse_json, read_text
from tuner.errors import UsageError
from tuner.escape import print_json
from tuner.home import Home
from tuner.report.console import PlainConsole, stdout_console
from tuner.report.format import fraction, short_label, value_text
from tuner.report.progress import duration
from tuner.report.tables import PlainTable
from tuner.report.text import front_table
from tuner.results.following import Followed
from tuner.results.fronts import counts
from tuner.results.running import gpus_by_host, read_running
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search, shown_state
from tuner.results.steering import pending
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState

RENEW_S = 2.0  # between two looks of `tuner watch`
LATEST = 20  # trials that it shows


def trial_json(record: TrialRecord) -> dict[str, Any]:
    """One trial, as ``tuner trials --json`` prints it. ``metrics``: of its last epoch, or at the end of its preview,
    without offsets; ``of``: the trial whose setting a replicate repeats; ``added``: by whom, of a user's own one;
    ``stars``: who marked it."""
    _, metrics = record.points[0]
    return {
        "trial": record.trial,
        "method": record.method,
        "state": str(record.state),
        "full": record.full,
        "seed": record.seed,
        "of": record.of,
        "role": record.role,
        "added": record.added or None,
        "notes": [asdict(note) for note in record.notes],
        "stars": list(record.stars),
        "reason": record.reason,
        "epochs": len(record.epochs),
        "stem_epochs": record.stem_epochs,
        "metrics": metrics,
        "params": record.params,
    }


def record_of(run: SearchRun, number: int) -> TrialRecord:
    """A trial, replicate or reference; ``UsageError`` if there is none of this number."""
    if number not in run.history:
        raise UsageError(
            f"search {run.name!r} has no trial {number}; `tuner trials {run.name}{run.home.flag}` lists them"
        )
    return run.history.record(number)


def show_trials(name: str, trial: int | None, home: Home, as_json: bool) -> None:
    """Print all trials of a search, or one of them."""
    run = load_search(home, name)
    if trial is not None:
        record = record_of(run, trial)
        print_json(trial_json(record)) if as_json else _show_one(run, record)
        return
    records = sorted(run.history.everything(), key=lambda record: record.trial)
    if as_json:
        print_json([trial_json(record) for record in records])
        return
    console = stdout_console()
    console.print(f"{run.name} ({shown_state(run)}, split val): {counts(run.history)}", highlight=False, soft_wrap=True)
    console.print(_table(run, records))
    if waiting := len(pending(run.folder)):
        console.print(f"{waiting} that users asked for: the search's driver takes up what it can do", highlight=False)


def _table(run: SearchRun, records: Iterable[TrialRecord]) -> PlainTable:
    several, seeds = len(run.spec.methods) > 1, run.spec.stems > 1
    header = ["trial", *(["method"] if several else []), *(["seed"] if seeds else []), "state", "epochs"]
    table = PlainTable(*header, *map(short_label, run.spec.objectives), "setting")
    searched = run.spec.shown_space().searched
    for record in records:
        _, metrics = record.points[0]
        number = str(record.trial) if record.of is None else f"{record.trial} ({record.label})"
        number += " *" * bool(record.stars)
        setting = ", ".join(f"{k}={value_text(v)}" for k, v in record.params.items() if k in searched)
        table.add_row(
            "no search" if record.role else number,
            *([record.method] if several else []),
            *([str(record.seed)] if seeds else []),
            str(record.state) + (f", added by {record.added}" if record.added else ""),
            f"{len(record.epochs)}/{run.spec.max_epochs}" if record.full else "preview",
            *(fraction(metrics.get(name)) for name in run.spec.objectives),
            setting,
        )
    return table


def _show_one(run: SearchRun, record: TrialRecord) -> None:
    console = stdout_console()
    lines = [f"{record.label} of {run.name}: {record.state}" + (f", {record.reason}" if record.reason else "")]
    lines += [f"added by {record.added}"] if record.added else []
    lines += [f"star of {', '.join(record.stars)}"] if record.stars else []
    lines += [f"note of {note.by}, {_clock(note.time)}: {note.text}" for note in record.notes]
    lines += [f"{name} = {value}" for name, value in {"seed": record.seed, **record.params}.items()]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    _, metrics = record.points[0]
    table = PlainTable("metric", "preview" if record.state == TrialState.PREVIEWED else "last epoch", title="on val")
    for name, value in metrics.items():
        table.add_row(name, value_text(value) if name == "epoch" or name.endswith("_s") else fraction(value))
    console.print(table if metrics else "no epoch yet", highlight=False)


# ---- the log of one ------------------------------------------------------------------------------------------------


def log_of(run: SearchRun, number: int) -> Iterator[str]:
    """What happened to a trial, a line or more for each event of the history, errors with their whole text."""
    record_of(run, number)
    path = run.folder / "history.jsonl"
    for line in read_text(path, LOG_BYTES).splitlines():
        try:
            event = parse_json(line)
        except ValueError:
            continue  # its writer was killed
        if event.get("trial") == number:
            yield f"{_clock(event['time'])}  {_said(event)}"
            yield from (f"    {text}" for text in str(event.get("text", "")).splitlines())


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _said(event: dict[str, Any]) -> str:
    by = f" by {event['by']}" if event.get("by") else ""
    match event["event"]:
        case "start" | "add" as name:
            setting = ", ".join(f"{k}={value_text(v)}" for k, v in event["params"].items())
            return f"{name}{by}: {event['method']}, seed {event.get('seed', 0)}, {setting or 'nothing is searched'}"
        case "epoch" | "preview" as name:
            return f"{name}: {_values(event['metrics'])}"
        case "stem":
            return f"stem: trained epoch {event.get('stem_epoch')} of {event.get('stem') or 'it'}"
        case "fork":
            return f"fork: left the stem {event.get('stem') or ''} after epoch {len(event['epochs'])}"
        case "end":
            return f"end: {event['state']}" + (f", {event['reason']}" if event.get("reason") else "")
        case "note":
            star = {True: ["a star"], False: ["no star any more"]}.get(event.get("star"), [])
            return f"note{by}: {', '.join([*filter(None, [event.get('text')]), *star])}"
        case name:
            return f"{name}{by}" + (f": {event['reason']}" if event.get("reason") else "")


def _values(metrics: dict[str, Any]) -> str:
    whole = {k: v for k, v in metrics.items() if "/" not in k and isinstance(v, (int, float))}
    return ", ".join(f"{k} {value_text(v)}" for k, v in whole.items())


# ---- a view that renews itself -------------------------------------------------------------------------------------


def view(run: SearchRun, state: str, width: int) -> Group:
    """The search as its files say it now."""
    history, front = run.history, run.front()
    latest = max((t.ended or t.started for t in history.everything()), default=0.0)
    ago = f", last trial {duration(max(0.0, time.time() - latest))} ago" if latest else ""
    head = Text.assemble((run.name, "bold"), f"  {state}: {counts(history)}{ago}")
    open_ = [t for t in history.everything() if not t.state.ended]
    parts: list[Any] = [head, _table(run, open_[-LATEST:])] if open_ else [head]
    if state == "running":
        nodes = gpus_by_host(read_running(run.folder))
        parts += [Text(f"GPUs of {host}: {'; '.join(map(in_words, gpus))}") for host, gpus in nodes.items()]
    if front.rows:
        searched = run.spec.shown_space().searched
        parts.append(front_table(front, [], searched, width, constraint=run.spec.constraint))
    return Group(*parts)


def watch(name: str, home: Home | None = None, *, pause_s: float = RENEW_S) -> None:
    """Show a search until it has ended, from its files alone: its driver may be on another machine. On a terminal the
    view renews itself; elsewhere it is printed where trials have ended since. Ctrl-C ends the view, not the search."""
    console: PlainConsole = stdout_console()
    followed, seen = Followed(home or Home(), name), -1
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while True:
            run, state = followed.run, followed.state
            ended = sum(t.state.ended for t in run.history.everything())
            if live:
                live.update(view(run, state, console.width), refresh=True)
            elif ended != seen:
                console.print(view(run, state, console.width))
            if state in ("finished", "failed"):
                return
            seen = ended
            time.sleep(pause_s)
            followed.look()
