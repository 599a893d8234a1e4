"""Hosts that come and go: real searches on a Ray head and three workers, each a network namespace with its own address.

    python -m benchmarks.several_hosts [--rounds 2] [--json OUT] [--markdown docs/experiments/several-hosts.md]

Everything goes through the command line of one more machine: submit, follow, stop, resume. In between, hosts are killed
or cut off the network. Whatever was done, it then looks whether anything was lost: trials that have not ended, epochs
that were trained twice, runs in MLflow (a server on PostgreSQL, on a host of its own) that are still RUNNING. Needs
root, iproute2 and PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from tests.hosts import Hosts, why_not
from tests.hosts_checks import Log, Trained, mlflow_runs, told_when

TRIALS, EPOCHS, WORKERS, CUT_S = 4, 8, 3, 60
SEARCH = [
    "--method",
    "srat",
    "--trials",
    TRIALS,
    "--max-epochs",
    EPOCHS,
    "--set",
    "attack_steps=4",
    "--set",
    "passes=4",
    "--set",
    "eval_attack=4",
    "--scheduler",
    "none",
    "--max-concurrent",
    WORKERS - 1,
]


class Story:
    """One cluster and what is done to it; ``rows`` is the table."""

    def __init__(self, hosts: Hosts, trained: Trained):
        self.hosts, self.trained, self.rows, self.number = hosts, trained, [], 0

    @contextmanager
    def search(self, *more):
        """A submitted and followed search; waits for its end."""
        self.number += 1
        name = f"h{self.number}"
        begin, lines = time.time(), []
        where = ["--name", name, "--address", self.hosts.address, "--follow"]
        process = self.hosts.popen("submit", *SEARCH, *more, *where)
        told = told_when(process, lines)
        log = Log(self.hosts.home, name)
        log.name, log.begin, log.lines = name, begin, lines
        try:
            yield log
            log.code = process.wait(600)
        finally:
            process.kill()
            told.join(10)

    def check(self, what: str, log: Log, **figures) -> None:
        """One row: what is left of the search after all that."""
        ended, runs = log.ended(), mlflow_runs(self.hosts.env["MLFLOW_TRACKING_URI"], log.name)
        short = [r for r in runs if r["kind"] == "trial" and r["status"] == "FINISHED" and r["steps"] < EPOCHS]
        row = {
            "what": what,
            "trials": TRIALS,
            "finished": ended["finished"],
            "failed": ended["failed"],
            "most_epochs_repeated": max(self.trained.repeated(log.name).values(), default=0),
            "mlflow_runs": len(runs),
            "mlflow_running": sum(r["status"] == "RUNNING" for r in runs),
            "mlflow_short": len(short),
            **figures,
        }
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    # ---- what is done ------------------------------------------------------------------------------------------------

    def plain(self) -> None:
        with self.search() as log:
            pass
        first = log.events("epoch")[0]
        started = first["time"] - first["metrics"]["train_s"] - first["metrics"]["eval_s"]
        said = {e["trial"]: e["time"] for e in log.events("end")}
        lags = [when - said[t] for when, line in log.lines for t in said if f"trial {t} finished" in line]
        self.check("nothing", log, to_first_trial_s=started - log.begin, follow_lag_s=max(lags))

    def lose(self, what: str, how: Callable, after: Callable) -> None:
        """Take a worker that trains away in the middle of its trial."""
        with self.search() as log:
            self.hosts.wait(lambda: len(log.running(2, EPOCHS - 4)) == WORKERS - 1, 300, "two trials in their middle")
            worker = next(w for w in self.hosts.workers if w.trains())
            since = time.time()
            how(worker)
            found = self.hosts.wait(lambda: log.recovery(since), 300, "the trial running elsewhere")
            after(worker, since)
        self.check(what, log, **found)
        self.hosts.up()

    def kill_head(self) -> None:
        with self.search() as log:
            self.hosts.wait(lambda: log.running(2, EPOCHS - 3), 300, "a trial in its middle")
            since = time.time()
            self.hosts.head.kill()
            for worker in self.hosts.workers:  # they would wait a minute for a head that knows them
                worker.kill()
        self.hosts.up()
        up = time.time()
        self._resume(log)
        new = next(e for e in log.events("epoch") if e["time"] > up)
        self.check("head killed, all started again, resume", log, running_s=new["time"] - up, down_s=up - since)

    def stop(self) -> None:
        with self.search() as log:
            self.hosts.wait(lambda: log.running(2, EPOCHS - 3), 300, "a trial in its middle")
            job = next(line for _, line in log.lines if line.startswith("job ")).split()[1].rstrip(",")
            done = self.hosts.tuner("stop", job, "--address", self.hosts.address)
            assert done.returncode == 0, done.stderr
        assert log.code == 130, log.code
        self._resume(log)
        self.check("stop, resume", log)

    def _resume(self, log: Log) -> None:
        done = self.hosts.tuner("resume", log.name, "--address", self.hosts.address, "--follow", timeout=600)
        assert done.returncode == 0, done.stderr

    def two_users(self) -> None:
        with self.search("--max-concurrent", 1) as one, self.search("--max-concurrent", 1, "--seed", 1) as two:
            pass
        spans = [(log.events()[0]["time"], log.events()[-1]["time"]) for log in (one, two)]
        both = min(end for _, end in spans) - max(begin for begin, _ in spans)
        for who, log in (("first", one), ("second", two)):
            self.check(f"two searches at once, the {who}", log, together_s=both)


def play(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="tuner-n") as folder:
        with Hosts(Path(folder), workers=WORKERS, mlflow=True) as hosts, Trained(hosts.home) as trained:
            story = Story(hosts, trained)
            story.plain()
            for _ in range(rounds):
                story.plain()
                story.lose("worker killed mid-trial", lambda w: w.kill(), lambda w, since: w.start())
                story.lose(
                    f"worker cut off for {CUT_S} s mid-trial",
                    lambda w: w.cut(),
                    lambda w, since: (time.sleep(max(0.0, since + CUT_S - time.time())), w.mend()),
                )
                story.kill_head()
                story.stop()
                story.two_users()
            return story.rows


def table(rows: list[dict]) -> str:
    """A line per deed: how often, what was lost, the worst figures."""
    lines = [
        "| what was done | times | trials asked for / finished | epochs repeated, worst trial | MLflow runs "
        "RUNNING | noticed after | running elsewhere after |",
        "|---|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        same = [row for row in rows if row["what"] == what]
        seconds = {key: [row[key] for row in same if key in row] for key in ("noticed_s", "running_s")}
        shown = {key: f"{min(v):.0f} to {max(v):.0f} s" if v else "" for key, v in seconds.items()}
        finished = f"{sum(r['trials'] for r in same)} / {sum(r['finished'] for r in same)}"
        lines.append(
            f"| {what} | {len(same)} | {finished} | "
            f"{max(r['most_epochs_repeated'] for r in same)} | {sum(r['mlflow_running'] for r in same)} | "
            f"{shown['noticed_s']} | {shown['running_s']} |"
        )
    return "\n".join(lines)


def page(rows: list[dict], load: float) -> str:
    plain = [row for row in rows if "to_first_trial_s" in row]
    starts, lags = ([row[key] for row in plain] for key in ("to_first_trial_s", "follow_lag_s"))
    machine = f"{os.cpu_count()} shared cores, Python {platform.python_version()}, load {load:.1f} when it ended"
    return f"""# Searches on several hosts

Made by `python -m benchmarks.several_hosts` on {date.today()}: a Ray head, {WORKERS} workers (one trial each), MLflow
on PostgreSQL, each on a host of its own (network namespaces of one machine: {machine}).
A search has {TRIALS} trials of {EPOCHS} epochs, {WORKERS - 1} at a time, so that a lost one finds a free worker.
Everything by the command line of one more machine.

{table(rows)}

"Noticed" is when the driver was told, "running elsewhere" when the trial's next epoch was reported there; both count
from the moment the host was taken away, for the head from when all nodes were up again. Submit to the first trial's
first step: {min(starts):.0f} to {max(starts):.0f} s, median {statistics.median(starts):.0f} s ({len(starts)}
searches). `--follow` printed a trial's end at most {max(lags):.1f} s after it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"network namespaces cannot be made here: {why}")
    rows = play(args.rounds)
    text = page(rows, os.getloadavg()[1])
    print(text)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
