"""Whether what a search says of its front is true: `tuner.results.uncertainty` against a simulated truth.

    python -m benchmarks.uncertainty [--searches 20] [--json OUT]

A simulated search has trials whose class rates are smooth in a setting of 2 to 4 coordinates and in tau, which trades
head for tail classes, plus the luck of a seed of training. Validation images are shared: a model's points are right on
nested sets of images, and two models tend to be right on the same ones. Truth is a model's rate on infinitely many
images. The methods compared see only counts.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner.results.pareto import hypervolume, nondominated
from tuner.results.uncertainty import Judged, judge, metric_of_rates

OBJECTIVES = ("natural_robust_acc", "worst_class_robust_acc")
SHOWN = (*OBJECTIVES, "robust_acc", "clean_acc")
K, TAUS = 10, np.linspace(0, 1.5, 7)
RISING, FEW, MANY = np.linspace(29, 130, K).astype(int), np.full(K, 29), np.full(K, 120)


@dataclass(frozen=True)
class Case:
    """``spread``: standard deviation, in logits, of what settings do to all classes and to the balance of head and
    tail; ``luck``: that of a seed, where 0.15 is 0.035 in a rate of 0.5; ``better``: a gain of the worst class over the
    reference, of all settings or (``part``) of those whose first coordinate is above 1/2; ``alike``: correlation
    between two models of what makes an image hard, where 0.8 is one of 0.6 of what is right and 0.4 one of 0.26."""

    count: np.ndarray
    trials: int = 16
    spread: float = 0.25
    luck: float = 0.15
    better: float = 0.0
    part: bool = False
    balanced: bool = False
    alike: float = 0.8


CASES = {
    "29 to 130 images a class": Case(RISING),
    "29 images a class": Case(FEW),
    "120 images a class": Case(MANY),
    "29 to 130, settings differ twice as much": Case(RISING, spread=0.5),
    "29 to 130, balanced training data": Case(RISING, balanced=True),
    "29 to 130, models less alike": Case(RISING, alike=0.4),
    "29, models right on independent images": Case(FEW, alike=0),
    "29 to 130, 3 trials": Case(RISING, trials=3),
}
GAINS = {
    "null: all models alike, 29 to 130": Case(RISING, spread=0, luck=0),
    "null: all models alike, 29": Case(FEW, spread=0, luck=0),
    "null: all models alike, 29 to 130, right on other images": Case(RISING, spread=0, luck=0, alike=0.4),
    "null: all settings alike, seeds differ, 29 to 130": Case(RISING, spread=0),
    "all settings better by 0.1, 29 to 130": Case(RISING, spread=0, better=0.1),
    "half of the settings better by 0.1, 29 to 130": Case(RISING, spread=0, better=0.1, part=True),
    "all settings better by 0.1, 120": Case(MANY, spread=0, better=0.1),
    "all settings better by 0.1, 29": Case(FEW, spread=0, better=0.1),
}


@dataclass(frozen=True)
class Search:
    """A search's truth, (R, K) rates of its rows and of the reference's, and its counts as points."""

    train_counts: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    points: list[Judged]
    reference: list[Judged]

    def truth(self, names) -> np.ndarray:
        """(R, names), the reference's rows last."""
        return np.stack([metric_of_rates(n, self.clean, self.robust, self.train_counts) for n in names], -1)


def logit(p):
    return np.log(p / (1 - p))


def simulate(case: Case, seed: int) -> Search:
    rng = np.random.default_rng([seed, 77])
    train = np.full(K, 500) if case.balanced else (500 * 10.0 ** (-np.arange(K) / (K - 1))).round().astype(int)
    rare = np.zeros(K) if case.balanced else np.linspace(-1, 1, K)  # from head to tail
    d = int(rng.integers(2, 5))
    setting = rng.random((case.trials, d))
    waves, phases = rng.normal(0, 2.5, (2, d)), rng.uniform(0, 2 * np.pi, 2)
    all_classes, balance = (np.sqrt(2) * np.sin(setting @ w + p) for w, p in zip(waves, phases))
    base = 1.0 - 1.6 * rare + rng.normal(0, 0.35, K)
    sweep = np.multiply.outer(TAUS, 0.25 + 0.95 * rare)  # (M, K): the head falls, the tail rises
    levels = base + case.spread * (all_classes[:, None] + np.multiply.outer(balance, rare))
    levels = np.vstack([levels, base])  # the reference
    luck = (rng.normal(0, 1, (len(levels), K)) + 0.5 * rng.normal(0, 1, (len(levels), 1))) / np.sqrt(1.25)
    logits = levels[:, None] + sweep + case.luck * luck[:, None]
    robust = 1 / (1 + np.exp(-logits))  # (trials + 1, M, K)
    good = (setting[:, 0] > 0.5) if case.part else np.ones(case.trials, bool)
    robust[:-1][good] = lifted(robust[:-1][good], case.better)
    clean = 1 / (1 + np.exp(-logit(robust) * 0.8 - 1.5))
    right = [counted(rates, case, rng) for rates in (clean, robust)]
    names = [*range(case.trials), "no search"]
    rows = [
        Judged(n, float(tau), tuple(case.count), *(tuple(r[i, j]) for r in right), setting=place)
        for i, (n, place) in enumerate(zip(names, [*map(tuple, setting), None]))
        for j, tau in enumerate(TAUS)
    ]
    cut = case.trials * len(TAUS)
    return Search(train, clean.reshape(-1, K), robust.reshape(-1, K), rows[:cut], rows[cut:])


def lifted(rates: np.ndarray, by: float) -> np.ndarray:
    """Each point with its classes raised so that the worst one is higher by ``by``, none beyond what it needs."""
    return np.maximum(rates, rates.min(-1, keepdims=True) + by)


def counted(rates: np.ndarray, case: Case, rng) -> np.ndarray:
    """Counts of images classified right, (models, M, K), with a threshold per image and model: nested along a curve."""
    from scipy.special import ndtri

    out = np.empty(rates.shape, int)
    for k, n in enumerate(case.count):
        hard = np.sqrt(case.alike) * rng.normal(size=n) + np.sqrt(1 - case.alike) * rng.normal(size=(len(rates), n))
        out[..., k] = (hard[:, None, :] < ndtri(rates[..., k])[..., None]).sum(-1)
    return out


def measured(search: Search, names) -> np.ndarray:
    rows = [*search.points, *search.reference]
    clean, robust = (np.array([np.array(getattr(p, w)) / p.count for p in rows]) for w in ("clean", "robust"))
    return np.stack([metric_of_rates(n, clean, robust, search.train_counts) for n in names], -1)


def volume(values) -> float:
    return hypervolume(np.asarray(values).tolist(), [0, 0], [True, True])


def front(values) -> list[int]:
    return nondominated(np.asarray(values).tolist(), [True, True])


def smooth(search: Search, raw: np.ndarray) -> np.ndarray:
    """The mean of each objective and of a Gaussian process's value over (setting, tau)."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    x = np.array([[*p.setting, p.position / 1.5] for p in search.points])
    kernel = ConstantKernel(1.0) * RBF(np.ones(x.shape[1]), (0.1, 10)) + WhiteKernel(0.3, (1e-3, 10))
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for y in raw.T:
            model = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, y)
            out.append((y + model.predict(x)) / 2)
    return np.stack(out, 1)


def halves(search: Search, seed: int, times: int = 20) -> float:
    """Chosen on one half of the images (hypergeometric), claimed on the other; the mean over splits."""
    rng, claims = np.random.default_rng(seed), []
    count = np.array(search.points[0].count)
    right = np.array([p.robust for p in search.points])
    for _ in range(times):
        half = rng.hypergeometric(right, count - right, np.broadcast_to(count // 2, right.shape))
        parts = (half / (count // 2), (right - half) / (count - count // 2))
        a, b = (np.stack([metric_of_rates(n, p, p, search.train_counts) for n in OBJECTIVES], -1) for p in parts)
        claims.append(volume(b[front(a)]))
    return float(np.mean(claims))


def independent(search: Search, seed: int, draws: int = 200) -> np.ndarray:
    """Draws of the objectives with a Jeffreys posterior for each count on its own, (draws, R, 2)."""
    rng = np.random.default_rng(seed)
    right, count = np.array([p.robust for p in search.points]), np.array(search.points[0].count)
    rates = rng.beta(right + 0.5, count - right + 0.5, (draws, *right.shape))
    return np.stack([metric_of_rates(n, rates, rates, search.train_counts) for n in OBJECTIVES], -1)


class Tally:
    """Means of what is added under a name, with the number of things added."""

    def __init__(self):
        self.values = defaultdict(list)

    def add(self, name: str, value) -> None:
        self.values[name].append(float(value))

    def means(self) -> dict[str, float]:
        return {name: float(np.mean(v)) for name, v in self.values.items()}


def claims(case: Case, searches: int) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """The figures of one case, and pairs of (p_front, whether it was on the front)."""
    tally, calls = Tally(), []
    for seed in range(searches):
        search = simulate(case, seed)
        n = len(search.points)
        truth, raw = search.truth(SHOWN)[:n], measured(search, SHOWN)[:n]
        begin = time.perf_counter()
        told = judge(search.points, search.train_counts, OBJECTIVES, seed=seed)
        tally.add("seconds", time.perf_counter() - begin)
        shrunk = np.array([list(r["shrunk"].values()) for r in told.rows])
        best = volume(truth[:, :2])
        half = smooth(search, raw[:, :2])
        values = {"raw": raw, "half": half, "shrunk": shrunk}
        for name, v in values.items():
            chosen = front(v[:, :2])
            true = volume(truth[chosen, :2])
            tally.add(f"kept/{name}", true / best)
            tally.add(f"claim/{name}", volume(v[chosen, :2]) / true)
            tally.add(f"points/{name}", len(chosen))
        chosen, said = told.front["rows"], told.front["hypervolume"]
        true = volume(truth[chosen, :2])
        tally.add("claim/covered", said["ci"][0] <= true <= said["ci"][1])
        tally.add("claim/halves", halves(search, seed) / volume(truth[front(raw[:, :2]), :2]))
        alone = independent(search, seed)
        tally.add("claim/independent", np.mean([volume(a) for a in alone]) / volume(truth[front(raw[:, :2]), :2]))
        inside(tally, told, truth, chosen)
        band(tally, told.front["band"], truth[chosen, :2])
        on = np.isin(np.arange(n), front(truth[:, :2]))
        calls += [(r["p_front"], float(o)) for r, o in zip(told.rows, on)]
    return tally.means(), calls


def inside(tally: Tally, told, truth: np.ndarray, chosen: list[int]) -> None:
    for j, name in enumerate(SHOWN):
        ends = np.array([r["ci"][name] for r in told.rows])
        covered = (ends[:, 0] <= truth[:, j]) & (truth[:, j] <= ends[:, 1])
        tally.add(f"covered/{name}", covered.mean())
        tally.add(f"covered on the front/{name}", covered[chosen].mean())
        tally.add(f"width/{name}", np.ptp(ends, axis=1).mean())


def band(tally: Tally, told: dict, truth: np.ndarray) -> None:
    attained = np.array([truth[truth[:, 0] >= x, 1].max(initial=0.0) for x in told["x"]])
    tally.add("covered/band", np.mean((np.array(told["lower"]) <= attained) & (attained <= np.array(told["upper"]))))


def gains(case: Case, searches: int) -> dict[str, float]:
    tally = Tally()
    for seed in range(searches):
        search = simulate(case, seed)
        told = judge(search.points, search.train_counts, OBJECTIVES, {"no search": search.reference}, seed=seed)
        truth, gain = search.truth(OBJECTIVES), told.front["gain"]["no search"]
        chosen, n = told.front["rows"], len(search.points)
        true = volume(truth[chosen]) - volume(truth[n:])
        verdicts(tally, "hypervolume", gain["hypervolume"], true)
        last = gain["last"]
        tally.add("last/none", last is None)
        if last:
            start, end = last["rows"]
            verdicts(tally, "last", last, truth[end, 1] - truth[start, 1])
    return tally.means()


def verdicts(tally: Tally, name: str, said: dict, true: float) -> None:
    tally.add(f"{name}/gain", said["verdict"] == "gain")
    tally.add(f"{name}/loss", said["verdict"] == "loss")
    tally.add(f"{name}/covered", said["ci"][0] <= true <= said["ci"][1])
    tally.add(f"{name}/value", said["value"])
    tally.add(f"{name}/true", true)


def calibration(calls: list[tuple[float, float]]) -> list[dict[str, float]]:
    p, on = np.array(calls).T
    edges = [0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0001]
    return [
        {"from": a, "to": min(b, 1.0), "rows": int(m.sum()), "said": float(p[m].mean()), "true": float(on[m].mean())}
        for a, b in zip(edges, edges[1:])
        if (m := (p >= a) & (p < b)).any()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--searches", type=int, default=20, help="of each case; twice as many for gains")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = {"searches": args.searches, "claims": {}, "calibration": {}, "gains": {}}
    for name, case in CASES.items():
        result["claims"][name], calls = claims(case, args.searches)
        result["calibration"][name] = calibration(calls)
        print(name, json.dumps({k: round(v, 3) for k, v in result["claims"][name].items()}, indent=1), flush=True)
        for row in result["calibration"][name]:
            print({k: round(v, 3) for k, v in row.items()})
    for name, case in GAINS.items():
        result["gains"][name] = gains(case, 2 * args.searches)
        print(name, json.dumps({k: round(v, 3) for k, v in result["gains"][name].items()}), flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
