"""The trial as Ray Tune runs it: one `step` is one epoch, actors are reused from trial to trial.

The driver imports this file too, so torch is imported inside the actor only.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from time import sleep
from typing import Any

from ray import tune

from trainables.config import TrialConfig
from trainables.gpu_use import of_worker
from trainables.trial_report import StemReport, TrialReport

WAITS_S = (1, 2, 4, 8, 16, 32, 60, 60, 60)  # between one try and the next: four minutes
FULL_WAITS = 3  # of them where the disk is full
# errors of the trial's own folder, which waiting does not mend
WRONG_PLACE = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
PRINTED = 16_384  # characters of what a trial prints that are kept


class StorageDown(Exception):
    """The storage failed, not the trial; the message is one sentence."""


class TrialActor(tune.Trainable):
    """Reports a `TrialReport` after every epoch, and after every step that waits for the stem or trains it; on a GPU
    also how busy those of its machine are (``gpus``), and what was printed meanwhile (``printed``).

    The trial keeps its own checkpoint in its folder: an actor that starts anew (a lost node, a resumed search) goes on
    from the last finished epoch, whichever process trained it.
    """

    def setup(self, config: dict) -> None:
        self.printed = Printed()
        with redirect_stdout(self.printed):
            self._setup(config)

    def _setup(self, config: dict) -> None:
        import torch

        from trainables.checkpoint import load_checkpoint
        from trainables.loop import Trainer
        from trainables.stem import open_fork

        self.trial = TrialConfig(**config["trial"])
        torch.set_num_threads(max(1, int(config.get("threads", 1))))
        self.trainer = self._stored(lambda: Trainer(self.trial))  # it reads data, and the weights to start from
        folder = self.trial.folder
        self.epochs = self._stored(lambda: load_checkpoint(folder, self.trainer)) or [] if folder else []
        self.unreported = bool(self.epochs)
        self.fork = self._stored(lambda: open_fork(self.trainer))
        self.spare, self.spare_seeds = None, list(self.trial.spare_seeds)  # the way to a stem under another seed

    def reset_config(self, new_config: dict) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict:
        gpus = of_worker().ask() if self.trainer.device.type == "cuda" else []
        with redirect_stdout(self.printed):
            report = self._step()
        text = self.printed.taken()
        return report | ({"gpus": gpus} if gpus else {}) | ({"printed": text} if text else {})

    def _step(self) -> dict:
        from trainables.checkpoint import save_checkpoint
        from trainables.loop import Diverged

        if self.unreported:  # the actor that trained so far, or the driver, may have died before this was recorded
            self.unreported = False
            return replace(self._report(self.epochs[-1]), epochs=self.epochs).to_result()
        try:
            if self.fork:
                return self._stored(self._on_stem, waits=()).to_result()  # half of it cannot be done again
            metrics = self.trainer.run_epoch()
        except Diverged as error:
            return TrialReport(self.trial.trial, failed=str(error), done=True).to_result()
        if self.trial.folder:
            self._stored(lambda: save_checkpoint(self.trial.folder, self.trainer, metrics, self.epochs))
        self.epochs.append(metrics)
        return self._report(metrics).to_result()

    def _stored(self, do: Callable[[], Any], waits: Sequence[float] = WAITS_S) -> Any:
        """Call ``do`` until the storage answers, with pauses of ``waits`` seconds, and return its result; then
        ``StorageDown``.

        Waiting here keeps what has been trained; another actor would train it again.
        """
        from trainables.files import is_full
        from trainables.storage import explain

        for waited, wait in enumerate((*waits, None)):
            try:
                return do()
            except WRONG_PLACE:
                raise
            except OSError as error:
                if wait is None or (is_full(error) and waited >= FULL_WAITS):  # nobody makes room unless it is said
                    own = isinstance(error, ValueError)  # which has a sentence of its own
                    why = str(error) if own else explain(self.trial.storage or self.trial.home, error)
                    raise StorageDown(why) from error
            sleep(wait)

    def _on_stem(self) -> TrialReport:
        """The report of one step on the way to the fork: an epoch of the stem trained, a wait while another process
        trains it, or the fork itself."""
        past = self.fork.leave() if self.fork.ready() else None
        if past is None:
            trained, name = self._advance()
            about = {"name": name, "spare": name != self.fork.name} if trained else {}
            return TrialReport(self.trial.trial, stem=StemReport(trained, self.fork.outdated, **about))
        stem = StemReport(past=past, name=self.fork.name)
        self.fork = self.spare = None  # with what they hold in memory
        self.epochs = list(past)
        return replace(self._report(past[-1]), stem=stem)

    def _advance(self) -> tuple[int | None, str]:
        """Train an epoch of the stem; while another process does, one of a stem under another seed. Which epoch that
        was, None for none, and of which stem."""
        from trainables.loop import Diverged
        from trainables.stem import spare_fork

        if self.spare_seeds and (trained := self.fork.advance(wait_s=0.0)):
            return trained, self.fork.name
        while self.spare_seeds and not self.fork.ready():
            self.spare = self.spare or spare_fork(self.trainer, self.spare_seeds[0])
            with suppress(Diverged):  # no fault of this trial's
                if not self.spare.ready():
                    return self.spare.advance(), self.spare.name
            self.spare = None
            self.spare_seeds.pop(0)
        return self.fork.advance(), self.fork.name

    def _report(self, metrics: dict) -> TrialReport:
        done = self.trainer.epoch >= self.trial.last_epoch
        notes = self.trainer.method.notes() if done else ()
        curve = self.trainer.curve
        return TrialReport(self.trial.trial, metrics, done, curve=curve and curve.to_dict(), notes=notes)

    def save_checkpoint(self, checkpoint_dir: str) -> dict:
        return {"epoch": self.trainer.epoch}  # the real one is in the trial's folder

    def load_checkpoint(self, checkpoint: dict) -> None:
        """Nothing to do: ``setup`` has gone on from the trial's folder."""


class Printed(io.TextIOBase):
    """Standard output of a trial: it goes where it went before, and the first of it is kept until it is taken."""

    def __init__(self) -> None:
        self._before, self._room, self._parts = sys.stdout, PRINTED, list[str]()

    def write(self, text: str) -> int:
        if self._room > 0:
            self._parts.append(text[: self._room] + ("\n..." if len(text) > self._room else ""))
        self._room -= len(text)
        return self._before.write(text)

    def flush(self) -> None:
        self._before.flush()

    def taken(self) -> str:
        """What was printed since the last call."""
        text, self._parts = "".join(self._parts), []
        return text
