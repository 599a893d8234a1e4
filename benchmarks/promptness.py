"""How promptly the command line answers: seconds of commands that only read, and of a search beyond its time budget.

    python -m benchmarks.promptness [--budget 60] [--repeat 5]

Wall-clock times are figures of a quiet machine, so they stand here and not in tests/, where the same promises are
counted (modules that `tuner --help` imports, trials that start after the end).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

COMMANDS = (["--help"], ["search", "--help"], ["methods"], ["space", "srat"], ["search", "--dry-run"])
SEARCH = ["search", "--method", "trades", "--trials", 400, "--max-epochs", 3, "--seeds", 3, "--max-concurrent", 1]
QUICK = ["--set", "passes=2", "--set", "attack_steps=2", "--json"]


def tuner(*args) -> tuple[float, str]:
    """Seconds and standard output of one command."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tuner.cli", *map(str, args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.perf_counter() - begin, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=60, help="seconds that the search may take")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each command; the fastest counts")
    given = parser.parse_args()
    for command in COMMANDS:
        print(f"{min(tuner(*command)[0] for _ in range(given.repeat)):6.2f} s  tuner {' '.join(command)}")
    with tempfile.TemporaryDirectory() as home:
        wall, out = tuner(*SEARCH, *QUICK, "--time-budget", given.budget, "--name", "timed", "--home", home)
    result = json.loads(out)
    print(f"{wall:6.2f} s  a search with --time-budget {given.budget:g}: {result['state']}, {result['trials']}")


if __name__ == "__main__":
    main()
