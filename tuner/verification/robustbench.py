"""A verified model as RobustBench's record of one: a file of ``model_info`` in its repository (Croce et al. 2021,
arXiv:2010.09670; fields as of its README and its leaderboard's template, read 2026-11)."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from trainables.threats import LINF
from tuner.errors import UsageError
from tuner.report.files import require_file, write_asked
from tuner.report.format import images_text
from tuner.spec.search_spec import SearchSpec
from tuner.verification.summary import flags_of

LARGEST = 255  # of a pixel


def check_record(attack: str, path: Path) -> None:
    """``UsageError`` unless the attack is the one whose accuracy the record holds, and ``path`` can be a file."""
    require_file("json-robustbench", path)
    if attack != "autoattack":
        raise UsageError(f"--json-robustbench holds AutoAttack's accuracy, not that of {attack}: --attack autoattack")


def write_record(result: dict[str, Any], spec: SearchSpec, path: Path) -> None:
    """Write the record of the result's ``subject``; ``UsageError`` where it cannot be written. What only the authors
    know is left empty, as RobustBench's own ``benchmark`` leaves it."""
    check_record(result["attack"], path)
    (row,) = (r for r in result["rows"] if r["label"] == result["subject"]["label"])
    write_asked("json-robustbench", path, json.dumps({**record(row, spec), **_network(result)}, indent=2) + "\n")


def _network(result: dict[str, Any]) -> dict[str, str]:
    """The architecture of a model that no search made."""
    return {"architecture": result["model"]["arch"]} if "model" in result else {}


def record(row: dict[str, Any], spec: SearchSpec) -> dict[str, Any]:
    """Accuracies are per cent of the images, not means over classes, with two decimals, as text."""
    _, clean, robust = flags_of(Path(row["flags"]))
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": spec.dataset,
        "venue": "",
        "architecture": spec.model,
        "eps": eps_text(row["eps"], row["threat"]),
        "clean_acc": _percent(clean),
        "reported": "",
        "autoattack_acc": _percent(robust),
        "footnote": f"{images_text(row, 'test images')}; worst class {row['worst_class']}: "
        f"{100 * row['worst_class_robust_acc']:.2f}.",
        "unreliable": bool(row["alarms"]),
    }


def _percent(flags: np.ndarray) -> str:
    return f"{100 * float(flags.mean()):.2f}"


def eps_text(eps: float, threat: str) -> str:
    """``8/255`` where each pixel may move by so many steps of its 255, else a decimal number."""
    steps = Fraction(eps * LARGEST).limit_denominator(100)
    whole = threat == LINF and abs(float(steps) / LARGEST - eps) < 1e-9 and steps.denominator == 1
    return f"{steps.numerator}/{LARGEST}" if whole else f"{eps:g}"
