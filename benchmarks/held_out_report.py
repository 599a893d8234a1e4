"""docs/methods/no-search.md from the lines of `benchmarks.held_out`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from scipy.stats import t as student

from trainables.class_metrics import class_metrics
from tuner.results.assessment import Assessment, assess
from tuner.results.history import History
from tuner.results.pareto import Front, hypervolume, row_label
from tuner.results.references import PLAIN, best_row, no_search_rows, paper_rows
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.search_spec import SearchSpec
from tuner.verification.intervals import worst_class

PAGE = Path(__file__).parent.parent / "docs" / "methods" / "no-search.md"
FORMER = "commit e057531"  # ``options`` of searches by the code before there were stem and previews
SHOWN = ("natural_robust_acc", "robust_acc", "worst_class_robust_acc")

HEAD = """# What a search adds over no search

Written by `python -m benchmarks.held_out --table` from `benchmarks/results/held_out.jsonl`; do not edit. Default jobs
of `tuner search` on digits exp:10 (cnn, 12 epochs, 16 trials), one for each method and seed. Everything is chosen on
`val`; all figures are of the TEST split (359 images), which no search sees, under CE-PGD and then margin-PGD with five
times the search's steps (100 each) on the logits with their offsets. The searches previewed their proposals
(`--scheduler preview`), which was the default then.

Measured on 2 shared cores of an AMD EPYC with AVX512-bf16, in float32, with torch {torch}.

"No search" is one plain adversarial training whose class offsets are swept after training. Hypervolume is the area
under natural average and worst class. ± is the standard deviation over seeds, brackets are 95 % t intervals over them.
"""


class Search:
    """One line of the results: its history, and what its models are worth on test."""

    def __init__(self, line: dict[str, Any]):
        self.method, self.seed, self.epochs = line["method"], line["seed"], line["epochs_trained"]
        of_spec = {"max_epochs": line["max_epochs"]} if "max_epochs" in line else {}
        self.spec = SearchSpec(method=self.method, seed=self.seed, objectives=tuple(line["objectives"]), **of_spec)
        self.history, self.test = History(None), {}
        self.right: dict[str, tuple[list[int], list[int]]] = {}  # (robust, count) of each class on test
        for model in line["models"]:
            number, role = model["trial"], {"role": "no_search"} if model["trial"] == NO_SEARCH else {}
            about = {"params": model["params"], "method": model["method"], "seed": model["seed"], **role}
            self.history.append("start", number, **about)
            self.history.append("epoch", number, metrics={"epoch": self.spec.max_epochs})
            self.history.append("curve", number, curve=model["val"])
            self.history.append("end", number, state="finished")
            for point in model["test"]:
                label = row_label({"trial": number, "offsets": {"tau": point["tau"]}})
                counts = (point["count"], point["clean"], point["robust"])
                self.test[label] = class_metrics(model["val"]["classes"], model["val"]["train_counts"], *counts)
                self.right[label] = point["robust"], point["count"]
        self.front = Front.of(self.history.rows(self.spec.objectives), self.spec.objectives)
        found = assess(self.spec, self.history)
        assert found is not None
        self.assessment: Assessment = found

    def worst(self, label: str) -> tuple[float, float]:
        """The 95 % interval of a point's worst class on test, from the images alone."""
        return worst_class(*map(np.array, self.right[label]))[1]

    def volume(self, rows: Sequence[dict[str, Any]]) -> float:
        """The hypervolume on test of the rows that no other of them dominates on val."""
        best = Front.of(rows, self.spec.objectives).rows
        points = [[self.test[row_label(row)][name] for name in self.spec.objectives] for row in best]
        return hypervolume(points, [0.0] * len(self.spec.objectives), [True] * len(self.spec.objectives))

    @property
    def arms(self) -> dict[str, list[dict[str, Any]]]:
        plain, default = no_search_rows(self.spec, self.history), paper_rows(self.spec, self.history)
        return {
            "plain AT, no offsets": plain[:1],
            "**no search**: plain AT, offsets swept": plain,
            "default setting, no offsets": default[:1],
            "default setting, offsets swept": default,
            "the search, no offsets": [r for r in self.history.rows(self.spec.objectives) if not r["offsets"]["tau"]],
            "**the search**, offsets swept": list(self.front.rows),
        }

    @property
    def worst_class_gain(self) -> float:
        """On test: worst class of the search's row whose natural average on val is no lower than that of the no-search
        row with the largest box on val, and whose worst class on val is largest; less that row's."""
        first, last = self.spec.objectives
        start = max(no_search_rows(self.spec, self.history), key=lambda row: row[first] * row[last])
        level = [row for row in self.history.rows(self.spec.objectives) if row[first] >= start[first]]
        if not level:
            return math.nan
        end = max(level, key=lambda row: row[last])
        return self.test[row_label(end)][last] - self.test[row_label(start)][last]


def write_page(lines: list[dict[str, Any]]) -> None:
    every = [Search(line) for line in lines if not line["options"]]
    searches = [search for search in every if search.method != PLAIN]  # which gives more seeds of no search alone
    head = HEAD.format(torch=", ".join(sorted({line["torch"] for line in lines})))
    former = [Search(line) for line in lines if line["options"] == FORMER and line["method"] != PLAIN]
    parts = [*plain_table(every), *method_tables(searches), *claims(searches), *compared(searches, former)]
    for options in dict.fromkeys(line["options"] for line in lines):
        if options not in ("", FORMER):
            parts += references_alone(options, [line for line in lines if line["options"] == options])
    PAGE.write_text("\n".join([head, *parts]) + "\n")


def references_alone(options: str, own: list[dict[str, Any]]) -> list[str]:
    """No search and default settings on other data, each without offsets and with those that are best on `val`."""
    searches, test = [Search(line) for line in own], sum(own[0]["models"][0]["test"][0]["count"])
    lines = [
        f"\n## {options.partition(' --')[0]} images: no search and default settings\n",
        fill(
            f"Options: `--{options.partition(' --')[2]}`; {test} images of `test`. Of a curve the point is shown that "
            "has the largest product of the objectives on `val`, in brackets the 95 % interval of its worst class from "
            "the images alone. So much a CPU allows; more is for `benchmarks.gpu`.",
            116,
        ),
        "",
        "| | seeds | natural average | class mean | worst class | hypervolume on test |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, dict[int, tuple[Search, list[dict[str, Any]]]]] = {}
    for search in searches:
        arms = list(search.arms.items())
        for name, rows in [*arms[:2], *((f"{search.method}: {name}", rows) for name, rows in arms[2:4])]:
            found.setdefault(name, {})[search.seed] = search, rows
    for name, by_seed in found.items():
        labels = [(s, row_label(best_row(rows, s.spec.objectives))) for s, rows in by_seed.values()]
        shown = " | ".join(spread([s.test[label][key] for s, label in labels]) for key in SHOWN)
        low, high = map(statistics.fmean, zip(*(s.worst(label) for s, label in labels)))
        shown += f" [{low:.3f}, {high:.3f}]"
        volumes = spread([s.volume(rows) for s, rows in by_seed.values()])
        lines.append(f"| {name} | {len(by_seed)} | {shown} | {volumes} |")
    return [*lines, "", fill(added(searches), 116)]


def added(searches: list[Search]) -> str:
    """What default settings with offsets add to the worst class of no search, and whether images alone explain it."""
    said = []
    for search in searches:
        first, last = (
            row_label(best_row(search.arms[name], search.spec.objectives))
            for name in ("**no search**: plain AT, offsets swept", "default setting, offsets swept")
        )
        gain = search.test[last][SHOWN[-1]] - search.test[first][SHOWN[-1]]
        (below, above), (low, high) = search.worst(first), search.worst(last)
        apart = above < low or high < below
        said.append(f"{search.method} {gain:+.3f} ({'the intervals part' if apart else 'not distinguishable'})")
    return f"Over no search the default settings with offsets add to the worst class: {', '.join(said)}."


def compared(searches: list[Search], former: list[Search]) -> list[str]:
    """The same searches by the code before, which trained every trial alone."""
    before = {(s.method, s.seed): s for s in former}
    pairs = [(s, before[s.method, s.seed]) for s in searches if (s.method, s.seed) in before]
    if not pairs:
        return []
    lines = [
        f"\n## Before there were stem and previews ({len(pairs)} pairs of searches)\n",
        f"The same method, seed and images by the code of {FORMER}: a trunk where trials shared one, rungs, no "
        "previews.\n",
        "| | seeds | epochs trained, before and now | hypervolume on test, before and now |",
        "|---|---|---|---|",
    ]
    for method in dict.fromkeys(s.method for s, _ in pairs):
        own = [pair for pair in pairs if pair[0].method == method]
        epochs = " and ".join(f"{statistics.fmean(s.epochs for s in side):.0f}" for side in list(zip(*own))[::-1])
        values = " and ".join(spread([s.volume(s.front.rows) for s in side]) for side in list(zip(*own))[::-1])
        lines.append(f"| {method} | {len(own)} | {epochs} | {values} |")
    logs = [math.log(now.volume(now.front.rows) / old.volume(old.front.rows)) for now, old in pairs]
    low, high = (math.exp(value) for value in bounds(logs))
    fewer = math.exp(statistics.fmean(math.log(old.epochs / now.epochs) for now, old in pairs))
    lines += [
        "",
        fill(
            f"Geometric means over the pairs: {fewer:.2f} times fewer epochs; hypervolume on test now over before "
            f"{math.exp(statistics.fmean(logs)):.3f} (95 %: {low:.3f} .. {high:.3f}).",
            116,
        ),
    ]
    return lines


def plain_table(searches: list[Search]) -> list[str]:
    """No search alone, over tau."""
    by_seed = {search.seed: search for search in searches}  # its training does not depend on the method
    found: dict[float, list[dict[str, float]]] = {}
    for search in by_seed.values():
        for row in no_search_rows(search.spec, search.history):
            found.setdefault(row["offsets"]["tau"], []).append(search.test[row_label(row)])
    rows = [
        f"| {tau:g} | " + " | ".join(spread([metrics[name] for metrics in of_tau]) for name in SHOWN) + " |"
        for tau, of_tau in found.items()
    ]
    return [
        f"## Plain AT under growing offsets ({len(by_seed)} seeds)\n",
        "| tau | natural average | class mean | worst class |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def method_tables(searches: list[Search]) -> list[str]:
    lines = []
    for method in dict.fromkeys(search.method for search in searches):
        own = [search for search in searches if search.method == method]
        arms = {name: [s.volume(s.arms[name]) for s in own] for name in own[0].arms}
        epochs = statistics.fmean(s.epochs for s in own) / own[0].spec.max_epochs
        whole = f"{epochs:.1f} trainings' epochs"
        trained = {name: "1 training" if "search" not in name or "no search" in name else whole for name in arms}
        lines += [
            f"## {method} ({len(own)} seeds)\n",
            "| | cost | hypervolume on test | points |",
            "|---|---|---|---|",
            *(
                f"| {name} | {trained[name]} | {spread(values)} | "
                f"{statistics.fmean(len(Front.of(s.arms[name], s.spec.objectives).rows) for s in own):.1f} |"
                for name, values in arms.items()
            ),
            "",
            _statement(method, own, arms),
            "",
        ]
    return lines


def _statement(method: str, own: list[Search], arms: dict[str, list[float]]) -> str:
    names = list(arms)
    parts = [
        _said("the whole search (16 trials, offsets swept)", [a - b for a, b in zip(arms[names[5]], arms[names[1]])]),
        _said("its default setting with offsets", [a - b for a, b in zip(arms[names[3]], arms[names[1]])]),
    ]
    gains = [gain for s in own if not math.isnan(gain := s.worst_class_gain)]
    told = [s.assessment.gain["no_search"]["hypervolume"]["verdict"] for s in own]
    said = ", ".join(f"{told.count(verdict)} times {verdict!r}" for verdict in dict.fromkeys(told))
    return fill(
        f"Over no search, {method} adds: {'; '.join(parts)}. Worst class at no lower natural average: "
        f"{interval(gains)}. What the searches themselves said of it: {said}.",
        116,
    )


def _said(what: str, differences: list[float]) -> str:
    return f"{what} {interval(differences)} of hypervolume"


def claims(searches: list[Search]) -> list[str]:
    """What fronts claimed on val over what the same models have on test."""
    found: dict[str, Callable[[Search], float]] = {
        "measured on val": lambda s: s.front.hypervolume,
        "claimed (`hypervolume_claimed`)": lambda s: s.assessment.hypervolume["claimed"],
    }
    rows = []
    for name, value in found.items():
        logs = [math.log(value(s) / s.volume(s.front.rows)) for s in searches]
        low, high = (math.exp(v) for v in bounds(logs))
        rows.append(f"| {name} | {math.exp(statistics.fmean(logs)):.3f} | {low:.3f} .. {high:.3f} |")
    inside = sum(
        s.assessment.hypervolume["ci"][0] <= s.volume(s.front.rows) <= s.assessment.hypervolume["ci"][1]
        for s in searches
    )
    return [
        f"## What a front claims ({len(searches)} searches)\n",
        "Hypervolume of the front over that of the same models on test, geometric mean:\n",
        "| | ratio | 95 % |",
        "|---|---|---|",
        *rows,
        "",
        f"The 95 % interval beside the claim held the value on test in {inside} of {len(searches)} searches.",
    ]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def interval(values: Sequence[float]) -> str:
    """``+0.012 [-0.020, +0.044]``: mean and 95 % t interval."""
    low, high = bounds(values)
    return f"{statistics.fmean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return -math.inf, math.inf
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half
