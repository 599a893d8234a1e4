"""Compare our methods with numbers made by the authors' code: ``python -m tests.oracles [FILE...]`` (default:
all stored).

Every case of every file is run through the production classes in float64 and every output field is compared
at the file's own tolerance. Every difference is printed with file, case, field, expected and got. Exit 1 on a
difference, an unknown method or kind, a case without anything to compare.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests import oracle_classes, oracle_instances, oracle_tools  # noqa: F401 - two register cases

STORED = Path(__file__).parent / "data" / "oracles"
QUIRK = "_official_quirk"


@dataclass
class Report:
    """What was compared in one file, and what was left out and why."""

    path: Path
    cases: int = 0
    fields: int = 0
    skipped: Counter = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        differ = "".join(f"\n{self.path}: DIFFERS: {text}" for text in self.differences)
        left_out = "".join(f"; skipped {n}: {why}" for why, n in self.skipped.items())
        return f"{self.path}: {self.cases} cases, {self.fields} fields compared{left_out}{differ}"


def flat(value, where: str = ""):
    """Every leaf of nested dicts and lists of dicts as (path, value), and how long those lists are.

    A numeric array is one leaf, and so is an empty dict inside another value: for it nothing is ever produced.
    """
    if isinstance(value, dict) and (value or not where):
        for key, inner in value.items():
            yield from flat(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{where}[{i}]")
        yield f"{where}.length", len(value)
    else:
        yield where, value


def array(value) -> np.ndarray:
    """A leaf as float64: "inf" and "nan" strings, null = NaN, booleans and tensors included."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().tolist()
    return np.asarray(oracle_tools.numbers(value), dtype=np.float64)


def tolerance_of(document: dict, name: str) -> dict:
    """Fields checked by exact arithmetic have a tolerance of their own (FAAL's authors used an iterative
    solver)."""
    exact = document.get("tolerance_exact_fields")
    return exact if exact and name.endswith("_exact") else document["tolerance"]


def difference(expected, got, tolerance: dict) -> str | None:
    """What is wrong with a field, in words, or None."""
    try:
        want, have = array(expected), array(got)
    except (TypeError, ValueError):
        return f"expected {str(expected)[:80]}, got {str(got)[:80]}: these are not both arrays of numbers"
    if want.shape != have.shape:
        return f"expected shape {want.shape}, got {have.shape}"
    wrong = ~np.isclose(have, want, rtol=tolerance["rtol"], atol=tolerance["atol"], equal_nan=True)
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"at {list(at)} " if at else ""
    return f"{place}expected {want[at]}, got {have[at]} ({int(wrong.sum())} of {want.size} values differ)"


def check_case(document: dict, case: dict, report: Report) -> None:
    method, kind = document["method"], case["params"].get("kind")
    quirk = QUIRK in (kind or "")
    if not quirk or method not in {known for known, _ in oracle_tools.RUN}:  # a fault's kind has no code here
        run = oracle_tools.find(method, kind)
    if quirk or QUIRK in case["name"]:
        report.skipped["cases of a fault of the authors' code"] += 1
        return
    before, produced = report.fields + sum(report.skipped.values()), dict(flat(run(case["inputs"], case["params"])))
    for where, expected in flat(case["outputs"]):
        if QUIRK in where:
            report.skipped["fields of a fault of the authors' code"] += 1
            continue
        problem = f"expected {str(expected)[:80]}, got nothing"
        if where in produced:
            problem = difference(expected, produced[where], tolerance_of(document, where))
        report.fields += 1
        if problem:
            report.differences.append(f"case {case['name']}, field {where}: {problem}")
    if report.fields + sum(report.skipped.values()) == before:
        report.differences.append(f"case {case['name']}: it has no field to compare")


def check_file(path: Path) -> Report:
    """Compare one file. A case that we cannot run, for whatever reason, is a difference."""
    document, report = json.loads(path.read_text()), Report(path)
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and "name" in case for case in cases):
        raise ValueError("it must be a JSON object whose 'cases' are a list of objects with a name")
    if not cases:
        report.differences.append("the file has no cases")
    for case in cases:
        try:
            check_case(document, case, report)
        except Exception as problem:  # noqa: BLE001 - the other cases are still worth comparing
            report.differences.append(f"case {case['name']}: {type(problem).__name__}: {problem}")
        report.cases += 1
    return report


def main(arguments: list[str]) -> int:
    paths = [Path(a) for a in arguments] or sorted(STORED.glob("*.json"))
    failed, total = False, 0
    for path in paths:
        try:
            report = check_file(path)
        except (OSError, ValueError, RecursionError) as problem:
            report = Report(path, differences=[f"not an oracle file: {problem}"])
        failed |= bool(report.differences)
        total += report.fields
        print(report)
    verdict = "with differences" if failed else "all equal" if total else "nothing was compared"
    print(f"{total} fields compared in {len(paths)} files, {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
