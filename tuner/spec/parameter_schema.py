"""The JSON schema of a hyperparameter: of one value, and of the values that a search may draw from.

Both say what ``search_spaces.param.coerce`` and ``tuner.spec.space`` accept, but that a choice is spelled as it is
written in ``search_spaces``.
"""

from __future__ import annotations

import json
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.number import NUMBER
from search_spaces.param import FractionsDistribution, Param

NUMBER_AS_TEXT = rf"^\s*{NUMBER}\s*$"  # PyYAML reads 1e-3 and 8/255 as text
_SHARE = r"(0?\.\d*[1-9]\d*|[1-9]\d*\s*/\s*[1-9]\d*)"

FRACTION = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
FRACTIONS = (  # that they increase is not said
    FRACTION,
    {"type": "array", "items": FRACTION, "minItems": 1},
    {"type": "string", "pattern": rf"^\s*{_SHARE}\s*(,\s*{_SHARE}\s*)*$"},
)


def value_schema(param: Param) -> dict[str, Any]:
    """One value."""
    return {"description": _meaning(param), "default": param.default, **_bounds(param)}


def range_schema(param: Param) -> dict[str, Any]:
    """A value, or what is searched: a list of choices, ``[low, high]`` or ``{low: , high: , log: }``."""
    bounds = _bounds(param)
    if isinstance(param.range, CategoricalDistribution):
        searched = [{"type": "array", "items": bounds, "minItems": 1, "uniqueItems": True}]
    else:
        low_high = {"low": bounds, "high": bounds, "log": {"type": "boolean"}}
        searched = [
            {"type": "array", "items": bounds, "minItems": 2, "maxItems": 2},
            {"type": "object", "properties": low_high, "required": ["low", "high"], "additionalProperties": False},
        ]
    return {"description": _meaning(param), "anyOf": [bounds, *searched]}


def _bounds(param: Param) -> dict[str, Any]:
    dist = param.range
    if isinstance(dist, CategoricalDistribution):
        as_yaml_reads = [{"on": True, "off": False}[choice] for choice in dist.choices if choice in ("on", "off")]
        spellings = [*dist.choices, *map(str, dist.choices), *as_yaml_reads]
        choices = {"enum": list({json.dumps(spelling): spelling for spelling in spellings}.values())}
        return {"anyOf": [choices, *FRACTIONS]} if isinstance(dist, FractionsDistribution) else choices
    assert isinstance(dist, (FloatDistribution, IntDistribution))
    kind = "integer" if isinstance(dist, IntDistribution) else "number"
    return {"type": [kind, "string"], "minimum": dist.low, "maximum": dist.high, "pattern": NUMBER_AS_TEXT}


def _meaning(param: Param) -> str:
    when = [f"{other} in {{{', '.join(map(str, allowed))}}}" for other, allowed in param.when.items()]
    return f"{param.doc} (default: {param.source})" + (f"; exists only with {' and '.join(when)}" if when else "")
