"""What `tuner verify`'s default attack costs against the standard AutoAttack ensemble, and how far results are apart.

    python -m benchmarks.verify_cost [--images 359] [--models 2] [--epochs 12] [--threat l2:0.5] [--json OUT]

Digits CNNs are trained in full (imbalance exp:10), one per method of at and srat; both attacks judge the same test
images. Cost is CPU time of the process on one thread, because wall time on a shared machine says little.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from trainables.config import TrialConfig
from trainables.data import DataSpec, Split, open_test
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.threats import Threat, parse_threat
from trainables.verification import Cascade

METHODS = ("at", "srat", "trades", "bsl")


def measure(method: str, home: str, images: int, epochs: int, threat: Threat, repeats: int) -> dict:
    training = training_for("digits", **({} if threat.radius is None else {"eps": threat.radius}))
    config = TrialConfig(method, training=asdict(training), threat=threat.name, home=home, max_epochs=epochs)
    trainer = Trainer(config, "cpu")
    for _ in range(epochs):
        trainer.run_epoch()
    whole = open_test(DataSpec("digits"), Path(home))
    split = Split(whole.base, whole.index[:images], whole.labels[:images])
    row, robust = {"method": method, "images": len(split), "threat": str(threat)}, {}
    how = {"eps": training.eps, "search_steps": training.eval_attack, "threat": trainer.threat}
    for attack in ("apgd", "autoattack") * repeats:  # in turn, so that a busy machine slows both
        cascade = Cascade(trainer.final_model, split, attack, **how)
        begin = time.process_time()
        stages = list(cascade.run())
        robust[attack] = cascade.robust
        spent = min(time.process_time() - begin, row.get(attack, {}).get("cpu_s", float("inf")))
        row[attack] = {
            "cpu_s": spent,
            "robust": cascade.robust.float().mean().item(),
            "clean": cascade.clean.float().mean().item(),
            "broken": {s.name: s.broken for s in stages},
            "alarms": cascade.alarms,
        }
    row["differ"] = int((robust["apgd"] != robust["autoattack"]).sum())
    row["share"] = row["apgd"]["cpu_s"] / row["autoattack"]["cpu_s"]
    row["points"] = 100 * (row["apgd"]["robust"] - row["autoattack"]["robust"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=359)
    parser.add_argument("--models", type=int, default=2, choices=range(1, len(METHODS) + 1))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threat", type=parse_threat, default=Threat())
    parser.add_argument("--repeats", type=int, default=2, help="of which the quickest counts")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        rows = [measure(m, home, args.images, args.epochs, args.threat, args.repeats) for m in METHODS[: args.models]]
    for r in rows:
        ours, theirs = r["apgd"], r["autoattack"]
        print(
            f"{r['method']:6} {r['images']} images: apgd {ours['cpu_s']:.1f} CPU-s, {ours['robust']:.4f} robust; "
            f"autoattack {theirs['cpu_s']:.1f} CPU-s, {theirs['robust']:.4f}; share {r['share']:.1%}, "
            f"{r['points']:+.2f} points; {r['differ']} images differ"
        )
        print("      ", ours["broken"], theirs["broken"], ours["alarms"], theirs["alarms"])
    if args.json:
        machine = platform.processor() or platform.machine()
        args.json.write_text(json.dumps({"torch": torch.__version__, "machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
