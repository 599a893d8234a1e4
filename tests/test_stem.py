"""The stem: what forks from it goes on with the bits of plain AT trained in the same process, and none is trained
twice."""

import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from search_spaces import METHODS, method_space
from search_spaces.param import params_of
from trainables import stem
from trainables.averages import WeightAverage
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.stem import Fork, key_hash, open_fork, run_to_fork, stem_key
from trainables.stem_store import StemStore

EPOCHS, FORK = 4, 2
# Beside every method's default setting: forms, averages, and what begins with the statistics of an epoch.
VARIANTS = [
    ("gairat", {"func": "sigmoid", "schedule": "linear"}),
    ("done", {"normaliser": "running", "schedule": "decay"}),
    ("mail", {"form": "mart"}),
    ("srat", {"loss": "ldam"}),
    ("srat", {"form": "trades", "loss": "focal"}),
    ("done", {"form": "trades", "level": "class"}),
    ("dafa", {"form": "at"}),
    ("cfa", {"form": "at", "average": "ema"}),
    ("frl", {"mode": "both"}),
    ("fairfront", {"class_weight": "hedge", "form": "trades"}),
    ("fairfront", {"class_weight": "dual", "class_radius": "similarity"}),
    ("fairfront", {"form": "trades", "class_beta": True, "average": "fawa", "threshold": 0.05, "separation": True}),
]
APART = {"robal", "wat"}  # another kind of classifier; losses of the judged images, for which all of them are attacked


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Gairat, which acts from the fork."""
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    home = str(tmp_path_factory.mktemp("home"))
    whole = TrialConfig("", training=training, stem=training, home=home, max_epochs=EPOCHS, fork=FORK)
    return of("gairat", replace(whole, imbalance="exp:40", val_per_class=20))  # half as many images


@pytest.fixture
def fresh(config, tmp_path):
    """The same with no stem yet."""
    return replace(config, storage=str(tmp_path / "storage"))


def of(method, config, **params):
    """A trial of this method, which acts from the fork wherever it has a ``start``."""
    start = params_of(method_space(method).Params).get("start")
    begins = {"start": min(FORK / EPOCHS, start.range.high)} if start else {}
    return replace(config, method=method, params={**begins, **params})


def alone(config):
    """The plain base of the method's form with the stem's settings, all of it in this process."""
    form = Trainer(config).method.form
    return replace(config, method=form, params={}, training=config.stem, fork=0, stem={})


def state(trainer):
    """Every tensor a trial ends with: model, average, momentum, the method's own."""
    s = trainer.state_dict()
    momentum = [b for b in s["optimizer"]["momentum"] if b is not None]
    return [*s["model"].values(), *(s["average"] or {}).values(), *momentum, *s["method"].values()]


def same(a, b):
    pairs = list(zip(state(a), state(b), strict=True))
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in pairs)


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("train_s", "eval_s", "stem")} for row in rows]


def finish(trainer):
    return [trainer.run_epoch() for _ in range(trainer.epoch, trainer.config.last_epoch)]


def by_hand(config):
    """(trial, rows): plain AT up to the fork, whose weights, momentum and last statistics the trial then has."""
    trial = Trainer(config)
    plain = Trainer(alone(config), head=trial.method.head)
    plain.method.needs_val_losses = trial.method.needs_val_losses
    rows = [plain.run_epoch() for _ in range(config.fork)]
    trial.method.end_epoch(plain.stats)
    trial.model.load_state_dict(plain.model.state_dict())
    trial.optimizer.load_state_dict(plain.optimizer.state_dict())
    trial.epoch = plain.epoch
    if trial.training.ema:
        trial.average = plain.average or WeightAverage(trial.model)
    return trial, rows


def trained_by(fork):
    """The epochs of the stem that this trial had to train before it was ready."""
    return [fork.advance() for _ in range(99) if not fork.ready()]


def name(config):
    return Fork(Trainer(config)).name


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.slow  # together
@pytest.mark.parametrize("method, params", [*((m, {}) for m in METHODS), *VARIANTS], ids=lambda v: str(v))
def test_a_forked_trial_is_bit_equal_to_plain_at_that_goes_on_as_its_method(config, method, params):
    config = of(method, config, **params)
    forked, (hand, rows) = Trainer(config), by_hand(config)
    past = run_to_fork(forked)
    assert forked.epoch == FORK == len(past) and all(row["stem"] is True for row in past)
    assert same(hand, forked)
    assert without_times(past + finish(forked)) == without_times(rows + finish(hand))
    assert same(hand, forked) and forked.curve == hand.curve


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"awp": 0.005}, {"class_weights": "inverse"}], ids=str)
def test_plain_at_that_forks_late_is_bit_equal_to_plain_at_alone(fresh, changes):
    training = {**fresh.training, **changes}
    reference = replace(fresh, method="at", params={}, training=training, stem=training, fork=EPOCHS - 1)
    whole, forked = Trainer(alone(reference)), Trainer(reference)
    assert without_times(run_to_fork(forked) + finish(forked)) == without_times(finish(whole))
    assert same(whole, forked) and whole.curve == forked.curve


# ---- what acts from the fork ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"label_smoothing": 0.3}, {"weight_decay": 0.01}, {"ema": 0.9}], ids=str)
def test_a_training_setting_of_the_trials_own_acts_from_the_fork(config, changes):
    own = replace(config, training={**config.training, **changes})
    trial, unchanged, (hand, rows) = Trainer(own), Trainer(config), by_hand(own)
    past = run_to_fork(trial)
    assert without_times(past) == without_times(rows) == without_times(run_to_fork(unchanged)), "not before"
    assert name(own) == name(config)
    last, after = finish(unchanged), finish(trial)
    assert without_times(after) == without_times(finish(hand)) and same(hand, trial)
    assert without_times(after[:1]) != without_times(last[:1]), "but at once after it"


def test_an_average_that_the_stem_has_not_begins_with_the_forks_weights(config):
    trial = Trainer(replace(config, training={**config.training, "ema": 0.9}))
    at_first = trial.average.model.state_dict()
    assert any(not torch.equal(v, w) for v, w in zip(at_first.values(), _weights_at_fork(config).values()))
    run_to_fork(trial)
    averaged = trial.average.model.state_dict()
    assert all(torch.equal(averaged[k], v) for k, v in _weights_at_fork(config).items())


def _weights_at_fork(config):
    plain = Trainer(config)
    run_to_fork(plain)
    return plain.model.state_dict()


def test_an_average_that_the_stem_has_goes_on_or_ends_at_the_fork(fresh):
    with_average = {**fresh.training, "ema": 0.9}
    goes_on = Trainer(replace(fresh, training=with_average, stem=with_average))
    ends = Trainer(replace(fresh, stem=with_average))
    run_to_fork(goes_on), run_to_fork(ends)
    average, weights = goes_on.average.model.state_dict(), goes_on.model.state_dict()
    assert any(not torch.equal(average[k], v) for k, v in weights.items()) and goes_on.final_model is not goes_on.model
    assert ends.average is None and ends.final_model is ends.model
    assert all(torch.equal(ends.model.state_dict()[k], v) for k, v in weights.items())


def test_own_checkpoint_goes_before_the_stem(config, tmp_path):
    first, (hand, _) = Trainer(config), by_hand(config)
    run_to_fork(first)
    save_checkpoint(tmp_path, first, first.run_epoch())
    second = Trainer(config)
    load_checkpoint(tmp_path, second)
    assert second.epoch == FORK + 1 and open_fork(second) is None
    finish(hand), finish(second)
    assert same(hand, second)


def test_a_trial_without_a_fork_has_no_stem(config):
    assert open_fork(Trainer(replace(config, fork=0))) is None and run_to_fork(Trainer(replace(config, fork=0))) == []


# ---- previews -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, fork, length, rates",
    [
        ("piecewise", 7, 2, {7: 0.1, 7.5: 0.075, 8: 0.05, 8.75: 0.0125, 9: 0.0}),  # drops are at 7.5 and 9
        ("piecewise", 8, 2, {8: 0.01, 9: 0.005, 10: 0.0}),  # the first one is before the fork
        ("piecewise", 9, 1, {9: 0.001, 9.5: 0.0005, 10: 0.0}),  # and both
        ("cosine", 5, 4, {5: 0.05, 6: 0.0375, 7: 0.025, 9: 0.0}),
        ("constant", 3, 2, {3: 0.1, 4: 0.05, 5: 0.0}),
    ],
)
def test_learning_rate_of_a_preview_falls_from_the_forks_to_0_in_a_straight_line(config, schedule, fork, length, rates):
    training = {**config.training, "lr": 0.1, "schedule": schedule, "milestones": "auto"}
    preview = Trainer(replace(config, training=training, max_epochs=10, fork=fork, cool_down=length))
    assert {t: preview.learning_rate(t) for t in rates} == pytest.approx(rates, abs=1e-12)


def test_a_preview_trains_with_it_and_ends_with_a_curve(config):
    training = {**config.training, "lr": 0.1}
    preview = Trainer(replace(config, max_epochs=5, cool_down=2, offsets="auto", training=training, stem=training))
    run_to_fork(preview)
    rates, step = [], preview.optimizer.step
    preview.optimizer.step = lambda: (rates.append(preview.optimizer.lr), step())
    assert preview.run_epoch()["epoch"] == FORK + 1 and preview.curve is None
    row, steps = preview.run_epoch(), len(preview.batches)
    assert rates == pytest.approx([0.1 * (1 - i / (2 * steps)) for i in range(2 * steps)])
    assert row["epoch"] == FORK + 2 == preview.config.last_epoch < preview.config.max_epochs
    assert sum(preview.curve.points[0].count) == len(preview.splits.val.labels) and len(preview.curve.points) > 1


@pytest.mark.slow
def test_a_preview_continues_from_its_checkpoint_to_the_bit(config, tmp_path):
    config = replace(config, max_epochs=5, cool_down=2, offsets="auto")
    whole, first, second = Trainer(config), Trainer(config), Trainer(config)
    rows = [*run_to_fork(whole), *finish(whole)]
    past = run_to_fork(first)
    save_checkpoint(tmp_path, first, first.run_epoch(), past)
    known = load_checkpoint(tmp_path, second)
    assert second.epoch == FORK + 1 and open_fork(second) is None
    assert without_times(known + finish(second)) == without_times(rows)
    assert same(whole, second) and whole.curve == second.curve


# ---- trained once ---------------------------------------------------------------------------------------------------


def test_trials_leave_one_stem_at_several_epochs(fresh):
    trained = []
    for epoch in (3, 2, 4, 3):
        trainer = Trainer(replace(fresh, max_epochs=5, fork=epoch, stem_from=2))
        fork = open_fork(trainer)
        trained.append(trained_by(fork))
        assert len(fork.leave()) == trainer.epoch == epoch
    assert trained == [[1, 2, 3], [], [4], []]
    assert fork.store.epochs() == {2, 3, 4}, "epochs before the earliest fork are not kept"


def test_an_earlier_fork_than_what_is_kept_is_trained_again(fresh):
    config = replace(fresh, max_epochs=5)
    run_to_fork(Trainer(replace(config, fork=4, stem_from=4)))
    early = open_fork(Trainer(replace(config, fork=2, stem_from=2)))
    assert early.store.epochs() == {4} and trained_by(early) == [1, 2]
    later = open_fork(Trainer(replace(config, fork=3)))
    assert trained_by(later) == [3], "goes on from the longest stored trajectory, not from the start"


def test_the_stems_trainer_is_freed_when_the_trial_has_left(fresh):
    fork = open_fork(Trainer(fresh))
    trained_by(fork)
    of_stem = weakref.ref(fork._stem)
    assert fork.leave() and of_stem() is None


def test_methods_of_the_same_base_and_head_share_a_stem(config):
    names = {method: name(of(method, config)) for method in METHODS}
    bases = {
        "frl": "trades",
        "trades": "trades",
        "dafa": "trades",
        "cfa": "trades",
        "spectral": "trades",
        "mart": "mart",
    }
    shared = {m: names[m] for m in METHODS if m not in APART}
    assert shared == {m: names[bases.get(m, "at")] for m in shared}
    assert len({names[m] for m in ("at", "trades", "mart", *APART)}) == 3 + len(APART)
    assert {Trainer(of(m, config)).method.head for m in METHODS if m != "robal"} == {"linear"}
    assert name(of("fairfront", config, class_weight="hedge", form="trades")) == names["wat"]
    assert name(of("mail", config, form="trades")) == names["trades"]
    folders = {path.name for path in Path(config.home, "stems").iterdir() if path.is_dir()}
    assert set(names.values()) <= folders


def test_whatever_changes_a_stem_is_in_its_name_and_nothing_else(config, monkeypatch):
    def changed(**changes):
        return key_hash(stem_key(Trainer(replace(config, **changes))))

    mine, training = changed(), config.stem
    shared = [
        changed(params={"lam": 2.0, "start": 0.3}),
        changed(training={**training, "lr": 0.07}),
        changed(training={**training, "precision": "bf16"}),
        changed(trial=7),
        changed(fork=3),
        changed(stem_from=2),
        changed(cool_down=1),
        changed(offsets="auto"),
        changed(objectives=("clean_acc",)),
    ]
    assert set(shared) == {mine}
    others = [
        changed(seed=1),
        changed(seed=2),
        changed(data_seed=1),
        changed(val_fraction=0.3),
        changed(val_per_class=50),
        changed(max_epochs=7),
        changed(imbalance="exp:5"),
        changed(model="cnn:0.5"),
        changed(threat="l2"),
        changed(stem={**training, "lr": 0.07}),
        changed(stem={**training, "eval_attack": 5}),
        changed(stem={**training, "precision": "bf16"}),
        changed(method="robal", params={}),
        changed(method="wat", params={}),
    ]
    torch.set_num_threads(2)
    others.append(changed())
    torch.set_num_threads(1)
    monkeypatch.setattr(stem, "code_version", lambda method: "edited")
    others.append(changed())
    assert len({mine, *others}) == len(others) + 1


def test_code_version_changes_with_the_source(monkeypatch, tmp_path):
    import shutil

    before = {method: stem.code_version(method) for method in ("at", "srat", "fairfront")}
    assert len(set(before.values())) == 3
    shutil.copytree(stem.PACKAGE, tmp_path / "trainables", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stem, "PACKAGE", tmp_path / "trainables")
    stem.code_version.cache_clear()
    assert stem.code_version("at") == before["at"]
    files = {
        "methods/srat.py": {"srat", "fairfront"},
        "methods/at.py": {"at", "fairfront"},
        "models/backbones.py": set(before),
        "stem_store.py": set(),
    }
    for file, changed in files.items():
        stem.code_version.cache_clear()
        now = {method: stem.code_version(method) for method in before}
        with open(tmp_path / "trainables" / file, "a") as source:
            source.write("# edited\n")
        stem.code_version.cache_clear()
        assert {method for method in before if stem.code_version(method) != now[method]} == changed
    stem.code_version.cache_clear()


def test_every_file_counts_but_those_named():
    """And the names are of files that exist, so a renamed file cannot go unnoticed."""
    there = {f.relative_to(stem.PACKAGE).as_posix() for f in stem.PACKAGE.rglob("*.py")}
    counted = {f.relative_to(stem.PACKAGE).as_posix() for f in stem.sources(stem.PLAIN)}
    methods = {name for name in there if name.startswith("methods/")}
    assert stem.APART <= there
    assert counted == there - stem.APART - methods | {"methods/__init__.py", "methods/at.py"}
    assert {"loop.py", "attack.py", "attack_copy.py", "cuda_graph.py", "data/store.py", "models/build.py"} <= counted


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:5000] + b"x" + data[5001:], lambda data: b""]
)
def test_damaged_file_is_trained_again(fresh, damage):
    whole = Trainer(fresh)
    run_to_fork(whole)
    trainer = Trainer(fresh)
    fork = open_fork(trainer)
    file = Path(fork.store.files.root) / "epoch-0002.pt"
    file.write_bytes(damage(file.read_bytes()))
    assert fork.ready() and fork.leave() is None and not fork.ready()
    assert same(trainer, Trainer(fresh)), "a refused file leaves no trace in the trial"
    run_to_fork(trainer)
    assert same(whole, trainer)


def test_stems_of_another_code_version_are_left_alone_and_counted(config, tmp_path, monkeypatch):
    config = replace(config, storage=str(tmp_path))
    run_to_fork(Trainer(config))
    assert open_fork(Trainer(config)).outdated == 0
    monkeypatch.setattr("trainables.stem.code_version", lambda method: "another")
    fork = open_fork(Trainer(config))
    assert fork.outdated == 1 and not fork.ready()
    assert open_fork(Trainer(replace(config, seed=5))).outdated == 0  # that one would not fit anyway


def test_storage_by_url(config, tmp_path):
    config = replace(config, storage=f"file://{tmp_path}")
    first, second = Trainer(config), open_fork(Trainer(config))
    run_to_fork(first)
    assert trained_by(second) == [] and second.leave()
    assert same(first, second.trainer)


def test_storage_that_nothing_opens(config):
    with pytest.raises(ValueError, match="gopher://x"):
        StemStore(config.home, "gopher://x", "k")


# ---- several processes ----------------------------------------------------------------------------------------------

CHILD = """
import sys, time, torch
from trainables.config import TrialConfig
from trainables.loop import Trainer
from trainables.stem import open_fork
from trainables.stem_store import StemStore
torch.set_num_threads(1)
fork = open_fork(Trainer(TrialConfig(**{config!r})))
run_epoch, write = Trainer.run_epoch, StemStore.write
def hold(moment, epoch):
    if moment == {hang!r} and epoch == 2:
        print("holding", flush=True)
        time.sleep(600)
def slowly(trainer):
    hold("training", trainer.epoch + 1)
    time.sleep(0.3)
    return run_epoch(trainer)
def write_and_hold(store, epoch, state):
    write(store, epoch, state)
    hold("written", epoch)
Trainer.run_epoch, StemStore.write = slowly, write_and_hold
print("up", flush=True)
sys.stdin.readline()
trained = []
while not fork.ready():
    trained.append(fork.advance())
print([e for e in trained if e], flush=True)
"""


def child(config, hang=""):
    code = CHILD.format(config=config.to_dict(), hang=hang)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_train_a_missing_stem_once(fresh):
    config = replace(fresh, fork=3)
    both = [child(config), child(of("fat", config))]
    for process in both:
        go(process)
    trained = [eval(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(trained[0] + trained[1]) == [1, 2, 3]


@pytest.mark.parametrize("moment, left", [("training", [2, 3]), ("written", [3])])
def test_killed_holder_lets_the_other_go_on(fresh, moment, left):
    config = replace(fresh, fork=3)
    holder, other = child(config, hang=moment), child(config)
    go(holder)
    assert holder.stdout.readline() == "holding\n"
    go(other)
    time.sleep(1)
    assert other.poll() is None, "it waits while the holder lives"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    begin = time.monotonic()
    assert eval(other.communicate(timeout=60)[0]) == left
    assert time.monotonic() - begin < 20
    after, (hand, _) = Trainer(config), by_hand(config)
    run_to_fork(after), finish(after), finish(hand)
    assert same(hand, after)


def test_waiting_gives_the_worker_back_after_a_moment(fresh):
    fork = open_fork(Trainer(fresh))
    with fork.store.lock() as mine:
        assert mine
        begin = time.monotonic()
        assert Fork(Trainer(fresh)).advance(wait_s=0.5) is None
        assert 0.4 < time.monotonic() - begin < 5
