"""What a trial asks of a node, and how many share a GPU: decisions by hand, the measurement on a CPU."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.gpu_packing import choose, measure, room
from tuner.errors import UsageError
from tuner.execution.resources import (
    fraction,
    resolve_gpus_per_trial,
    task_options,
    threads_per_process,
    trial_resources,
    unsatisfiable_resources,
)
from tuner.spec.search_spec import SearchSpec

GIB = 2**30


@pytest.mark.parametrize(
    "memory, total, most, expected",
    [
        (10 * GIB, 80 * GIB, 99, [1, 2, 3, 4, 6]),  # 7.2 of them in nine tenths of 80 GiB
        (10 * GIB, 80 * GIB, 3, [1, 2, 3]),  # the node's CPUs allow three
        (18 * GIB, 40 * GIB, 99, [1, 2]),  # exactly nine tenths
        (37 * GIB, 40 * GIB, 99, [1]),  # one may have all of it
        (1 * GIB, 141 * GIB, 99, [1, 2, 3, 4, 6, 8, 12, 16]),
    ],
)
def test_how_many_are_tried(memory, total, most, expected):
    assert room(memory, total, most) == expected


@pytest.mark.parametrize(
    "rates, expected",
    [
        ({1: 1000}, 1),
        ({1: 1000, 2: 1049}, 1),  # 4.9 % more in all, each at half its speed
        ({1: 1000, 2: 1050}, 2),
        ({1: 1000, 2: 1900, 3: 1950}, 2),
        ({1: 1000, 2: 1900, 3: 1950, 4: 2100}, 4),  # 10.5 % above two
        ({1: 1000, 2: 900, 3: 800}, 1),
    ],
)
def test_the_fewest_beyond_which_nothing_is_worth_it(rates, expected):
    assert choose(rates) == expected


@pytest.mark.parametrize("at_a_time, share", [(1, 1.0), (2, 0.5), (3, 0.3333), (6, 0.1666), (16, 0.0625)])
def test_shares_of_a_gpu_fit(at_a_time, share):
    assert fraction(at_a_time) == share and at_a_time * share <= 1


@pytest.mark.process
def test_measured_side_by_side(tmp_path):
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    rows = list(measure(TrialConfig("at", training=training, home=str(tmp_path)), most=2, seconds=0.5))
    assert [row["at_a_time"] for row in rows] == [1, 2]
    for row in rows:
        assert row["images_per_s"] > 0 and 50 * 2**20 < row["memory"] < row["total"]


@pytest.mark.process
def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="unknown dataset 'nothing'"):
        list(measure(TrialConfig("at", dataset="nothing", home=str(tmp_path)), most=2))


# ---- nodes -----------------------------------------------------------------------------------------------------------

NODES = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0, "accelerator_type:T4": 1.0}]


@pytest.mark.parametrize(
    "asked, words",
    [
        ({}, None),
        ({"cpus_per_trial": 8}, None),
        ({"gpus_per_trial": 0.25, "accelerator": "T4"}, None),
        ({"gpus_per_trial": "auto"}, None),
        ({"cpus_per_trial": 9}, "--cpus-per-trial 9 is more than any node has: the most is 8"),
        ({"gpus_per_trial": 5}, "--gpus-per-trial 5 is more than any node has: the most is 4"),
        ({"gpus_per_trial": 1, "accelerator": "H200"}, "--accelerator 'H200' is on no node; they have T4"),
        ({"gpus_per_trial": 1, "cpus_per_trial": 4}, "no node has all that a trial asks for (4 CPUs, 1 GPUs)"),
    ],
)
def test_a_trial_that_no_node_can_run(asked, words):
    said = unsatisfiable_resources(SearchSpec(**asked), NODES)
    assert said is None if words is None else words in said


def test_auto_without_a_gpu_is_none():
    assert unsatisfiable_resources(SearchSpec(gpus_per_trial="auto"), [{"CPU": 1.0}]) is None
    asked = SearchSpec(gpus_per_trial="auto", accelerator="T4")
    assert "is on no node; they have none" in unsatisfiable_resources(asked, [{"CPU": 1.0}])


class OneTask:
    """A Ray with these nodes; the task that measures is told how many trials to try at most, and finds one image/s."""

    exceptions = SimpleNamespace(RayError=KeyError)

    def __init__(self, *nodes):
        self.nodes = lambda: [{"Alive": True, "Resources": node} for node in nodes]
        self.most = None

    def remote(self, function):
        return self

    def options(self, **how):
        return SimpleNamespace(remote=self._measured)

    def _measured(self, config, most, threads):
        self.most = most
        return [{"at_a_time": 1, "images_per_s": 1.0, "memory": GIB, "total": GIB}]

    def get(self, row):
        return row


def test_auto_is_measured_for_the_kind_of_gpu_that_is_asked_for():
    small, large = {"CPU": 2.0, "GPU": 1.0, "accelerator_type:T4": 1.0}, {"CPU": 16.0, "GPU": 1.0}
    ray = OneTask(small, {**large, "accelerator_type:H200": 1.0})
    asked = SearchSpec(gpus_per_trial="auto", accelerator="H200")
    assert resolve_gpus_per_trial(ray, asked, lambda: None, print).gpus_per_trial == 1 and ray.most == 16
    resolve_gpus_per_trial(ray, SearchSpec(gpus_per_trial="auto"), lambda: None, print)
    assert ray.most == 2, "a trial may run on either"
    grows = OneTask({"CPU": 4.0})  # an autoscaler may add a node, which nothing asks for without a number
    with pytest.raises(UsageError, match="--gpus-per-trial auto is measured on a GPU, and no node has an H200 now"):
        resolve_gpus_per_trial(grows, asked, lambda: None, print)
    assert resolve_gpus_per_trial(grows, SearchSpec(gpus_per_trial="auto"), lambda: None, print).gpus_per_trial == 0


def test_what_ray_is_asked_for():
    asked = SearchSpec(gpus_per_trial="0.25", accelerator="T4", cpus_per_trial=2)
    assert trial_resources(asked) == {"CPU": 2, "GPU": 0.25, "accelerator_type:T4": 0.001}


@pytest.mark.parametrize(
    "asked, processes, cpus, threads",
    [
        ({}, 1, 1, 1),
        ({"cpus_per_trial": 0.5}, 1, 0.5, 1),
        ({"gpus_per_trial": "auto", "cpus_per_trial": 3}, 1, 3, 3),
        ({"gpus_per_trial": 0.5}, 1, 1, 1),
        ({"gpus_per_trial": 2}, 2, 2, 1),  # each process has a CPU
        ({"gpus_per_trial": 2, "cpus_per_trial": 9}, 2, 9, 4),
        ({"gpus_per_trial": 2, "processes_per_trial": 2}, 2, 2, 1),
        ({"processes_per_trial": 3, "cpus_per_trial": 6}, 3, 6, 2),
    ],
)
def test_a_trial_of_several_gpus_has_a_process_for_each(asked, processes, cpus, threads):
    spec = SearchSpec(**asked)
    assert spec.processes == processes and trial_resources(spec)["CPU"] == cpus
    assert threads_per_process(spec) == threads


def test_an_attack_alone_needs_one_gpu():
    spec = SearchSpec(gpus_per_trial=2, cpus_per_trial=4)
    assert task_options(None, spec, trains=True) == {"num_cpus": 4, "num_gpus": 2, "resources": {}}
    assert task_options(None, spec, trains=False) == {"num_cpus": 4, "num_gpus": 1, "resources": {}}


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"gpus_per_trial": 0.5}, "with --gpus-per-trial 0.5: each GPU of a trial has one process"),
        ({"gpus_per_trial": "auto"}, "--processes-per-trial 2 is not allowed with --gpus-per-trial auto"),
        ({"set": {"compile": "on"}}, "compile=on is for trials of one process, and these have 2"),
        ({"space": {"compile": ["on", "off"]}}, "compile=on is for trials of one process"),
        (
            {"set": {"batch_size": 2}, "processes_per_trial": 3},
            "3 processes of a trial cannot share batches of 2 images",
        ),
        ({"space": {"batch_size": [2, 64]}, "processes_per_trial": 3}, "cannot share batches of 2 images"),
    ],
)
def test_what_several_processes_do_not_do_is_one_sentence(asked, words):
    with pytest.raises(UsageError) as refusal:
        SearchSpec(**{"processes_per_trial": 2, **asked})
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", ["1.5", "-1", "half", True, "nan", ""])
def test_wrong_share(value):
    with pytest.raises(UsageError, match=r"takes auto, a fraction from 0 to 1 or a whole number"):
        SearchSpec(gpus_per_trial=value)


def test_a_trial_uses_the_threads_it_was_given(tmp_path, monkeypatch):
    """As the driver tells the actor: whole CPUs, one at least, so that trials side by side do not fight for cores."""
    import torch

    from trainables.ray_adapter import TrialActor

    trial = TrialConfig("at", training=asdict(training_for("digits")), home=str(tmp_path)).to_dict()
    for cpus, threads in ((2.0, 2), (0.5, 1), (1.9, 1)):
        TrialActor({"trial": trial, "threads": int(cpus)})
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


def test_auto_is_in_a_spec_file():
    assert SearchSpec.from_yaml(SearchSpec(gpus_per_trial="auto").to_yaml()).gpus_per_trial == "auto"
    assert json.loads(json.dumps(SearchSpec(gpus_per_trial="1").to_dict()))["gpus_per_trial"] == 1.0
