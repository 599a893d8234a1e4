"""docs/methods/evidence.md from the runs of `benchmarks.methods_table`: tables, and each paper's claim judged."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD = """# What the methods do beside their papers' claims

Written by `make docs` from `benchmarks/results/methods.jsonl` (runs of `benchmarks.methods_table`); do not edit. Every
method runs at its default setting, which is published or ours as its card says, and is judged once, after the last
epoch, on the TEST split: an image counts as robust if it survives CE-PGD-20 and then margin-PGD-20 (L-inf 8/255),
judged in float32. Figures are percent, mean +- standard deviation over the seeds. "rarest 5" are the five classes with
the fewest training images. A seed that was trained in another arithmetic than the section names is marked, and no
claim compares it with the section's.

A claim is **true** if the difference has the claimed sign in every seed and its mean is at least twice its standard
error, **false** if the same holds for the opposite sign, else **undecided**; one seed decides nothing. Where a side's
training collapsed (one class for every image: average 10, gap 100), the claim is **void**.
"""


def stored_runs(path: Path) -> list[dict]:
    """The runs in a JSON Lines file, none where it is missing; a last line that was cut off by a kill is left out."""
    rows = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return rows


def average(row: dict) -> float:
    return statistics.mean(row["robust"])


def worst(row: dict) -> float:
    return min(row["robust"])


def rarest(row: dict) -> float:
    order = sorted(range(len(row["train_counts"])), key=lambda c: (row["train_counts"][c], -c))
    return statistics.mean(row["robust"][c] for c in order[:5])


def tail(row: dict) -> float:
    """The worst 30 % of classes."""
    return statistics.mean(sorted(row["robust"])[: max(1, round(0.3 * len(row["robust"])))])


def gap(row: dict) -> float:
    return max(row["robust"]) - min(row["robust"])


def unseen(row: dict) -> float:
    """Plain CE-PGD, which LRAT's published pair of attacks (SAA and CW) does not contain."""
    return statistics.mean(row["pgd"])


def clean(row: dict) -> float:
    return statistics.mean(row["clean"])


@dataclass(frozen=True)
class Claim:
    text: str
    method: str
    control: str
    figure: Callable[[dict], float]
    settings: tuple[str, ...]
    sign: int = 1  # -1: the method's figure is to be smaller


KIND = ("model", "epochs", "images", "batch_size", "test_images", "device", "torch")  # equal in runs that are compared
ALL, LONG_TAIL = ("step:100", "exp:50", "none"), ("step:100", "exp:50")
CLAIMS = [
    Claim("SRAT is above class-balanced AT on the rarest 5 classes", "srat", "at+effective", rarest, LONG_TAIL),
    Claim("LRAT is above LSAT under an attack that neither trained on (CE-PGD)", "lrat", "lsat", unseen, ("none",)),
    Claim("DONE is above AT on the worst 30 % of classes", "done", "at", tail, ALL),
    Claim("Domain Mixup has a smaller gap between classes than AT", "mixup", "at", gap, ("none",), -1),
    Claim("CFA is above TRADES on the worst class", "cfa", "trades", worst, ("none",)),
    Claim("DAFA is above TRADES on the worst class", "dafa", "trades", worst, ("none",)),
]


def verdict(differences: list[float]) -> str:
    """``differences`` per seed, positive = as claimed."""
    if len(differences) < 2:
        return "undecided"
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    if abs(mean) < 2 * error or mean == 0:
        return "undecided"
    if all(d > 0 for d in differences):
        return "true"
    return "false" if all(d < 0 for d in differences) else "undecided"


def collapsed(row: dict) -> bool:
    """Whether the network says one class for every image."""
    return sorted(row["clean"])[-2:] == [0, 1]


def judged(claim: Claim, setting: str, rows: list[dict]) -> str | None:
    """One line of the claims' table; seeds that only one side has finished do not count, nor those that the two sides
    trained in different arithmetic. None: there is none."""
    mine, theirs = (
        {(r["seed"], r["precision"]): claim.figure(r) for r in rows if r["method"] == name}
        for name in (claim.method, claim.control)
    )
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return None
    each = [claim.sign * (mine[run] - theirs[run]) for run in both]
    shown = ", ".join(f"{100 * claim.sign * d:+.1f}" for d in each)
    mean = 100 * claim.sign * statistics.mean(each)
    void = any(
        collapsed(r)
        for r in rows
        if r["method"] in (claim.method, claim.control) and (r["seed"], r["precision"]) in both
    )
    said = "void" if void else verdict(each)
    return f"| {claim.text} | {setting} | {mean:+.1f} | {shown} | **{said}** |"


def cell(values: list[float]) -> str:
    spread = f" +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def how_many(rows: list[dict], usual: str) -> str:
    """Seeds, and how many of them in another than the ``usual`` arithmetic."""
    others = Counter(r["precision"] for r in rows if r["precision"] != usual)
    return "".join([str(len(rows)), *(f" ({n} in {short(other)})" for other, n in others.items())])


def short(precision: str) -> str:
    return precision.removeprefix("torch.")


def setting_table(setting: str, rows: list[dict], usual: str) -> list[str]:
    figures = {
        "average": average,
        "worst class": worst,
        "rarest 5": rarest,
        "worst 30 %": tail,
        "gap": gap,
        "clean": clean,
    }
    if setting == "none":
        del figures["rarest 5"]
    by_method: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    lines = [f"### {setting}", "", f"| method | seeds | {' | '.join(figures)} |", "|---|---|" + "---|" * len(figures)]
    for method, mine in sorted(by_method.items()):
        cells = " | ".join(cell([f(r) for r in mine]) for f in figures.values())
        lines.append(f"| {method} | {how_many(mine, usual)} | {cells} |")
    return [*lines, ""]


def by_kind(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that may stand in one table, by ``KIND``'s values."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key) for key in KIND)].append(row)
    return groups


def report(rows: list[dict]) -> str:
    """The page; runs of different models, lengths, data sizes or devices are never mixed in a table."""
    lines = [HEAD]
    if not rows:
        lines.append("No runs are stored yet.\n")
    for (model, epochs, images, batch, tested, device, torch), group in by_kind(rows).items():
        usual = Counter(r["precision"] for r in group).most_common(1)[0][0]
        fine = [r for r in group if "failed" not in r]
        lines += [
            f"## {model}, {epochs} epochs",
            "",
            f"{images or 'All'} training images before the imbalance, "
            f"batch {batch}, {tested} test images; {device}, torch {torch}, arithmetic {short(usual)}.",
            "",
        ]
        for setting in ALL:
            of_setting = [r for r in fine if r["setting"] == setting]
            if of_setting:
                lines += setting_table(setting, of_setting, usual)
        lines += claims_table(fine)
        failed = [row for row in group if "failed" in row]
        lines += [f"- {r['method']} {r['setting']} seed {r['seed']} failed: {r['failed']}" for r in failed]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def claims_table(rows: list[dict]) -> list[str]:
    """The claims on which these runs bear, and which ones they say nothing about."""
    said = {(c.text, s): judged(c, s, [r for r in rows if r["setting"] == s]) for c in CLAIMS for s in c.settings}
    missing = "; ".join(f"{text} ({setting})" for (text, setting), line in said.items() if line is None)
    table = ["| claim | setting | difference | per seed | verdict |", "|---|---|---|---|---|"]
    return [*table, *filter(None, said.values()), "", *([f"Not run here: {missing}.", ""] if missing else [])]
