"""The rows of `benchmarks.live` on CIFAR-10, for the arms that need no Ray: its costs first, then pair by pair."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks import live
from benchmarks.gpu.setup import Setup
from benchmarks.live_problem import IMAGES, PROBLEMS, Costs, Job, measure_costs

ARMS = {"ours": 0.35, "plain": 1.0}  # and the share of the epochs of all trials in full that it trains, about


def job(setup: Setup, seed: int) -> Job:
    name, trials, epochs = setup.size.live
    problem = dataclasses.replace(PROBLEMS[name], epochs=epochs, set=setup.size.training)
    dataset = setup.thinned(IMAGES) if problem.needs_data else None
    return Job(problem, seed, trials=trials, home=str(setup.work / "live" / "home"), dataset=dataset)


def open_pairs(setup: Setup) -> list[tuple[int, str]]:
    """Seed by seed; of those that no line is stored of."""
    name, trials, epochs = setup.size.live
    stored, mine = setup.ledger.stored("live.jsonl"), [name, trials, epochs]
    done = {(r["seed"], r["arm"]) for r in stored if [r["problem"], r["trials"], r["epochs"]] == mine}
    return [(seed, arm) for seed in range(setup.size.seeds) for arm in ARMS if (seed, arm) not in done]


def planned(setup: Setup) -> list[tuple[str, float]]:
    """The arms of one seed."""
    some = open_pairs(setup)[: len(ARMS)]
    return [("rest", 1), ("live", sum(epochs_of(setup, arm) for _, arm in some))] if some else []


def epochs_of(setup: Setup, arm: str) -> float:
    """Of a run."""
    _, trials, epochs = setup.size.live
    return ARMS[arm] * trials * epochs


def run(setup: Setup) -> None:
    name = setup.size.live[0]
    about: dict[str, Any] = {"part": "live", "row": "costs", "problem": name}
    epochs = setup.size.live[2]
    row = setup.ledger.once("live", epochs, lambda: {"costs": measure_costs(job(setup, 0))}, **about)
    per = Costs(**{f.name: row["costs"][f.name] for f in dataclasses.fields(Costs)})
    for seed, arm in open_pairs(setup):
        one = live.Run(name, arm, job(setup, seed), per, str(setup.work / "live"))
        with setup.ledger.timed("live", epochs_of(setup, arm)):
            line = live.one(one)
        setup.ledger.write("live.jsonl", line)
        print(f"{name} seed {seed} {arm}: {line['really']}", flush=True)
