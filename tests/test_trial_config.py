"""What a trial is told is what the sampler proposed, for every method: its own parameters and the common ones."""

from types import SimpleNamespace

import pytest
import torch

from search_spaces import METHODS
from search_spaces.param import params_of
from search_spaces.resolve import resolve
from trainables.config import TrialConfig
from trainables.data import DataSpec
from trainables.loop import Trainer
from trainables.trunk import trunk_key
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.optimizer.samplers import quasi_random
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.spec.search_spec import SearchSpec


def told(spec, params, tmp_path, seed=0):
    trial = SimpleNamespace(trial=3, params=params, method=spec.method, seed=seed, of=None)
    return trial_config(SearchRun(spec, Home(tmp_path), "search", History(None)), trial)


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
    assert trunk_key(first) != trunk_key(second)
    assert TrialConfig("at", seed=5).split_seed == 5  # a lone trial, and checkpoints of before
