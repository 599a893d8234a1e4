"""``python -m tests.chaos``: see the package. Exit code 1 if a round was not in order."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests import drivers
from tests.chaos import invariants
from tests.chaos.plan import KINDS, Plan, draw
from tests.chaos.play import Round, Server


class Rounds:
    """Plays rounds in a folder; a context manager. The folders of those that were not in order are kept."""

    def __init__(self, root: Path, patience: float = 1.0):
        self.root, self.server, self.patience = root, Server(root / "mlflow"), patience
        self._references: dict[str, dict] = {}

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.kill()

    def play(self, plan: Plan) -> list[str]:
        """What was wrong in the round."""
        reference = self._undisturbed(plan) if plan.workers == 1 else None
        round_ = Round(plan, self.root / plan.name, self.server, self.patience)
        findings = round_.play()
        if reference and round_.result:
            findings += invariants.unequal(invariants.outcome(round_), reference)
        if not findings:
            shutil.rmtree(round_.folder)
        return findings

    def _undisturbed(self, plan: Plan) -> dict:
        """The outcome of the same search without disturbances."""
        if plan.search not in self._references:
            quiet = replace(plan, number=-1, disturbances=(), server=False, storage=False, small_disk=False)
            round_ = Round(quiet, self.root / f"u-{plan.search}", self.server, self.patience)
            findings = round_.play()
            assert not findings, f"not in order without any disturbance: {findings}"
            self._references[plan.search] = invariants.outcome(round_)
        return self._references[plan.search]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--only", nargs="*", choices=list(KINDS), help="kinds of disturbances")
    parser.add_argument("--patience", type=float, default=1.0, help="how much longer ends may take: other work here")
    parser.add_argument("--save", type=Path, help="file for the figures, a line of JSON per round")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with this process
    kinds = asked.only and {kind: KINDS[kind] for kind in asked.only}
    root, counts, failed = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp")), Counter(), 0
    with Rounds(root, asked.patience) as rounds:
        for number in range(asked.first, asked.first + asked.rounds):
            plan, begin = draw(asked.seed, number, kinds), time.monotonic()
            print(f"round {number}: {plan}", flush=True)
            findings = rounds.play(plan)
            took = time.monotonic() - begin
            counts.update(what.kind for what in plan.disturbances)
            failed += bool(findings)
            for finding in findings:
                print(f"  FINDING {finding}", flush=True)
            if findings:
                only = f" --only {' '.join(asked.only)}" if asked.only else ""
                print(f"  again: {plan.command}{only}; its files: {root / plan.name}", flush=True)
            print(f"  {took:.0f} s", flush=True)
            if asked.save:
                row = {"seed": asked.seed, "round": number, "plan": str(plan), "s": round(took), "findings": findings}
                with open(asked.save, "a") as file:
                    file.write(json.dumps(row) + "\n")
    drivers.close()
    print(f"{asked.rounds} rounds (seed {asked.seed}), {dict(counts)}: {failed} were not in order")
    if not failed:
        shutil.rmtree(root)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
