"""What a result costs the driver: against the number of concurrent trials, and as results pile up.

    python -m benchmarks.scaling [--concurrent 10 100 1000] [--results 10000] [--long 100000] [--json OUT] [--profile]

`--json benchmarks/results/scaling.json` and `make docs` renew docs/experiments/scaling.md.

All of ``tuner.execution.driver.search`` runs (searcher, proposals, promotions, history synced to disk per line, MLflow
on SQLite), with the trials of ``benchmarks.seats``: they report at once, so the driver is what limits the pace.
CPU time is the driver's own (all its threads), which other processes on the machine hardly change.

`--plain` measures Ray Tune alone instead: as many results of the same trials, three each, as a preview has, with random
settings, its own loggers and snapshots off, no history, no study, no MLflow.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import tempfile
import threading
import time
from pathlib import Path
from unittest.mock import patch

WINDOWS = 10
TABLE = "{:>10} {:>10.2f} {:>8.2f} {:>20.2f} {:>20.2f}"
HEAD = """# What a result costs the driver

Written by `make docs` from `benchmarks/results/scaling.json`, which `python -m benchmarks.scaling` measured once, on 2
cores of an AMD EPYC with AVX2 (Python 3.11, Ray 2.60.0) of which a training kept one busy all along. Figures are per
result, means over a tenth of a search's results: the first, a middle and the last one. Trials do nothing but report
their epochs with all metrics of ten classes: three of a preview, up to twelve of one that trains in full. So the
driver is what limits the pace: searcher, proposals by TPE, promotions, a history synced to disk line by line, MLflow
on SQLite. The last two columns are part of the CPU time.

The first 1,000 trials of the searches with 1,000 at a time are not proposed by a model: they cost 9 to 13 ms a result
(another run of 3,600 results, load 2). After that half of a result's cost is its share of a proposal, of TPE that sees
250 ended and 250 running trials, and a third Ray Tune (py-spy, at 40,000). It does not grow: 19 to 27 ms, as the load
was, from 10,000 to about 78,000 results of 20,833 trials, and 15 to 25 ms from there to 100,000, when the same search
was extended to 27,500 trials with MLflow off. Before what is asked at every result was counted as events come, a
result cost 31 ms at 20,000, and grew.

Ray Tune alone (`--plain --concurrent 1000 --results 15000 --long 0`, once, the same machine at a load of 7) took 6.9
to 9.9 ms of CPU time per result in stretches of 1,500, 8.9 in the mean. So 5 ms, which were aimed at, are out of reach
of a driver on Ray Tune on such a machine. MLflow's writer rests after each run, so that it keeps to a tenth of a core,
and is behind when such a search ends; the driver waits 30 s for it and says that `tuner sync` fills in the rest.

"""
EPOCHS, PER_TRIAL = 12, 3.8  # of a full trial; results of the mean one: 3 of its preview, 5 of every sixth in full


def thread_cpu() -> dict[str, float]:
    """CPU seconds of this process: in all, of the thread that runs Ray Tune, and of the one that writes to MLflow."""
    tick = os.sysconf("SC_CLK_TCK")
    names = {t.native_id: t.name for t in threading.enumerate()}
    found = {"all": time.process_time(), "tune": 0.0, "mlflow": 0.0}
    for task in Path("/proc/self/task").iterdir():
        kind = {"search": "tune", "mlflow": "mlflow"}.get(names.get(int(task.name), ""))
        if kind:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[kind] += (int(fields[11]) + int(fields[12])) / tick
    return found


class Clock:
    """Notes time and CPU time at every so many results."""

    def __init__(self, every: int):
        self.every, self.count, self.marks = every, 0, []

    def result(self) -> None:
        if self.count % self.every == 0:
            self.marks.append((self.count, time.perf_counter(), thread_cpu()))
            for row in self.rows()[-1:]:  # a long search is worth following
                print(TABLE.format(*row.values()), flush=True)
        self.count += 1

    def rows(self) -> list[dict]:
        """Per stretch of results: milliseconds per result."""
        rows = []
        for (n0, t0, cpu0), (n1, t1, cpu1) in zip(self.marks, self.marks[1:]):
            each = 1000 / (n1 - n0)
            rows.append(
                {
                    "results": n1,
                    "wall_ms": each * (t1 - t0),
                    **{f"{k}_cpu_ms": each * (cpu1[k] - cpu0[k]) for k in cpu1},
                }
            )
        return rows


def measure(concurrent: int, results: int, sampler: str, profile: bool) -> dict:
    """One search with about so many results."""
    from benchmarks.seats import seats
    from tuner.execution import driver
    from tuner.execution.ray_callback import SearchCallback
    from tuner.home import Home
    from tuner.spec.search_spec import SearchSpec

    clock, before = Clock(max(1, results // WINDOWS)), SearchCallback.on_trial_result

    def on_trial_result(self, *args, **info):
        clock.result()
        before(self, *args, **info)

    counted = patch.object(SearchCallback, "on_trial_result", on_trial_result)
    with tempfile.TemporaryDirectory() as home, seats(concurrent), counted:
        spec = SearchSpec(
            trials=max(concurrent, round(results / PER_TRIAL)),
            max_epochs=EPOCHS,
            sampler=sampler,
            max_concurrent=concurrent,
            name=f"s{concurrent}-{results}",
        )
        profiler, tune = cProfile.Profile(), driver._tune  # on a thread of its own

        def profiled(*args):
            return profiler.runcall(tune, *args)

        with patch.object(driver, "_tune", profiled if profile else tune):
            found = driver.search(spec, Home(Path(home)))
        for thread in threading.enumerate():  # a search waits for MLflow's writer for a while only; the home is deleted
            if thread.name == "mlflow":
                thread.join()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        pstats.Stats(profiler).sort_stats("cumtime").print_stats(60)
    return {"concurrent": concurrent, "trials": found["trials"], "results": clock.count, "windows": clock.rows()}


def plain(concurrent: int, results: int) -> dict:
    """Ray Tune alone with about so many results, of trials that report three times."""
    from ray import tune

    from benchmarks.seats import NoOp, seats
    from tuner.execution.ray_patches import quiet_tune

    class Count(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            clock.result()

    quiet_tune()
    clock = Clock(max(1, results // WINDOWS))
    with tempfile.TemporaryDirectory() as home, seats(concurrent):
        tune.Tuner(
            tune.with_resources(NoOp, {"cpu": 1}),
            param_space={"trial": {"trial": 0, "max_epochs": 3, "params": {"strength": tune.uniform(0, 1)}}},
            tune_config=tune.TuneConfig(
                num_samples=round(results / 3), reuse_actors=True, max_concurrent_trials=concurrent
            ),
            run_config=tune.RunConfig(storage_path=home, callbacks=[Count()], verbose=0),
        ).fit()
    return {"concurrent": concurrent, "trials": {}, "results": clock.count, "windows": clock.rows()}


def page(rows: list[dict]) -> str:
    """docs/experiments/scaling.md: per search the first, a middle and the last stretch of results."""
    lines = [
        "| concurrent trials | trials | after results | wall ms | CPU ms | Ray Tune's loop | MLflow's thread |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        windows = row["windows"]
        for window in (windows[0], windows[len(windows) // 2], windows[-1]):
            figures = " | ".join(f"{window[k]:.1f}" for k in ("wall_ms", "all_cpu_ms", "tune_cpu_ms", "mlflow_cpu_ms"))
            lines.append(f"| {row['concurrent']} | {sum(row['trials'].values())} | {window['results']} | {figures} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrent", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--long", type=int, default=100_000, help="results of the last, long search (0: none)")
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--plain", action="store_true", help="Ray Tune alone")
    parser.add_argument("--json")
    args = parser.parse_args()
    import ray

    from tuner.execution.ray_instance import start

    start(ray, num_cpus=4)
    runs = [(n, args.results) for n in args.concurrent] + ([(max(args.concurrent), args.long)] if args.long else [])
    report = []
    for concurrent, results in runs:
        print("   results    wall ms   CPU ms   of Ray Tune's loop   of MLflow's thread   (per result)")
        report.append(
            plain(concurrent, results) if args.plain else measure(concurrent, results, args.sampler, args.profile)
        )
        print(f"{concurrent} concurrent, {report[-1]['results']} results, trials {report[-1]['trials']}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
