"""One command for a GPU that is at hand for minutes: measured, planned, resumable; its rows add up over the occasions.

    python -m benchmarks.gpu --plan                                  # what is left, and its seconds
    python -m benchmarks.gpu check nosearch --data DIR --out OUT     # two calls of under ten minutes
    python -m benchmarks.gpu front --data DIR --out OUT2 --resume-from OUT
    python -m benchmarks.gpu --collect OUT OUT2                      # rows into benchmarks/results, and the pages

Parts, in the order of their worth: check (is it right, how fast), nosearch (plain AT, offsets, head norms under
AutoAttack), front (a search of five methods, verified), claims (the papers' directions), live (the live benchmark).
Each is a process of its own with a time limit, which is killed where it exceeds it: what is stored counts, and the same
command goes on. Small files are in ``--out``; states of trainings, models and data in ``--work``, which the second call
should find where it left it (else plain AT is trained again). ``--tiny``: all of it on digits, on a CPU, in seconds.

Needs torch, torchvision, pyarrow, scipy and optuna, and pyautoattack for AutoAttack; no Ray, no MLflow. Where there is
no package index, --wheels FOLDER installs what was carried: docs/experiments/gpu.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gpu import needs

PARTS = ("check", "nosearch", "front", "claims", "live")
ASIDE = "site"  # of the work folder: what was installed from wheels


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    found.add_argument("--data", type=Path, help="folder with CIFAR-10's train.parquet and test.parquet")
    found.add_argument("--out", type=Path, default=Path("tuner-home") / "gpu", help="rows and small files")
    found.add_argument("--work", type=Path, help="data, states and models; default: work in --out")
    found.add_argument(
        "--resume-from", type=Path, action="append", default=[], metavar="OUT", help="of an earlier call"
    )
    found.add_argument("--seconds", type=float, default=570, help="of the whole call")
    found.add_argument("--form", choices=["at", "trades"], default="at", help="of the front's methods with a choice")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a training setting")
    found.add_argument("--epochs", type=int, help="of a training in full")
    found.add_argument("--wheels", type=Path, help="install these first")
    found.add_argument("--tiny", action="store_true")
    found.add_argument("--plan", action="store_true", help="say what is left and how long it takes; do nothing")
    found.add_argument("--collect", type=Path, nargs="+", metavar="OUT", help="take rows into benchmarks/results")
    return found


def checked() -> argparse.Namespace:
    args = (p := parser()).parse_args()
    if wrong := [name for name in args.parts if name not in PARTS]:
        p.error(f"unknown part: {', '.join(wrong)}; choose from: {', '.join(PARTS)}")
    args.parts = [name for name in PARTS if name in args.parts] or list(PARTS)
    args.work = args.work or next((o / "work" for o in args.resume_from if (o / "work").exists()), args.out / "work")
    if not (args.tiny or args.plan or args.collect) and not (args.data and (args.data / "test.parquet").exists()):
        p.error("--data is needed: a folder with CIFAR-10's train.parquet and test.parquet")
    return args


def main() -> None:
    args = checked()
    if args.wheels:
        needs.install(args.wheels, args.work / ASIDE)
    elif (args.work / ASIDE).exists():
        needs.use(args.work / ASIDE)
    for name, why in (lacking := needs.missing()).items():
        print(f"missing: {name}{why and f' ({why})'}", flush=True)
    if lacking.keys() - {"pytest", "pyautoattack"}:
        raise SystemExit("carry what is missing as wheels: --wheels FOLDER")
    from benchmarks.gpu import call

    if args.collect:
        call.collect(args.collect)
    else:
        call.run(args)


if __name__ == "__main__":
    main()
