"""Whether the GPU does what the CPU does, and how fast: its tests, and the benchmarks of speed, each called as it is.

The pace of the whole loop is that of the first epochs of plain AT, with which `nosearch` then goes on.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks import attack_speed, evaluation_cost
from benchmarks.gpu.models import Models, plain
from benchmarks.gpu.setup import Setup

EPOCHS = 3  # the first records the attacks


def key(setup: Setup, name: str) -> dict[str, Any]:
    """Measured anew on another device, and when the training code has changed."""
    return {"part": "check", "row": name, **{of: setup.ledger.about[of] for of in ("device", "code")}}


def planned(setup: Setup) -> list[tuple[str, float]]:
    open_ = [(name, 1.0) for name in STEPS if not setup.ledger.find(**key(setup, name))]
    loop = [] if setup.ledger.find(**key(setup, "loop")) else [("train", EPOCHS * setup.images("none"))]
    return [("rest", 1), *open_, *loop] if open_ or loop else []


def run(setup: Setup) -> None:
    for name, do in STEPS.items():
        row = setup.ledger.once(name, 1, partial(do, setup), **key(setup, name))
        print(f"{name}: {row.get('said') or row.get('rows')}", flush=True)
    if not setup.ledger.find(**key(setup, "loop")):
        loop(setup)


def tests(setup: Setup) -> dict[str, Any]:
    """tests/test_cuda.py; where there is no GPU all of it is skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return {"passed": not done.returncode, "said": done.stdout.strip().splitlines()[-1], "log": done.stdout[-4000:]}


def speed(setup: Setup) -> dict[str, Any]:
    return {"rows": attack_speed.run(setup.device.type, setup.size.rounds, False, setup.size.cases)}


def evaluation(setup: Setup) -> dict[str, Any]:
    cases = setup.size.cases and [case[:3] for case in setup.size.cases]
    return {"rows": evaluation_cost.run(setup.device.type, setup.size.rounds, setup.size.images, cases)}


def loop(setup: Setup) -> None:
    """An epoch of training and judging, in seconds; nothing where these epochs are trained already."""
    models = Models(setup)
    plain(models, setup.job("none", 0), EPOCHS)
    if len(models.epochs) == EPOCHS:
        images, usual = models.epochs[0][0], statistics.median(seconds for _, seconds in models.epochs[1:])
        setup.ledger.add(key(setup, "loop"), epoch_s=round(usual, 3), images_per_s=round(images / usual, 1))


STEPS = {"tests": tests, "speed": speed, "evaluation": evaluation}
