"""What was done, how long it took, and how long what is left will take: appended JSON lines, and arithmetic.

``gpu.jsonl`` has the results, a row each, named by its ``key``; ``times.jsonl`` has a line for every piece of work: its
kind, amount and seconds, and those that were planned for it. Rates are the amount over the seconds of the lines of a
kind on this device, of the same part (a front's short pieces cost more an image than one long training) or, where it
has none, of all; else those of an H100, by arithmetic from `attack_speed`'s measurement there. What a tiny size takes
is not known before it was run once.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.methods_report import stored_runs

RESULTS = Path(__file__).parent.parent / "results"
FILES = ("gpu.jsonl", "times.jsonl", "methods.jsonl", "live.jsonl")  # of an output folder that come to `RESULTS`
KEPT = {"times.jsonl": "gpu_times.jsonl"}  # the name there, if it is another

# ---- arithmetic ------------------------------------------------------------------------------------------------------

# An attack's work in forward passes of an image, with the shares of test images that are usually still attacked: 0.82
# are classified right, some 0.5 are robust. A step is a forward and a backward pass. AutoAttack: APGD-CE of 100 steps,
# nine targets of 100 steps each of APGD and of FAB, 5,000 queries of Square. Ours: see `trainables.verification`.
AUTOATTACK = 2 * (0.82 * 100 + 0.52 * 900 + 0.49 * 900) + 0.48 * 5000
APGD = 2 * (0.6 * 20 + 0.5 * 100 + 0.49 * 700) + 0.48 * 100
NAIVE = 10 * 3 + 3  # forward passes of `attack_speed`'s "naive" step: it computes gradients of parameters too
CURVE = 2.5 * 2 * (0.6 + 0.5) * 50  # PGD of 50 steps with two losses, and again at some of the other offsets
SWEEP = 2 * (0.6 * 20 + 4 * 0.5 * 20)  # `val` on half a dozen offsets, in bf16
JUDGED = 0.95  # of an epoch's time is training


def h100(batch: int = 128) -> dict[str, float]:
    """Amounts a second on an H100: training images, and test images under an attack in float32 (ResNet-18, PGD-10)."""
    rows = json.loads((RESULTS / "attack_speed_h100.json").read_text())
    rate = {(r["batch"], r["variant"]): r["images_per_s"] for r in rows if r["model"] == "resnet18"}
    float32, bf16 = NAIVE * rate[512, "naive, no TF32"], (2 * 10 + 3) * rate[512, "ours"]
    ours = rate[512 if batch >= 512 else 128, "ours"]
    return {
        "train": JUDGED * ours,
        "claims": 0.8 * rate[128, "ours"],  # with the test of every run
        "sweep": bf16 / SWEEP / 3000,  # of `val`, 300 images a class
        "autoattack": float32 / AUTOATTACK,
        "apgd": float32 / APGD,
        "curve": float32 / CURVE,
        "live": 0.5,  # epochs with their judging; those of the front on `test` are most of it
        "data": 1 / 25,
        "rest": 1 / 12,  # a part's start, and recording its attacks
        "tests": 1 / 60,
        "speed": 1 / 40,
        "evaluation": 1 / 15,
    }


# ---- the ledger ------------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """``earlier``: folders whose rows and times count as done too. ``about``: what every line says of its machine and
    sizes; lines that say otherwise do not count here."""

    out: Path
    about: dict[str, Any]
    earlier: tuple[Path, ...] = ()
    part: str = ""
    kinds: dict[tuple[str, str], list[float]] = field(
        default_factory=dict
    )  # amount and seconds, of a part and of all ("")

    def __post_init__(self):
        self.rows = [row for row in self.stored("gpu.jsonl") if self._mine(row, "size", "model", "epochs", "set")]
        for line in self.stored("times.jsonl"):
            if self._mine(line, "size", "model", "set", "device"):
                self._learn(line)

    def stored(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file, of all folders that count."""
        paths = [RESULTS / KEPT.get(name, name), *(folder / name for folder in (*self.earlier, self.out))]
        return [row for path in dict.fromkeys(paths) for row in stored_runs(path)]

    def _mine(self, row: dict[str, Any], *names: str) -> bool:
        return all(row.get(name) == self.about[name] for name in names)

    def _learn(self, line: dict[str, Any]) -> None:
        for part in ("", line["part"]):
            known = self.kinds.setdefault((part, line["kind"]), [0.0, 0.0])
            known[0] += line["amount"]
            known[1] += line["seconds"]

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The row of this key."""
        return next(iter(self.having(**key)), None)

    def having(self, **key: Any) -> list[dict[str, Any]]:
        """Rows that agree with ``key``."""
        return [row for row in self.rows if key.items() <= row["key"].items()]

    def add(self, key: dict[str, Any], **values: Any) -> dict[str, Any]:
        """Store a row; on disk when this returns."""
        row = {"key": key, **self.about, **values}
        self.write("gpu.jsonl", row)
        self.rows.append(row)
        return row

    def once(self, kind: str, amount: float, do: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """The row of this key, done now unless it is stored; ``kind`` and ``amount`` of the work that it is."""
        known = self.find(**key)
        if known is None:
            with self.timed(kind, amount):
                found = do()
            known = self.add(key, **found)
        return known

    @contextlib.contextmanager
    def timed(self, kind: str, amount: float) -> Iterator[None]:
        """A piece of work; a killed one leaves no line."""
        begin = time.perf_counter()
        yield
        self.took(kind, amount, time.perf_counter() - begin)

    def took(self, kind: str, amount: float, seconds: float) -> None:
        planned = self.seconds([(kind, amount)], self.part)
        line = {"part": self.part, "kind": kind, "amount": amount, "planned": round(planned, 2)}
        line |= {"seconds": round(seconds, 3), **self.about}
        self.write("times.jsonl", line)
        self._learn(line)

    def write(self, name: str, line: dict[str, Any]) -> None:
        from benchmarks.live import append

        append(self.out / name, line)

    def seconds(self, work: Iterable[tuple[str, float]], part: str) -> float:
        """What this work of a part, pairs of kind and amount, will take."""
        batch = int(self.about["set"].get("batch_size", 128))
        unknown = h100(batch) if self.about["size"] == "full" else {}
        total = 0.0
        for kind, amount in work:
            known = self.kinds.get((part, kind)) or self.kinds.get(("", kind))
            done, spent = known or (unknown.get(kind, float("inf")), 1.0)
            total += amount * spent / done
        return total


def ratios(lines: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of each part, the seconds that were planned for what was done, and those that it took."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for line in lines:
        if line["planned"]:
            found[line["part"]][0] += line["planned"]
            found[line["part"]][1] += line["seconds"]
    return {part: (planned, took) for part, (planned, took) in found.items()}
