"""Several processes train a trial as one does, up to rounding; one that dies ends it with a sentence.

Most tests let threads stand for the processes, which add up what processes would: quick, and nothing to clean up. The
last ones start real ones, and find the same bits.
"""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import tuner
from tests.test_methods import CASES
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data_parallel import Group, _WholeBatchNorm, processes_for
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.processes import ProcessDied
from trainables.ray_adapter import TrialActor
from trainables.stem import stem_key
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.searches import load_search

PATIENCE_S = 60.0


class Table:
    """Where the threads of a group meet: the sum of what each of them brings, in their order."""

    def __init__(self, size):
        self.brought, self.barrier = [None] * size, threading.Barrier(size, timeout=PATIENCE_S)

    def meet(self, rank, tensor, combine):
        self.brought[rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(combine(self.brought))
        self.barrier.wait()
        return tensor


class Thread(Group):
    """A member of a group of threads on the CPU."""

    def __init__(self, rank, size, table):
        super().__init__(rank, size)
        self.device, self.table = torch.device("cpu"), table

    def total(self, tensor):
        return self.table.meet(self.rank, tensor, lambda all_: sum(all_[1:], all_[0]))

    def agreed(self, tensor):
        return self.table.meet(self.rank, tensor, lambda all_: all_[0])


def group(size):
    table = Table(size)
    return [Thread(rank, size, table) for rank in range(size)]


def each(members, do):
    """``do(member)`` at the same time, their results; a failure of one is a failure."""

    def safely(member):
        try:
            return do(member)
        except BaseException:
            members[0].table.barrier.abort()
            raise

    with ThreadPoolExecutor(len(members)) as pool:
        return [future.result() for future in [pool.submit(safely, member) for member in members]]


def trainers(config, size):
    return [Trainer(config, "cpu", processes=member) for member in group(size)]


def train(config, size, epochs):
    """Trainers of ``size`` threads after ``epochs`` epochs, and the metrics of each."""
    made = {member.processes: member for member in trainers(config, size)}
    return [*made.values()], each([*made], lambda member: [made[member].run_epoch() for _ in range(epochs)])


def weights(trainer):
    return torch.cat([v.detach().flatten().double() for v in trainer.final_model.state_dict().values()])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two steps an epoch; with 151 images of a batch, shares differ."""
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2, batch_size=151, lr=0.02))
    home = str(tmp_path_factory.mktemp("home"))
    few = {"imbalance": "exp:40", "val_per_class": 8, "model": "cnn:0.25"}
    return TrialConfig("at", training={**training, "eps": 0.5}, home=home, max_epochs=2, threat="l2", **few)


SETTINGS = {
    "awp": {"awp": 0.005},
    "ema": {"ema": 0.9},
    "clip": {"clip_grad": 0.5},
    "batch statistics in the attack": {"attack_bn": "train"},
    "clean images twice": {"clean_bn": "twice"},
    "class weights": {"class_weights": "effective", "label_smoothing": 0.1},
    "equal norms": {"head_repair": "norm"},
    "tuned head": {"head_repair": "sam"},
    "one batch": {"batch_size": 4096},
}
FIRST = {case.name: case for case in reversed(CASES)}.values()  # of each method
AGAIN = [
    case for case in CASES if set(case.params.values()) & {"running", "reweight", "ema", "mart", "dual", "ldam", "b"}
]
# These start by default in the last epoch, where their weights make much of what rounding has made of the first; from
# one batch they train the same to 5e-7.
AT_ONCE = dict.fromkeys(("spectral", "faal"), {"start": 0.0})
VARIANTS = [
    (str(case), {"method": case.name, "params": {**AT_ONCE.get(case.name, {}), **case.params}}, 2)
    for case in [*FIRST, *AGAIN]
] + [
    *((name, {"method": "trades", "training": changes}, 2) for name, changes in SETTINGS.items()),
    ("box", {"threat": "linf", "training": {"eps": 0.1}}, 2),
    ("barrier", {"method": "done", "params": {"barrier": True}, "threat": "linf", "training": {"eps": 0.1}}, 2),
    ("a curve", {"method": "srat", "offsets": "classes"}, 2),
    ("three", {"method": "srat", "params": {"start": 0.5}}, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize("fields, size", [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS])
def test_several_train_as_one_up_to_rounding(config, fields, size):
    """In an L2 ball, where a step follows the gradient smoothly: in a box rounding turns the sign of a gradient near 0,
    and with it a pixel by two steps. What is left is 3e-7 of a weight with most methods, 2e-4 where the attack begins
    at a gradient of nearly 0, that of TRADES' divergence. A mistake in batch norm, in a share or in the sum of
    gradients moves weights by more than 1e-3."""
    config = replace(config, **{**fields, "training": {**config.training, **fields.get("training", {})}})
    alone = Trainer(config, "cpu")
    expected = [alone.run_epoch() for _ in range(config.max_epochs)]
    several, found = train(config, size, config.max_epochs)
    for trainer, metrics in zip(several, found):
        assert torch.equal(weights(trainer), weights(several[0]))  # to the bit: they decide the same
        torch.testing.assert_close(weights(trainer), weights(alone), rtol=0, atol=5e-4)
        for mine, theirs in zip(metrics, expected, strict=True):
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=5e-4)
            assert mine["weight_ess"] == pytest.approx(theirs["weight_ess"], rel=1e-3)
        assert metrics[-1]["robust_acc"] == pytest.approx(expected[-1]["robust_acc"], abs=0.02)  # one image of 80


# ---- batch norm ------------------------------------------------------------------------------------------------------


class Norm(torch.nn.Module):
    """A batch norm between two products, so that the loss reads every row's statistics, and their gradients too."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.norm = torch.nn.BatchNorm2d(3, dtype=dtype)
        with torch.no_grad():
            self.norm.weight.copy_(torch.randn(3, generator=g))
            self.norm.bias.copy_(torch.randn(3, generator=g))
        self.mixed = torch.nn.Parameter(torch.randn(3, 3, generator=g).to(dtype))

    def forward(self, x):
        return self.norm(torch.einsum("bchw,cd->bdhw", x, self.mixed)).square().flatten(1)


def slopes(norm, forward, x, total):
    """Gradients of a loss over the whole batch, and of one that reads the input's gradient, as DONE's barrier does."""
    x = x.clone().requires_grad_()
    rows = forward(x)[0]
    losses = rows.sum(1) * torch.linspace(1, 2, len(rows), dtype=rows.dtype)
    loss = losses.logsumexp(0)
    first = total(torch.autograd.grad(loss, [*norm.parameters()], retain_graph=True))
    (at_x,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    second = total(torch.autograd.grad(at_x.square().sum(), [*norm.parameters()], allow_unused=True))
    return [loss.detach(), *first, *(g for g in second if g is not None)]


@pytest.mark.parametrize("size, n", [(2, 6), (2, 7), (3, 8)])
def test_batch_norm_and_its_gradients_are_the_whole_batchs(size, n):
    """In float64 nothing but a mistake differs by 1e-9; of the whole batch torch computes it."""
    x = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3
    alone = Norm()
    expected = slopes(alone, lambda x: (alone(x), alone(x)), x, list)
    members = group(size)
    norms = {member: Norm() for member in members}

    def work(member):
        norm = norms[member]
        return slopes(norm, lambda x: member.forward(lambda x: (norm(x), norm(x)), x), x, member.added)

    for found, norm in zip(each(members, work), norms.values()):
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        for name, value in alone.norm.state_dict().items():
            torch.testing.assert_close(norm.norm.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_batch_norm_in_half_precision_is_torchs_up_to_its_rounding():
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = torch.nn.BatchNorm2d(3)(x)

    def work(member):
        with _WholeBatchNorm(member):
            return member.whole(torch.nn.BatchNorm2d(3)(x[member.rows(8)]).detach(), 8)

    for found in each(group(2), work):
        assert found.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected.detach(), rtol=1e-2, atol=1e-2)


def test_in_evaluation_mode_and_for_one_process_nothing_changes():
    x, norm = torch.randn(8, 3), torch.nn.BatchNorm1d(3).eval()
    with _WholeBatchNorm(group(2)[0]):
        assert torch.equal(norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    alone, forward = processes_for(1), lambda x: (x, x)
    assert alone.forward(forward, x)[0] is x and alone.shared(forward) is forward and alone.added([x])[0] is x


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 1}, "2 processes cannot share batches of 1 images; ask for fewer"),
        ({"compile": "on"}, "compile=on is for trials of one process, and this one has 2"),
    ],
)
def test_what_several_processes_cannot_train_is_refused(config, changes, words):
    with pytest.raises(ValueError, match=words):
        Trainer(replace(config, processes=2, training={**config.training, **changes}))


def test_a_stem_of_several_processes_is_another(config):
    """Its sums were taken in parts."""
    trainer = Trainer(config, "cpu")
    key = stem_key(trainer)
    trainer.config = replace(config, processes=2)
    assert stem_key(trainer) == {**key, "processes": 2}


# ---- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def leader():
    leader = processes_for(2)
    yield leader
    leader.close()


@pytest.mark.process
def test_processes_find_the_bits_of_threads_and_one_goes_on_from_their_checkpoint(config, tmp_path, leader):
    config = replace(config, method="trades", max_epochs=3, offsets="prior", objectives=("robust_acc",))
    (first, _), (expected, _) = train(config, 2, 3)
    own = Trainer(replace(config, processes=2))
    found = [own.run_epoch() for _ in range(2)]
    save_checkpoint(tmp_path, own, found[-1], found[:1])
    found.append(own.run_epoch())
    timeless = [[{k: v for k, v in m.items() if not k.endswith("_s")} for m in ms] for ms in (found, expected)]
    assert timeless[0] == timeless[1] and torch.equal(weights(own), weights(first))
    assert own.best == first.best or own.best["epoch"] == first.best["epoch"]
    alone = Trainer(config, "cpu")
    assert len(load_checkpoint(tmp_path, alone)) == 2
    alone.run_epoch()
    torch.testing.assert_close(weights(alone), weights(own), rtol=1e-3, atol=1e-4)


@pytest.mark.process
def test_a_process_that_dies_ends_the_trial_with_a_sentence(config, tmp_path, leader):
    trial = replace(config, processes=2, fork=1, stem=config.training, folder=str(tmp_path / "trial"))
    actor = TrialActor({"trial": trial.to_dict(), "threads": 1})
    assert actor.step()["stem"]  # trained by both, and written by one
    (helper,) = leader.helpers._processes
    train = actor.trainer._train

    def killed():
        os.kill(helper.pid, signal.SIGKILL)
        return train()

    assert actor.step()
    actor.trainer._train = killed
    with pytest.raises(ProcessDied, match="^process 2 of the 2 that train this trial was killed by SIGKILL$"):
        actor.step()
    again = TrialActor({"trial": trial.to_dict(), "threads": 1})  # from the fork, with new processes
    assert again.trainer.epoch == 0 and [again.step() for _ in range(2)][-1]["done"]
    (helper,) = leader.helpers._processes
    helper.stdin.close()  # as where the first process is killed
    assert helper.wait(30) == 0


def test_a_search_of_two_processes_trains_what_one_does(tmp_path):
    """Through the command line and Ray, in an L2 ball as above; one process trains the same trial here. Rounding may
    move one of the 31 images that judge a class after an epoch."""
    quick = [word for name in ("passes=1", "attack_steps=2", "eval_attack=2") for word in ("--set", name)]
    asked = ("--method", "at", "--trials", 1, "--max-epochs", 2, "--processes-per-trial", 2, "--threat", "l2:0.5")
    asked += ("--offsets", "none", "--name", "two", *quick)
    done = tuner("search", *asked, "--home", tmp_path, env={"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'})
    assert done.returncode == 0, done.stderr
    run = load_search(Home(tmp_path), "two")
    config = trial_config(run, run.history.trials[0])
    assert config.processes == 2
    alone = Trainer(replace(config, processes=1, folder=None))
    for epoch in run.history.trials[0].epochs:
        metrics = alone.run_epoch()
        assert epoch["train_loss"] == pytest.approx(metrics["train_loss"], rel=5e-4)
        for name in [name for name in metrics if name.startswith(("robust_acc/", "clean_acc/"))]:
            assert epoch[name] == pytest.approx(metrics[name], abs=1.01 / 31), name
