"""What a worker waits for its next trial, and what it costs to see which preview is promoted, after 100, 1,000 and
10,000 trials.

    python -m benchmarks.proposal_cost [--counts 100 1000 10000] [--asks 15] [--json OUT]

Drives the proposer and the promotions as the search does, without Ray and without a recorded study: made-up previews
fill the history, of which every fourth has trained in full, then every ask is timed, and the decision after each
preview.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from trainables.curve import Curve, CurvePoint
from trainables.offsets import NONE, TAUS, prior
from tuner.optimizer.proposer import Proposer
from tuner.optimizer.samplers import quasi_random
from tuner.results.history import History
from tuner.results.promotion import promotable
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

CASES = {
    "auto": {"method": "srat"},
    "gp, flat (loss=ce)": {"method": "srat", "fix": {"loss": "ce"}, "sampler": "gp"},
    "random": {"method": "srat", "sampler": "random"},
}
EPOCHS = 27
CLASSES = tuple(map(str, range(10)))
TRAINED = tuple(round(1000 * 10 ** (-c / 9)) for c in range(10))  # images of each class, of which 100 judge: exp:10


def curve_of(params: dict[str, Any], rng: np.random.Generator) -> Curve:
    """Over its offsets, at random around what its parameters say: they move accuracy from large classes to small."""
    height = 30 + 30 * np.exp(-abs(np.log(params["sep_weight"]))) + 5 * rng.random()
    slope = 25 - 10 * params["strength"]
    points = []
    for tau in (0.0, *TAUS):
        right = height + (slope - 20 * tau) * np.linspace(1, -1, 10) + rng.normal(0, 2, 10)
        robust = tuple(int(n) for n in np.clip(right, 0, 100))
        points.append(CurvePoint(prior(TRAINED, tau) if tau else NONE, (100,) * 10, robust, robust))
    return Curve(CLASSES, TRAINED, tuple(points))


def previewed(history: History, spec: SearchSpec, trial: int, params: dict[str, Any], rng: np.random.Generator) -> None:
    """A made-up preview."""
    curve = curve_of(params, rng)
    history.append("start", trial, params=params, method=spec.method, preview=True)
    metrics = {"epoch": sum(spec.epoch_plan.preview), **curve.metrics(curve.points[0])}
    history.append("preview", trial, epochs=spec.epoch_plan.preview[1], metrics=metrics, curve=curve.to_dict())


def trained(history: History, spec: SearchSpec, trial: int, rng: np.random.Generator) -> None:
    """A made-up training in full, of a trial that was previewed."""
    params, fork = history.trials[trial].params, spec.epoch_plan.fork_of(history.trials[trial].params)
    curve = curve_of(params, rng)
    epochs = [{"epoch": epoch, **curve.metrics(curve.points[0])} for epoch in range(1, spec.max_epochs + 1)]
    history.append("promote", trial)
    history.append("fork", trial, epochs=epochs[:fork])
    for metrics in epochs[fork:]:
        history.append("epoch", trial, metrics=metrics)
    history.append("curve", trial, curve=curve.to_dict())
    history.append("end", trial, state=TrialState.FINISHED)


def measure(case: dict[str, Any], count: int, asks: int) -> dict[str, float]:
    fix = {"start": 0.2, **case.get("fix", {})}
    spec = SearchSpec(trials=count + asks + 2, max_epochs=EPOCHS, **{**case, "fix": fix})
    history, rng = History(None), np.random.default_rng(0)
    for trial in range(count):
        previewed(history, spec, trial, quasi_random(spec.search_space(), 1, trial), rng)
        if trial % 4 == 0:
            trained(history, spec, trial, rng)
    proposer, waits, computed, decisions = Proposer(spec, history), [], [], []
    for number in range(asks + 1):
        begin, busy = time.perf_counter(), time.thread_time()
        proposal = proposer.next()
        if number:  # the first one also reads what is there
            waits.append(time.perf_counter() - begin)
            computed.append(time.thread_time() - busy)
        previewed(history, spec, proposal.trial, proposal.params, rng)
        proposer.tell(proposal.trial)
        begin = time.perf_counter()
        best = promotable(spec.scheduling, spec.goal, history)
        decisions.append(time.perf_counter() - begin)
        if best is not None:
            trained(history, spec, best, rng)
    return {
        "wait_ms": 1000 * statistics.median(waits),
        "worst_wait_ms": 1000 * max(waits),
        "wait_cpu_ms": 1000 * statistics.median(computed),
        "decision_ms": 1000 * statistics.median(decisions),
        "worst_decision_ms": 1000 * max(decisions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.partition("\n\n")[0].split()))
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--asks", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print(f"{'sampler':28} {'trials':>7} {'wait ms':>9} {'worst':>9} {'of it cpu':>9} {'decision ms':>12} {'worst':>9}")
    for name, case in CASES.items():
        for count in args.counts:
            row = {"sampler": name, "trials": count, **measure(case, count, args.asks)}
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
