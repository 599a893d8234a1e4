"""Made-up but realistic histories for tests of reports and tracking."""

from __future__ import annotations

import math
import random

from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.search_spec import SearchSpec

STATES = ("finished", "finished", "stopped")


def fill(
    history: History, spec: SearchSpec, trials: int = 6, classes=range(4), failed: bool = True, curves: bool = False
) -> History:
    """Trial 0 runs the default setting; every third stops at epoch 2; the last fails before its first epoch.

    ``curves``: finished trials are judged over offsets, and plain AT is the reference NO_SEARCH."""
    numbers = random.Random(0)
    space = spec.search_space()
    for trial in range(trials):
        params = space.default() if trial == 0 else space.resolve(lambda p: _draw(p.range, numbers))
        start(history, spec, trial, params)
        state = STATES[trial % 3]
        mean, worst = 0.5 + 0.2 * numbers.random(), 0.1 + 0.2 * numbers.random()
        for number in range(1, (spec.max_epochs if state == "finished" else 2) + 1):
            history.append("epoch", trial, metrics=metrics(number, mean, worst, classes))
        if curves and state == "finished":
            history.append("curve", trial, curve=curve(0.7 * mean, 0.7 * worst, classes))
        history.append("end", trial, state=state)
    if curves:
        no_search(history, spec, classes)
    if failed:
        start(history, spec, trials, space.default())
        history.append("end", trials, state="failed", reason="the loss is not finite at epoch 1")
    return history


def start(history: History, spec: SearchSpec, trial: int, params: dict) -> None:
    history.append("start", trial, params=params, method=spec.method, seed=spec.seed_of(trial))


def no_search(history: History, spec: SearchSpec, classes=range(4), mean: float = 0.5, worst: float = 0.1) -> None:
    """Plain AT, trained to its end and judged over offsets."""
    history.append("start", NO_SEARCH, params={}, method="at", seed=spec.seed, role="no_search")
    history.append("epoch", NO_SEARCH, metrics=metrics(spec.max_epochs, mean, worst, classes))
    history.append("curve", NO_SEARCH, curve=curve(mean, worst, classes))
    history.append("end", NO_SEARCH, state="finished")


def curve(mean: float, worst: float, classes=range(4), taus=(0, 0.5, 1.0)) -> dict:
    """1000 images a class; tau moves robust ones from the first class, which is the best, to the last."""
    names, points = [str(c) for c in classes], []
    for tau in taus:
        slope = (mean - worst) * (1 - 0.4 * tau)
        rates = [mean - 0.02 * tau + slope * (1 - 2 * i / (len(names) - 1)) for i in range(len(names))]
        offsets = {"kind": "prior", "tau": tau, "values": [tau * i for i in range(len(names))]}
        robust = [min(1000, round(1000 * r)) for r in rates]
        clean = [min(1000, r + 100) for r in robust]
        points.append(
            {
                "offsets": offsets if tau else {"kind": "none", "tau": 0, "values": []},
                "count": [1000] * len(names),
                "clean": clean,
                "robust": robust,
            }
        )
    return {"classes": names, "train_counts": [max(5, 80 - 10 * i) for i in range(len(names))], "points": points}


def metrics(epoch: int, mean: float, worst: float, classes=range(4)) -> dict:
    grown = 1 - math.exp(-epoch)
    names = list(classes)
    each = {
        f"robust_acc/{c}": min(mean + (mean - worst) * (1 - 2 * i / (len(names) - 1)), 1.0) * grown
        for i, c in enumerate(names)
    }
    return {
        "epoch": epoch,
        "robust_acc": mean * grown,
        "natural_robust_acc": min(mean + 0.1, 1.0) * grown,
        "worst_class_robust_acc": worst * grown,
        "clean_acc": min(mean + 0.2, 1.0) * grown,
        "tail_robust_acc": worst * grown,
        "worst_class_clean_acc": worst * grown,
        "robust_acc_gap": mean - worst,
        **each,
        "train_loss": 2 - grown,
        "weight_ess": 0.9,
        "train_s": 0.4,
        "eval_s": 0.1,
    }


def _draw(dist, numbers: random.Random):
    if hasattr(dist, "choices"):
        return numbers.choice(dist.choices)
    if dist.log:
        return math.exp(numbers.uniform(math.log(dist.low), math.log(dist.high)))
    return numbers.uniform(dist.low, dist.high)


def run_of(spec, history, home=None, name=None):
    """The search as one object; without a home its folder is never used."""
    return SearchRun(spec, home or Home("nowhere"), name or spec.search_name, history)
