"""What the papers say of their methods, on this device: the runs of `benchmarks.methods_table` that their claims need.

Seed by seed, the cheapest claims first, each method beside its control; a run is stored when it is done.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from benchmarks.gpu.ledger import RESULTS
from benchmarks.gpu.setup import Setup
from benchmarks.methods_report import CLAIMS
from benchmarks.methods_table import KEY, train

EVERY = 4  # of the test images, one in so many is attacked


@cache
def costs() -> dict[str, float]:
    """What an epoch of each method costs beside plain AT's, as `benchmarks.method_cost` has measured it."""
    rows = json.loads((RESULTS / "method_cost.json").read_text())
    return {row["method"]: row["per_epoch"] for row in rows if row["dataset"] == "noise32"}


def cost(name: str) -> float:
    return costs()[name.partition("+")[0]]


def runs(setup: Setup) -> list[dict[str, Any]]:
    """Those that are not stored."""
    size, (epochs, images) = setup.size, setup.size.claims
    kept = size.claims_made
    wanted = [
        (name, setting, seed)
        for seed in range(size.seeds)
        for claim in sorted(CLAIMS, key=lambda claim: max(cost(claim.method), cost(claim.control)))[:kept]
        for setting in claim.settings
        if setting in size.settings
        for name in (claim.method, claim.control)
    ]
    done = {tuple(row[k] for k in KEY) for row in setup.ledger.stored("methods.jsonl")}
    every = [dict(zip(KEY, (*run, size.model, epochs, images, 128))) for run in dict.fromkeys(wanted)]
    return [run for run in every if tuple(run.values()) not in done]


def amount(setup: Setup, run: dict[str, Any]) -> float:
    """Training images that it sees, as many of plain AT as cost the same."""
    share = run["images"] / 50_000 if run["images"] else 1
    return cost(run["method"]) * run["epochs"] * share * setup.images(run["setting"])


def planned(setup: Setup) -> list[tuple[str, float]]:
    """One seed of every claim that has a run left."""
    open_ = runs(setup)
    some = [run for run in open_ if run["seed"] == open_[0]["seed"]]
    return [("rest", 1), ("claims", sum(amount(setup, run) for run in some))] if some else []


def run(setup: Setup) -> None:
    images = setup.size.claims[1]
    dataset = setup.thinned(images) if images else setup.dataset
    for one in runs(setup):
        with setup.ledger.timed("claims", amount(setup, one)):
            row = train(one, dataset, str(setup.home), setup.device.type, EVERY)
        setup.ledger.write("methods.jsonl", row)
        print(f"{one['setting']} {one['method']} seed {one['seed']}: {row.get('failed') or row['wall_s']}", flush=True)
