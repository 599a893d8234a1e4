"""A thousand trials without a thousand processes: Ray Tune's real controller, with trials that share a few processes.

A trial's actor is a seat in one of ``HOSTS`` real actors; every call is a real Ray task with a real result, so all that
the driver does per result is the real thing. What is not: Ray starts no process and no placement group per trial.
"""

from __future__ import annotations

import itertools
import random
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import ray
from ray import tune
from ray.air.execution import ResourceManager
from ray.air.execution.resources.request import AcquiredResources

from trainables.trial_report import StemReport, TrialReport

HOSTS = 2
CLASSES = 10


class NoOp(tune.Trainable):
    """Reports what a trial on ten classes reports, without training: its fork where it has one, then its epochs."""

    def setup(self, config: dict) -> None:
        self.told, self.epoch = config["trial"], 0
        self.fork, cool_down = self.told.get("fork", 0), self.told.get("cool_down")
        self.last = self.told["max_epochs"] if cool_down is None else self.fork + cool_down

    def reset_config(self, new_config: dict) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict:
        number, done = self.told["trial"], self.epoch + 1 >= self.last
        if self.epoch < self.fork:
            self.epoch = self.fork
            past = [{**self.metrics(epoch), "stem": True} for epoch in range(1, self.fork + 1)]
            return TrialReport(number, past[-1], stem=StemReport(past=past, name="seats")).to_result()
        self.epoch += 1
        return TrialReport(number, self.metrics(self.epoch), done).to_result()

    def metrics(self, epoch: int) -> dict[str, float]:
        """Of all ten classes, at random."""
        draw = random.Random(self.told["trial"] * 1000 + epoch).random
        metrics = {f"{kind}/{c}": draw() for kind in ("robust_acc", "clean_acc") for c in range(CLASSES)}
        metrics |= {
            name: draw()
            for name in (
                "clean_acc",
                "robust_acc",
                "natural_robust_acc",
                "worst_class_robust_acc",
                "tail_robust_acc",
                "worst_class_clean_acc",
                "robust_acc_gap",
                "masking_gap",
                "train_loss",
                "weight_ess",
                "train_s",
                "eval_s",
            )
        }
        return {"epoch": epoch, **metrics}

    def save_checkpoint(self, checkpoint_dir: str) -> dict:
        return {"epoch": self.epoch}

    def load_checkpoint(self, checkpoint: dict) -> None:
        self.epoch = checkpoint["epoch"]


class Host:
    """The trials of many seats, one after the other."""

    def __init__(self):
        self.trials: dict[int, NoOp] = {}

    def call(self, seat: int, method: str, args: tuple, kwargs: dict):
        if method == "__init__":
            self.trials[seat] = NoOp(*args, **kwargs)
        elif method == "stop":
            self.trials.pop(seat, None)
        elif not method.startswith("__ray_"):
            return getattr(self.trials[seat], method)(*args, **kwargs)


class Seat:
    """Looks like the handle of an actor."""

    def __init__(self, host, number: int):
        self._host, self._number = host, number

    def __getattr__(self, name: str):
        return _Method(self._host, self._number, name)


class _Method:
    def __init__(self, host, number: int, name: str):
        self.host, self.number, self.name = host, number, name

    def remote(self, *args, **kwargs):
        return self.host.call.remote(self.number, self.name, args, kwargs)


class _Seats(AcquiredResources):
    def __init__(self, request, hosts, numbers):
        super().__init__(resource_request=request)
        self.hosts, self.numbers = hosts, numbers

    def annotate_remote_entities(self, entities):
        return [self for _ in entities]

    def remote(self, **kwargs) -> Seat:
        """What the controller takes for the making of an actor."""
        number = next(self.numbers)
        host = self.hosts[number % len(self.hosts)]
        host.call.remote(number, "__init__", (), kwargs)
        return Seat(host, number)


class _Manager(ResourceManager):
    """Hands out seats in ``hosts``, at most ``concurrent`` at a time, in place of placement groups."""

    def __init__(self, hosts: list, concurrent: int):
        self.hosts, self.numbers = hosts, itertools.count()
        self.requested, self.free = 0, concurrent

    def request_resources(self, resource_request):
        self.requested += 1

    def cancel_resource_request(self, resource_request):
        self.requested -= 1

    def has_resources_ready(self, resource_request):
        return self.requested > 0 and self.free > 0

    def acquire_resources(self, resource_request):
        self.requested, self.free = self.requested - 1, self.free - 1
        return _Seats(resource_request, self.hosts, self.numbers)

    def free_resources(self, acquired_resource):
        self.free += 1

    def clear(self):
        pass


@contextmanager
def seats(concurrent: int):
    """Within, Ray Tune's trials are ``NoOp`` ones on seats, at most so many at a time."""
    hosts = [ray.remote(num_cpus=0)(Host).remote() for _ in range(HOSTS)]
    manager = partial(_Manager, hosts, concurrent)
    with (
        patch("ray.tune.execution.tune_controller.PlacementGroupResourceManager", manager),
        patch("trainables.ray_adapter.TrialActor", NoOp),
    ):
        yield
    for host in hosts:
        ray.kill(host)
