"""``python -m tests.fuzz``: see the package. Exit code 1 if there was a finding."""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import count, cycle, islice
from pathlib import Path
from random import Random

from tests.fuzz.corpus import Corpus, build
from tests.fuzz.targets import TARGETS, forget
from tests.fuzz.trial import SLOW_S, outcome

SLOW = ("stored_spec", "history", "result", "verification")  # a quarter of a second each; others take 20 ms,
OFTEN = 7  # and are tried so many times as often
MEMORY = 3 * 2**30  # bytes that one input may add: more is refused by the kernel, and is a finding


def one(name: str, number: int, seed: int, corpus: Corpus, slow_s: float) -> tuple[str, str]:
    """The outcome of one input; the same numbers make the same input."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=corpus.root))
    try:
        return outcome(lambda: TARGETS[name](Random(f"{seed}/{name}/{number}"), corpus, scratch), slow_s)
    finally:
        forget()
        shutil.rmtree(scratch, ignore_errors=True)


def run(
    rounds: int, seed: int, corpus: Corpus, only: list[str], first: int = 0, slow_s: float = SLOW_S
) -> tuple[dict, list[str]]:
    """Per target: how many inputs were accepted and refused, and the seconds; and what was found, in words."""
    counts: dict[str, Counter] = defaultdict(Counter)
    findings: dict[str, list[str]] = defaultdict(list)
    turns = cycle([name for name in only for _ in range(1 if name in SLOW else OFTEN)])
    numbers = {name: count(first) for name in only}
    for name in islice(turns, rounds):
        number = next(numbers[name])
        begin = time.perf_counter()
        what, why = one(name, number, seed, corpus, slow_s)
        counts[name][what] += 1
        counts[name]["seconds"] += time.perf_counter() - begin
        if why:
            if f"{name}: {why}" not in findings:
                print(f"input {name} {number}: {why}", file=sys.stderr, flush=True)
            findings[f"{name}: {why}"].append(f"{name} {number}")
    return counts, [f"{why}  ({len(at)} times, first as input {at[0]})" for why, at in findings.items()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--save", type=Path, help="file for the figures")
    asked = parser.parse_args()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="tuner-fuzz-") as folder:
        corpus = build(Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        counts, findings = run(asked.rounds, asked.seed, corpus, asked.only, asked.first)
    for name, of_target in counts.items():
        inputs = of_target["accepted"] + of_target["refused"] + of_target["finding"]
        print(
            f"{name:14} {inputs:6} inputs, {of_target['accepted']:5} accepted, {of_target['refused']:5} refused, "
            f"{1000 * of_target['seconds'] / inputs:4.0f} ms each"
        )
    for line in findings:
        print(f"FINDING {line}")
    print(f"{asked.rounds} inputs (seed {asked.seed}), {len(findings)} kinds of findings")
    if asked.save:
        asked.save.write_text(
            json.dumps({"seed": asked.seed, "targets": counts, "findings": findings}, indent=1) + "\n"
        )
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
