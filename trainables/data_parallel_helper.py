"""The second, third ... process of `trainables.data_parallel`: does in step what the first one does.

python -m trainables.data_parallel_helper    frames in (see `trainables.processes`), a line out for each
"""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from trainables.config import TrialConfig
from trainables.data_parallel import Group
from trainables.loop import Diverged, Trainer
from trainables.processes import frames, own_output


def main() -> None:
    work: Queue[dict[str, Any]] = Queue()
    answers = own_output()
    threading.Thread(target=_listen, args=(work,), daemon=True).start()
    meeting = work.get()
    group, trainer = Group(meeting["rank"], meeting["size"]), None
    answers.write("here\n")
    group.join(Path(meeting["file"]))
    while True:
        trainer = prepared(group, work.get(), trainer)
        answers.write("ready\n")
        with suppress(Diverged):  # the first process says so
            trainer.run_epoch()


def prepared(group: Group, job: dict[str, Any], trainer: Trainer | None) -> Trainer:
    """A trainer that stands where the first process's does; ``trainer``, the last one, if it is of the same trial."""
    torch.set_num_threads(job["threads"])
    config, state = TrialConfig.of(job["config"]), job["state"]
    if trainer is None or (trainer.config, trainer.model_head, trainer.epoch) != (config, job["head"], state["epoch"]):
        trainer = Trainer(config, group.device, head=job["head"], processes=group)
    trainer.method.needs_val_losses = job["val_losses"]
    trainer.load_state_dict(state)
    return trainer


def _listen(work: Queue[dict[str, Any]]) -> None:
    for frame in frames(sys.stdin.buffer):
        work.put(torch.load(io.BytesIO(frame), map_location="cpu", weights_only=True))
    os._exit(0)  # the first process is gone, whatever we are waiting for


if __name__ == "__main__":
    main()
