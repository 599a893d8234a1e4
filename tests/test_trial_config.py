"""What a trial is told is what the sampler proposed, for every method: its own parameters and the common ones."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from search_spaces import METHODS
from search_spaces.param import params_of
from search_spaces.resolve import resolve
from trainables.checkpoint import read_checkpoint
from trainables.config import TrialConfig
from trainables.data import DataSpec, Reading
from trainables.loop import Trainer
from trainables.method import start_epoch
from trainables.stem import stem_config, stem_key
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.optimizer.samplers import quasi_random
from tuner.results.history import History
from tuner.results.references import references
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec


def told(spec, params, tmp_path, seed=0, **fields):
    record = TrialRecord(**{"trial": 3, "params": params, "method": spec.method, "seed": seed, **fields})
    return trial_config(run(spec, tmp_path), record)


def run(spec, tmp_path):
    """A search whose first trial has the default setting."""
    history = History(None)
    if not isinstance(spec.method, tuple):
        history.append("start", 0, params=spec.search_space().default(), method=spec.method, seed=spec.seed)
    return SearchRun(spec, Home(tmp_path), "search", history)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_understands_what_a_search_proposes(name, tmp_path):
    spec = SearchSpec(method=name)
    space = spec.search_space()
    config = told(spec, space.default(), tmp_path)
    defaults = {p.name: p.default for p in params_of(METHODS[name].Params).values()}
    assert resolve(name, config.params) == {k: defaults[k] for k in resolve(name, {})}  # the default setting
    assert config.full_training() == spec.training()
    for number in range(1, 6 if space.searched else 1):
        proposed = quasi_random(space, 0, number)
        config = told(spec, proposed, tmp_path)
        assert {**config.params} == proposed and resolve(name, config.params).items() >= proposed.items()


def test_a_trial_sees_the_images_of_its_search(tmp_path):
    spec = SearchSpec(method="at", imbalance="step:4", seed=3, val_fraction=0.3, val_per_class=40)
    assert told(spec, {}, tmp_path, seed=9).data_spec == DataSpec("digits", "step:4", 3, 0.3, 40)
    own = SearchSpec(method="at", dataset="folder:/d", image_size=64, test_split="val", groups="none")
    assert told(own, {}, tmp_path).data_spec.reading == Reading(64, "val", "none")


def test_a_name_that_method_and_training_share_is_the_methods(tmp_path):
    spec = SearchSpec(method="done", fix={"schedule": "decay", "lr": 0.2}, set={"schedule": "cosine"})
    config = told(spec, spec.search_space().default(), tmp_path)
    assert config.params["schedule"] == "decay" and "lr" not in config.params
    assert (config.full_training().schedule, config.full_training().lr) == ("cosine", 0.2)


def test_a_replicate_trains_anew_on_the_same_images(tmp_path):
    spec = SearchSpec(method="at", seed=4)
    own, again = (told(spec, {}, tmp_path, seed) for seed in (4, 5))
    assert (own.seed, again.seed) == (4, 5) and own.split_seed == again.split_seed == 4
    first, second = Trainer(own), Trainer(again)
    assert torch.equal(first.splits.train.index, second.splits.train.index)
    assert torch.equal(first.splits.val.index, second.splits.val.index)
    assert not torch.equal(next(first.model.parameters()), next(second.model.parameters()))
    assert stem_key(first) != stem_key(second)
    assert TrialConfig("at", seed=5).split_seed == 5  # a lone trial, and checkpoints of before


# ---- the stem --------------------------------------------------------------------------------------------------------


def test_a_full_training_leaves_the_stem_where_its_method_starts(tmp_path):
    spec = SearchSpec(method="gairat", max_epochs=10, space={"lr": [0.01, 0.1]}, set={"label_smoothing": 0.1})
    params = {**spec.search_space().default(), "start": 0.4, "lr": 0.02}
    config = told(spec, params, tmp_path)
    assert (config.fork, config.cool_down, config.params["start"]) == (4, None, 0.4)
    assert config.stem == asdict(spec.training()) and config.stem["label_smoothing"] == 0.1
    assert config.training == {**config.stem, "lr": 0.02}, "the stem has the common learning rate"
    assert config.folder == str(tmp_path / "searches/search/trials/3")
    assert told(spec, {**params, "start": 0.0}, tmp_path).fork == 0
    late = told(SearchSpec(method="srat", max_epochs=10), {"start": 0.95}, tmp_path)
    assert late.fork == 9, "the last epoch is the trial's own"


@pytest.mark.parametrize("start, begins", [(0.2, 0.2), (0.65, 0.65), (0.8, 0.7)])
def test_a_preview_begins_at_its_fork_at_the_latest(start, begins, tmp_path):
    spec = SearchSpec(method="gairat", max_epochs=20)
    params = {**spec.search_space().default(), "start": start}
    full, preview = told(spec, params, tmp_path), told(spec, params, tmp_path, full=False)
    assert preview.params == {**full.params, "start": begins} and full.params["start"] == start
    assert (preview.fork, preview.cool_down, preview.last_epoch) == (14, 3, 17)  # 0.7 and 0.11 of 20, rounded up
    assert preview.folder == str(tmp_path / "searches/search/previews/3")
    differ = {key for key, value in full.to_dict().items() if preview.to_dict()[key] != value}
    assert differ == {"fork", "cool_down", "folder"} | ({"params"} if begins != start else set())


def test_a_preview_of_a_method_without_a_start_has_nothing_changed(tmp_path):
    spec = SearchSpec(method="wmmr", max_epochs=10)
    params = spec.search_space().default()
    preview = told(spec, params, tmp_path, full=False)
    assert preview.params == params and (preview.fork, preview.cool_down) == (7, 2)
    assert told(spec, params, tmp_path).fork == 0


def test_the_default_setting_trains_alone_and_plain_at_as_long_as_a_stem_is_needed(tmp_path):
    spec = SearchSpec(method="srat", max_epochs=10)
    paper = told(spec, spec.search_space().default(), tmp_path, trial=0)
    assert (paper.fork, paper.stem, paper.cool_down) == (0, {}, None)
    again = told(spec, spec.search_space().default(), tmp_path, trial=4, seed=1, of=0)
    assert again.fork == 0, "its replicate too"
    (record,) = references(spec)
    plain = trial_config(run(spec, tmp_path), record)
    assert (plain.method, plain.params, plain.fork) == ("at", {}, 9) and plain.stem == plain.training


def test_plain_at_under_any_seed_is_a_stem_trained_on(tmp_path):
    spec = SearchSpec(method=("srat", "at"), max_epochs=10, seed=3, stems=3)
    plain = told(spec, {}, tmp_path, seed=5, method="at")
    assert (plain.seed, plain.split_seed, plain.fork, plain.stem) == (5, 3, 9, plain.training)
    varied = SearchSpec(method=("srat", "at"), max_epochs=10, space={"lr": [0.01, 0.1]}, stems=3)
    assert told(varied, {"lr": 0.02}, tmp_path, seed=1, method="at").fork == 0


def test_where_nothing_varies_trials_of_all_seeds_are_trained_alike(tmp_path):
    """They are each other's replicates; those after the first were forked from the stem."""
    fixed = SearchSpec(method="dafa").search_space().default()
    spec = SearchSpec(method="dafa", max_epochs=10, fix=fixed, stems=3)
    assert fixed["start"] and [told(spec, fixed, tmp_path, trial=n, seed=n).fork for n in range(3)] == [0, 0, 0]


def test_who_waits_trains_stems_of_other_seeds_that_will_be_needed(tmp_path):
    def spare(seed, **changes):
        return told(SearchSpec(method="wmmr", seed=3, **changes), {}, tmp_path, seed=seed).spare_seeds

    assert spare(3) == () and spare(3, seeds=3) == (4, 5)
    assert spare(4, seeds=3) == (), "a replicate's are trained already"
    assert spare(3, stems=3, trials=2) == (4,), "no trial has the third seed"
    assert spare(3, stems=3) == (4, 5) and spare(4, stems=3) == (3, 5) and spare(4, stems=2, seeds=3) == (3, 5)


def test_methods_whose_recipes_differ_have_stems_of_their_own(tmp_path):
    methods = SearchSpec(method=("dafa", "mail"), recipe="paper", max_epochs=10)
    dafa, mail = (told(methods, {"start": 0.5}, tmp_path, method=m) for m in methods.methods)
    assert dafa.stem == asdict(methods.lanes[0].training()) != mail.stem == asdict(methods.lanes[1].training())
    common = SearchSpec(method=("dafa", "mail"), max_epochs=10)
    first, second = (told(common, {"start": 0.5}, tmp_path, method=m) for m in common.methods)
    assert stem_config(first) == stem_config(second)


@pytest.mark.parametrize("method", [name for name in METHODS if "start" in params_of(METHODS[name].Params)])
@pytest.mark.parametrize("epochs", [1, 2, 4, 12])
def test_a_method_begins_where_it_forks_and_acts_in_the_last_epoch_at_least(method, epochs, tmp_path):
    """Also where its start rounds to the end: FAAL's default 0.9 of 4 epochs."""
    spec = SearchSpec(method=method, max_epochs=epochs)
    param, default = params_of(METHODS[method].Params)["start"], spec.search_space().default()
    for start in (param.default, param.range.low, param.range.high):
        config = told(spec, {**default, "start": start}, tmp_path)
        begins = start_epoch(METHODS[method].Params(**config.params), epochs)
        assert begins == config.fork == config.own_from() < epochs


def test_with_burn_in_own_nothing_forks(tmp_path):
    spec = SearchSpec(method="srat", max_epochs=10, burn_in="own")
    config = told(spec, {**spec.search_space().default(), "start": 0.5}, tmp_path)
    (record,) = references(spec)
    assert config.fork == trial_config(run(spec, tmp_path), record).fork == 0 and config.stem == {}


def test_a_checkpoint_of_before_the_stem_is_read():
    """A file that an earlier version wrote, with a trunk's fields."""
    stored = read_checkpoint(Path(__file__).parent / "data/home_of_0_1/searches/before/trials/0")["config"]
    assert {"trunk", "trunk_from"} <= set(stored)
    config = TrialConfig.of({**stored, "trunk": "auto"})
    assert (config.method, config.params, config.training["lr"]) == ("trades", {"beta": 6.0}, 0.05)
    assert (config.fork, config.stem, config.cool_down, config.last_epoch, config.own_from()) == (0, {}, None, 4, 0)
