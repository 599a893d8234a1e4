"""The trunk: a trial that branched ends with the bits of one that trained alone, and no trunk is trained twice."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from search_spaces import METHODS, method_space
from search_spaces.param import params_of
from trainables import trunk
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.trunk import Branch, base_config, key_hash, open_branch, run_to_branch, trunk_key
from trainables.trunk_store import TrunkStore

EPOCHS = 6
# method, parameters, what its trunk trains, epochs of it
CASES = [
    ("gairat", {}, "at", 3),
    ("done", {"start": 0.5}, "at", 3),
    ("mail", {}, "at", 4),
    ("mail", {"form": "trades", "beta": 3.0}, "trades", 4),
    ("mail", {"form": "mart", "beta": 3.0}, "mart", 4),
    ("srat", {}, "srat", 5),
    ("srat", {"loss": "ldam", "start": 0.3}, "srat", 2),
    ("dafa", {}, "trades", 4),
    ("dafa", {"form": "at"}, "at", 4),
    ("cfa", {"start": 0.3}, "cfa", 2),
    ("cfa", {"start": 0.3, "average": "ema"}, "cfa", 2),
    ("cfa", {"start": 0.3, "form": "at", "threshold": 0.05}, "at", 2),
    ("faal", {"start": 0.6}, "at", 4),
    ("frl", {"mode": "both"}, "trades", 3),
    ("fairfront", {"class_weight": "hedge", "form": "trades"}, "trades", 3),
    ("fairfront", {"class_weight": "dual", "class_radius": "similarity"}, "at", 3),
    ("fairfront", {"class_radius": "accuracy", "separation": True}, "fairfront", 3),
    ("fairfront", {"form": "trades", "class_beta": True, "average": "fawa", "threshold": 0.05}, "fairfront", 3),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=3, eval_attack=3))
    home = str(tmp_path_factory.mktemp("home"))
    return TrialConfig("gairat", training=training, home=home, max_epochs=EPOCHS, trunk="auto")


@pytest.fixture
def fresh(config, tmp_path):
    """The same with no trunk yet."""
    return replace(config, storage=str(tmp_path / "storage"))


def state(trainer):
    """Every tensor a trial ends with: model, average, momentum, the method's own."""
    s = trainer.state_dict()
    momentum = [b for b in s["optimizer"]["momentum"] if b is not None]
    return [*s["model"].values(), *(s["average"] or {}).values(), *momentum, *s["method"].values()]


def same(a, b):
    pairs = list(zip(state(a), state(b), strict=True))
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in pairs)


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("train_s", "eval_s", "trunk")} for row in rows]


def finish(trainer):
    return [trainer.run_epoch() for _ in range(trainer.epoch, trainer.config.max_epochs)]


def trained_by(branch):
    """The epochs of the trunk that this branch had to train before it was ready."""
    return [branch.advance() for _ in range(99) if not branch.ready()]


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.slow  # together
@pytest.mark.parametrize("method, params, base, epochs", CASES, ids=lambda v: str(v).replace(" ", ""))
def test_branched_trial_is_bit_equal_to_one_alone(config, method, params, base, epochs):
    config = replace(config, method=method, params=params)
    alone, branched = Trainer(replace(config, trunk="none")), Trainer(config)
    assert base_config(branched).method == base and config.branch_epoch() == epochs
    whole = finish(alone)
    past = run_to_branch(branched)
    assert branched.epoch == epochs == len(past) and all(row["trunk"] is True for row in past)
    assert without_times(past + finish(branched)) == without_times(whole)
    assert same(alone, branched)


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"awp": 0.005}, {"class_weights": "inverse"}], ids=str)
def test_shared_options_are_part_of_the_trunk(fresh, changes):
    config = replace(fresh, training={**fresh.training, **changes})
    alone, branched = Trainer(replace(config, trunk="none")), Trainer(config)
    whole = finish(alone)
    assert without_times(run_to_branch(branched) + finish(branched)) == without_times(whole)
    assert same(alone, branched)


def test_every_method_has_a_row_or_acts_from_the_first_epoch(config):
    deferred = {name for name in METHODS if "start" in params_of(method_space(name).Params)}
    assert {case[0] for case in CASES} == deferred
    for name in set(METHODS) - deferred:
        assert replace(config, method=name, params={}).branch_epoch() == 0


def test_own_checkpoint_goes_before_the_trunk(config, tmp_path):
    alone, first = Trainer(replace(config, trunk="none")), Trainer(config)
    run_to_branch(first)
    save_checkpoint(tmp_path, first, first.run_epoch())
    second = Trainer(config)
    load_checkpoint(tmp_path, second)
    assert second.epoch == 4 and open_branch(second) is None
    finish(alone), finish(second)
    assert same(alone, second)


@pytest.mark.parametrize("method", ["cfol", "robal"])
def test_fine_tuning_starts_from_plain_at(fresh, method):
    """at:2 by hand: two epochs of AT (with the method's kind of classifier), whose last statistics the method sees."""
    config = replace(fresh, method=method, trunk="at:2")
    base = Trainer(replace(config, method="at", trunk="none"), head=Trainer(config).method.head)
    rows = [base.run_epoch(), base.run_epoch()]
    hand = Trainer(replace(config, trunk="none"))
    hand.method.end_epoch(base.stats)
    hand.load_state_dict({**base.state_dict(), "method": hand.method.state_dict()})
    tuned = Trainer(config)
    assert without_times(run_to_branch(tuned) + finish(tuned)) == without_times(rows + finish(hand))
    assert same(hand, tuned)


# ---- trained once ---------------------------------------------------------------------------------------------------


def test_trials_leave_one_trajectory_at_several_epochs(fresh):
    trained = []
    for start in (0.5, 0.3, 0.7, 0.5):
        trainer = Trainer(replace(fresh, params={"start": start}, trunk_from=2))
        branch = open_branch(trainer)
        trained.append(trained_by(branch))
        assert len(branch.leave()) == trainer.epoch == round(start * EPOCHS)
    assert trained == [[1, 2, 3], [], [4], []]
    assert branch.store.epochs() == {2, 3, 4}, "epochs before the earliest leave are not kept"


def test_an_earlier_leave_than_what_is_kept_is_trained_again(fresh):
    run_to_branch(Trainer(replace(fresh, params={"start": 0.7})))
    early = open_branch(Trainer(replace(fresh, params={"start": 0.3})))
    assert early.store.epochs() == {4} and trained_by(early) == [1, 2]
    later = open_branch(Trainer(replace(fresh, params={"start": 0.5})))
    assert trained_by(later) == [3], "goes on from the longest stored trajectory, not from the start"


def test_methods_share_a_trunk_and_whatever_changes_it_does_not(config, monkeypatch):
    def name(**changes):
        return key_hash(trunk_key(Trainer(replace(config, **changes))))

    mine = name()
    assert mine == name(params={"lam": 2.0, "start": 0.3}) == name(method="mail") == name(method="faal")
    assert mine == name(trial=7)
    training = config.training
    others = [
        name(seed=1),
        name(data_seed=1),
        name(val_fraction=0.3),
        name(val_per_class=50),
        name(max_epochs=7),
        name(imbalance="exp:5"),
        name(model="cnn:0.5"),
        name(method="srat"),
        name(training={**training, "lr": 0.07}),
        name(training={**training, "eval_attack": 5}),
        name(method="mail", params={"form": "trades"}),
        name(method="mail", params={"form": "trades", "beta": 2.0}),
        name(method="fairfront", params={"class_weight": "hedge"}),
    ]
    torch.set_num_threads(2)
    others.append(name())
    torch.set_num_threads(1)
    monkeypatch.setattr(trunk, "code_version", lambda base: "edited")
    others.append(name())
    assert len({mine, *others}) == len(others) + 1


def test_code_version_changes_with_the_source(monkeypatch, tmp_path):
    before = {base: trunk.code_version(base) for base in ("at", "srat", "fairfront")}
    assert len(set(before.values())) == 3
    import shutil

    shutil.copytree(trunk.PACKAGE, tmp_path / "trainables", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(trunk, "PACKAGE", tmp_path / "trainables")
    trunk.code_version.cache_clear()
    assert trunk.code_version("at") == before["at"]
    for file, changed in (("methods/srat.py", {"srat", "fairfront"}), ("models/backbones.py", set(before))):
        trunk.code_version.cache_clear()
        now = {base: trunk.code_version(base) for base in before}
        with open(tmp_path / "trainables" / file, "a") as source:
            source.write("# edited\n")
        trunk.code_version.cache_clear()
        assert {base for base in before if trunk.code_version(base) != now[base]} == changed
    trunk.code_version.cache_clear()


def test_every_file_counts_but_those_named():
    """And the names are of files that exist, so a renamed file cannot go unnoticed."""
    there = {f.relative_to(trunk.PACKAGE).as_posix() for f in trunk.PACKAGE.rglob("*.py")}
    counted = {f.relative_to(trunk.PACKAGE).as_posix() for f in trunk.sources("trades")}
    methods = {name for name in there if name.startswith("methods/")}
    assert trunk.APART <= there
    assert counted == there - trunk.APART - methods | {"methods/__init__.py", "methods/trades.py"}
    assert {"loop.py", "attack.py", "attack_copy.py", "cuda_graph.py", "data/store.py", "models/build.py"} <= counted


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:5000] + b"x" + data[5001:], lambda data: b""]
)
def test_damaged_file_is_trained_again(fresh, damage):
    whole = Trainer(fresh)
    run_to_branch(whole)
    trainer = Trainer(fresh)
    branch = open_branch(trainer)
    file = Path(branch.store.files.root) / "epoch-0003.pt"
    file.write_bytes(damage(file.read_bytes()))
    assert branch.ready() and branch.leave() is None and not branch.ready()
    assert same(trainer, Trainer(fresh)), "a refused file leaves no trace in the trial"
    run_to_branch(trainer)
    assert same(whole, trainer)


def test_damaged_earlier_file_of_an_averaging_method_is_trained_again(fresh):
    config = replace(fresh, method="cfa", params={"start": 0.3})
    whole, trainer = Trainer(config), Trainer(config)
    run_to_branch(whole)
    branch = open_branch(trainer)
    (Path(branch.store.files.root) / "epoch-0001.pt").write_bytes(b"x")
    assert branch.ready() and branch.leave() is None and trained_by(branch) == [1]
    assert same(trainer, Trainer(config)) and branch.leave() and same(whole, trainer)


def test_trunks_of_another_code_version_are_left_alone_and_counted(config, tmp_path, monkeypatch):
    config = replace(config, storage=str(tmp_path))
    run_to_branch(Trainer(config))
    assert open_branch(Trainer(config)).outdated == 0
    monkeypatch.setattr("trainables.trunk.code_version", lambda base: "another")
    branch = open_branch(Trainer(config))
    assert branch.outdated == 1 and not branch.ready()
    assert open_branch(Trainer(replace(config, seed=5))).outdated == 0  # that one would not fit anyway


def test_storage_by_url(config, tmp_path):
    config = replace(config, storage=f"file://{tmp_path}")
    first, second = Trainer(config), open_branch(Trainer(config))
    run_to_branch(first)
    assert trained_by(second) == [] and second.leave()
    assert same(first, second.trainer)


def test_storage_that_nothing_opens(config):
    with pytest.raises(ValueError, match="gopher://x"):
        TrunkStore(config.home, "gopher://x", "k")


# ---- several processes ----------------------------------------------------------------------------------------------

CHILD = """
import sys, time, torch
from trainables.config import TrialConfig
from trainables.loop import Trainer
from trainables.trunk import open_branch
torch.set_num_threads(1)
branch = open_branch(Trainer(TrialConfig(**{config!r})))
run_epoch = Trainer.run_epoch
def slowly(trainer):
    if {hang} and trainer.epoch == 1:
        print("holding", flush=True)
        time.sleep(600)
    time.sleep(0.3)
    return run_epoch(trainer)
Trainer.run_epoch = slowly
print("up", flush=True)
sys.stdin.readline()
trained = []
while not branch.ready():
    trained.append(branch.advance())
print([e for e in trained if e], flush=True)
"""


def child(config, hang=False):
    code = CHILD.format(config=config.to_dict(), hang=hang)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_train_a_missing_trunk_once(fresh):
    both = [child(fresh), child(fresh)]
    for process in both:
        go(process)
    trained = [eval(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(trained[0] + trained[1]) == [1, 2, 3]


def test_killed_holder_lets_the_other_go_on(fresh):
    holder, other = child(fresh, hang=True), child(fresh)
    go(holder)
    assert holder.stdout.readline() == "holding\n"
    go(other)
    time.sleep(1)
    assert other.poll() is None, "it waits while the holder lives"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    begin = time.monotonic()
    assert eval(other.communicate(timeout=60)[0]) == [2, 3]
    assert time.monotonic() - begin < 20
    alone, after = Trainer(replace(fresh, trunk="none")), Trainer(fresh)
    run_to_branch(after), finish(after), finish(alone)
    assert same(alone, after)


def test_waiting_gives_the_worker_back_after_a_moment(fresh):
    branch = open_branch(Trainer(fresh))
    with branch.store.lock() as mine:
        assert mine
        begin = time.monotonic()
        assert Branch(Trainer(fresh)).advance(wait_s=0.5) is None
        assert 0.4 < time.monotonic() - begin < 5
