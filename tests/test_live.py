"""The live benchmark: the memo of stages, simulated time, what arms hand out, scores and ratios by hand."""

import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import live, live_problem, live_report, live_stages
from benchmarks.live_arms import ARMS, OBJECTIVES, Arm, Model, front_rows
from benchmarks.live_problem import PROBLEMS, Costs, Job
from benchmarks.live_simulation import Simulation
from benchmarks.live_stages import Line, Memo, Result, Stage, meaning
from benchmarks.synthetic import signs, write_table
from benchmarks.tracks import correlation
from tests.conftest import tuner
from trainables.config import TrialConfig
from trainables.curve import Curve, CurvePoint
from trainables.datasets import training_for
from trainables.loop import Diverged, Trainer
from trainables.offsets import NONE, Offsets
from trainables.stem import run_to_fork, stem_config
from tuner.optimizer.ask_tell import AskTell
from tuner.results.bill import trained
from tuner.results.pareto import volume

TINY = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1, batch_size=64))
COSTS = Costs(watch=0.5, val=1.0, sweep=2.0)


def line(home, params=None, **changes):
    config = TrialConfig("at", params or {}, TINY, home=str(home), max_epochs=3)
    return Line(replace(config, **changes))


def forked(of, stem, fork, cool_down=None):
    """A line like ``of`` that begins with ``stem``."""
    return Line(replace(of.config, fork=fork, cool_down=cool_down), stem)


def curve_of(*points, train=(30, 10)):
    """A curve of two classes, 10 images each, from robust counts of both; tau 0, 1, ..."""
    made = [
        CurvePoint(Offsets("prior", float(i), (0.0, float(i))) if i else NONE, (10, 10), robust, robust)
        for i, robust in enumerate(points)
    ]
    return Curve(("a", "b"), train, tuple(made))


# ---- the memo --------------------------------------------------------------------------------------------------------


class FakeTrainer:
    """Its state is how often it was trained; it dies before the epoch ``dies``, and diverges in ``diverges``."""

    made, dies, diverges = 0, None, None

    def __init__(self, line, device):
        self.line, self.epoch, self.value, self.stats = line, 0, 0.0, None
        type(self).made += 1

    def run_epoch(self):
        if self.epoch + 1 == self.dies:
            raise KeyboardInterrupt
        if self.epoch + 1 == self.diverges:
            raise Diverged("the loss is nan")
        self.epoch += 1
        self.value = self.value * 10 + self.epoch
        return {"epoch": self.epoch, "value": self.value, "train_s": 1.0}

    def state_dict(self):
        return {"epoch": self.epoch, "value": torch.tensor(self.value, dtype=torch.float64)}

    def load_state_dict(self, state):
        self.epoch, self.value = state["epoch"], state["value"].item()

    def curve_on_val(self, kind):
        return curve_of((self.epoch, self.epoch))

    def curve_on_test(self, on_val):
        return curve_of((0, on_val.points[0].robust[0]))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "made", 0)
    monkeypatch.setattr(FakeTrainer, "dies", None)
    monkeypatch.setattr(FakeTrainer, "diverges", None)
    return FakeTrainer


def test_a_stage_is_trained_once(tmp_path, fake):
    memo, one = Memo(tmp_path, "cpu", fake), line(tmp_path / "home")
    first = memo.run(Stage(one, 0, 2))
    assert [m["value"] for m in first.metrics] == [1.0, 12.0] and memo.trained == 2
    assert "train_s" not in first.metrics[0]  # it would differ from run to run
    again = Memo(tmp_path, "cpu", fake)
    assert again.run(Stage(one, 0, 2)) == first and again.trained == 0
    assert [m["value"] for m in again.run(Stage(line(tmp_path / "home"), 2, 3)).metrics] == [123.0]
    assert again.trained == 1  # it went on from the state
    ended = again.run(Stage(one, 3, 3, judge="none"))
    assert ended.metrics == () and ended.curve.points[0].robust == (3, 3) and again.trained == 1
    assert again.held_out(one, 3, "none").points[0].robust == (0, 3)
    assert Memo(tmp_path, "cpu", fake).run(Stage(one, 0, 3, judge="none")).curve == ended.curve


def test_a_killed_stage_loses_its_last_epoch_alone(tmp_path, fake):
    memo, one = Memo(tmp_path, "cpu", fake), line(tmp_path / "home")
    fake.dies = 3
    with pytest.raises(KeyboardInterrupt):
        memo.run(Stage(one, 0, 3, judge="none"))
    fake.dies = None
    after = Memo(tmp_path, "cpu", fake)
    assert [m["value"] for m in after.run(Stage(one, 0, 3, judge="none")).metrics] == [1.0, 12.0, 123.0]
    assert after.trained == 1


@pytest.mark.parametrize("nth", range(1, 8))
def test_killed_at_any_write(tmp_path, fake, monkeypatch, nth):
    """Whichever write of a stage is its last: the next process ends with the same, and files are whole."""
    memo, one = Memo(tmp_path, "cpu", fake), line(tmp_path / "home")
    written, real = [], live_stages.write_atomically

    def dies(path, data):
        written.append(path)
        if len(written) == nth:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(live_stages, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        memo.run(Stage(one, 0, 3, judge="none"))
        memo.held_out(one, 3, "none")
        pytest.fail(f"there are only {len(written)} writes")
    monkeypatch.setattr(live_stages, "write_atomically", real)
    after = Memo(tmp_path, "cpu", fake)
    result = after.run(Stage(one, 0, 3, judge="none"))
    assert [m["value"] for m in result.metrics] == [1.0, 12.0, 123.0] and result.curve.points[0].robust == (3, 3)


def test_a_state_that_is_gone_is_trained_again(tmp_path, fake):
    """A fork or a judgement asked for late needs an epoch whose state was removed; the metrics stay as they were."""
    memo, one = Memo(tmp_path, "cpu", fake), line(tmp_path / "home")
    memo.run(Stage(one, 0, 3))
    found = Memo(tmp_path, "cpu", fake)
    assert found.run(Stage(one, 1, 1, judge="none")).curve.points[0].robust == (1, 1) and found.trained == 1
    assert [m["value"] for m in found.run(Stage(one, 0, 3)).metrics] == [1.0, 12.0, 123.0] and found.trained == 1


def test_a_later_state_outlives_an_earlier_one(tmp_path, fake):
    """An epoch that is judged late is trained again from the start; the line goes on from its end all the same."""
    home = tmp_path / "home"
    Memo(tmp_path, "cpu", fake).run(Stage(line(home, max_epochs=4), 0, 3))
    Memo(tmp_path, "cpu", fake).run(Stage(line(home, max_epochs=4), 1, 1, judge="none"))
    last = Memo(tmp_path, "cpu", fake)
    assert last.run(Stage(line(home, max_epochs=4), 3, 4)).metrics[0]["value"] == 1234.0 and last.trained == 1


def test_two_that_need_the_same_train_it_once(tmp_path, fake, monkeypatch):
    """Each memo stands for a process: the lock is the file's, not the object's."""
    memos, busy, most = [Memo(tmp_path, "cpu", fake) for _ in range(2)], [], []
    epoch = fake.run_epoch

    def slow(trainer):
        busy.append(trainer)
        most.append(len(busy))
        time.sleep(0.02)
        busy.pop()
        return epoch(trainer)

    monkeypatch.setattr(fake, "run_epoch", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda memo: memo.run(Stage(line(tmp_path / "home"), 0, 3)), memos))
    assert found[0] == found[1] and sum(memo.trained for memo in memos) == 3 and max(most) == 1


def test_lines_in_turns(tmp_path, fake):
    """As rungs train them: many open lines, an epoch each."""
    memo, lines = Memo(tmp_path, "cpu", fake), [line(tmp_path / "home", seed=s) for s in range(live_stages.OPEN + 2)]
    for epoch in range(3):
        for one in lines:
            assert memo.run(Stage(one, epoch, epoch + 1)).metrics[0]["value"] == [1.0, 12.0, 123.0][epoch]
    assert memo.trained == 3 * len(lines) and len(memo._open) == live_stages.OPEN


def test_a_line_that_diverges(tmp_path, fake):
    memo, one = Memo(tmp_path, "cpu", fake), line(tmp_path / "home")
    fake.diverges = 2
    assert memo.run(Stage(one, 0, 3)).failed == "the loss is nan"
    fake.diverges = None
    again = Memo(tmp_path, "cpu", fake)
    assert again.run(Stage(one, 1, 2)).failed == "the loss is nan" and again.trained == 0
    assert [m["epoch"] for m in again.run(Stage(one, 0, 1)).metrics] == [1]


def test_every_setting_is_in_the_key(tmp_path, monkeypatch):
    """A change of anything that decides the bits gives another line; what does not, the same."""
    home, device = tmp_path / "home", torch.device("cpu")
    stem = line(home)
    srat = line(home, method="srat", params={"strength": 0.5})
    different = [
        stem,
        srat,
        line(home, method="srat", params={"strength": 0.6}),
        line(home, training={**TINY, "lr": 0.02}),
        line(home, seed=1),
        line(home, seed=1, data_seed=0),
        line(home, imbalance="none"),
        line(home, model="cnn:0.5"),
        line(home, max_epochs=4),
        line(home, val_per_class=20),
        line(home, val_fraction=0.3),
        forked(srat, stem, 1),
        forked(srat, stem, 2),
        forked(srat, line(home, seed=1), 1),
        forked(srat, stem, 1, cool_down=1),
        forked(srat, stem, 1, cool_down=2),
        replace(stem, val_losses=True),
    ]
    keys = [json.dumps(live_stages.line_key(one, device), sort_keys=True) for one in different]
    assert len(set(keys)) == len(different)
    same = [
        line(home, trial=5, folder="x", objectives=("robust_acc",), offsets="prior", storage="y", stem_from=2),
        line(home, training={}),  # defaults said or unsaid
        line(home, method="srat", params={"strength": 0.5, "start": 0.8}),
    ]
    assert [json.dumps(live_stages.line_key(one, device), sort_keys=True) for one in same[:1]] == keys[:1]
    default = live_stages.line_key(line(home, training=asdict(training_for("digits"))), device)
    assert live_stages.line_key(line(home, training=dict(training_for("digits").__dict__)), device) == default
    assert json.dumps(live_stages.line_key(same[2], device), sort_keys=True) == keys[1]
    with pytest.raises(ValueError, match="a fork at 2 needs a line"):
        line(home, fork=2)
    with pytest.raises(ValueError, match="leaves no line"):
        Line(srat.config, stem)
    monkeypatch.setattr(live_stages, "code_version", lambda method: "another")
    assert live_stages.line_key(stem, device) != json.loads(keys[0])
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert live_stages.line_key(stem, device) != json.loads(keys[0])


def test_comments_do_not_change_the_code():
    before = 'def f(x):\n    """What."""\n    return x + 1  # why\n'
    assert meaning(before) == meaning("def f(x):\n    return (x + 1)\n") != meaning("def f(x):\n    return x + 2\n")


# ---- real stages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    torch.set_num_threads(1)
    return Memo(tmp_path_factory.mktemp("live"), "cpu")


def test_a_real_stage_is_what_a_search_trains(real):
    """In parts, with a reload between them, and judged as the trainer judges itself at its end."""
    one = line(real.home, method="srat", params={"start": 0.3}, max_epochs=2)
    parts = real.run(Stage(one, 0, 1)).metrics
    again = Memo(real.folder, "cpu")
    last = again.run(Stage(one, 1, 2, judge="prior"))
    assert again.trained == 1
    trainer = Trainer(replace(one.config, offsets="prior"), "cpu")
    wanted = [trainer.run_epoch() for _ in range(2)]
    for found, metrics in zip((*parts, *last.metrics), wanted, strict=True):
        assert found == {k: v for k, v in metrics.items() if k not in ("train_s", "eval_s")}
    assert last.curve == trainer.curve and len(last.curve.points) == 7
    on_test = again.held_out(one, 2, "prior")
    assert [p.offsets for p in on_test.points] == [p.offsets for p in last.curve.points]
    with torch.no_grad():
        from trainables.data import open_test

        split = open_test(one.config.data_spec, one.config.home)
        assert sum(on_test.points[0].count) == len(split)
        x, y = split.batch(slice(None))
        trainer.model.eval()
        logits = trainer.model(x)
        offsets = torch.tensor(on_test.points[4].offsets.values)
        right = (logits + offsets).argmax(1) == y
    assert on_test.points[4].clean == tuple(torch.bincount(y[right], minlength=10).tolist())
    assert on_test.points[4].robust < on_test.points[4].clean


@pytest.mark.slow
def test_a_fork_is_what_trials_of_a_stem_train(real):
    """Of the plain base after an epoch, by a method that reads its statistics and one that does not, in full and as a
    preview."""
    for method, val_losses, base in (("wat", True, "trades"), ("srat", False, "at")):
        of = line(real.home, method=method, max_epochs=3)
        assert live_stages.stem_kind(of.config) == (val_losses, base)
        stem = replace(line(real.home, method=base, max_epochs=3), val_losses=val_losses)
        for cool_down, last in ((None, 3), (1, 2)):
            one = forked(of, stem, 1, cool_down)
            assert (one.first, one.last) == (1, last)
            found = real.run(Stage(one, 1, last, judge="prior"))
            trainer = Trainer(replace(one.config, stem=stem.config.training, offsets="prior"), "cpu")
            assert [m["epoch"] for m in run_to_fork(trainer)] == [1]
            wanted = [trainer.run_epoch() for _ in range(1, last)]
            assert found.metrics == tuple(
                {k: v for k, v in m.items() if k not in ("train_s", "eval_s")} for m in wanted
            )
            assert found.curve == trainer.curve is not None
        before = real.trained
        assert real.run(Stage(stem, 0, 2)).metrics and real.trained == before + 1  # the stem's first epoch is there
    with pytest.raises(ValueError, match="wat reads losses on val"):
        wat = line(real.home, method="wat", max_epochs=3)
        real.run(Stage(forked(wat, line(real.home, max_epochs=3), 1), 1, 2))


def test_the_stem_goes_on_as_plain_at_that_forks_from_it(real):
    """So the reference of a search is the stem, trained to its end."""
    stem = line(real.home, max_epochs=3)
    alone = real.run(Stage(stem, 0, 3, judge="prior"))
    forking = real.run(Stage(forked(stem, stem, 2), 2, 3, judge="prior"))
    assert forking.metrics == alone.metrics[2:] and forking.curve == alone.curve


# ---- simulated time --------------------------------------------------------------------------------------------------


class Scripted(Arm):
    """Hands out its stages in order; every model judged is on its front, alone."""

    def __init__(self, stages):
        self.stages, self.log, self.free, self.models = list(stages), [], [], []

    def next(self, free):
        self.free.append(free)
        return self.stages.pop(0) if self.stages else None

    def told(self, stage, result):
        self.log.append(stage.trial)
        if result.curve:
            self.models = [Model(stage.line, stage.until, result.curve)]

    def front(self):
        return front_rows(self.models)


def simulated(arm, workers, on_test=lambda row: {"natural_robust_acc": 0.5, "worst_class_robust_acc": 0.4}, **curves):
    run = lambda stage: Result(({"epoch": stage.until},), curves.get(f"t{stage.trial}"))  # noqa: E731
    simulation = Simulation(arm, run, on_test, COSTS, workers)
    return simulation, simulation.run()


def test_durations_by_hand():
    """An epoch watched costs 1.5, unwatched 1; judging a model 1, swept 3."""
    assert COSTS.of(Stage(None, 0, 4)) == 6.0
    assert COSTS.of(Stage(None, 0, 4, watched=False, judge="none")) == 5.0
    assert COSTS.of(Stage(None, 4, 4, judge="auto")) == 3.0
    assert COSTS.of(Stage(None, 8, 10, judge="auto")) == 6.0  # a preview of two epochs


@pytest.mark.parametrize(
    "workers, time, order", [(1, 15.0, [0, 1, 2, 3]), (2, 7.5, [0, 1, 2, 3]), (4, 6.0, [3, 0, 2, 1])]
)
def test_clock_of_w_workers(workers, time, order):
    """Stages of 3, 6, 4.5 and 1.5. Two workers: 0 until 3, 1 until 6, 2 from 3 until 7.5, 3 from 6 until 7.5."""
    arm = Scripted(Stage(None, 0, epochs, trial=i) for i, epochs in enumerate((2, 4, 3, 1)))
    simulation, _ = simulated(arm, workers)
    assert (simulation.now, simulation.cost, simulation.epochs) == (time, 15.0, 10)
    assert arm.log == order
    assert max(arm.free) == workers and min(arm.free) >= 1


def test_scores_by_hand():
    """Classes of 30 and 10 training images. Robust 8 and 2 of 10: natural 0.65, worst 0.2; 6 and 5: 0.575 and 0.5; 4
    and 4 is dominated. Claimed: 0.65 * 0.2 + 0.575 * 0.3 = 0.3025. On test the first has (0.6, 0.3), the other (0.5,
    0.4): 0.6 * 0.3 + 0.5 * 0.1 = 0.23."""
    curve = curve_of((8, 2), (6, 5), (4, 4))
    model = Model(None, 12, curve)
    rows = front_rows([model])
    assert [row.point for row in rows] == [0, 1]
    assert [row.values for row in rows] == [pytest.approx([0.65, 0.2]), pytest.approx([0.575, 0.5])]
    assert volume([row.values for row in rows]) == pytest.approx(0.3025)
    one = line("home")
    values = {0: (0.6, 0.3), 1: (0.5, 0.4)}
    scored = []

    def on_test(row):
        scored.append(row.point)
        return dict(zip(("natural_robust_acc", "worst_class_robust_acc"), values[row.point]))

    arm = Scripted([Stage(one, 0, 1, trial=0), Stage(one, 1, 2, judge="auto", trial=1), Stage(one, 2, 3, trial=2)])
    simulation, trace = simulated(arm, 1, on_test, t1=curve)
    assert trace == [{"cost": 6.0, "time": 6.0, "held_out": 0.23, "claimed": 0.3025, "points": 2}]
    assert scored == [0, 1]  # not again while the front stays
    assert [(model.line, model.epoch) for model in simulation.models] == [(one, 2)]


def test_what_others_have_done_of_their_stages_is_spent():
    """Two workers: the model of the first stage is there at 6, when the other one has done 6 of its 9."""
    arm = Scripted([Stage(None, 0, 2, judge="auto", trial=0), Stage(None, 0, 6, trial=1)])
    simulation, trace = simulated(arm, 2, t0=curve_of((8, 2)))
    assert [(point["time"], point["cost"]) for point in trace] == [(6.0, 12.0)]
    assert (simulation.now, simulation.cost) == (9.0, 15.0)


def test_the_best_choice_is_made_on_test():
    """Classes of 30 and 10 training images. On test: natural 0.65 and worst 0.2, 0.575 and 0.5, 0.4 and 0.4; 0.75 and
    0.0. The third is dominated there, whatever an arm chose."""
    on_test = {1: curve_of((8, 2), (6, 5), (4, 4)), 2: curve_of((10, 0))}
    memo = SimpleNamespace(held_out=lambda line, epoch, kind: on_test[epoch])
    models = [Model(None, 1, curve_of((0, 0), (0, 0), (9, 9))), Model(None, 2, curve_of((10, 0)))]
    best = live.best_of(memo, models)
    assert best == [pytest.approx([0.65, 0.2]), pytest.approx([0.575, 0.5]), pytest.approx([0.75, 0.0])]


# ---- arms ------------------------------------------------------------------------------------------------------------


class World:
    """Results without training: the worst class grows with the epoch, the average with the trial's number. The trials
    in ``fails`` diverge where they train on their own after epoch 2, plain AT in the epoch ``stem_fails``."""

    def __init__(self, fails=(), stem_fails=None, at_chance=False):
        self.stages, self.fails, self.stem_fails, self.at_chance = [], fails, stem_fails, at_chance

    def run(self, stage):
        self.stages.append(stage)
        own = stage.line.config.method != "at"
        if (own and stage.trial in self.fails and stage.until > 2) or (not own and stage.until == self.stem_fails):
            return Result((), failed="nan")
        quality = stage.trial % 5
        metrics = [
            {"epoch": e, "natural_robust_acc": 0.1 * quality + 0.01 * e, "worst_class_robust_acc": 0.02 * e}
            for e in range(stage.since + 1, stage.until + 1)
        ]
        if self.at_chance:
            metrics = [{**m, "clean_acc": 0.5, "clean_acc/a": 1.0, "clean_acc/b": 0.0} for m in metrics]
        points = [(quality, 3), (quality, 4)] if stage.judge != "none" else [(quality, 3)]
        return Result(tuple(metrics), curve_of(*points) if stage.judge else None)


def played(name, offsets="auto", problem="srat", workers=4, trials=6, **world):
    """An arm, its stages in the order in which they ended, the simulation; ``simulation.begun``: (time, stage) in the
    order in which they began."""
    job = Job(PROBLEMS[problem], seed=3, workers=workers, trials=trials, offsets=offsets)
    arm, world = ARMS[name](job), World(**world)
    on_test = lambda row: dict(zip(("natural_robust_acc", "worst_class_robust_acc"), row.values))  # noqa: E731
    simulation = Simulation(arm, world.run, on_test, COSTS, workers)
    simulation.begun, asked = [], arm.next

    def noted(free):
        stage = asked(free)
        if stage:
            simulation.begun.append((simulation.now, stage))
        return stage

    arm.next = noted
    simulation.run()
    return arm, world.stages, simulation


def by_trial(stages):
    found = {}
    for stage in stages:
        found.setdefault(stage.trial, []).append(stage)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARMS if name != "primo"])
@pytest.mark.parametrize("problem", ["srat", "done", "mail-balanced", "fairfront"])
def test_every_arm_keeps_its_promises(name, problem):
    """Stages of a line follow one another, whosever they are, and a fork begins when what it leaves is there; nothing
    is judged over offsets that were not asked for, seeds are the job's, and the same job gives the same stages."""
    offsets = ARMS[name].offsets[0]
    arm, stages, simulation = played(name, offsets, problem)
    lines = {id(stage.line): stage.line for stage in stages}
    for key, line in lines.items():
        its = [stage for stage in stages if id(stage.line) == key]
        assert its[0].since == line.first and all(a.until == b.since for a, b in zip(its, its[1:]))
        assert its[-1].until <= line.last <= 12 and {stage.judge for stage in its} <= {None, offsets}
        assert all(stage.judge is None for stage in its[:-1])
        config = line.config
        assert config.data_seed == 3 and config.max_epochs == 12 and config.folder is None
        assert config.imbalance == PROBLEMS[problem].imbalance
        assert config.seed == 3 or name == "plain" or "stems" in name
        assert config.method in (PROBLEMS[problem].method, "at", "trades", "mart")
        if problem == "mail-balanced" and config.method == "mail":
            assert config.params["form"] == "trades"
        if line.stem:
            assert (line.stem.val_losses, line.stem.config.method) == live_stages.stem_kind(config)
            assert line.stem.config.training == config.stem == stem_config(config).training
            assert (line.stem.config.params, line.stem.first) == ({}, 0)
            (began,) = [t for t, stage in simulation.begun if stage is its[0]]
            last = next(s for s in stages if s.line is line.stem and s.until == config.fork)
            (there,) = [t + COSTS.of(s) for t, s in simulation.begun if s is last]
            assert began >= there and last.keep
    assert arm.front() and simulation.trace
    assert arm.claim() > 0 or name == "no search"  # the first curve that is told here has a worst class of 0
    again = played(name, offsets, problem)[1]
    assert [(s.trial, s.since, s.until, s.line.config) for s in again] == [
        (s.trial, s.since, s.until, s.line.config) for s in stages
    ]


def test_plain_has_no_search():
    _, stages, _ = played("plain")  # of 6 trials
    assert [s.line.config.method for s in stages] == ["at"] * 3 and not any(s.watched for s in stages)
    assert [s.line.config.seed for s in sorted(stages, key=lambda s: s.trial)] == [3, 4, 5]
    (once,) = played("no search")[1]
    assert once.line.config == stages[0].line.config and once.judge == "auto"


def test_random_trains_four_times_the_trials_in_full():
    _, stages, simulation = played("random")
    assert len(stages) == 24 and {(s.since, s.until, s.judge) for s in stages} == {(0, 12, "auto")}
    assert stages[0].line.config.params == Job(PROBLEMS["srat"], 3).spec().search_space().default()
    assert len({json.dumps(s.line.config.params) for s in stages}) == 24
    assert simulation.cost == 24 * (12 + 3)


def test_random_with_a_stem_trains_the_first_of_the_same_settings_for_less():
    """6 of 24: the default setting alone, 12 epochs, the others from their start on; the longest stem once; 3 to judge
    each."""
    alone, shared = played("random"), played("random+stem")
    ends = [stage for stage in shared[1] if stage.judge]
    params = [[s.line.config.params for s in sorted(run, key=lambda s: s.trial)] for run in (alone[1], ends)]
    assert params[0][:6] == params[1]
    forks = {s.trial: s.line.config.fork for s in ends}
    assert forks.pop(0) == 0 and all(forks[t] == round(12 * params[0][t]["start"]) for t in forks)
    epochs = 12 + max(forks.values()) + sum(12 - fork for fork in forks.values())
    assert shared[2].epochs == epochs < 6 * 12 and shared[2].cost == epochs + 6 * 3
    assert not any(stage.watched for stage in shared[1])


def test_stock_stops_and_judges_those_it_stopped():
    """ASHA's first rung is epoch 1 and it keeps the best quarter; trials of quality 0 and 1 cannot all go on."""
    arm, stages, _ = played("stock")
    ends = {trial: its[-1] for trial, its in by_trial(stages).items()}
    assert len(ends) == 6 and all(stage.judge == "auto" for stage in ends.values())
    stopped = [stage for stage in ends.values() if stage.until < 12]
    assert stopped and all(stage.since == stage.until for stage in stopped)
    assert any(stage.until == 12 for stage in ends.values())
    assert len(arm.models) == 6
    assert len(arm.search._ot_study.trials) == 6 and all(t.state.is_finished() for t in arm.search._ot_study.trials)


def begins(simulation, own):
    """When each trial began a part of its own, in the order in which they did."""
    found = {}
    for time_, stage in simulation.begun:
        if stage.line.config.method != "at" and own(stage):
            found.setdefault(stage.trial, time_)
    return found


def test_ours_with_its_no_search():
    """The same stages, and the model of plain AT counts, be it the only one there is."""
    alone, _, simulation = played("ours")
    arm, _, both = played("ours + no search")
    assert [(s.trial, s.until) for _, s in both.begun] == [(s.trial, s.until) for _, s in simulation.begun]
    models = {row.model.line.config.method for row in arm.front()}
    assert arm.claim() >= volume([row.values for row in alone.front()]) and "srat" in models
    for record in arm.history.trials.values():
        record.curve = None
    assert {row.model.line.config.method for row in arm.front()} == {"at"}


def test_ours_on_four_stems():
    """Seed 3: proposals 1, 2, 3 have the stems of seeds 4, 5, 6; 4 and 5 those of 3 and 4. Each epoch of a stem is
    trained once, to the latest fork of its trials."""
    arm, stages, simulation = played("ours on four stems")
    seeds = {number: run.line.config.seed for number, run in arm.runs.items()}
    assert seeds == {0: 3, -1: 3, 1: 4, 2: 5, 3: 6, 4: 3, 5: 4}
    assert {number: arm.history.record(number).seed for number in seeds} == seeds
    assert all(run.stem.line.config.seed == seeds[n] for n, run in arm.runs.items() if run.fork)
    trained = sorted((s.line.config.seed, s.until) for s in stages if s.line.config.method == "at" and s.until <= 8)
    assert trained == [(seed, epoch) for seed in (3, 4, 5, 6) for epoch in range(1, 9)]
    assert simulation.cost == pytest.approx(sum(COSTS.of(stage) for stage in stages))


def test_plain_at_as_a_method_on_four_stems():
    """Of six trials plain AT's share of three is trained under the seeds 3, 4 and 5, from their stems."""
    arm, stages, _ = played("ours with plain AT on four stems")
    plain = [arm.runs[n] for n in arm.history.numbers["at"]]
    assert [(run.line.config.seed, run.fork) for run in plain] == [(3, 11), (4, 11), (5, 11)]
    assert all(run.line.stem is run.stem.line for run in plain) and len(arm.history.numbers["srat"]) == 3
    assert {run.at for run in plain} == {12} and all(t.full for t in arm.history.trials.values() if t.method == "at")


def test_ours_by_hand(monkeypatch):
    """5 previews and the default setting, of 4 workers; an epoch takes 1.5, a preview 2 * 1.5 + 3, a last epoch 4.5.

    Trial 0 trains alone until 21, the reference leaves the stem of 11 epochs at 16.5 and ends at 21 too. Until the stem
    has 8 epochs, at 12, two previews wait. Then: 1 and 2 until 18, 3 and 4 until 24, 5 from 21 (trial 0's worker) until
    27. The reference's worker has nothing to do: of two previews none is promoted. Of three, the best one is (number 3,
    whose average is highest), of four 4, and of five 4 and 3.
    """
    told, tell = [], AskTell.tell
    monkeypatch.setattr(AskTell, "tell", lambda self, number: [told.append(number), tell(self, number)])
    arm, stages, simulation = played("ours")
    trials = arm.history.trials
    assert begins(simulation, lambda s: s.line.config.cool_down) == {1: 12, 2: 12, 3: 18, 4: 18, 5: 21}
    assert begins(simulation, lambda s: not s.line.config.cool_down) == {0: 0, 3: 24, 4: 24}
    assert {t: record.state for t, record in trials.items()} == {
        **dict.fromkeys((0, 3, 4), "finished"),
        **dict.fromkeys((1, 2, 5), "previewed"),
    }
    for stage in (s for s in stages if s.line.config.cool_down):
        config = stage.line.config
        assert (stage.since, stage.until, stage.judge, config.fork) == (8, 10, "auto", 8)
        proposed = trials[stage.trial].params
        assert config.params == {**proposed, "start": min(proposed["start"], 8 / 12)}
        assert trials[stage.trial].preview.epochs == 2 and trials[stage.trial].preview.metrics["epoch"] == 10
        assert len(trials[stage.trial].preview.curve.points) == 2
    assert all(trials[trial].epochs == [] for trial in (1, 2, 5))
    assert sorted(told) == [-1, 0, 1, 2, 3, 3, 4, 4, 5]
    forks = {t: round(12 * trials[t].params["start"]) for t in (3, 4)}
    for trial, fork in forks.items():
        record, last = trials[trial], by_trial(stages)[trial][-1]
        assert record.full and record.stem_epochs == fork == last.line.first
        assert last.line.config.params == record.params
        assert [m.get("stem", False) for m in record.epochs] == [True] * fork + [False] * (12 - fork)
        assert [m["epoch"] for m in record.epochs] == list(range(1, 13))
    reference = arm.history.references[-1]
    assert list(arm.history.references) == [-1] and reference.state == "finished" and reference.stem_epochs == 11
    assert len({id(stage.line) for stage in stages if stage.line.config.method == "at"}) == 1  # the stem is it
    assert trials[0].stem_epochs == 0 and len(trials[0].epochs) == 12
    own = sum(12 - fork for fork in forks.values())
    assert simulation.epochs == 11 + 12 + 1 + 5 * 2 + own == trained(arm.spec, arm.history).epochs
    assert sum(record.stem_trained for record in arm.history.everything()) == 11
    assert simulation.cost == 1.5 * simulation.epochs + 3 * (1 + 1 + 5 + 2)
    assert {row.model.line.config.fork for row in arm.front()} <= {0, *forks.values()}
    assert all(row.model.epoch == 12 and row.model.line.config.method == "srat" for row in arm.front())


def test_ours_in_full_and_at_random():
    arm, stages, _ = played("ours in full")
    assert {record.state for record in arm.history.trials.values()} == {"finished"}
    assert not any(stage.line.config.cool_down for stage in stages)
    drawn, by_model = played("ours at random", trials=12)[0], played("ours", trials=12)[0]
    assert any(record.state == "previewed" for record in drawn.history.trials.values())
    params = [[record.params for record in arm.history.trials.values()] for arm in (drawn, by_model)]
    assert params[0] != params[1] and params[0][0] == params[1][0]


def test_ours_goes_on_after_a_failure():
    arm, stages, _ = played("ours", fails=(2,))
    assert arm.history.trials[2].state == "failed" and len(arm.history.trials) == 6
    assert len(by_trial(stages)[2]) == 1 + sum(s.line.config.method == "at" for s in by_trial(stages)[2])


def test_ours_ends_where_the_stem_diverges():
    """Who needs it fails, one after the other; the default setting trains alone."""
    arm, stages, _ = played("ours", stem_fails=5)
    assert {t: r.state for t, r in arm.history.trials.items()} == {
        0: "finished",
        **dict.fromkeys(range(1, 6), "failed"),
    }
    assert arm.history.references[-1].state == "failed" and max(s.until for s in stages if s.trial) == 5


def test_ours_stops_who_stays_at_chance():
    """Two epochs of its own at 1 / 2 of two classes; the default setting and the reference go on."""
    arm, _, _ = played("ours in full", at_chance=True)
    for trial, record in arm.history.trials.items():
        fork = round(12 * record.params["start"]) if trial else 0
        lives = trial == 0 or fork + 2 >= 12
        assert (record.state, len(record.epochs)) == (("finished", 12) if lives else ("stopped", fork + 2))
    assert {record.state for record in arm.history.trials.values()} == {"finished", "stopped"}
    assert arm.history.references[-1].state == "finished"


@pytest.mark.long
@pytest.mark.slow
def test_ours_does_what_a_search_does(tmp_path):
    """One worker each, so that all is known in the same order: the same events, to the last bit of the metrics."""
    problem = replace(PROBLEMS["srat"], set={"passes": 1, "attack_steps": 2, "eval_attack": 2}, epochs=5)
    arm = ARMS["ours"](Job(problem, 1, workers=1, trials=8, home=str(tmp_path / "memo" / "home")))
    ours, append = [], arm.history.append

    def noted(event, trial, **fields):
        ours.append({"event": event, "trial": trial, **json.loads(json.dumps(fields))})
        append(event, trial, **fields)

    arm.history.append = noted
    memo = live_problem.memo_of(tmp_path / "memo")
    Simulation(arm, memo.run, lambda row: dict(zip(OBJECTIVES, row.values)), COSTS, 1).run()
    options = [word for key, value in problem.set.items() for word in ("--set", f"{key}={value}")]
    asked = ["--method", "srat", "--trials", 8, "--max-epochs", 5, "--seed", 1, "--max-concurrent", 1, "--name", "s"]
    asked += ["--scheduler", "preview"]
    done = tuner("search", *asked, *options, "--home", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "home" / "searches" / "s" / "history.jsonl").read_text().splitlines()

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in ("time", "train_s", "eval_s", "reason")}
        return [plain(v) for v in value] if isinstance(value, list) else value

    theirs = [plain(json.loads(line)) for line in log]
    for event in theirs:
        if event["event"] in ("stem", "fork"):
            del event["stem"]  # its name
    assert [plain(event) for event in ours] == theirs
    assert {"preview", "promote", "stem", "fork"} <= {event["event"] for event in ours}


STAND_IN = """
import json, sys
problem = json.loads(sys.stdin.readline())
json.dump(problem, open(sys.argv[0] + ".problem", "w"))
asked = [("a", None, 4), ("b", None, 4), ("c", "a", 12), ("d", None, 12), ("e", "b", 12), ("f", "d", 12)] * 9
told = open(sys.argv[0] + ".told", "w")
for line in sys.stdin:
    said, answer = json.loads(line), {}
    if "ask" in said:
        number, of, epochs = asked.pop(0)
        config = {n: "1" if "choices" in p else p["high"] for n, p in problem["space"].items()}
        answer = {"id": number, "of": of, "config": config, "epochs": epochs}
    else:
        print(said["tell"], said["values"], file=told, flush=True)
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.process
def test_primo_goes_on_where_its_library_says(tmp_path, monkeypatch):
    """The program in another environment is played by one that asks for trials a, b, then a again, longer, ... as long
    as fewer than 2 trials of 12 epochs have been handed out: 4 + 4 + 8 + 12."""
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("NEPS_PYTHON", str(tmp_path / "python"))
    job = Job(PROBLEMS["mail"], seed=3, workers=1, trials=2)
    arm = ARMS["primo"](job)
    world = World(fails=(3,))
    simulation = Simulation(arm, world.run, lambda row: dict(zip(OBJECTIVES, row.values)), COSTS, 1)
    simulation.run()
    assert arm._pipe.poll() == 0
    assert [(s.trial, s.since, s.until) for s in world.stages] == [(0, 0, 4), (1, 0, 4), (2, 4, 12), (3, 0, 12)]
    assert world.stages[0].line is world.stages[2].line is not world.stages[1].line
    problem = json.loads((tmp_path / "stand_in.py.problem").read_text())
    assert problem["epochs"] == 12 and problem["seed"] == 3
    assert problem["space"]["slope"] == {
        "low": 1.0,
        "high": 20.0,
        "log": True,
        "whole": False,
        "prior": 2.0,
    }  # of trades
    assert "form" not in problem["space"]
    params = world.stages[0].line.config.params
    assert (params["form"], params["slope"], params["bias"], params["beta"]) == ("trades", 20.0, 0.5, 10.0)
    told = (tmp_path / "stand_in.py.told").read_text().splitlines()
    assert [line.split()[0] for line in told] == ["a", "b", "c", "d"] and told[3] == "d None"
    assert told[0] == "a [0.075, 0.0]"  # classes of 30 and 10 training images: 0 and 3 of 10 robust
    assert {row.model.epoch for row in arm.front()} <= {4, 12}


# ---- results ---------------------------------------------------------------------------------------------------------


def test_results_go_on_where_they_stopped(tmp_path, monkeypatch):
    """Half a line is no result and spoils no other; a run that is there is not done again."""
    results, done = tmp_path / "live.jsonl", []
    monkeypatch.setattr(live, "costs_of", lambda name, job: COSTS)

    class Pool:
        def __init__(self, *_, **__):
            pass

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

        def submit(self, work, group, path):
            work(group, path)
            return SimpleNamespace(result=lambda: None)

    def one(run):
        done.append((run.arm, run.job.seed, run.job.offsets))
        return {**run.key, "cost": 1.0, "trace": [], "really": {}}

    monkeypatch.setattr(live, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(live, "as_completed", list)
    monkeypatch.setattr(live, "one", one)
    asked = f"--problems srat --arms plain,ours --seeds 0-1 --workers 4 --results {results} --memo {tmp_path}".split()
    live.search(live.parser().parse_args(asked))
    assert len(done) == 8 and len(live.stored(results)) == 8
    text = results.read_text()
    os.truncate(results, len(text) - 20)
    assert len(live.stored(results)) == 7
    done.clear()
    live.search(live.parser().parse_args(asked))
    assert done == [("ours", 1, "none")] and len(live.stored(results)) == 8
    live.search(
        live.parser().parse_args([*asked[:-6], *asked[-6:], "--arms", "ours", "--as", "before", "--seeds", "0"])
    )
    assert {line["arm"] for line in live.stored(results)} == {"plain", "ours", "before"}


def test_settings_are_part_of_a_name(tmp_path, monkeypatch):
    asked = live.parser().parse_args(["--set", "passes=2", "--epochs", "4", "--memo", str(tmp_path)])
    job = live.job_of(asked, "srat")
    assert job.problem.set == {"passes": 2} and job.spec().training().passes == 2 and job.spec().max_epochs == 4
    assert live_problem.costs_key("srat", job) == "srat:4:passes=2"
    monkeypatch.setattr(live_problem, "COSTS", tmp_path / "costs.json")
    with pytest.raises(SystemExit, match="srat:4:passes=2 were not measured"):
        live_problem.costs_of("srat", job)
    (tmp_path / "costs.json").write_text(json.dumps({"srat:4:passes=2": {**asdict(COSTS), "epoch_s": 1}}))
    assert live_problem.costs_of("srat", job) == COSTS
    with pytest.raises(SystemExit, match="--data"):
        live.job_of(asked, "srat-cifar10")


# ---- the report ------------------------------------------------------------------------------------------------------


def result(arm, seed, trace, *, offsets="auto", cost=None, claim=0.3, time=10.0, problem="srat", workers=4):
    points = [{"cost": c, "time": c, "held_out": v, "claimed": v, "points": 1} for c, v in trace]
    about = {"problem": problem, "arm": arm, "seed": seed, "workers": workers, "offsets": offsets}
    counts = {"trials": 16, "epochs": 12, "set": {}, "cost": cost or trace[-1][0], "time": time, "epochs_trained": 9}
    return {
        **about,
        **counts,
        "claim": claim,
        "trace": points,
        "front": [{}],
        "costs": asdict(COSTS),
        "torch": "2",
        "device": "AVX2",
    }


def test_ratios_by_hand():
    """Ours reaches what stock ends with after 1/2 and 1/8 of stock's cost: 1/4 in geometric mean. The logarithms differ
    by log 4, so their standard deviation is log 4 / sqrt 2."""
    stock = {s: result("stock", s, [(40, 0.1), (80, 0.2)], offsets="none", time=20.0) for s in (0, 1)}
    ours = {
        0: result("ours", 0, [(20, 0.1), (40, 0.25), (90, 0.3)]),
        1: result("ours", 1, [(10, 0.2), (90, 0.4)]),
        2: result("ours", 2, [(10, 0.2)]),  # stock has no such seed
    }
    plain = {s: result("plain", s, [(12, 0.1), (24, 0.2)]) for s in (0, 1)}
    once = {s: result("no search", s, [(13, 0.1)]) for s in (0, 1)}
    stem = {s: result("random+stem", s, [(30, 0.1), (60, 0.5)]) for s in (0, 1)}
    found = {"stock, no offsets": stock, "ours": ours, "plain": plain, "no search": once, "random+stem": stem}
    ratios = {goal.text: goal.of(found, "ours") for goal in live_report.GOALS}
    cost = ratios["cost to reach what stock ends with, over stock's"]
    assert cost.value == pytest.approx(1 / 4) and cost.seeds == 2 and cost.bound == ""
    assert cost.interval == (pytest.approx(1 / 8), pytest.approx(1 / 2))
    assert cost.spread == pytest.approx(math.log(4) / math.sqrt(2))
    assert cost.seeds_needed == math.ceil((2.801585 * 0.980258 / math.log(1.15)) ** 2) == 387
    # at stock's 80: 0.25 and 0.2, mean 0.225, over 0.2; over no search's 0.1
    assert ratios["hypervolume at stock's cost, over stock's"].value == pytest.approx(1.125)
    assert ratios["hypervolume at stock's cost, over no search (one training)"].value == pytest.approx(2.25)
    assert ratios["hypervolume at stock's cost, over no search repeated for as much"].value == pytest.approx(1.125)
    # at their ends 0.3 and 0.4, over 0.1 and 0.2
    assert ratios["hypervolume at its end, over no search (one training)"].value == pytest.approx(3.5)
    assert ratios["hypervolume at its end, over no search repeated (plain)"].value == pytest.approx(1.75)
    # at 60 as at 80, over 0.5
    assert ratios["hypervolume for what random+stem spends, over its own"].value == pytest.approx(0.45)
    # claimed 0.3 over 0.3, 0.4 and 0.2: (1 * 3/4 * 3/2) ** (1/3)
    assert ratios["hypervolume claimed, over held out"].value == pytest.approx(1.125 ** (1 / 3))
    assert ratios["simulated time to the end, over stock's"].value == pytest.approx(0.5)
    # at 40 and 10, of stock's 20
    assert ratios["simulated time to reach what stock ends with, over stock's"].value == pytest.approx(1)
    assert ratios["cost to reach what random ends with, over random's"] is None


def test_who_never_gets_there_is_a_bound():
    """Ours ends at 50 below the level that stock reaches at 80; a goal is never said to be reached on a lower bound."""
    goal, level = live_report.GOALS[0], [(80, 0.2)]
    stock = {s: result("stock", s, level, offsets="none") for s in range(6)}
    late = {s: result("ours", s, [(8, 0.2)] if s else [(10, 0.1)], cost=20) for s in range(6)}
    ratio = goal.of({"stock, no offsets": stock, "ours": late}, "ours")
    assert ratio.value == pytest.approx((0.25 * 0.1**5) ** (1 / 6)) and str(ratio).startswith("≥0.12 [0.10, 0.")
    assert ratio.verdict(0.9, below=True) == "open" and ratio.verdict(0.01, below=True) == "missed"
    nobody = {s: result("ours", s, [(10, 0.0)]) for s in range(6)}
    assert goal.of({"stock, no offsets": nobody, "ours": nobody}, "ours") is None  # a level of 0 says nothing
    soon = {s: result("ours", s, [(8, 0.2)]) for s in range(6)}
    exact = goal.of({"stock, no offsets": stock, "ours": soon}, "ours")
    assert exact.value == pytest.approx(0.1) and exact.seeds_needed == 2 and exact.verdict(0.2, True) == "reached"
    assert exact.verdict(0.05, True) == "missed" and exact.verdict(0.05, False) == "reached"
    few = goal.of({"stock, no offsets": {0: stock[0], 1: stock[1]}, "ours": soon}, "ours")
    assert few.verdict(0.2, True) == "open"  # two seeds decide nothing


def test_ratio_of_means_with_zeros():
    ratio = live_report.of_means([(0.0, 0.1), (0.4, 0.1)])
    assert ratio.value == pytest.approx(2.0)
    # influences 0 / 0.2 - 1 and 0.4 / 0.2 - 1
    assert ratio.spread == pytest.approx(math.sqrt(2))
    assert live_report.of_means([(0.1, 0.0)]) is None and live_report.of_means([(0.0, 0.1)]).value == 0


def test_page(tmp_path, monkeypatch):
    monkeypatch.setattr(live_report, "PAGE", tmp_path / "live.md")
    with pytest.raises(SystemExit, match="no results"):
        live_report.write_page([])
    assert not live_report.PAGE.exists()
    runs = []
    for seed in range(5):
        for problem, cost in (("srat", 10), ("done", 30)):
            runs.append(result("random+stem", seed, [(20, 0.2)], problem=problem))
            runs.append(result("ours", seed, [(cost, 0.2)], problem=problem))
    runs[0]["device"] = "AVX512"
    live_report.write_page(runs)
    text = live_report.PAGE.read_text()
    assert "## srat, 16 trials x 12 epochs, 4 workers" in text
    assert "| 1.0 | AVX2: 4, AVX512: 1 |" in text
    goal = "| cost to reach what random+stem ends with, over its own | at most 1.1 | ours |"
    assert f"{goal} 0.50 [0.50, 0.50] | 5 | 2 | reached |" in text
    assert f"{goal} 1.50 [1.50, 1.50] | 5 | 2 | missed |" in text
    worst = text.partition("## The worst problem")[2]
    assert "| ours | done, 16 trials x 12 epochs, 4 workers | 1.50 [1.50, 1.50] | 5 | 2 | missed |" in worst
    assert "srat" not in worst


def test_no_choice_shows_more_than_the_best_on_test():
    """Both arms' models together have 0.6 * 0.2 + 0.4 * 0.1 = 0.16 on `test`, ours alone 0.12, stock's 0.12; they show
    0.1 and 0.08."""
    ours = {0: {**result("ours", 0, [(10, 0.1)]), "best": [[0.6, 0.2]]}, 1: result("ours", 1, [(10, 0.9)])}
    stock = {0: {**result("stock", 0, [(10, 0.08)]), "best": [[0.4, 0.3]]}}
    assert live_report.perfect([ours[0], stock[0]]) == pytest.approx(0.16)
    rows = live_report.bound_table({"ours": ours, "stock": stock})
    assert rows[-3:] == ["| ours | 0.120 | 1.20 | 0.160 | 1.60 |", "| stock | 0.120 | 1.50 | 0.160 | 2.00 |", ""]
    assert "1 seeds that all have" in rows[0] and live_report.bound_table({"ours": {1: ours[1]}}) == []


def test_nothing_is_published_without_results():
    """The page exists if and only if there are results."""
    assert live_report.PAGE.exists() == bool(live.stored(live.RESULTS))


def test_signs_are_the_ten_largest_classes_but_for_speed_limits(tmp_path):
    """Classes 9 to 19 have 30 to 20 training images and one track each: the smallest, 19, is left out."""
    sizes = {0: 50, **{c: 16 for c in range(1, 9)}, **{c: 39 - c for c in range(9, 20)}}
    train = [
        {"image": {"bytes": b"", "path": f"{c:05d}/00000_{k:05d}.ppm"}, "label": c}
        for c, n in sizes.items()
        for k in range(n)
    ]
    test = [{"image": {"bytes": b"", "path": f"{k}.ppm"}, "label": c} for c in sizes for k in range(4)]
    write_table(train, tmp_path / "all/train.parquet")
    write_table(test, tmp_path / "all/test.parquet")
    assert signs(tmp_path / "all", tmp_path / "part", test=30) == f"parquet:{tmp_path / 'part'}"
    rows, tested = (pq.read_table(tmp_path / f"part/{name}.parquet").to_pylist() for name in ("train", "test"))
    assert {(row["image"]["path"][:5], row["label"]) for row in rows} == {(f"{c:05d}", c - 9) for c in range(9, 19)}
    assert {int(row["image"]["path"][-9:-4]) for row in rows} == {0, 8, 16, 24}
    assert [row["label"] for row in tested] == [label for label in range(10) for _ in range(3)]


def test_correlation_within_tracks_by_hand():
    """Two tracks of two frames in each of two classes. Alike: 1. Different: -1. In the third one frame is right: 0.125
    between tracks (0.25 over 4 - 2) and within them (0.5 over 8 - 4)."""
    labels, tracks = np.repeat([0, 1], 4), np.repeat([7, 3, 5, 9], 2)
    assert correlation(np.array([1, 1, 0, 0, 0, 0, 1, 1.0]), labels, tracks) == pytest.approx(1)
    assert correlation(np.array([1, 0, 1, 0, 0, 1, 1, 0.0]), labels, tracks) == pytest.approx(-1)
    assert correlation(np.array([1, 0, 0, 0, 0, 0, 0, 0.0]), labels, tracks) == pytest.approx(0)
