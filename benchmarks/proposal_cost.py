"""What a worker waits for its next trial, and what a decision at a rung costs, after 100, 1,000 and 10,000 trials.

    python -m benchmarks.proposal_cost [--counts 100 1000 10000] [--asks 15] [--json OUT]

Drives the proposer and the rungs as the search does, without Ray and without a recorded study: made-up trials fill the
history, then every ask and every decision is timed. A Gaussian process works ahead, so what counts for it is the time
`next` takes when training one trial takes `--trial-s` seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from tuner.optimizer.proposer import Proposer
from tuner.optimizer.samplers import quasi_random
from tuner.optimizer.successive_halving import Rungs
from tuner.results.history import History
from tuner.results.trial_state import TrialState
from tuner.spec.schedulers import Decision
from tuner.spec.search_spec import SearchSpec

CASES = {
    "auto, conditional (srat)": {"method": "srat"},
    "auto, flat (srat, loss=ce)": {"method": "srat", "fix": {"loss": "ce"}},
    "tpe": {"method": "srat", "sampler": "tpe"},
    "random": {"method": "srat", "sampler": "random"},
}


def train(
    history: History, rungs, spec: SearchSpec, trial: int, params: dict, rng, decisions: list[float] | None
) -> None:
    """One made-up trial: a curve that rises to a height which depends on its parameters."""
    history.append("start", trial, params=params, method=spec.method)
    height = 0.3 + 0.3 * np.exp(-abs(np.log(params["sep_weight"]))) + 0.05 * rng.random()
    worst, start = height * (0.3 + 0.4 * params["strength"] / 2), spec.epoch_plan.start_of(params)
    state = TrialState.FINISHED
    for epoch in range(1, spec.max_epochs + 1):
        metrics = {
            "epoch": epoch,
            "natural_robust_acc": height * epoch / 27,
            "worst_class_robust_acc": worst * epoch / 27,
        }
        history.append("epoch", trial, metrics=metrics)
        point = spec.goal.point(metrics)
        begin = time.perf_counter()
        answer = rungs.feed(trial, epoch, point, start)
        if decisions is not None and epoch in rungs.rungs and epoch > start:
            decisions.append(time.perf_counter() - begin)
        if answer != Decision.CONTINUE:
            state = TrialState.STOPPED
            break
    history.append("end", trial, state=state)
    rungs.forget(trial)


def measure(case: dict, count: int, asks: int, trial_s: float) -> dict:
    spec = SearchSpec(trials=count + asks + 2, max_epochs=27, **{**case, "fix": {"start": 0.2, **case.get("fix", {})}})
    history, rungs, rng = History(None), Rungs(spec.early_stopping), np.random.default_rng(0)
    for trial in range(count):
        train(history, rungs, spec, trial, quasi_random(spec.search_space(), 1, trial), rng, None)
    proposer, waits, computed, decisions = Proposer(spec, history, rungs), [], [], []
    for number in range(asks + 1):
        begin, busy = time.perf_counter(), time.thread_time()
        proposal = proposer.next()
        if number:  # the first one also reads what is there
            waits.append(time.perf_counter() - begin)
            computed.append(time.thread_time() - busy)
        if proposer.ahead:
            time.sleep(trial_s)
        train(history, rungs, spec, proposal.trial, proposal.params, rng, decisions)
    return {
        "wait_ms": 1000 * statistics.median(waits),
        "worst_wait_ms": 1000 * max(waits),
        "wait_cpu_ms": 1000 * statistics.median(computed),
        "decision_ms": 1000 * statistics.median(decisions),
        "worst_decision_ms": 1000 * max(decisions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--asks", type=int, default=15)
    parser.add_argument("--trial-s", type=float, default=3.0, help="seconds one trial trains beside a Gaussian process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print(f"{'sampler':28} {'trials':>7} {'wait ms':>9} {'worst':>9} {'of it cpu':>9} {'decision ms':>12} {'worst':>9}")
    for name, case in CASES.items():
        for count in args.counts:
            row = {"sampler": name, "trials": count, **measure(case, count, args.asks, args.trial_s)}
            rows.append(row)
            print(
                f"{name:28} {count:7d} {row['wait_ms']:9.2f} {row['worst_wait_ms']:9.2f} {row['wait_cpu_ms']:9.2f} "
                f"{row['decision_ms']:12.3f} "
                f"{row['worst_decision_ms']:9.3f}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
