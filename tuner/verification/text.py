"""The result of a verification as tables and sentences, which the terminal and the report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_spaces.provenance import legend_label
from tuner.report.format import fraction, images_text, tracks_note
from tuner.spec.objectives import shown_metrics
from tuner.verification.gain import METRICS
from tuner.verification.summary import compared_as

SHORT = {"natural_robust_acc": "natural average", "worst_class_robust_acc": "worst class", "robust_acc": "class mean"}


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row for each model of the search."""
    header = [
        "",
        "role",
        "class mean on val",
        "on test",
        "worst class on val",
        "on test",
        "corrected",
        "95 %",
        "natural on test",
        "clean on test",
        "",
    ]
    rows = []
    for r in result["rows"]:
        low, high = r["ci"]["worst_class_robust_acc"]
        val = r["val"]
        rows.append(
            [
                r["name"],
                ", ".join(role_name(role, r) for role in (r["role"], *r["also"])),
                fraction(val.get("robust_acc")),
                _with_ci(r, "robust_acc"),
                fraction(val.get("worst_class_robust_acc")),
                f"{fraction(r['worst_class_robust_acc'])} ({r['worst_class']})",
                fraction(r["worst_class_robust_acc_corrected"]),
                f"{low:.3f} .. {high:.3f}",
                _with_ci(r, "natural_robust_acc"),
                fraction(r["clean_acc"]),
                "fell off the front" if r["label"] in result["fell_off"] else "",
            ]
        )
    return header, rows


def role_name(role: str, row: dict[str, Any]) -> str:
    """The default setting is called the paper's only where it is."""
    if role == "paper" and "setting" in row:
        return legend_label(row["setting"]).removeprefix("the ")
    return role.replace("_", " ")


def gain_cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: what each row of the front gains over each reference; no rows without a reference."""
    names = {r["label"]: r["name"] for r in result["rows"]}
    header = ["", "over", *(SHORT[name] for name in METRICS)]
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in result["gain"]:
        row = rows.setdefault((entry["row"], entry["over"]), [names[entry["row"]], _reference(entry, result)])
        row.append(f"{_difference(entry)} {entry['verdict']}")
    return header, list(rows.values())


def _reference(entry: dict[str, Any], result: dict[str, Any]) -> str:
    row = next(r for r in result["rows"] if r["label"] == entry["reference"])
    if entry["over"] == "paper":
        return f"{row['setting']}, {row['name']}"
    return row["name"].replace("trial", "no search, trial")


def _difference(found: dict[str, Any]) -> str:
    interval = f" ({found['ci'][0]:+.3f} .. {found['ci'][1]:+.3f})" if found["ci"] else ""
    return f"{found['difference']:+.3f}{interval}"


def _with_ci(row: dict, name: str) -> str:
    """``0.979 ± 0.059``: an interval around the value, which 0 or 1 may cut at one end."""
    low, high = row["ci"][name]
    return f"{row[name]:.3f} ± {max(high - row[name], row[name] - low):.3f}"


def headline(result: dict[str, Any]) -> list[str]:
    """What the result's ``subject`` gains over no search and the default setting; with seeds, over trainings too."""
    names, label = {r["label"]: r["name"] for r in result["rows"]}, result["subject"]["label"]
    lines, seeds = [], []
    (subject,) = (r for r in result["rows"] if r["label"] == label)
    for over in ("no_search", "paper"):
        if over in subject["also"]:
            lines.append(f"is {subject['setting'] if over == 'paper' else 'no search'} itself")
        entries = _told(result, label, over)
        if entries:
            where = _reference(entries[0], result)
            lines.append(f"{_judgement(entries)} {where}: " + _listed(entries))
            trained = [{**e["seeds"], "metric": e["metric"]} for e in entries if e.get("seeds")]
            if trained:
                seeds.append(f"{_judgement(trained)} {where}: " + _listed(trained))
    if not lines:
        return []
    who = f"{names[label]}, {result['subject']['why']},"
    images = images_text(result["rows"][0], "test images")
    said = [f"On {images} {who} {'; it '.join(lines)} (95 % intervals, paired by image)."]
    if seeds:
        said.append(f"Trained anew with other seeds it {'; it '.join(seeds)} ({_seeds_in(result)}).")
    return said


def _seeds_in(result: dict[str, Any]) -> str:
    """What the intervals over trainings are, where there are any."""
    several = any(entry["seeds"]["ci"] for entry in result["gain"] if entry.get("seeds"))
    return "95 % t intervals, paired by seed" if several else "one seed, which has no interval"


def _told(result: dict[str, Any], label: str, over: str) -> list[dict[str, Any]]:
    """What a row gains over a reference in the two metrics that the headline tells."""
    return [e for e in result["gain"] if (e["row"], e["over"]) == (label, over) and e["metric"] in METRICS[:2]]


def _judgement(entries: list[dict[str, Any]]) -> str:
    verdicts = {entry["verdict"] for entry in entries}
    if "better" in verdicts:
        return "trades one for the other against" if "worse" in verdicts else "adds to"
    return "is worse than" if "worse" in verdicts else "is not distinguishable from"


def _listed(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{SHORT[entry['metric']]} {_difference(entry)}" for entry in entries)


def sentences(result: dict[str, Any]) -> list[str]:
    """What the front adds, then what the table does not say: which rows fell off the front or were not tested, the
    results of other seeds, alarms."""
    rows, fell = result["rows"], result["fell_off"]
    names, front = {r["label"]: r["name"] for r in rows}, [r for r in rows if r["role"] == "front"]
    lines = [f"{line[0].upper()}{line[1:]}." for line in result.get("about", [])] + headline(result)
    lines += tracks_note(rows[0]) + _not_compared(rows) + _of_one_seed(rows)
    if len(front) > 1:
        lines.append(
            f"Of {len(front)} points of the validation front, {len(front) - len(fell)} are on the front of the "
            "test images" + (f"; {', '.join(names[label] for label in fell)} fell off." if fell else ".")
        )
    if result.get("left_out"):
        lines.append(
            f"{len(result['left_out'])} other points of the front were not tested: {', '.join(result['left_out'])} "
            "(--most N or --pick all tests more)."
        )
    for r in rows:
        if "seeds" in r:
            lines += _trained_anew(r["name"].capitalize(), r["seeds"], shown_metrics(result["objectives"]))
    alarms = [f"ALARM, {r['name']}: {a}." for r in rows for a in r["alarms"]]
    looked = not result["attack"].startswith("pgd:")  # which has cross-entropy alone
    none = "No sign of masked gradients." if looked else "Masked gradients were not looked for: apgd and autoattack do."
    return lines + (alarms or [none])


def _not_compared(rows: list[dict[str, Any]]) -> list[str]:
    """What has no gain: over references that violate the search's constraints, or were attacked with another radius."""
    lines = []
    if len({r["eps"] for r in rows}) > 1:
        lines.append("The search varies eps, and each model is attacked with its own: only those of one are compared.")
    for over in ("no_search", "paper"):
        own = compared_as(over, rows)
        if own and not any(r.get("feasible", True) for r in own):
            name = own[0]["setting"] if over == "paper" else "no search"
            lines.append(f"Nothing is compared with {name}: it violates the constraints on val with all its offsets.")
    return lines


def _of_one_seed(rows: list[dict[str, Any]]) -> list[str]:
    """Why figures on val are not those of the search's front."""
    some = ", ".join(r["name"] for r in rows if "mean_of" in r)
    said = "Figures on val are of the models tested, each of one seed; the search itself shows means over several of"
    return [f"{said} {some}."] if some else []


def _trained_anew(name: str, found: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """What a row's trainings with other seeds say: the means of the metrics, and which of them failed."""
    seeds = ", ".join(map(str, found["seeds"])) or "none"
    means = ", ".join(f"{metric} {_mean_std(found[metric])}" for metric in metrics)
    failed = [f"{name} with seed {seed} failed: {why}." for seed, why in found["failed"].items()]
    return [f"{name} trained anew with seeds {seeds}: {means}.", *failed]


def _mean_std(values: dict[str, Any]) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return "-" if values["mean"] is None else f"{values['mean']:.3f}{spread}"
