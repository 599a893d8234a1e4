"""What a search may vary: a trial accepts every proposal, and a parameter that no trial can have is refused."""

import random

import pytest
from optuna.distributions import CategoricalDistribution

from search_spaces import METHODS
from search_spaces.param import coerce, params_of
from search_spaces.resolve import resolve
from search_spaces.training import Training
from tuner.errors import UsageError
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space, build_space


def fixable(method: str) -> list[Space]:
    """The method's space with each value of each choice fixed, where some trial has it."""
    spaces = []
    for name, param in params_of(METHODS[method].Params).items():
        for value in getattr(param.range, "choices", ()):
            try:
                spaces.append(build_space(method, fix={name: value}, space={}))
            except UsageError as error:
                assert "has no effect here" in str(error)
    return spaces


@pytest.mark.parametrize("method", METHODS)
def test_every_proposal_is_what_a_trial_accepts(method):
    numbers = random.Random(0)
    for space in [build_space(method, fix={}, space={}), *fixable(method)]:
        points = [[numbers.random() for _ in space.searched] for _ in range(40)]
        proposals = [space.default(), *map(space.at, points)]
        for values in proposals:
            assert resolve(method, values) == values
        for name in [*space.searched, *space.fixed]:
            assert any(name in values for values in proposals), f"{name} of {space.fixed} is never there"


def test_a_fixed_value_counts_only_where_it_is_active():
    space = build_space("cfa", fix={"class_beta": True}, space={})
    chosen = {
        form: space.resolve(lambda p, form=form: form if p.name == "form" else p.default) for form in ("at", "trades")
    }
    assert "class_beta" in chosen["trades"] and "lambda_2" in chosen["trades"]
    assert "class_beta" not in chosen["at"] and "lambda_2" not in chosen["at"]


NEVER = [
    ("done", {"eta": 0.3}, {}, "normaliser in {running}"),
    ("gairat", {"lam_max": 3}, {}, "schedule in {linear} and func in {tanh, sigmoid}"),
    (
        "gairat",
        {"lam_max": 3, "schedule": "linear", "func": "discrete"},
        {},
        "schedule in {linear} and func in {tanh, sigmoid}",
    ),
    ("cfa", {"form": "at", "lambda_2": 0.5}, {}, "class_beta in {True} and form in {trades}"),
    ("fairfront", {"form": "at", "beta_base": 0.5}, {}, "class_beta in {True} and form in {trades}"),
    ("done", {}, {"eta": [0.2, 0.4]}, "normaliser in {running}"),
    ("done", {}, {"eta": 0.3}, "normaliser in {running}"),
    ("srat", {}, {"loss": ["ce", "ldam"], "gamma": {"low": 1, "high": 2}}, "loss in {focal}"),
    ("cfa", {}, {"class_beta": [False], "lambda_2": [0.3, 0.4]}, "class_beta in {True}"),
]


@pytest.mark.parametrize("method, fix, space, needs", NEVER)
def test_what_no_trial_can_have_is_refused(method, fix, space, needs):
    with pytest.raises(UsageError) as refused:
        build_space(method, fix=fix, space=space)
    assert f"of {method} exists only with {needs}" in str(refused.value)


@pytest.mark.parametrize(
    "fix, space",
    [
        ({"eta": 0.3}, {"normaliser": ["batch", "running"]}),
        ({}, {"eta": [0.2, 0.4], "normaliser": ["batch", "running"]}),
        ({"normaliser": "running"}, {}),
        ({"barrier_weight": 0.1, "barrier": True}, {}),
    ],
)
def test_what_the_user_makes_reachable_is_allowed(fix, space):
    built = build_space("done", fix=fix, space=space)
    assert set(fix) <= set(built.fixed) and set(space) <= set(built.searched)
    assert ("eta" in built.searched) == ("eta" not in fix and "barrier" not in fix)


def test_nothing_is_searched_that_no_trial_can_have():
    assert build_space("done", fix={}, space={}).searched == ("r", "level", "start")


def test_the_loss_under_srat_is_searched_where_a_space_names_it():
    own = build_space("srat", fix={}, space={})
    wider = build_space("srat", fix={}, space={"form": ["at", "trades"], "beta": [2, 4]})
    assert set(wider.searched) - set(own.searched) == {"form", "beta"}
    assert own.default() == wider.default() and own.default()["form"] == "at", "trial 0 is the method itself"
    assert own.choices_of("form") == {"at"} and wider.choices_of("form") == {"at", "trades"}


def test_conditions_of_a_parameter_that_is_not_searched_hold_too():
    """lambda_2 needs class_beta, which is there with form=trades alone."""
    assert "form" in build_space("cfa", fix={"beta": 6.0}, space={}).conditions("lambda_2")


def test_yamls_booleans_are_on_and_off_where_those_are_choices():
    switch, numbers = params_of(Training)["compile"], params_of(Training)["lr"]
    assert [coerce(switch, v) for v in (True, False, "on", "OFF")] == ["on", "off", "on", "off"]
    assert build_space("at", fix={}, space={"compile": [False, True]}).params[
        "compile"
    ].range == CategoricalDistribution(("off", "on"))
    for param, wrong in ((switch, 1), (switch, "yes"), (numbers, True), (params_of(Training)["schedule"], False)):
        with pytest.raises(ValueError, match="is not allowed"):
            coerce(param, wrong)


@pytest.mark.parametrize(
    "method, given",
    [
        ("cfa", {"set": {"ema": 0.9}}),
        ("cfa", {"space": {"average": ["none"], "ema": [0.9, 0.99]}}),  # trial 0 has the default, which is fawa
        ("fairfront", {"set": {"ema": 0.9}, "space": {"average": ["none", "fawa"]}}),
        ("fairfront", {"space": {"average": ["fawa"], "ema": [0.0, 0.5]}}),
    ],
)
def test_two_weight_averages_are_refused_in_any_trial(method, given):
    with pytest.raises(UsageError, match=r"ema=(0.9|searched) is not allowed with \w+, .* \(average=fawa\)"):
        SearchSpec(method=method, **given)
    SearchSpec(method=method, fix={"average": "none"}, set={"ema": 0.9})
