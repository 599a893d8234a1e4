"""A call: which machine it is on, what is planned, the parts one after the other within their limits, and what became
of the plan."""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import live_stages
from benchmarks.gpu import check, claims, front, live, nosearch
from benchmarks.gpu.ledger import FILES, KEPT, RESULTS, Ledger, ratios
from benchmarks.gpu.setup import FULL, TINY, Setup
from benchmarks.live import append
from benchmarks.methods_report import stored_runs
from trainables.stem import code_version
from tuner.errors import UsageError
from tuner.spec.search_spec import SearchSpec

# The parts in the order of their worth, and the seconds that each may take at most.
PARTS: dict[str, tuple[ModuleType, float]] = {
    "check": (check, 180),
    "nosearch": (nosearch, 540),
    "front": (front, 560),
    "claims": (claims, 560),
    "live": (live, 560),
}
LEAST = 20  # seconds with which a part is begun
OPEN = 5  # trainers in memory, four workers' and a stem's: on a GPU each holds its recorded attacks
FORK = multiprocessing.get_context("fork")  # modules are loaded once; the parent never touches the GPU


def run(args: argparse.Namespace) -> None:
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:  # a process that has asked a GPU cannot be forked
        device = pool.submit(device_name).result()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    end, done, broken = time.monotonic() + args.seconds, list[dict](), list[str]()
    print(f"{device}, torch {torch.__version__}", flush=True)
    show_plan(setup_of(args, device), args.parts)
    for name in () if args.plan else args.parts:
        setup = setup_of(args, device)
        limit = min(PARTS[name][1], end - time.monotonic())
        if not PARTS[name][0].planned(setup):
            continue
        if limit < LEAST:
            print(f"{name}: no time left", flush=True)
            continue
        lines, fine = within(limit, name, setup)
        done += lines
        broken += [] if fine else [name]
    for name, (planned, took) in ratios(done).items():
        print(f"{name}: planned {planned:.0f} s, took {took:.0f} s: {planned / took:.2f}", flush=True)
    if broken:
        raise SystemExit(f"broke off: {', '.join(broken)}")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def setup_of(args: argparse.Namespace, device: str) -> Setup:
    """With the rows and rates as they are now."""
    size = TINY if args.tiny else FULL
    changed = settings(args.set)
    size = dataclasses.replace(size, epochs=args.epochs or size.epochs, training={**size.training, **changed})
    about = {"size": size.name, "model": size.model, "epochs": size.epochs, "set": changed}
    about |= {"device": device, "torch": torch.__version__, "code": code_version("at")}
    ledger = Ledger(args.out, about, tuple(args.resume_from))
    return Setup(size, args.out, args.work, ledger, None if args.tiny else args.data, args.form)


def settings(pairs: list[str]) -> dict[str, Any]:
    """Of the training, of the right types; ``SystemExit`` for others."""
    try:
        return dict(SearchSpec(method="at", set=dict(pair.split("=", 1) for pair in pairs)).set)
    except (UsageError, ValueError) as error:
        raise SystemExit(f"--set {' '.join(pairs)}: {error}") from None


def show_plan(setup: Setup, parts: list[str]) -> None:
    print("part        seconds  limit  what is left of its next unit", flush=True)
    begin = setup.undecoded
    for name in parts:
        part, limit = PARTS[name]
        if work := part.planned(setup):
            work, begin = begin + work, []
        what = ", ".join(f"{kind} {amount:,.0f}" for kind, amount in work if amount) or "nothing"
        print(f"{name:10s} {setup.ledger.seconds(work, name):8.0f}  {limit:5.0f}  {what}", flush=True)


def within(limit: float, name: str, setup: Setup) -> tuple[list[dict], bool]:
    """A part in a process of its own, which is killed with all that it started after ``limit`` seconds; the lines of
    what it did, and whether it ended well or at its limit."""
    begin, before = time.monotonic(), len(stored_runs(setup.out / "times.jsonl"))
    setup.ledger.part = name
    process = FORK.Process(target=child, args=(name, setup))
    process.start()
    try:
        process.join(limit)
    finally:
        alive = process.is_alive()
        if alive:
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
    seconds = time.monotonic() - begin
    lines = stored_runs(setup.out / "times.jsonl")[before:]
    ended = "stopped at its limit" if alive else "done" if process.exitcode == 0 else f"broke off ({process.exitcode})"
    print(f"{name}: {ended} after {seconds:.0f} s", flush=True)
    if process.exitcode == 0:
        setup.ledger.took("rest", 1, seconds - sum(line["seconds"] for line in lines))
        lines = stored_runs(setup.out / "times.jsonl")[before:]
    return lines, alive or process.exitcode == 0


def child(name: str, setup: Setup) -> None:
    os.setpgid(0, 0)
    live_stages.OPEN = OPEN
    if setup.device.type == "cpu":
        torch.set_num_threads(1)
    setup.open_data()
    PARTS[name][0].run(setup)


def collect(folders: list[Path]) -> None:
    """Lines of output folders into benchmarks/results, each once; then the pages. ``SystemExit`` for a tiny run's."""
    from benchmarks.gpu.page import write_page

    for folder in folders:
        if any(row["size"] != FULL.name for row in stored_runs(folder / "times.jsonl")):
            raise SystemExit(f"{folder} is of a tiny run: no result")
    for name in FILES:
        to = RESULTS / KEPT.get(name, name)
        known = {json.dumps(row, sort_keys=True) for row in stored_runs(to)}
        for row in (row for folder in folders for row in stored_runs(folder / name)):
            if (text := json.dumps(row, sort_keys=True)) not in known:
                known.add(text)
                append(to, row)
    write_page()
