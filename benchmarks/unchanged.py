"""Three seeded searches whose results a change that should not matter leaves equal to the bit.

    python -m benchmarks.unchanged --save before.json        # at the commit before
    python -m benchmarks.unchanged --against before.json     # at the commit after; exit code 1 names what differs

SRAT on digits; KL-DRO and DAFA in one search; SRAT with two seeds, interrupted after its third trial and resumed. One
trial at a time, so that proposals see the same results in the same order. The numbers belong to one kind of
processor (bf16 or not, see docs/decisions/training.md), so they are compared on one machine and not committed. Times,
paths and run ids are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMON = [
    "--seed",
    "3",
    "--max-concurrent",
    "1",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=4",
    "--set",
    "eval_attack=4",
    "--max-epochs",
    "8",
]
SEARCHES = {
    "srat": ["--method", "srat", "--trials", "7"],
    "two-methods": ["--method", "done", "--method", "dafa", "--trials", "8"],
    "seeds-and-resume": ["--method", "srat", "--trials", "6", "--seeds", "2"],
}
INTERRUPT_AFTER = 3  # trials that have ended
STATES = {"end": None, "preview": "previewed", "promote": "running"}  # what an event makes of a trial; end says it
FORKS = ("fork", "branch")  # now, and before there was a stem
VARYING = {"wall_s", "home", "mlflow", "time", "started", "ended", "train_s", "eval_s", "node", "pid", "wall"}


def run(name: str, home: Path) -> dict[str, Any]:
    """The `--json` of a search and all its history, without what differs from run to run."""
    command = [sys.executable, "-m", "tuner.cli"]
    options = ["--name", name, "--home", str(home), "--json"]
    folder = home / "searches" / name
    if name == "seeds-and-resume":
        first = subprocess.Popen([*command, "search", *SEARCHES[name], *COMMON, *options], stdout=subprocess.DEVNULL)
        while first.poll() is None and ended(folder) < INTERRUPT_AFTER:
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        assert first.wait() == 130, "it had finished before it was interrupted"
        done = subprocess.run([*command, "resume", name, "--home", str(home), "--json"], stdout=subprocess.PIPE)
    else:
        done = subprocess.run([*command, "search", *SEARCHES[name], *COMMON, *options], stdout=subprocess.PIPE)
    assert done.returncode == 0, name
    result = json.loads(done.stdout)
    result.pop("epochs_trained"), result.pop("epochs_saved"), result.pop("epochs_saved_by")  # depend on interruptions
    front = json.loads(
        subprocess.run(
            [*command, "front", name, "--home", str(home), "--json"], stdout=subprocess.PIPE, check=True
        ).stdout
    )
    return {"search": plain(result), "front": plain(front), "trials": plain(trials(folder))}


def ended(folder: Path) -> int:
    path = folder / "history.jsonl"
    return sum(trial["state"] != "running" for trial in trials(folder)) if path.exists() else 0


def trials(folder: Path) -> list[dict[str, Any]]:
    """Every trial and replicate: what it was given, each epoch's metrics, how it ended. Read from the log itself, which
    keeps its form from version to version."""
    found: dict[int, dict[str, Any]] = {}
    for line in (folder / "history.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # its end is being written
            continue
        kind = event["event"]
        trial = found.setdefault(event["trial"], {"trial": event["trial"], "state": "running", "epochs": {}})
        if kind == "start":
            trial |= {key: event.get(key) for key in ("method", "params", "seed", "of")}
        elif kind in STATES:
            trial["state"] = event.get("state", STATES[kind])
        elif kind == "curve":
            trial["curve"] = event["curve"]
        if kind == "preview":
            trial["preview"] = {key: event[key] for key in ("epochs", "metrics", "curve")}
        for metrics in event["epochs"] if kind in FORKS else [event["metrics"]] if kind == "epoch" else []:
            trial["epochs"][metrics["epoch"]] = metrics  # an epoch that was trained again counts once
    return [trial for _, trial in sorted(found.items(), key=lambda item: str(item[0]))]


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if k not in VARYING}
    return [plain(v) for v in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        missing = [f"{where}/{k}: missing" for k in before if k not in after]  # keys may be added
        return missing + [d for k in before if k in after for d in differences(before[k], after[k], f"{where}/{k}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [d for i, (b, a) in enumerate(zip(before, after)) for d in differences(b, a, f"{where}/{i}")]
    return [] if before == after else [f"{where}: {json.dumps(before)[:200]} before, {json.dumps(after)[:200]} after"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as home:
        found = {name: run(name, Path(home)) for name in SEARCHES}
    if given.save:
        given.save.write_text(json.dumps(found, indent=1))
    if given.against:
        wrong = differences(json.loads(given.against.read_text()), found)
        counts = ", ".join(f"{name} ({len(one['trials'])} trials)" for name, one in found.items())
        print("\n".join(wrong) or f"equal: {counts}")
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
