"""The trial as Ray Tune runs it: one `step` is one epoch, actors are reused from trial to trial.

The driver imports this file too, so torch is imported inside the actor only.
"""

from __future__ import annotations

from pathlib import Path

from ray import tune

from trainables.config import TrialConfig


class TrialActor(tune.Trainable):
    """Reports ``{"trial", "metrics", "done"}`` after every epoch, or ``"failed": reason`` where a trial diverged.

    The trial keeps its own checkpoint in its folder: an actor that starts anew (a lost node, a resumed search) goes on
    from the last finished epoch, whoever started it.
    """

    def setup(self, config: dict) -> None:
        import torch

        from trainables.checkpoint import load_checkpoint
        from trainables.loop import Trainer

        self.trial = TrialConfig(**config["trial"])
        torch.set_num_threads(max(1, int(config.get("threads", 1))))
        self.trainer = Trainer(self.trial)
        if self.trial.folder:
            load_checkpoint(Path(self.trial.folder), self.trainer)

    def reset_config(self, new_config: dict) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict:
        from trainables.checkpoint import save_checkpoint
        from trainables.loop import Diverged

        if self.trainer.epoch >= self.trial.max_epochs:  # nothing left: it was killed between its last epoch and its report
            return {"trial": self.trial.trial, "metrics": None, "done": True}
        try:
            metrics = self.trainer.run_epoch()
        except Diverged as error:
            return {"trial": self.trial.trial, "failed": str(error), "done": True}
        if self.trial.folder:
            save_checkpoint(Path(self.trial.folder), self.trainer, metrics)
        return {"trial": self.trial.trial, "metrics": metrics,
                "done": self.trainer.epoch >= self.trial.max_epochs}

    def save_checkpoint(self, checkpoint_dir: str) -> dict:
        return {"epoch": self.trainer.epoch}  # the real one is in the trial's folder

    def load_checkpoint(self, checkpoint: dict) -> None:
        from trainables.checkpoint import load_checkpoint

        load_checkpoint(Path(self.trial.folder), self.trainer)
