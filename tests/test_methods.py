"""The contract every method keeps, over one table of cases. Numbers of the equations: test_oracles.py,
test_equations.py."""

from dataclasses import replace

import pytest
import torch

from search_spaces import METHODS, STEM_PARAMS
from search_spaces.param import params_of
from search_spaces.resolve import resolve
from trainables.methods import method_class
from tuner.results.bill import stem_of
from tuner.spec.space import build_space
from tuner.testing import Case, MethodContract
from tuner.testing.batches import COUNTS, TASK, make

CASES = [
    Case("at"),
    Case("bsl"),
    Case("cfa", {"form": "trades"}, plain="trades", scale=1 / 7, state=True),
    Case("cfa", {"form": "at", "average": "ema"}, state=True),
    Case("cfol", state=True),
    Case("cfol", {"mode": "reweight", "base": "empirical"}, state=True),
    Case("codat"),
    Case("dafa", {"form": "trades"}, plain="trades", state=True),
    Case("dafa", {"form": "at"}, state=True),
    Case("done"),
    Case("done", {"level": "class", "start": 0.5}),
    Case("done", {"normaliser": "running", "schedule": "decay", "start": 0.5}, state=True),
    Case("done", {"barrier": True}),
    Case("ewat"),
    Case("faal", {"form": "at"}),
    Case("faal", {"form": "trades"}, plain="trades"),
    Case("faal", {"form": "mart"}, plain="mart"),
    Case("fairfront", reweights=False),
    Case(
        "fairfront",
        {"form": "trades", "instance": "sigmoid", "class_weight": "similarity", "class_radius": "accuracy"},
        plain="trades",
        state=True,
    ),
    Case("fairfront", {"form": "mart", "class_weight": "hedge", "class_radius": "dual"}, plain="mart", state=True),
    Case("fairtat", state=True),
    Case("fairtat", {"targets": "uniform", "class_eps": False}, state=True),
    Case("fat"),
    Case("fat", {"form": "trades", "schedule": "fixed"}),
    Case("frl", {"mode": "reweight"}, plain="trades", state=True),
    Case("frl", {"mode": "remargin"}, plain="trades", state=True),
    Case("frl", {"mode": "both"}, plain="trades", state=True),
    Case("gairat"),
    Case("gairat", {"func": "discrete"}),
    Case("gairat", {"func": "sigmoid", "schedule": "linear"}),
    Case("lrat"),
    Case("lrat", {"attacks": "pgd", "residual": "c"}),
    Case("lrat", {"attacks": "saa+cw+pgd", "residual": "b", "normalise": False}),
    Case("lrat", {"attacks": "pgd+cw", "residual": "a"}),
    Case("lsat"),
    Case("mail", {"form": "at"}),
    Case("mail", {"form": "trades"}, plain="trades"),
    Case("mail", {"form": "mart", "normalise": True}, plain="mart"),
    Case("mart"),
    Case("mixup"),
    Case("mixup", {"kind": "fixed"}),
    Case("reat", state=True),
    Case("robal"),
    Case("robustlt", state=True),
    Case("robustlt", {"strength": 0.0, "ramp": 0.0}),
    Case("sovr"),
    Case("sovr", {"form": "trades"}),
    Case("spectral", plain="trades", state=True),
    Case("spectral", {"form": "at"}, state=True),
    Case("srat", off={"sep_weight": 0.0}),  # its separation loss is on throughout
    Case("srat", {"loss": "focal"}, plain=None),
    Case("srat", {"loss": "ldam", "reduction": "batch"}, plain=None),
    Case("taet"),
    Case("trades"),
    Case("wat", state=True),
    Case("wmmr"),
    Case("wmmr", {"form": "trades", "detach": True, "weight_attack": False}),
]


class TestMethods(MethodContract):
    cases = CASES


def test_every_method_has_a_case():
    assert {case.name for case in CASES} == set(METHODS)


@pytest.mark.parametrize(
    "name, fix, paper",
    [
        ("mail", {"form": "trades"}, {"slope": 2.0, "bias": 0.0, "beta": 5.0}),
        ("mail", {"form": "at"}, {"slope": 10.0}),
        ("wmmr", {"form": "trades"}, {"alpha": 2.0}),
        ("frl", {"mode": "both"}, {"bound_clean": 0.07}),
    ],
)
def test_a_fixed_form_has_its_own_published_defaults(name, fix, paper):
    """The first trial of a search and a method built by hand: what the paper sets for that form."""
    first = build_space(name, fix=fix, space={}).default()
    assert {k: first[k] for k in paper} == paper
    assert resolve(name, fix) == first


@pytest.mark.parametrize("name", ["srat", "robal", "reat", "robustlt"])
def test_a_class_without_training_images_is_refused(name):
    task = replace(TASK, class_counts=torch.tensor([5, 0, 3, 0]))
    words = f"{name} needs training images of every class, but there are none of class 1, 3"
    with pytest.raises(ValueError, match=words):
        make(name, task)


@pytest.mark.parametrize(
    "name, values, words",
    [
        ("srat", {"gamma": 2.0}, "gamma does not apply to method srat unless loss is focal (it is ce)"),
        ("srat", {"loss": "focal", "max_margin": 0.3}, "max_margin does not apply"),
        (
            "mail",
            {"form": "at", "beta": 3.0},
            "beta does not apply to method mail unless form is trades or mart (it is at)",
        ),
        ("mail", {"slop": 3.0}, "unknown parameter 'slop' of method mail; its parameters: form, slope"),
        ("at", {"beta": 1}, "unknown parameter 'beta' of method at; its parameters: it has none"),
        ("mail", {"slope": 500.0}, "slope=500.0 is not allowed; slope takes [1, 20] log"),
        ("mail", {"form": "tradse"}, "form='tradse' is not allowed"),
        ("nonesuch", {}, "unknown method 'nonesuch'; choose one of: at, bsl"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(name, values, words):
    with pytest.raises(ValueError) as refused:
        make(name, **values)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_resolve_completes_and_drops():
    values = resolve("srat", {"loss": "focal", "gamma": "2"})
    assert values["gamma"] == 2.0 and values["start"] == 0.8
    assert "max_margin" not in values and "scale" not in values
    assert list(values)[0] == "loss" and len(COUNTS) == 4


@pytest.mark.parametrize("name", METHODS)
def test_its_space_says_which_stem_it_needs(name):
    """So that a search counts its stems without torch."""
    needs = method_class(name)
    assert stem_of(name) == (needs.form, needs.head, needs.needs_val_losses)


def test_a_stem_measures_losses_where_the_setting_does():
    space = METHODS["fairfront"]
    for weight in params_of(space.Params)["class_weight"].range.choices:
        needs = make("fairfront", class_weight=weight).needs_val_losses
        assert stem_of("fairfront", {"class_weight": weight})[2] == needs
    named = [getattr(METHODS[name], "STEM", {}).get("val_losses", {}) for name in METHODS]
    assert all(set(found) <= set(STEM_PARAMS) for found in named if isinstance(found, dict))
