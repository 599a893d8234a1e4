"""Images per second of a PGD-10 adversarial training step: ours against a plain float32 loop, interleaved in one run.

    python -m benchmarks.attack_speed [--device cpu|cuda] [--rounds 5] [--compile] [--json OUT]

"ours" is `Trainer._step` as a trial runs it (augmentation, frozen folded attack copy, no parameter gradients,
channels_last, bf16 where `precision=auto` chooses it, on a GPU the attack as one CUDA graph). On the CPU the figure is
process CPU time of one thread, which other jobs on the machine disturb least; on a GPU it is wall time between
synchronisations, and the share of a bf16 matrix product measured just before is given too (useful work only: 2 K + 3
forward-equivalents per step). There "naive" computes its convolutions in TF32, as torch does unasked; "naive, no TF32"
in float32 throughout.

Runs on torch, torchvision and pyarrow, plus optuna for `search_spaces` (its distributions only). On a machine without a
package index carry pure-Python wheels: pip download --no-deps -d .whl optuna colorlog alembic mako sqlalchemy tqdm
pyyaml packaging.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.naive import naive_step
from benchmarks.synthetic import random_images
from trainables.config import TrialConfig
from trainables.evaluate import no_tf32
from trainables.loop import Trainer
from trainables.models.build import build_model

STEPS, EPS = 10, 8 / 255
# model, image size, channels, batch
CASES = {
    "cpu": [("resnet18:0.5", 32, 3, 32), ("cnn", 32, 3, 32), ("cnn", 8, 1, 32)],
    "cuda": [("resnet18", 32, 3, 128), ("resnet18", 32, 3, 512), ("resnet18:0.5", 32, 3, 32), ("cnn", 32, 3, 128)],
}


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def bf16_peak() -> float:
    """FLOP/s of a large bf16 matrix product on the GPU, random data."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    begin = clock("cuda")
    for _ in range(10):
        a @ b
    return 10 * 2 * n**3 / (clock("cuda") - begin)


def our_step(dataset: str, home: str, model: str, batch: int, device: str, **changes) -> Callable[[], None]:
    training = {"batch_size": batch, "attack_steps": STEPS, "eps": EPS, **changes}
    trainer = Trainer(TrialConfig("at", {}, training, dataset, "none", model, home=home), device)
    generator = torch.Generator(device=device).manual_seed(0)
    rows = torch.arange(batch, device=device)
    trainer.model.train()
    return lambda: trainer._step(rows, generator) and None


def plain_step(shape: tuple[int, int, int], model: str, batch: int, device: str) -> Callable[[], None]:
    net = build_model(model, 10, shape).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    x = torch.rand(batch, *shape, device=device)
    y = torch.arange(batch, device=device) % 10
    return lambda: naive_step(net, optimizer, x, y, EPS, EPS / 4, STEPS) and None


def forward_flops(model: str, shape: tuple[int, int, int]) -> int:
    net = build_model(model, 10, shape).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, *shape))
    return counter.get_total_flops()


def measure(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds per step of each variant, one entry per round; about 0.3 s of each variant in a round."""
    repeat = {}
    for name, step in steps.items():
        for _ in range(3):  # the third is the first one that a GPU replays
            step()
        begin = clock(device)
        step()
        repeat[name] = max(1, round(0.3 / max(clock(device) - begin, 1e-4)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = clock(device)
            for _ in range(repeat[name]):
                step()
            times[name].append((clock(device) - begin) / repeat[name])
    return times


def run(device: str, rounds: int, compiled: bool, cases: list | None = None) -> list[dict]:
    """A row of each variant of the ``cases``, those of the device if there are none."""
    rows, peak = [], bf16_peak() if device == "cuda" else None
    with tempfile.TemporaryDirectory() as folder:
        for model, size, channels, batch in cases or CASES[device]:
            shape = (channels, size, size)
            dataset = random_images(Path(folder) / f"{size}x{channels}", 64 + batch // 8, size=size, channels=channels)
            ours = (dataset, folder, model, batch, device)
            steps = {
                "naive": plain_step(shape, model, batch, device),
                "fp32": our_step(*ours, precision="fp32"),
                "ours": our_step(*ours),
            }
            if device == "cuda":
                steps["naive, no TF32"] = no_tf32()(steps["naive"])
            if compiled:
                steps["ours + compile"] = our_step(*ours, compile="on")
            times = measure(steps, rounds, device)
            useful = (2 * STEPS + 3) * batch * forward_flops(model, shape)
            for name, seconds in times.items():
                median = statistics.median(seconds)
                rows.append(
                    {
                        "model": model,
                        "shape": shape,
                        "batch": batch,
                        "variant": name,
                        "images_per_s": batch / median,
                        "speedup": statistics.median(n / s for n, s in zip(times["naive"], seconds)),
                        "of_bf16_peak": useful / median / peak if peak else None,
                    }
                )
                print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    peak = "" if row["of_bf16_peak"] is None else f"  {row['of_bf16_peak']:.1%} of the bf16 peak"
    shape = "x".join(map(str, row["shape"]))
    return (
        f"{row['model']:14s} {shape:8s} batch {row['batch']:4d}  {row['variant']:15s} "
        f"{row['images_per_s']:9.1f} images/s  {row['speedup']:5.2f}x{peak}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (slow to start)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {args.device}, median of {args.rounds} interleaved rounds", flush=True)
    rows = run(args.device, args.rounds, args.compile)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
