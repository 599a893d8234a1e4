"""Coordinates that methods share: the equations say the same, and a setting is translated there and back."""

import json
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from search_spaces import METHODS, base_of, method_space
from search_spaces.coordinates import BASE, BESIDE, CLASS_WEIGHTS, COORDINATES
from search_spaces.param import loguniform, param, params_of, uniform
from search_spaces.registry import check_space
from search_spaces.resolve import resolve
from search_spaces.training import Training
from tests.test_fairfront import CORNERS
from trainables.method import Task
from trainables.methods.bsl import Bsl
from trainables.methods.fairfront import Fairfront
from trainables.methods.robal import Robal
from trainables.methods.srat import Srat
from tuner.optimizer.samplers import quasi_random
from tuner.optimizer.translation import coordinates, searched_coordinates, translate
from tuner.report.console import show_space
from tuner.spec.search_spec import SearchSpec

COUNTS = (100, 20, 5)
TASK = Task(class_counts=torch.tensor(COUNTS), max_epochs=10, eps=0.1)
NAMED = {(m, p.name): p for m in METHODS for p in params_of(METHODS[m].Params).values() if p.acts_as}


def lane_of(method, **changes):
    return SearchSpec(method=method, **changes).lanes[0]


def at(method, counts=COUNTS, **values):
    return coordinates(lane_of(method), resolve(method, values), counts)


def made(cls, **values):
    """A method as a trial makes it, with its weights."""
    return cls(method_space(cls.name).Params(**resolve_all(cls.name, values)), TASK)


def resolve_all(method, values):
    """Inactive parameters too."""
    return {p.name: values.get(p.name, p.default) for p in params_of(METHODS[method].Params).values()}


# ---- the names -------------------------------------------------------------------------------------------------------


def test_every_coordinate_has_a_meaning_and_two_methods():
    methods = {}
    for (method, _), p in NAMED.items():
        methods.setdefault(p.acts_as.name, set()).add(method)
    assert methods.keys() == COORDINATES.keys() and min(map(len, methods.values())) >= 2
    assert not COORDINATES.keys() & params_of(Training).keys() and BESIDE.keys() <= COORDINATES.keys()


def test_start_and_form_are_the_same_everywhere():
    for method in METHODS:
        for p in params_of(METHODS[method].Params).values():
            name = p.acts_as and p.acts_as.name
            assert (p.name == "start") == (name == "start") and (p.name == "form") == (name == BASE), (method, p.name)
    bases = {method: base_of(method) for method in METHODS if base_of(method) != "at"}
    assert bases == {"trades": "trades", "frl": "trades", "wat": "trades", "mart": "mart"}


def test_what_looks_alike_and_is_not():
    """RoBal's KL is of plain cosines, TAET's beta weighs a variance, WAT's eta is no learning rate of Exp3, and its
    clean stage is no plain base."""
    for method, name in (("robal", "beta"), ("taet", "beta"), ("cfol", "eta"), ("taet", "clean"), ("done", "r")):
        assert (method, name) not in NAMED and name in params_of(METHODS[method].Params)


def test_a_plug_in_may_name_known_coordinates_alone():
    def space(acts_as):
        field = param(1.0, loguniform(0.1, 10.0), "weight", acts_as=acts_as)
        params = __import__("dataclasses").make_dataclass("Params", [("beta", float, field)], frozen=True)
        return type("Space", (), {"PAPER": "a", "SUMMARY": "b", "Params": params})

    check_space(space("KL weight"))
    with pytest.raises(Exception, match="coordinate of its parameter beta must be one of: plain base, KL weight, "):
        check_space(space("KL-weight"))


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_class_weights_by_hand():
    """E(100) = (1 - 0.99^100) / 0.01 = 63.39677, E(5) = 4.900995; their ratio is 12.93549, its log 2.559975."""
    found = at("srat", one_minus_beta=0.01, strength=0.5)[CLASS_WEIGHTS]
    assert found == pytest.approx(0.5 * 2.559975, abs=1e-6)
    assert at("fairfront", class_weight="prior", power=2.0)[CLASS_WEIGHTS] == pytest.approx(2 * 2.990987, abs=1e-5)
    assert CLASS_WEIGHTS not in at("fairfront") and at("srat", one_minus_beta=1.0)[CLASS_WEIGHTS] == 0


@pytest.mark.parametrize("one_minus_beta", [1e-5, 1e-4, 0.3, 1.0])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.7])
def test_class_weights_are_those_of_the_training(one_minus_beta, strength):
    """The weights that SRAT and fairfront train with, of settings translated into each other."""
    lane, values = lane_of("fairfront"), {"one_minus_beta": one_minus_beta, "strength": strength}
    weights = made(Srat, **values).class_weights
    ratio = math.log(weights.max() / weights.min())
    assert at("srat", **values)[CLASS_WEIGHTS] == pytest.approx(ratio, abs=1e-12)
    setting, names = translate(at("srat", **values), lane, COUNTS)
    weights = made(Fairfront, **setting).prior_weights
    assert CLASS_WEIGHTS in names and setting["class_weight"] == "prior"
    assert math.log(weights.max() / weights.min()) == pytest.approx(ratio, abs=1e-9)
    back, _ = translate(coordinates(lane, setting, COUNTS), lane_of("srat"), COUNTS)
    weights = made(Srat, **back).class_weights
    assert math.log(weights.max() / weights.min()) == pytest.approx(ratio, abs=1e-9)


@pytest.mark.parametrize("counts", [(50, 50, 50), (50, 20, 0)])
def test_where_class_weights_do_not_act_they_are_not_taken_over(counts):
    setting, names = translate(at("srat", counts=counts, strength=0.3), lane_of("fairfront"), counts)
    assert setting["class_weight"] == "none" and CLASS_WEIGHTS not in names and "start" in names


def test_the_prior_by_hand():
    """On logits of 0 the loss of class c is log(sum_k n_k^tau) - tau log n_c: between the classes of 100 and of 5
    images it differs by tau log 20."""
    priors = (
        made(Robal, prior_tau=1.3).prior,
        1.3 * made(Bsl).prior,
        at("robal", prior_tau=1.3),
        at("bsl", strength=1.3),
    )
    for prior in priors[:2]:
        assert float(prior[0] - prior[2]) == pytest.approx(1.3 * math.log(20))
    assert priors[2]["log-prior factor"] == priors[3]["log-prior factor"] == 1.3


@pytest.mark.parametrize("ours, method, theirs", CORNERS)
def test_where_fairfront_is_another_method_they_stand_at_the_same_coordinates(ours, method, theirs):
    """tests/test_fairfront.py compares their losses, gradients, radii and state."""
    here, there = at("fairfront", **ours, start=0.5), at(method, **theirs)
    named = {NAMED[method, name].acts_as.name for name in theirs if (method, name) in NAMED}
    assert {name: here[name] for name in {BASE, *named}} == {name: there[name] for name in {BASE, *named}}


# ---- translations ----------------------------------------------------------------------------------------------------

SRAT = {"strength": 0.5, "start": 0.6, "sep_weight": 0.2, "temperature": 0.3, "loss": "focal", "gamma": 2.0}


@pytest.mark.parametrize(
    "method, values, to, expected",
    [
        ("trades", {"beta": 3.0}, "mail", {"form": "trades", "slope": 2.0, "bias": 0.0, "beta": 3.0}),
        ("mart", {"beta": 3.0}, "mail", {"form": "mart", "beta": 3.0}),
        ("mart", {"beta": 3.0}, "dafa", {}),  # which has no such base
        ("mail", {"form": "mart", "beta": 3.0, "start": 0.5}, "dafa", {"start": 0.5}),
        ("trades", {"beta": 9.0}, "frl", {"beta": 6.0}),  # the end of the range
        ("done", {"start": 0.1}, "mail", {"start": 0.3}),
        ("cfa", {"lambda_1": 0.8}, "fairtat", {"lambda_r": 0.8}),
        ("ewat", {"strength": 0.4}, "mail", {}),
        ("ewat", {"strength": 0.4}, "fairfront", {"instance": "entropy", "strength": 0.4}),
        (
            "srat",
            SRAT,
            "fairfront",
            {
                "start": 0.6,
                "class_weight": "prior",
                "power": 0.5,
                "separation": True,
                "sep_weight": 0.2,
                "temperature": 0.3,
            },
        ),
        ("bsl", {"strength": 1.9}, "robal", {"prior_tau": 1.9}),
        ("trades", {"beta": 3.0}, "srat", {}),  # which searches no base
    ],
)
def test_a_setting_of_another_method(method, values, to, expected):
    """The rest has the default, with the form's own where papers have one."""
    setting, names = translate(at(method, **values), lane_of(to), COUNTS)
    default = lane_of(to).search_space().default()
    changed = {name: value for name, value in setting.items() if default.get(name) != value}
    needed = resolve(to, {**expected})
    assert changed == {name: v for name, v in needed.items() if default.get(name) != v}
    assert {"start", "KL weight"} & {*names} or not {"start", "beta"} & expected.keys()


def test_a_narrower_space_and_a_fixed_parameter():
    found = at("trades", beta=2.0)
    lane = lane_of("mail", space={"beta": [3.0, 4.0], "start": [0.4, 0.5], "slope": [3.0, 5.0]})
    setting, _ = translate(found, lane, COUNTS)
    assert (setting["form"], setting["beta"], setting["slope"], setting["start"]) == ("trades", 3.0, 3.0, 0.5)
    setting, names = translate(found, lane_of("mail", fix={"form": "at"}), COUNTS)
    assert setting == lane_of("mail", fix={"form": "at"}).search_space().default() and names == []
    lane = lane_of("srat", space={"form": ["at", "trades"], "beta": [4.0, 8.0]})
    setting, names = translate(found, lane, COUNTS)
    assert (setting["form"], setting["beta"], names) == ("trades", 4.0, [BASE, "KL weight"])


def test_of_two_parameters_in_one_coordinate_the_first_counts():
    both = {"class_weight": "similarity", "class_radius": "similarity"}
    found = at("fairfront", **both, similarity=1.5, radius_similarity=2.5)
    assert translate(found, lane_of("dafa"), COUNTS)[0]["lam"] == 1.5
    setting, names = translate(at("dafa", lam=2.0), lane_of("fairfront"), COUNTS)
    assert (setting["similarity"], setting["radius_similarity"]) == (2.0, 2.0) and both.items() <= setting.items()
    assert names.count("similarity lambda") == 2


def test_a_training_setting_is_its_own_coordinate():
    there = lane_of("trades", space={"lr": [0.01, 0.2], "ema": [0.0, 0.5]})
    found = coordinates(there, there.search_space().default() | {"lr": 0.15}, COUNTS)
    lane = lane_of("ewat", space={"lr": [0.01, 0.1]})
    setting, names = translate(found, lane, COUNTS)
    assert setting["lr"] == 0.1 and names == ["lr"] and "ema" not in setting
    # done's schedule is of its temperature, not of the learning rate
    assert searched_coordinates(lane_of("done", space={"schedule": ["constant", "decay"]}))[-2:] != ["schedule"]
    assert "done.schedule" in searched_coordinates(lane_of("done", space={"schedule": ["constant", "decay"]}))


@pytest.mark.slow
def test_every_method_into_every_other():
    """Whatever comes out can be trained and lies in the space, and stands where the first one stood, unless that lies
    beyond the range."""
    checked = 0
    lanes = {method: lane_of(method) for method in METHODS}
    for method, to in permutations(METHODS, 2):
        if not (lanes[method].search_space().searched and lanes[to].search_space().searched):
            continue
        space = lanes[to].search_space()
        found = coordinates(lanes[method], quasi_random(lanes[method].search_space(), 0, 3), COUNTS)
        setting, names = translate(found, lanes[to], COUNTS)
        assert resolve(to, setting) == setting and space.expresses(setting), (method, to)
        stands = coordinates(lanes[to], setting, COUNTS)
        for name in {*names}:
            acting = [p for p in space.searched if (to, p) in NAMED and NAMED[to, p].acts_as.name == name]
            ends = [end for p in acting if p in setting and name != BASE for end in space.bounds(p)]
            on_edge = any(setting.get(p) in ends for p in acting)
            assert on_edge or stands[name] == pytest.approx(found[name]), (method, to, name)
            checked += not on_edge
        if BASE in names and "KL weight" in names:
            assert stands[BASE] == found[BASE]
    assert checked > 200


def test_the_coordinates_are_shown(capsys):
    show_space("srat", as_json=True)
    shown = {p["name"]: p["acts_as"] for p in json.loads(capsys.readouterr().out)["params"]}
    assert shown["start"] == "start" and shown["strength"] == CLASS_WEIGHTS and shown["loss"] is None
    show_space("srat", as_json=False)
    assert "strength: log class-weight ratio" in " ".join(capsys.readouterr().out.split())
    show_space("cfol", as_json=False)
    assert "acts as" not in capsys.readouterr().out


def test_no_name_of_a_search_changes():
    spec = SearchSpec()
    assert spec.search_name == "srat-digits-bcd356d7" and replace(spec, method="mail").search_name.startswith("mail-")
    assert params_of(METHODS["srat"].Params)["strength"].range == uniform(0.0, 2.0)
