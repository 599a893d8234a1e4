"""docs/cifar10.md and its picture from the rows of `benchmarks.gpu`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from benchmarks.gpu.ledger import RESULTS, ratios
from benchmarks.methods_report import stored_runs
from tuner.verification.intervals import class_mean, worst_class

PAGE = Path(__file__).parent.parent.parent / "docs" / "cifar10.md"
PICTURE = PAGE.with_suffix(".png")
# Average and worst class in percent: ResNet-18 (PreAct-ResNet-18 those of FAAL), CIFAR-10, L-inf 8/255.
PUBLISHED = {
    "TRADES": (49.80, 21.31),
    "FRL": (44.68, 25.84),
    "CFA": (50.78, 27.62),
    "WAT": (46.30, 28.55),
    "DAFA": (49.05, 30.53),
    "FAAL": (45.51, 31.10),
    "FAAL, AWP": (46.68, 30.10),
    "FAAL, AWP, second run": (47.62, 30.70),
}
GOAL = ((50.8, 27.6), (49.0, 30.5), (47.6, 30.7))
LONG_TAIL = ("exp:50", 33.8)  # the average of AT-BSL with RandAugment, ResNet-18
NONE = "No rows yet."

HEAD = """# CIFAR-10 with ResNet-18

Written by `make docs` from what `python -m benchmarks.gpu` stored in `benchmarks/results` (gpu.jsonl, gpu_times.jsonl);
do not edit. How it is called: [GPU measurements](experiments/gpu.md#one-command). All figures are percent on TEST
images, L-inf 8/255, in float32; everything is chosen on `val`. AutoAttack is the standard ensemble by its authors'
code, on as many images as a row says, the same number of each class; APGD is the attack of `tuner verify`. Where a
model was gone and was trained again, its images are of several trainings, as the row says. The average is that over
classes; natural weights them by their training images. Brackets are 95 % intervals, of the worst class as `tuner
verify` has them: they correct for its being the lowest of ten. `val` takes 300 images of each class, so that 4,700 are
left of the largest. In a front all trials fork late from plain AT (default settings too, which are then not the
papers'), and methods that have a choice of loss take AT's.

## Goals

"""


@dataclass(frozen=True)
class Model:
    """A model under one attack: its chunks as one. ``key``: what the chunks agree in."""

    key: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def total(self, name: str) -> np.ndarray:
        return np.sum([row[name] for row in self.rows], axis=0)

    @property
    def images(self) -> int:
        return int(self.total("count").sum())

    @property
    def rates(self) -> np.ndarray:
        return self.total("robust") / self.total("count")

    @property
    def pair(self) -> tuple[float, float]:
        """Average and worst class in percent."""
        return 100 * float(self.rates.mean()), 100 * float(self.rates.min())

    @property
    def line(self) -> str:
        right, count = self.total("robust"), self.total("count")
        weights = np.asarray(self.rows[0]["train_counts"], dtype=float)
        natural = float(self.rates @ weights / weights.sum())
        clean = float((self.total("clean") / count).mean())
        trainings = len({row["weights"] for row in self.rows})
        return " | ".join(
            [
                f"{self.images:,}" + (f" ({trainings} trainings)" if trainings > 1 else ""),
                f"{self.pair[0]:.1f} {interval(class_mean(right, count))}",
                f"{100 * natural:.1f} {interval(class_mean(right, count, weights))}",
                f"{self.pair[1]:.1f} {interval(worst_class(right, count)[1])}",
                f"{100 * clean:.1f}",
            ]
        )


COLUMNS = "| test images | average | natural | worst class | clean |"


def interval(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def models(rows: Iterable[dict[str, Any]], attack: str, **key: Any) -> list[Model]:
    """By seed and point, in the order of the rows."""
    found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for row in rows:
        if row["key"].get("attack") == attack and key.items() <= row["key"].items():
            of = {name: value for name, value in row["key"].items() if name not in ("attack", "chunk")}
            of |= {"training": training(row), "method": row.get("method", "no search")}
            found.setdefault(str(sorted(of.items())), (of, []))[1].append(row)
    return [Model(of, tuple(some)) for of, some in found.values()]


def training(row: dict[str, Any]) -> str:
    """How a row's model was trained, in words."""
    return ", ".join([row["model"], f"{row['epochs']} epochs", *(f"{k}={v}" for k, v in sorted(row["set"].items()))])


def page(rows: list[dict[str, Any]], times: list[dict[str, Any]]) -> str:
    parts = [HEAD + goals(rows), published(), no_search(rows), fronts(rows), checks(rows), pace(times)]
    return "\n".join(parts).rstrip() + "\n"


# ---- goals -----------------------------------------------------------------------------------------------------------


def goals(rows: list[dict[str, Any]]) -> str:
    setting, least = LONG_TAIL
    lines = ["| goal, under AutoAttack | reached |", "|---|---|"]
    for average, worst in GOAL:
        reached = dominating(models(rows, "autoattack", part="front"), (average, worst))
        lines.append(
            f"| a verified front with a point of at least {average} average and {worst} worst class | {reached} |"
        )
    best = max(models(rows, "autoattack", setting=setting), key=lambda m: m.pair[0], default=None)
    said = (
        f"{best.pair[0]:.1f} on {best.images:,} images ({best.key['point']}, seed {best.key['seed']})" if best else NONE
    )
    lines.append(f"| CIFAR-10-LT of imbalance 50 (`{setting}`): an average of at least {least} | {said} |")
    return "\n".join(lines) + "\n"


def dominating(found: list[Model], goal: tuple[float, float]) -> str:
    """Whether a model is at least the goal in both; else the one that lacks least in its worse half."""
    if not found:
        return NONE
    lacks = [max(goal[0] - m.pair[0], goal[1] - m.pair[1], 0.0) for m in found]
    nearest = found[lacks.index(min(lacks))]
    average, worst = nearest.pair
    return f"{'**yes**' if not min(lacks) else 'no'}: {average:.1f} and {worst:.1f} on {nearest.images:,} images"


def published() -> str:
    pairs = "; ".join(f"{name} {average:.2f}/{worst:.2f}" for name, (average, worst) in PUBLISHED.items())
    said = (
        f"Average/worst class on 10,000 test images: {pairs}. The first five are of ResNet-18, from DAFA's README, "
        "which does not say which attack; FAAL's are two epochs of PreAct-ResNet-18 from a robust checkpoint, from its "
        "logs, chosen on test. On CIFAR-10-LT of imbalance 50 ResNet-18 has an average of 33.0 with AT-BSL, of 33.8 "
        "with RandAugment too (a reproduction's log)."
    )
    return f"## Published\n\n{fill(said, 119, break_on_hyphens=False)}\n"


# ---- tables ----------------------------------------------------------------------------------------------------------


def no_search(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## No search",
        "",
        "Plain AT; with the class offsets that are best on `val`; with the head's rows at equal length.",
        "",
    ]
    mine = [row for row in rows if row["key"]["part"] == "nosearch"]
    if not mine:
        return "\n".join([*lines, NONE, ""])
    for attack in ("autoattack", "apgd"):
        if found := models(mine, attack):
            lines += table(["training", "setting", "point", "seed"], found, f"Under {attack}:")
            lines += means(found)
    lines += [line for row in mine if row.get("points") for line in along(row)]
    lines += [f"- {failed(row)}" for row in mine if row.get("failed")]
    return "\n".join(lines)


def pairs_of(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Average and worst class in percent at each offset of a curve."""
    rates = [np.divide(point["robust"], point["count"]) for point in row["points"]]
    return [(100 * float(r.mean()), 100 * float(r.min())) for r in rates]


def along(row: dict[str, Any]) -> list[str]:
    """A curve as a line."""
    key, images = row["key"], sum(row["points"][0]["count"])
    each = zip(row["points"], pairs_of(row))
    shown = "; ".join(f"tau {point['tau']:g}: {average:.1f}/{worst:.1f}" for point, (average, worst) in each)
    about = f"{training(row)}, {key['setting']}, seed {key['seed']}, {images:,} images under PGD-{row['steps']}"
    said = f"Along the offsets, average/worst class ({about}, which is kinder than AutoAttack): {shown}."
    return [fill(said, 119, break_on_hyphens=False), ""]


def failed(row: dict[str, Any]) -> str:
    return f"{row['key']['setting']} seed {row['key']['seed']} failed: {row['failed']}"


def table(names: list[str], found: list[Model], title: str) -> list[str]:
    head = f"| {' | '.join(names)} {COLUMNS}"
    lines = [title, "", head, "|---" * (head.count("|") - 1) + "|"]
    ordered = sorted(found, key=lambda m: [str(m.key[name]) for name in names])
    lines += [f"| {' | '.join(str(m.key[name]) for name in names)} | {m.line} |" for m in ordered]
    return [*lines, ""]


def means(found: list[Model]) -> list[str]:
    """Over the seeds, where there are several."""
    groups: dict[tuple, list[Model]] = defaultdict(list)
    for m in found:
        groups[m.key["training"], m.key["setting"], m.key["point"]].append(m)
    lines = []
    for (how, setting, point), some in sorted(groups.items()):
        if len(some) > 1:
            spread = [f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}" for v in zip(*(m.pair for m in some))]
            lines.append(
                f"- {how}, {setting}, {point}, {len(some)} seeds: average {spread[0]}, worst class {spread[1]}"
            )
    return [*lines, ""] if lines else []


def fronts(rows: list[dict[str, Any]]) -> str:
    lines = ["## Fronts", ""]
    found = models(rows, "autoattack", part="front")
    searches = [row for row in rows if row["key"].get("row") == "search"]
    if not searches:
        return "\n".join([*lines, NONE, ""])
    if found:
        lines += [f"![Verified points, no search and published pairs]({PICTURE.name})", ""]
    for row in searches:
        key = row["key"]
        methods = ", ".join(dict.fromkeys(method for method, _, _ in row["trials"]))
        full = sum(whole for _, _, whole in row["trials"])
        lines += [
            f"Seed {key['seed']}, form {key['form']}, {training(row)}: {len(row['trials'])} trials of {methods}, "
            f"{full} in full; {len(row['front'])} points on `val`, of which {len(row['verified'])} are verified.",
            "",
        ]
        mine = [m for m in found if {**m.key, "row": "search"}.items() >= {**key, "training": training(row)}.items()]
        if mine:
            beside = models(rows, "autoattack", part="nosearch", setting=key["setting"], seed=key["seed"])
            beside = [m for m in beside if m.key["training"] == training(row)]
            lines += table(["method", "point"], [*mine, *beside], "Under autoattack:")
    return "\n".join(lines)


def checks(rows: list[dict[str, Any]]) -> str:
    lines = ["## Speed", ""]
    latest = {row["key"]["row"]: row for row in rows if row["key"]["part"] == "check"}
    if not latest:
        return "\n".join([*lines, NONE, ""])
    for name, row in latest.items():
        lines += [f"{row['device']}, torch {row['torch']}, {SAID[name](row)}", ""]
    return "\n".join(lines)


def _speed(row: dict[str, Any]) -> str:
    head = "training steps:\n\n| model | batch | variant | images/s | over naive | of bf16 peak |\n"
    return f"{head}|---|---|---|---|---|---|\n" + "\n".join(
        f"| {r['model']} | {r['batch']} | {r['variant']} | {r['images_per_s']:,.0f} | {r['speedup']:.1f}x | "
        f"{'' if r['of_bf16_peak'] is None else format(r['of_bf16_peak'], '.0%')} |"
        for r in row["rows"]
    )


def _evaluation(row: dict[str, Any]) -> str:
    each = ", ".join(f"{r['model']} {r['ratio']:.2f}x" for r in row["rows"])
    return f"an evaluation of {row['rows'][0]['images']} images over bare passes: {each} (aim 1.2x)."


SAID = {
    "tests": lambda row: f"`tests/test_cuda.py`: {row['said'].strip('= ')}.",
    "speed": _speed,
    "evaluation": _evaluation,
    "loop": lambda row: f"the whole loop: {row['epoch_s']:.1f} s an epoch, {row['images_per_s']:,.0f} images/s.",
}


def pace(times: list[dict[str, Any]]) -> str:
    lines = ["## The plan, and what happened", ""]
    if not (found := ratios(times)):
        return "\n".join([*lines, NONE, ""])
    lines += ["| part | planned | took | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {part} | {planned:.0f} s | {took:.0f} s | {planned / took:.2f} |" for part, (planned, took) in found.items()
    ]
    return "\n".join([*lines, ""])


# ---- the picture -----------------------------------------------------------------------------------------------------


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Average against worst class: verified points, no search, what was published."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(8, 5), dpi=120, layout="constrained")).add_subplot()
    found = {
        "verified front": ([m.pair for m in models(rows, "autoattack", part="front")], "o"),
        "no search": ([m.pair for m in models(rows, "autoattack", part="nosearch", setting="none")], "s"),
        "published": (list(PUBLISHED.values()), "x"),
    }
    for name, (pairs, marker) in found.items():
        axes.scatter([a for a, _ in pairs], [w for _, w in pairs], marker=marker, label=name)
    for row in rows:
        if row.get("points") and row["key"]["setting"] == "none":
            axes.plot(*zip(*pairs_of(row)), color="grey", label=f"no search, PGD-{row['steps']}")
    for name, pair in PUBLISHED.items():
        axes.annotate(name, pair, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="average, AutoAttack (%)", ylabel="worst class (%)", title="CIFAR-10, ResNet-18, 8/255")
    axes.legend()
    figure.savefig(path)


def stored() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return stored_runs(RESULTS / "gpu.jsonl"), stored_runs(RESULTS / "gpu_times.jsonl")


def write_page() -> None:
    rows, times = stored()
    PAGE.write_text(page(rows, times))
    if models(rows, "autoattack", part="front"):
        picture(rows, PICTURE)
    print(f"wrote {PAGE.name}", flush=True)
