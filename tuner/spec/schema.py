"""The JSON schema (draft 2020-12) of a spec file, made from the fields of a search.

The schema may be stricter than the tool about spelling: it knows names in the case in which they are written, and no
number in quotes where a field wants a number. It says nothing about what several fields mean together, but for the
parameters of a method, so a file that fits it may still be refused by `tuner search --spec FILE --dry-run`.
"""

from __future__ import annotations

from typing import Any

from search_spaces.param import Param
from tuner.spec import known
from tuner.spec.fields import SearchFields
from tuner.spec.option import Option, options_of
from tuner.spec.parameter_schema import range_schema, value_schema

PLUG_INS = {
    "description": "What of other packages the search was made with; it is written by itself.",
    "default": {},
    "type": ["object", "null"],
    "additionalProperties": {"type": "string"},
}


def spec_schema() -> dict[str, Any]:
    """All fields with their meaning, default and what they take; null stands for the default."""
    methods = {name: known.hyperparameters(name) for name in known.methods()}
    own = {name for params in methods.values() for name in params}  # some training settings are a method's own
    shared = {name: param for name, param in known.training().items() if name not in own}
    rest = {name: param for name, param in known.training().items() if name in own}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A search of reweighted adversarial training",
        "description": "What `tuner search --spec FILE` and `tuner submit --spec FILE` read.",
        "type": "object",
        "properties": _fields(shared),
        "additionalProperties": False,
        "allOf": [_values_fit(method) for method in methods] + [_names_fit(*item) for item in methods.items()],
        "$defs": {name: _parameters({**rest, **params}) for name, params in methods.items()},
    }


def _fields(shared: dict[str, Param]) -> dict[str, Any]:
    """The schema of each field; ``shared``: the parameters that mean the same for every method."""
    fields = {name: _field_schema(asked) for name, asked in options_of(SearchFields).items()}
    fields["set"]["properties"] = {name: value_schema(param) for name, param in known.training().items()}
    fields["fix"]["properties"] = {name: value_schema(param) for name, param in shared.items()}
    fields["space"]["properties"] = {name: range_schema(param) for name, param in shared.items()}
    return {**fields, "plug_ins": PLUG_INS}


def _field_schema(asked: Option) -> dict[str, Any]:
    default = list(asked.default) if isinstance(asked.default, tuple) else asked.default
    unset = f" Default: {asked.unset}." if asked.unset else ""
    return {"description": asked.sentence + unset, "default": default, **_or_null(asked.kind.schema())}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same with null, which stands for the default."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _parameters(params: dict[str, Param]) -> dict[str, Any]:
    """What a spec may say of these parameters in ``fix`` and in ``space``."""
    fix = {name: value_schema(param) for name, param in params.items()}
    space = {name: range_schema(param) for name, param in params.items()}
    return {"properties": {"fix": {"properties": fix}, "space": {"properties": space}}}


def _values_fit(method: str) -> dict[str, Any]:
    """Where this method is searched, alone or with others, the values of its parameters are in their ranges."""
    forms: list[dict[str, Any]] = [{"const": method}, {"type": "array", "contains": {"const": method}}]
    return {"if": _method_is(method, forms), "then": {"$ref": f"#/$defs/{method}"}}


def _names_fit(method: str, own: dict[str, Param]) -> dict[str, Any]:
    """Where this method is searched alone, no parameters of other methods are named."""
    names = {"propertyNames": {"enum": list({**own, **known.training()})}}
    alone: list[dict[str, Any]] = [{"const": method}, {"const": [method]}]
    return {"if": _method_is(method, alone), "then": {"properties": {"fix": names, "space": names}}}


def _method_is(method: str, forms: list[dict[str, Any]]) -> dict[str, Any]:
    """The condition that ``method`` has one of these forms; for the default method it may be left out too."""
    if method == options_of(SearchFields)["method"].default:
        return {"properties": {"method": {"anyOf": [*forms, {"type": "null"}]}}}
    return {"properties": {"method": {"anyOf": forms}}, "required": ["method"]}
