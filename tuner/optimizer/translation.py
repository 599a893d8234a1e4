"""From a setting of one method to one of another, through the coordinates in which their parameters act.

A setting's coordinates are those of its active parameters (`search_spaces.coordinates`), with the plain base of a
method that has no choice of it. Parameters that name none have one that only their own method has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from search_spaces import base_of, method_space
from search_spaces.coordinates import BASE, BESIDE, COORDINATES, ActsAs
from search_spaces.param import Distribution, params_of
from search_spaces.training import Training
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import Space


def acts_as(method: str, name: str) -> ActsAs:
    """The coordinate of a parameter of ``method``, or of a training setting beside it."""
    own = params_of(method_space(method).Params)
    if name in own:
        return own[name].acts_as or ActsAs(f"{method}.{name}")
    return ActsAs(name)


def searched_coordinates(lane: SearchSpec) -> list[str]:
    """The coordinates of what one method's search varies."""
    return [acts_as(lane.methods[0], name).name for name in lane.search_space().searched]


def shareable(coordinates: Sequence[str]) -> list[str]:
    """Those that another method may have too."""
    return [name for name in coordinates if name in COORDINATES or name in params_of(Training)]


def coordinates(lane: SearchSpec, params: dict[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """Coordinate -> where a setting of one method's search stands on it; ``counts``: training images of each class.
    Where two parameters act as one, the first counts."""
    (method,), found = lane.methods, dict[str, Any]()
    for name in lane.search_space().params:
        if name in params:
            acts = acts_as(method, name)
            found.setdefault(acts.name, acts.coordinate(params[name], params, counts))
    base = base_of(method)
    return found if base is None else {BASE: base} | found


def translate(found: dict[str, Any], lane: SearchSpec, counts: Sequence[int]) -> tuple[dict[str, Any], list[str]]:
    """(the setting of one method's search that stands where ``found`` does, the searched coordinates that it takes
    over); whatever else it has stays at its default.

    Values are clipped into the ranges. A choice that the space lacks is not taken over; one that a value needs to exist
    (fairfront's ``class_weight=prior``) is made.
    """
    (method,), space = lane.methods, lane.search_space()
    known = {name: acts for name in space.searched if (acts := acts_as(method, name)).name in found}
    given = {
        name: found[acts.name]
        for name, acts in known.items()
        if acts.unit is None and _possible(space.params[name].range, found[acts.name])
    }
    beside = _complete(space, given)
    for name, acts in known.items():
        if acts.unit and (value := acts.value(found[acts.name], beside, counts)) is not None:
            given[name] = value
    params = _complete(space, _needed(space, given) | given)
    if other := _beside_another(found, coordinates(lane, params, counts)):
        return translate({name: value for name, value in found.items() if name not in other}, lane, counts)
    return params, [known[name].name for name in params if name in given]


def _beside_another(found: Mapping[str, Any], here: Mapping[str, Any]) -> set[str]:
    """The coordinates of ``found`` that mean something else ``here``, beside another base."""
    return {name for name, beside in BESIDE.items() if name in found and here.get(beside) != found.get(beside)}


def _possible(range_: Distribution, value: Any) -> bool:
    """Whether a choice is one of the range's, and a number is one."""
    if isinstance(range_, CategoricalDistribution):
        return value in range_.choices
    return isinstance(value, (int, float)) and math.isfinite(value)


def _needed(space: Space, given: dict[str, Any]) -> dict[str, Any]:
    """The searched choices without which the ``given`` parameters do not exist."""
    chosen = dict[str, Any]()
    for name in given:
        for other, allowed in space.conditions(name).items():
            choices = [value for value in getattr(space.params[other].range, "choices", ()) if value in allowed]
            if other in space.searched and space.params[other].default not in allowed and choices:
                chosen.setdefault(other, choices[0])
    return chosen


def _complete(space: Space, given: dict[str, Any]) -> dict[str, Any]:
    """The setting with the ``given`` values, all inside the ranges."""
    beside = replace(space, searched=tuple(given)).resolve(lambda param: given[param.name])
    return space.resolve(lambda param: _clipped(param.range, beside.get(param.name, param.default)))


def _clipped(range_: Distribution, value: Any) -> Any:
    """The nearest value of the range; of choices, the first where it is none."""
    if isinstance(range_, CategoricalDistribution):
        return value if value in range_.choices else range_.choices[0]
    value = min(max(value, range_.low), range_.high)
    return round(value) if isinstance(range_, IntDistribution) else float(value)
