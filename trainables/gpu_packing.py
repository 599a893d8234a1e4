"""How many trials share one accelerator: measured on it, side by side, with the search's own first trial.

python -m trainables.gpu_packing    one measured trial: a configuration in, figures out, a line each
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from trainables.config import TrialConfig
from trainables.processes import own_output

AT_A_TIME = (1, 2, 3, 4, 6, 8, 12, 16)
SPARE = 0.9  # of the memory: evaluation peaks and fragments need the rest
WORTH = 1.05  # more trials at a time must train so much more in all, since each of them gets slower
WARM_STEPS = 3


def room(memory: int, total: int, most: int) -> list[int]:
    """How many at a time to try: what ``memory`` bytes each leave room for in ``total``, and ``most`` at most."""
    return [k for k in AT_A_TIME if k == 1 or (k * memory <= SPARE * total and k <= most)]


def choose(rates: dict[int, float]) -> int:
    """The fewest at a time beyond which nothing is worth it; ``rates``: images per second of all, by their number."""
    best = min(rates)
    for k in sorted(rates):
        if rates[k] >= WORTH * rates[best]:
            best = k
    return best


def measure(config: TrialConfig, most: int, threads: int = 1, seconds: float = 5.0) -> Iterator[dict]:
    """Yields ``{"at_a_time", "images_per_s", "memory", "total"}`` as trials are added, until more are not worth it.

    Each number of trials trains for ``seconds``; ``most`` is what the node's CPUs allow, ``threads`` are a trial's.

    ``memory``: bytes of one trial; ``total``: of the device (on a CPU, of the machine). ``RuntimeError`` where not
    even one trial runs.
    """
    with contextlib.ExitStack() as stack:
        running = [_start(stack, config, threads)]
        first = running[0].answer()
        counts, rates = room(first["memory"], first["total"], most), {}
        for k in counts:
            try:
                while len(running) < k:
                    running.append(_start(stack, config, threads))
                    running[-1].answer()
                rates[k] = _together(running, seconds)
            except RuntimeError:
                if k == 1:
                    raise
                return  # it did not fit after all
            yield {"at_a_time": k, "images_per_s": rates[k], "memory": first["memory"], "total": first["total"]}
            if k > 1 and choose(rates) < k:
                return


@dataclass(frozen=True)
class _Trial:
    """A measured trial, and the file for what it prints: in a pipe that nobody reads it would stop."""

    process: subprocess.Popen
    printed: IO[bytes]

    def told(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.printed.seek(0)
            lines = self.printed.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError((lines or ["it ended without a word"])[-1])
        return json.loads(line)


def _start(stack: contextlib.ExitStack, config: TrialConfig, threads: int) -> _Trial:
    printed = stack.enter_context(tempfile.TemporaryFile())
    process = subprocess.Popen(
        [sys.executable, "-m", "trainables.gpu_packing"],
        # it imports as this process does, and not from the current folder first
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    trial = _Trial(process, printed)
    trial.told(json.dumps({"config": config.to_dict(), "threads": threads}))
    return trial


def _together(running: list[_Trial], seconds: float) -> float:
    for trial in running:
        trial.told(str(seconds))
    return sum(trial.answer()["images_per_s"] for trial in running)


def _trial() -> None:
    """Warm up and judge a little, say what memory that took; then train for a moment whenever told to."""
    import torch

    from trainables.loop import Trainer

    answers = own_output()
    given = json.loads(sys.stdin.readline())
    torch.set_num_threads(given["threads"])
    trainer = Trainer(TrialConfig(**given["config"]))
    steps = _steps(trainer)
    for _ in range(WARM_STEPS):
        next(steps)
    _judge_some(trainer)
    answers.write(json.dumps(_memory(trainer.device)) + "\n")
    for line in sys.stdin:
        begin, images = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            images += next(steps)
        answers.write(json.dumps({"images_per_s": images / (time.perf_counter() - begin)}) + "\n")


def _steps(trainer) -> Iterator[int]:
    """Training steps without end; yields the images of each once the device has done it."""
    import torch

    generator = torch.Generator(device=trainer.device).manual_seed(0)
    trainer.model.train()
    while True:
        for rows in trainer.batches.epoch(trainer.method, generator):
            trainer._step(rows, generator)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()
            yield len(rows)


def _judge_some(trainer) -> None:
    """One batch of the evaluation, which is larger than training's, twice: a GPU records the second."""
    from dataclasses import replace

    val = trainer.splits.val
    some = replace(val, index=val.index[:512], labels=val.labels[:512])
    trainer.method.needs_val_losses = True  # then all of it is attacked, right or wrong
    for _ in range(2):
        trainer._judge(trainer.model, some)
    trainer.model.train()


def _memory(device) -> dict[str, int]:
    """Bytes: what this process takes on its device, its context included, and what the device has."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()  # the first trial is alone on it
        return {"memory": total - free, "total": total}
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "total": total}


if __name__ == "__main__":
    _trial()
