"""What a search may be warm-started from, and that it outlives its source."""

import shutil

import pytest

from tests.histories import fill
from tuner.errors import UsageError
from tuner.home import Home
from tuner.optimizer.warm_start import check_warm, warm_trials
from tuner.results.history import History
from tuner.spec.search_spec import SearchSpec


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 6, "scheduler": "none", **changes})


def earlier(tmp_path, **changes):
    """A home with a finished search."""
    home, spec = Home(tmp_path), spec_of(name="earlier", **changes)
    folder = home.search("earlier")
    fill(History(folder), spec.lanes[0])
    (folder / "spec.yaml").write_text(spec.to_yaml())
    return home


def test_what_a_file_of_ranges_fixes_must_agree(tmp_path):
    home = earlier(tmp_path, space={"lr": 0.3})
    for changes in ({}, {"space": {"lr": 0.1}}):
        with pytest.raises(UsageError, match=r"other parameters fixed: \{'lr': 0.3\} there"):
            check_warm(spec_of(warm_start="earlier", **changes), home)
    for same in ({"space": {"lr": 0.3}}, {"fix": {"lr": "0.3"}}):
        check_warm(spec_of(warm_start="earlier", **same), home)


@pytest.mark.parametrize(
    "there, here, said",
    [
        ({}, {"val_fraction": 0.3}, "does not fit this search: val_fraction 0.2 there, 0.3 here"),
        ({"val_per_class": 0}, {}, "does not fit this search: val_per_class 0 there, 300 here"),
        ({"set": {"lr": 0.02}}, {}, "was trained otherwise: lr 0.02 there, 0.05 here"),
        ({}, {"recipe": "paper"}, "otherwise: batch_size 32 there, 128 here; lr 0.05 there, 0.1 here; "),
        (
            {"max_epochs": 20, "recipe": "former"},
            {"max_epochs": 20},
            "otherwise: milestones '0.75,0.9' there, 'auto' here",
        ),
        ({}, {"threat": "l2:0.1"}, "does not fit this search: threat 'linf' there, 'l2:0.1' here"),
        ({"threat": "linf:0.2"}, {}, "was trained otherwise: eps 0.2 there, 0.1 here"),
        ({"threat": "linf:0.1"}, {}, None),  # the data set's
        ({"recipe": "former"}, {}, None),  # below 20 epochs the drops are where they were
        ({"set": {"lr": 0.05}}, {}, None),
        ({"method": ("trades", "mail")}, {"method": ("trades", "mail")}, None),
    ],
)
def test_images_and_training_must_agree(tmp_path, there, here, said):
    home = earlier(tmp_path, **there)
    if said is None:
        check_warm(spec_of(warm_start="earlier", **here), home)
        return
    with pytest.raises(UsageError, match=said):
        check_warm(spec_of(warm_start="earlier", **here), home)


@pytest.mark.parametrize("sampler", ["random", "qmc", "nsga2", "nsga3"])
def test_a_sampler_that_cannot_learn_from_it_is_refused(tmp_path, sampler):
    home = earlier(tmp_path)
    with pytest.raises(UsageError, match=f"no effect with --sampler {sampler}; choose one of: auto, tpe, gp"):
        check_warm(spec_of(warm_start="earlier", sampler=sampler), home)


def test_the_source_may_go_once_its_trials_are_kept(tmp_path):
    home, spec = earlier(tmp_path), spec_of(name="new", warm_start="earlier")
    known = warm_trials(spec, home, home.search("new"))
    shutil.rmtree(home.search("earlier"))
    check_warm(spec, home)
    assert known and warm_trials(spec, home, home.search("new")) == known
    with pytest.raises(UsageError, match="no search 'earlier'"):
        check_warm(spec_of(name="newer", warm_start="earlier"), home)
