"""The search space of a method: its ranges, narrowed or fixed by the user, and how a trial's setting comes of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from search_spaces import method_space
from search_spaces.param import Distribution, Param, coerce, describe, params_of
from search_spaces.training import Training
from tuner.errors import UsageError


@dataclass(frozen=True)
class Space:
    """``params``: every parameter of a trial in order; ``searched``: names that vary; ``fixed``: what the user set.

    A conditional parameter stands after those that its condition names, so one pass in order settles which are active.
    """

    params: dict[str, Param]
    searched: tuple[str, ...]
    fixed: dict[str, Any]

    def default(self) -> dict[str, Any]:
        """The default setting (with what the user fixed): the first trial of every search."""
        return self.resolve(None)

    def sample(self, trial: Trial) -> dict[str, Any]:
        """What an Optuna trial proposes; it is asked for conditional parameters only where their condition holds."""
        return self.resolve(lambda param: _suggest(trial, param))

    def resolve(self, propose: Callable[[Param], Any] | None) -> dict[str, Any]:
        """Every active parameter: fixed, else ``propose(param)`` if it is searched, else its default.

        A fixed value takes part in the conditions of others only where it is active itself.
        """
        values: dict[str, Any] = {}
        for name, param in self.params.items():
            if not param.active(values):
                continue
            if name in self.fixed:
                values[name] = self.fixed[name]
            elif propose is not None and name in self.searched:
                values[name] = propose(param)
            else:
                values[name] = param.default_beside(values)
        return values

    def at(self, point: Sequence[float]) -> dict[str, Any]:
        """The setting at a point of the unit cube: one coordinate in [0, 1] per searched parameter, in their order."""
        coordinate = dict(zip(self.searched, point))
        return self.resolve(lambda param: _scaled(param.range, float(coordinate[param.name])))

    def coordinates(self, values: dict[str, Any]) -> tuple[float, ...]:
        """Where a setting lies in the unit cube: the inverse of ``at``, with the middle of whole numbers and choices.

        A parameter that the setting does not have stands at 1/2, one beyond its range outside of [0, 1], an unknown
        choice at NaN.
        """
        return tuple(_share(self.params[n].range, values[n]) if n in values else 0.5 for n in self.searched)

    def bounds(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a numeric parameter."""
        range_ = self.params[name].range
        if isinstance(range_, CategoricalDistribution):
            raise ValueError(f"{name} is a choice, it has no bounds")
        return range_.low, range_.high

    def conditions(self, name: str) -> dict[str, tuple]:
        """Parameter -> allowed values: what has to hold for a parameter to exist, conditions of conditions included."""
        return _conditions(self.params[name], self.params)

    def choices_of(self, name: str) -> set:
        """The values that a choice can have in a trial; empty where there is no such parameter."""
        return _possible(self.params[name], self.params, self.fixed) if name in self.params else set()

    def contains(self, values: dict[str, Any]) -> bool:
        """Whether a setting lies inside the searched ranges."""
        return all(name not in values or _inside(self.params[name].range, values[name]) for name in self.searched)

    def expresses(self, values: dict[str, Any]) -> bool:
        """Whether a setting lies inside the searched ranges and is beside them as this space makes it. A value that it
        lacks is of a parameter that came later."""
        return self.contains(values) and self.has_place_for(values)

    def has_place_for(self, values: dict[str, Any]) -> bool:
        """The same, but numbers may lie beyond their ranges, as after these were narrowed."""
        beside = self.resolve(lambda param: values.get(param.name, param.default))
        return all(name in beside and beside[name] == value for name, value in values.items()) and all(
            values[name] in range_.choices
            for name in self.searched
            if isinstance(range_ := self.params[name].range, CategoricalDistribution) and name in values
        )

    def holds(self, other: Space, name: str) -> bool:
        """Whether whatever ``other`` gives a parameter that is searched here lies inside this space's range."""
        range_ = other.params[name].range
        ends = range_.choices if isinstance(range_, CategoricalDistribution) else (range_.low, range_.high)
        given = [other.fixed[name]] if name in other.fixed else ends
        return all(_inside(self.params[name].range, value) for value in given)


def joined(spaces: dict[str, Space]) -> Space:
    """The spaces of several methods as one, for figures and tables alone: a shared name has the widest range.

    A parameter that not every method has exists only with its ``method``.
    """
    params: dict[str, Param] = {}
    having: dict[str, list[str]] = {}
    for method, space in spaces.items():
        for name, param in space.params.items():
            having.setdefault(name, []).append(method)
            known = params.get(name, param)
            params[name] = dataclasses.replace(known, range=_wider(known.range, param.range))
    for name, methods in having.items():
        if len(methods) < len(spaces):
            params[name] = dataclasses.replace(params[name], when={**params[name].when, "method": tuple(methods)})
    searched = tuple(dict.fromkeys(n for space in spaces.values() for n in space.searched))
    return Space(params, searched, {k: v for space in spaces.values() for k, v in space.fixed.items()})


def _wider(a: Distribution, b: Distribution) -> Distribution:
    if a == b:
        return a
    if isinstance(a, CategoricalDistribution) or isinstance(b, CategoricalDistribution):
        return CategoricalDistribution(list(dict.fromkeys([*getattr(a, "choices", ()), *getattr(b, "choices", ())])))
    return FloatDistribution(min(a.low, b.low), max(a.high, b.high), log=a.log and b.log)


def _scaled(dist: Distribution, share: float) -> Any:
    """The value at ``share`` (0 to 1) of a range; on a logarithmic scale where the range is logarithmic."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[min(int(share * len(dist.choices)), len(dist.choices) - 1)]
    whole = isinstance(dist, IntDistribution)
    low, high = (dist.low - 0.5, dist.high + 0.5) if whole else (dist.low, dist.high)
    value = math.exp(math.log(low) + share * math.log(high / low)) if dist.log else low + share * (high - low)
    return min(max(round(value) if whole else value, dist.low), dist.high)


def _share(dist: Distribution, value: Any) -> float:
    """Where a value lies in its range, from 0 to 1: the inverse of ``_scaled``."""
    if isinstance(dist, CategoricalDistribution):
        return (dist.choices.index(value) + 0.5) / len(dist.choices) if value in dist.choices else math.nan
    whole = isinstance(dist, IntDistribution)
    low, high = (dist.low - 0.5, dist.high + 0.5) if whole else (dist.low, dist.high)
    if low == high:
        return 0.5
    if dist.log:
        return math.log(value / low) / math.log(high / low) if value > 0 else math.nan
    return (value - low) / (high - low)


def _inside(dist: Distribution, value: Any) -> bool:
    return value in dist.choices if isinstance(dist, CategoricalDistribution) else dist.low <= value <= dist.high


def _suggest(trial: Trial, param: Param) -> Any:
    dist = param.range
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(param.name, dist.choices)
    if isinstance(dist, IntDistribution):
        return trial.suggest_int(param.name, dist.low, dist.high, log=dist.log)
    return trial.suggest_float(param.name, dist.low, dist.high, log=dist.log)


def build_space(method: str, *, fix: dict[str, Any], space: dict[str, Any]) -> Space:
    """The method's space with ``space`` (ranges narrowed, replaced or fixed) and ``fix`` (values) applied.

    A key may also name a hyperparameter of `Training`. ``UsageError`` names a wrong key, value or range and what is
    allowed.
    """
    own = params_of(method_space(method).Params)
    common = params_of(Training)
    fixed = {key: _value(own, common, key, value, "--fix") for key, value in fix.items()}
    ranges: dict[str, Param] = {}
    for key, value in space.items():
        param = _known(own, common, key, "--space")
        if key in fix:
            continue
        if isinstance(value, (dict, list)):
            ranges[key] = dataclasses.replace(param, range=_narrowed(param, value), searched=True)
        else:
            fixed[key] = _value(own, common, key, value, "--space")
    wanted = {**own, **{name: p for name, p in common.items() if name not in own and (name in ranges or name in fixed)}}
    params = {name: ranges.get(name, param) for name, param in wanted.items()}
    _check_reachable(method, params, fixed, {**{key: space[key] for key in ranges}, **fixed})
    searched = tuple(n for n, p in params.items() if p.searched and n not in fixed and _reachable(p, params, fixed))
    return Space(params, searched, fixed)


def _known(own: dict[str, Param], common: dict[str, Param], key: str, flag: str) -> Param:
    if key not in own and key not in common:
        raise UsageError(f"unknown key {key!r} in {flag}; choose one of: {', '.join([*own, *common])}")
    return own.get(key) or common[key]


def _value(own: dict[str, Param], common: dict[str, Param], key: str, value: Any, flag: str) -> Any:
    try:
        return coerce(_known(own, common, key, flag), value)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{flag} {error}") from None


def _conditions(param: Param, params: dict[str, Param]) -> dict[str, tuple]:
    """Parameter -> allowed values: the conditions of a parameter and, in turn, of those that they name."""
    found = dict(param.when)
    for other in param.when:
        found |= {name: allowed for name, allowed in _conditions(params[other], params).items() if name not in found}
    return found


def _reachable(param: Param, params: dict[str, Param], fixed: dict[str, Any]) -> bool:
    """Whether the parameter can be active in some trial."""
    return all(_possible(params[other], params, fixed) & set(allowed) for other, allowed in param.when.items())


def _possible(param: Param, params: dict[str, Param], fixed: dict[str, Any]) -> set:
    """The values that a choice can have in a trial: none where no trial has it, its defaults if it is not searched."""
    if not _reachable(param, params, fixed):
        return set()
    if param.name in fixed:
        return {fixed[param.name]}
    if param.searched and isinstance(param.range, CategoricalDistribution):
        return set(param.range.choices)
    return {param.default, *(value for defaults in param.by.values() for value in defaults.values())}


def _check_reachable(method: str, params: dict[str, Param], fixed: dict[str, Any], given: dict[str, Any]) -> None:
    """``UsageError`` for parameters that the user named and that can never be active."""
    for key, value in given.items():
        if not _reachable(params[key], params, fixed):
            needs = " and ".join(
                f"{other} in {{{', '.join(map(str, allowed))}}}"
                for other, allowed in _conditions(params[key], params).items()
            )
            raise UsageError(f"{key}={value!r} has no effect here: {key} of {method} exists only with {needs}")


def _narrowed(param: Param, value: dict | list) -> Distribution:
    """The range that the user gave for a parameter; ``UsageError`` where it is not part of the parameter's own."""
    given = f"--space {param.name}={value!r}"
    if isinstance(param.range, CategoricalDistribution):
        return _chosen(param, value, given)
    if isinstance(value, list) and len(value) == 2:
        value = {"low": value[0], "high": value[1]}
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) or set(value) - {"low", "high", "log"}:
        raise UsageError(
            f"{given} is not allowed; give [low, high] or {{low: , high: , log: }} inside {describe(param.range)}"
        )
    low, high = _coerced(param, [value["low"], value["high"]])
    if low > high:
        raise UsageError(
            f"{given} is upside down: low {low:g} is above high {high:g}; {param.name} takes {describe(param.range)}"
        )
    log = value.get("log", param.range.log)
    if not isinstance(log, bool):
        raise UsageError(f"{given} is not allowed: log is true or false")
    if log and low <= 0:
        raise UsageError(f"{given} cannot be logarithmic: low {low:g} is not above 0")
    kind = IntDistribution if isinstance(param.range, IntDistribution) else FloatDistribution
    return kind(low, high, log=log)


def _chosen(param: Param, value: dict | list, given: str) -> CategoricalDistribution:
    """Some of a parameter's choices."""
    if not isinstance(value, list) or not value:
        raise UsageError(f"{given} is not allowed; give a list out of: {describe(param.range)}")
    chosen = _coerced(param, value)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"{given} names a choice twice")
    return CategoricalDistribution(chosen)


def _coerced(param: Param, values: list) -> list:
    try:
        return [coerce(param, value) for value in values]
    except ValueError as error:
        raise UsageError(f"--space {error}") from None
