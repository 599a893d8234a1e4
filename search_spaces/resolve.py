"""From the values that a user or a sampler gives to those that a method gets: known, in range, complete, and none that
does not apply."""

from __future__ import annotations

from typing import Any

from search_spaces import method_space
from search_spaces.param import Param, coerce, params_of


def resolve(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """Every active parameter of ``method`` with its value or default, in the order of the space file.

    ``ValueError`` in one sentence for an unknown name, a value outside its range, or a parameter that does
    not exist beside the others (`gamma` without `loss=focal`).
    """
    params = params_of(method_space(method).Params)
    for name in values:
        if name not in params:
            allowed = ", ".join(params) or "it has none"
            raise ValueError(f"unknown parameter {name!r} of method {method}; its parameters: {allowed}")
    resolved: dict[str, Any] = {}
    for name, param in params.items():
        if param.active(resolved):
            resolved[name] = coerce(param, values[name]) if name in values else param.default_beside(resolved)
        elif name in values:
            raise ValueError(f"{name} does not apply to method {method} unless {_condition(param, resolved)}")
    return resolved


def _condition(param: Param, resolved: dict[str, Any]) -> str:
    """What would have to hold, in words, e.g. ``loss is focal (it is ce)``."""
    missing = [(name, allowed) for name, allowed in param.when.items() if resolved.get(name) not in allowed]
    now = {name: f" (it is {resolved[name]})" if name in resolved else "" for name, _ in missing}
    return " and ".join(f"{name} is {' or '.join(map(str, allowed))}{now[name]}" for name, allowed in missing)
